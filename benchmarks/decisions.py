"""What a decision of the scheduler costs, and a launch that waits for one, on units that are simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.declare import BYTES, MICROSECONDS, Benchmark, Measure, Open, Reading, Setting, Subject, Unit
from benchmarks.reach import at_most, within

FEW, MANY = "1,000 queued", "1,000,000 queued"


def dearest(unit: Unit, look: Callable[[Setting], dict[str, float]]) -> Open:
    """Measure something for each kind of launches; the value is that of the dearest."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        def measure() -> Reading:
            found = look(setting)
            note = ", ".join(f"{name} {value * unit.scale:,.3g}" for name, value in found.items())
            return Reading(max(found.values()), note=note)

        yield measure

    return opened


def deciding(queued: int) -> Open:
    """Measure an event of the state machine, with so many launches in its queue."""

    def look(setting: Setting) -> dict[str, float]:
        from benchmarks.state import seconds

        return seconds(setting.pick(20_000, 50), setting.pick(1_000, 4), setting.pick(queued, 20))

    return dearest(MICROSECONDS, look)


def weighing(setting: Setting) -> dict[str, float]:
    """Measure the memory of a launch in the queue of the state machine."""
    from benchmarks.state import weights

    return weights(setting.pick(1_000, 4), setting.pick(100_000, 20))


BENCHMARKS = (
    Benchmark(
        "decisions",
        "the scheduler's state machine, 1,000 units, 1,000,000 queued launches: an event",
        MICROSECONDS,
        (Subject(MANY, deciding(1_000_000)), Subject(FEW, deciding(1_000))),
        (at_most(8e-6, MICROSECONDS), within(1.25, FEW)),
        rounds=1,  # of many events; only the queue takes its time
        fresh=True,
    ),
    Benchmark(
        "queuedstate",
        "the scheduler's state machine, 1,000 units, 100,000 queued launches: memory for each",
        BYTES,
        (Subject("offload", dearest(BYTES, weighing)),),
        rounds=1,
        fresh=True,
    ),
)
