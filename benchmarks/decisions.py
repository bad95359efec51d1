"""What a decision of the scheduler costs, on units that are simulated."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.declare import MICROSECONDS, Benchmark, Measure, Open, Setting, Subject
from benchmarks.reach import at_most, within

FEW, MANY = "1,000 queued", "1,000,000 queued"


def deciding(queued: int) -> Open:
    """Measure an event of the state machine; the value is that of the dearest kind of launches."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        run: Callable[..., dict[str, float]] = importlib.import_module("benchmarks.state").run

        def measure() -> float:
            found = run(
                events=setting.pick(20_000, 50), units=setting.pick(1_000, 4), queued=setting.pick(queued, 20)
            )
            return max(value for name, value in found.items() if name.endswith("µs")) * 1e-6

        yield measure

    return opened


BENCHMARKS = (
    Benchmark(
        "decisions",
        "the scheduler's state machine, 1,000 units, 1,000,000 queued launches: an event",
        MICROSECONDS,
        (
            Subject(MANY, deciding(1_000_000), needs="benchmarks.state"),
            Subject(FEW, deciding(1_000), needs="benchmarks.state"),
        ),
        (at_most(8e-6, MICROSECONDS), within(1.25, FEW)),
        rounds=1,  # of many events; only the queue takes its time
        fresh=True,
    ),
)
