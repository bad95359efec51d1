"""What a benchmark declares: what is measured, on whom, and which figure is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from benchmarks.reach import Reach

N = TypeVar("N")

Role = Literal["ours", "peer", "limit"]


@dataclass(frozen=True)
class Unit:
    """Say how a value is shown, and whether less of it is better."""

    name: str
    scale: float = 1.0
    less: bool = True


MICROSECONDS = Unit("µs", 1e6)
MILLISECONDS = Unit("ms", 1e3)
RATE = Unit("/s", less=False)
PERCENT = Unit("%", 1e2)
BYTES = Unit("bytes")
MEGABYTES = Unit("MB", 1e-6)


@dataclass(frozen=True)
class Setting:
    """Say how much is to be measured: everything, or just enough to see that it works."""

    quick: bool = False
    cores: int = 2

    def pick(self, full: N, quick: N) -> N:
        """Return one of two sizes."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Reading:
    """What one round gave: a value in seconds, bytes, a share of 1 or a rate; perhaps a curve."""

    value: float
    curve: tuple[tuple[float, float], ...] = ()
    note: str = ""


Measure = Callable[[], "float | Reading"]  # one round
Open = Callable[[Setting], AbstractContextManager[Measure]]


@dataclass(frozen=True)
class Subject:
    """One thing that is measured, in a process of its own."""

    name: str
    open: Open
    role: Role = "ours"
    peer: str | None = None  # its name for --peers
    heavy: bool = False  # takes its time, so it gets fewer rounds
    needs: tuple[str, ...] = ()  # modules and programs without which it is absent
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """One figure: the first subject's value is the one that counts."""

    name: str
    what: str
    unit: Unit
    subjects: tuple[Subject, ...]
    reach: tuple[Reach, ...] = ()
    rounds: int = 30
    heavy_rounds: int = 5
    fresh: bool = False  # each round in a new process

    def subject(self, name: str) -> Subject:
        """Return the subject of a name."""
        return next(subject for subject in self.subjects if subject.name == name)
