"""Show a handle as a table in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offload.handle import Handle

_ROWS = 32  # a launch on a thousand cores must not flood a notebook


def handle_table(handle: Handle[Any]) -> str:
    """Return a small HTML table: each core's state and times."""
    from html import escape

    states = [_state(ticket, rank) for ticket in handle._tickets for rank in range(ticket.count)]
    rows = [
        f"<tr><td>{'–' if timing.core is None else timing.core}</td><td>{escape(state)}</td>"
        f"<td>{_seconds(timing.begun)}</td><td>{_seconds(timing.ended)}</td></tr>"
        for timing, state in zip(handle.timing[:_ROWS], states)
    ]
    if len(states) > _ROWS:
        rows.append(f"<tr><td colspan='4'>and {len(states) - _ROWS} more</td></tr>")
    return (
        f"<table><caption>{escape(repr(handle))}</caption>"
        "<tr><th>core</th><th>state</th><th>begun (s)</th><th>ended (s)</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _state(ticket: Any, rank: int) -> str:
    outcome = ticket.outcomes[rank]
    if outcome is None:
        return "queued or running"
    if outcome.error is not None:
        return type(outcome.error).__name__
    return "raised an exception" if outcome.failed else "done"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
