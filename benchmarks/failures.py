"""What a dead process costs those who go on."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from benchmarks import kernels
from benchmarks.declare import MILLISECONDS, Benchmark, Measure, Setting
from benchmarks.peers import peers
from benchmarks.reach import at_most
from benchmarks.systems import System, ours


def replacing(system: System, setting: Setting) -> Measure:
    """Let a call kill its process; see how long it takes until the next call has its value."""
    kill, call = system.blocking(kernels.die), system.blocking(kernels.echo)

    def measure() -> float:
        call(1)
        begun = perf_counter()
        _fails(kill)
        system.restart()
        assert call(1) == 1
        return perf_counter() - begun

    return measure


def _fails(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        return
    raise AssertionError("the call returned, though its process was killed")


BENCHMARKS = (
    Benchmark(
        "replace",
        "a kernel kills its core: until the next call there has its value",
        MILLISECONDS,
        # Pool and mpire are left out: a call under which a process dies never ends there.
        (ours(replacing, placement={"target": 0}), *peers(replacing, "processpool", "loky", "pebble")),
        (at_most(0.015, MILLISECONDS),),
        rounds=10,
    ),
)
