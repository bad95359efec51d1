"""The figures to reach: what is asked of a benchmark's results, and whether they meet it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.declare import Unit

if TYPE_CHECKING:
    from benchmarks.results import Result


@dataclass(frozen=True)
class Reach:
    """One condition; `met` gives None where what it compares with was not measured."""

    text: str
    met: Callable[[Result], bool | None]


def shown(value: float, unit: Unit) -> str:
    """Return a value in its unit, with about three digits."""
    scaled = value * unit.scale
    if not math.isfinite(scaled):
        return "none"
    digits = max(0, 2 - len(str(int(abs(scaled))))) if abs(scaled) >= 1 else 2
    return f"{scaled:,.{digits}f} {unit.name}" if unit.name.isalpha() else f"{scaled:,.{digits}f}{unit.name}"


def at_most(value: float, unit: Unit, subject: str | None = None) -> Reach:
    """Ask for a median of at most this."""
    return _bound(f"≤ {shown(value, unit)}", subject, lambda median: median <= value)


def at_least(value: float, unit: Unit, subject: str | None = None) -> Reach:
    """Ask for a median of at least this."""
    return _bound(f"≥ {shown(value, unit)}", subject, lambda median: median >= value)


def times_better(factor: float, than: str) -> Reach:
    """Ask to be so many times faster than a peer."""

    def met(result: Result) -> bool | None:
        gain = result.gain(than)
        return None if gain is None else gain >= factor

    return Reach(f"≥ {factor:g}× {than}", met)


def within(factor: float, of: str, subject: str | None = None) -> Reach:
    """Ask for at most so many times another subject's value, round by round."""

    def met(result: Result) -> bool | None:
        ratio = result.ratio(subject or result.first, of)
        return None if ratio is None else ratio <= factor

    return Reach(f"≤ {factor:g}× {of}", met)


def at_least_times(factor: float, of: str) -> Reach:
    """Ask for at least so many times another subject's rate, round by round."""

    def met(result: Result) -> bool | None:
        ratio = result.ratio(result.first, of)
        return None if ratio is None else ratio >= factor

    return Reach(f"≥ {factor:g}× {of}", met)


def beyond(value: float, unit: Unit, of: str) -> Reach:
    """Ask for at most so much more than another subject's median."""

    def met(result: Result) -> bool | None:
        ours, other = (result.series.get(name) for name in (result.first, of))
        if ours is None or other is None or not (ours.values and other.values):
            return None
        return ours.median - other.median <= value

    return Reach(f"≤ {shown(value, unit)} beyond {of}", met)


def share_of(share: float, of: str) -> Reach:
    """Ask for at least this share of another subject's value, round by round."""

    def met(result: Result) -> bool | None:
        ratio = result.ratio(result.first, of)
        return None if ratio is None else ratio >= share

    return Reach(f"≥ {share:.0%} of {of}", met)


def _bound(text: str, subject: str | None, holds: Callable[[float], bool]) -> Reach:
    def met(result: Result) -> bool | None:
        series = result.series.get(subject or result.first)
        return None if series is None or not series.values else holds(series.median)

    return Reach(text if subject is None else f"{subject}: {text}", met)
