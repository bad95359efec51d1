"""What was measured: values round by round, and what is read from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.declare import Benchmark, Reading


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass
class Series:
    """One subject's values by round, and why there are none if so."""

    values: dict[int, float] = field(default_factory=dict)
    beside: dict[int, float] = field(default_factory=dict)  # with a heavy peer there; for ratios to it only
    curves: list[tuple[tuple[float, float], ...]] = field(default_factory=list)
    note: str = ""
    absent: str = ""  # not installed, or left out
    failed: str = ""

    def add(self, number: int, reading: Reading, beside: bool = False) -> None:
        """Take in what a round gave."""
        (self.beside if beside else self.values)[number] = reading.value
        if reading.curve:
            self.curves.append(reading.curve)
        self.note = reading.note or self.note

    @property
    def all(self) -> dict[int, float]:
        """The values of all rounds."""
        return {**self.values, **self.beside}

    @property
    def median(self) -> float:
        return statistics.median(self.values.values())

    def p99(self, less: bool) -> float:
        """Return what 99 of 100 rounds are no worse than; `less` says whether less is better."""
        values = list(self.values.values())
        return percentile(values, 0.99) if less else -percentile([-value for value in values], 0.99)

    @property
    def curve(self) -> list[tuple[float, float]]:
        """The median of the rounds at each point."""
        points: dict[float, list[float]] = {}
        for x, y in (point for curve in self.curves for point in curve):
            points.setdefault(x, []).append(y)
        return [(x, statistics.median(ys)) for x, ys in sorted(points.items())]


@dataclass
class Result:
    """A benchmark with its subjects' series."""

    benchmark: Benchmark
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The name of the subject that counts."""
        return self.benchmark.subjects[0].name

    def ratio(self, one: str, other: str) -> float | None:
        """Return the median, over the rounds that both have, of one's value over the other's."""
        a, b = (self.series.get(name, Series()).all for name in (one, other))
        ratios = [
            a[number] / b[number]
            for number in a.keys() & b.keys()
            if b[number] and math.isfinite(a[number]) and math.isfinite(b[number])
        ]
        return statistics.median(ratios) if ratios else None

    def gain(self, peer: str) -> float | None:
        """Return how many times better ours is than a peer."""
        pair = (peer, self.first) if self.benchmark.unit.less else (self.first, peer)
        return self.ratio(*pair)

    def limit(self) -> str | None:
        """Return the name of the first bare limit that was measured."""
        for subject in self.benchmark.subjects:
            if subject.role == "limit" and self.series.get(subject.name, Series()).values:
                return subject.name
        return None

    def best_peer(self) -> str | None:
        """Return the name of the best peer that was measured."""
        less = self.benchmark.unit.less
        found = [
            subject.name
            for subject in self.benchmark.subjects
            if subject.role == "peer" and self.series.get(subject.name, Series()).values
        ]
        return min(found, key=lambda name: self.series[name].median * (1 if less else -1), default=None)

    def verdicts(self) -> list[tuple[str, bool | None]]:
        """Return each figure to reach, and whether it is met; None where that is not known."""
        return [(reach.text, reach.met(self)) for reach in self.benchmark.reach]

    def failures(self) -> list[str]:
        """Return why subjects that are no peers were not measured, each with its name."""
        return [
            f"{subject.name}: {self.series[subject.name].failed}"
            for subject in self.benchmark.subjects
            if subject.role != "peer" and self.series[subject.name].failed
        ]

    def as_data(self) -> dict[str, Any]:
        """Return everything in what JSON knows; values are in seconds, bytes, shares or per second."""
        return {
            "what": self.benchmark.what,
            "unit": self.benchmark.unit.name,
            "scale": self.benchmark.unit.scale,
            "reach": [{"text": text, "met": met} for text, met in self.verdicts()],
            "subjects": {
                subject.name: _series_data(subject.role, self.series[subject.name], self.benchmark.unit.less)
                for subject in self.benchmark.subjects
                if subject.name in self.series
            },
        }


def _finite(value: float) -> float | None:
    """Return what JSON has a word for."""
    return value if math.isfinite(value) else None


def _series_data(role: str, series: Series, less: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"role": role}
    if series.values:
        data.update(median=_finite(series.median), p99=_finite(series.p99(less)), curve=series.curve)
        data["rounds"] = {number: _finite(value) for number, value in series.all.items()}
    data.update(
        {name: getattr(series, name) for name in ("note", "absent", "failed") if getattr(series, name)}
    )
    return data
