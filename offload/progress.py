"""Show a progress bar while a handle is waited for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload.deadline import Deadline
    from offload.shards import Shards


def watch(shards: Shards[Any], deadline: Deadline) -> None:
    """Wait until all cores have finished, and show how many have.

    Raises ImportError, naming the extra to install, where rich is not
    installed, and TimeoutError as `wait` does.
    """
    total, done = shards._count, 0
    with _bar(shards._name, total) as advance:
        while done < total:
            if not shards._dispatcher.wait(partial(_more, shards, done), deadline.left()):
                raise shards._timed_out(deadline)
            now = sum(len(ticket.finished) for ticket in shards._tickets)
            advance(now - done)
            done = now


def _more(shards: Shards[Any], done: int) -> bool:
    return sum(len(ticket.finished) for ticket in shards._tickets) > done


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar while the context lasts; it gives the function that advances it."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        raise ImportError("progress=True needs rich: pip install 'offload[progress]'") from None
    # Without ipywidgets rich would show a warning in a notebook, and no bar; so it is plain text.
    console = Console(force_jupyter=None if find_spec("ipywidgets") else False)
    with Progress(console=console) as bar:
        row = bar.add_task(name, total=total)
        yield lambda count: bar.advance(row, count)
