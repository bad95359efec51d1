"""What a launch costs: one after another, and many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from benchmarks import kernels
from benchmarks.declare import MICROSECONDS, RATE, Benchmark, Measure, Setting
from benchmarks.limits import BLOCKING, NEAR, SPINNING, pipe
from benchmarks.peers import peer, peers
from benchmarks.reach import at_least, at_most, times_better, within
from benchmarks.systems import Maps, System, ours, seconds_per_call

BARE = (pipe(SPINNING), pipe(BLOCKING))
NO_SPIN = {"OFFLOAD_SPIN": "0"}
POOLS = ("pool", "processpool", "loky", "mpire", "pebble")


def calls_of(system: System, setting: Setting) -> int:
    """Return how many calls a round makes: enough that waking up from the pause before it counts little."""
    return setting.pick(300 if system.heavy else 1_000, 3)


def blocking(system: System, setting: Setting) -> Measure:
    """Call a function that does nothing."""
    call = system.blocking(kernels.noop)
    return lambda: seconds_per_call(call, calls_of(system, setting))


def closure(system: System, setting: Setting) -> Measure:
    """Call a closure with two arguments."""
    offset = 5

    def add(x: int, y: int) -> int:
        return x + y + offset

    call = system.blocking(add)
    assert call(10, 20) == 35
    return lambda: seconds_per_call(lambda: call(10, 20), calls_of(system, setting))


def all_cores(system: System, setting: Setting) -> Measure:
    """Call a function that does nothing on every core."""
    call = system.everywhere(kernels.noop)
    return lambda: seconds_per_call(call, calls_of(system, setting))


def flood(system: System, setting: Setting) -> Measure:
    """Start launches one by one, then gather their values."""
    heavy = 500 if system.title == "Dask" else 2_000 if system.heavy else 10_000
    calls = [(number,) for number in range(setting.pick(heavy, 20))]
    run = system.many(kernels.echo)

    def measure() -> float:
        begun = perf_counter()
        values = run(calls)
        rate = len(calls) / (perf_counter() - begun)
        assert values == [number for (number,) in calls], "a value was lost"
        return rate

    return measure


def mapping(system: Maps, setting: Setting, chunk: int | None = None) -> Measure:
    """Map over numbers, each of which is a call that does nothing."""
    count = setting.pick(10_000, 20)
    run = system.mapping(kernels.ignore, chunk)

    def measure() -> float:
        begun = perf_counter()
        values = run(range(count))
        rate = count / (perf_counter() - begun)
        assert len(values) == count, "a value was lost"
        return rate

    return measure


def mapping_by_100(system: Maps, setting: Setting) -> Measure:
    """Map with 100 elements at a time."""
    return mapping(system, setting, 100)


class Paused:
    """Call a function that does nothing after a pause of the host, in which all that spins has ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, system: System, setting: Setting) -> Measure:
        call = system.blocking(kernels.noop)
        calls = setting.pick(10, 1)

        def measure() -> float:
            took = 0.0
            for _ in range(calls):
                time.sleep(self._seconds)
                begun = perf_counter()
                call()
                took += perf_counter() - begun
            return took / calls

        return measure


def pause(milliseconds: int, most: float) -> Benchmark:
    """Declare what a call costs after a pause, and what it may cost."""
    paused = Paused(milliseconds * 1e-3)
    return Benchmark(
        f"pause{milliseconds}",
        f"no-op, blocking call, after a pause of {milliseconds} ms",
        MICROSECONDS,
        (ours(paused), *peers(paused, *POOLS)),
        (at_most(most, MICROSECONDS),),
    )


def beside_python(system: System, setting: Setting) -> Measure:
    """Call a function that does nothing while another thread of the host computes in pure Python."""
    call = system.blocking(kernels.noop)

    def measure() -> float:
        with _computing():
            return 1 / seconds_per_call(call, setting.pick(5_000, 2), limit=0.3)

    return measure


@contextmanager
def _computing() -> Iterator[None]:
    ended = False

    def compute() -> None:
        number = 0
        while not ended:
            number += 1

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        ended = True
        thread.join()


BENCHMARKS = (
    Benchmark(
        "noop",
        "no-op, blocking call",
        MICROSECONDS,
        (
            ours(blocking),
            ours(blocking, "offload, target=0", placement={"target": 0}),
            *BARE,
            *peers(blocking),
        ),
        (at_most(10e-6, MICROSECONDS), times_better(25, "Pool"), times_better(35, "ProcessPoolExecutor")),
        rounds=50,
    ),
    Benchmark(
        "closure",
        "closure with two arguments, blocking call",
        MICROSECONDS,
        (ours(closure), *BARE, *peers(closure, "loky", "joblib")),
        (at_most(14e-6, MICROSECONDS),),
    ),
    Benchmark(
        "allcores",
        "all-core no-op, blocking, the list gathered",
        MICROSECONDS,
        (ours(all_cores), *BARE, *peers(all_cores, *POOLS)),
        (at_most(28e-6, MICROSECONDS),),
    ),
    Benchmark(
        "nospin",
        "no-op, blocking call, OFFLOAD_SPIN=0",
        MICROSECONDS,
        (ours(blocking, "offload", environ=NO_SPIN), pipe(BLOCKING), pipe(NEAR)),
        (within(1.5, BLOCKING),),
        rounds=50,
    ),
    Benchmark(
        "flood",
        "10,000 asynchronous launches of a no-op, submit and gather",
        RATE,
        (ours(flood), *peers(flood)),
        (at_least(150_000, RATE), times_better(5, "Pool"), times_better(20, "ProcessPoolExecutor")),
        rounds=7,
        heavy_rounds=2,
    ),
    Benchmark(
        "map",
        "map over 10,000 elements, no-op, automatic chunks",
        RATE,
        (
            ours(mapping),
            *peers(mapping, "pool", "joblib", "mpire"),
            *(peer(mapping_by_100, name, ", chunks of 100") for name in POOLS),
        ),
        (at_least(1_500_000, RATE),),
        rounds=15,
    ),
    pause(1, 90e-6),
    pause(10, 150e-6),
    Benchmark(
        "busyhost",
        "no-op, blocking calls, beside a host thread in pure Python",
        RATE,
        (ours(beside_python), *peers(beside_python, *POOLS)),
        (at_least(10_000, RATE),),
        rounds=8,
    ),
)
