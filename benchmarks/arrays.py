"""What an array costs: on its way to a core, on its way back, and where it stays."""

from __future__ import annotations

from time import perf_counter

from benchmarks.declare import MICROSECONDS, MILLISECONDS, Benchmark, Measure, Reading, Setting
from benchmarks.limits import COPY, COPY_FRESH, COPY_SUM, SPINNING, copy, pipe
from benchmarks.peers import peer, peers
from benchmarks.reach import at_most, within
from benchmarks.systems import Offload, System, Workload, ours, seconds_per_call

LARGE = 100_000_000  # bytes
SIZES = (8, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


class Argument:
    """Send an array of so many bytes, changed each time, to one core, which returns its sum."""

    def __init__(self, nbytes: int, calls: int = 100) -> None:
        self._nbytes, self._calls = nbytes, calls

    def __call__(self, system: System, setting: Setting) -> Measure:
        import numpy as np

        from benchmarks.array_kernels import total

        array = np.zeros(setting.pick(self._nbytes, min(self._nbytes, 100_000)) // 8)
        call = system.blocking(total)
        stale = ""

        def send() -> None:
            nonlocal stale
            array[0] += 1
            if call(array) != array[0]:
                stale = "wrong: the sum is that of an earlier call"

        return lambda: Reading(seconds_per_call(send, setting.pick(self._calls, 1)), note=stale)


class First:
    """Send the first large array in the life of a process, after a call with a small one."""

    def __call__(self, system: System, setting: Setting) -> Measure:
        import numpy as np

        from benchmarks.array_kernels import total

        array = np.ones(setting.pick(LARGE, 100_000) // 8)
        small = np.ones(8)
        call = system.blocking(total)
        for _ in range(10):
            call(small)

        def measure() -> float:
            begun = perf_counter()
            value = call(array)
            took = perf_counter() - begun
            assert value == len(array)
            return took

        return measure


def result(system: System, setting: Setting) -> Measure:
    """Get a large array that a core has."""
    from benchmarks.array_kernels import kept

    count = setting.pick(LARGE, 100_000) // 8
    call = system.blocking(kept)

    def get() -> None:
        array = call(count)
        assert array[0] == 0 and array[-1] == count - 1

    for _ in range(2 * setting.cores):
        get()  # each core makes its array, and whatever it needs to send it
    return lambda: seconds_per_call(get, setting.pick(5, 1), 0.3)


def both(system: System, setting: Setting) -> Measure:
    """Send one large array to all cores, each of which returns its sum."""
    import numpy as np

    from benchmarks.array_kernels import total

    array = np.zeros(setting.pick(LARGE, 100_000) // 8)
    call = system.everywhere(total)
    stale = ""

    def send() -> None:
        nonlocal stale
        array[0] += 1
        if call(array) != [array[0]] * setting.cores:
            stale = "wrong: the sum is that of an earlier call"

    return lambda: Reading(seconds_per_call(send, setting.pick(5, 1), 0.3), note=stale)


def resident(system: Offload, setting: Setting) -> Measure:
    """Call a kernel that uses a large array which is on the cores."""
    import numpy as np

    import offload

    offload.define_on_device(_resident_data=np.ones(setting.pick(LARGE, 100_000) // 8))
    call = system.blocking(_use_resident)
    assert call() == 1
    return lambda: seconds_per_call(call, setting.pick(300, 2))


def plain(system: System, setting: Setting) -> Measure:
    """Call a kernel that does as much as the one with resident data, without it."""
    call = system.blocking(_use_nothing)
    return lambda: seconds_per_call(call, setting.pick(300, 2))


def stored(system: System, setting: Setting) -> Measure:
    """Call a function with a large array that is in Ray's store."""
    import numpy as np
    import ray

    kept = ray.put(np.ones(setting.pick(LARGE, 100_000) // 8))
    call = system.blocking(_use_argument)
    return lambda: seconds_per_call(lambda: call(kept), setting.pick(300, 2))


def _use_resident() -> float:
    # What the plain call returns, too: a scalar of NumPy's takes longer, resident or not.
    return float(_resident_data[0])  # type: ignore[name-defined]  # noqa: F821


def _use_argument(array: list[float]) -> float:
    return float(array[0])


def _use_nothing() -> float:
    return 1.0


def payloads(system: System, setting: Setting) -> Measure:
    """Send arrays of all sizes; the value is the time for one of each."""
    import numpy as np

    from benchmarks.array_kernels import total

    sizes = SIZES[: setting.pick(None, 3)]
    arrays = [np.ones(max(1, size // 8)) for size in sizes]
    call = system.blocking(total)

    def measure() -> Reading:
        times = [
            seconds_per_call(lambda: call(array), setting.pick(100, 1), 0.03)  # noqa: B023
            for array in arrays
        ]
        return Reading(sum(times), tuple(zip(map(float, sizes), times)))

    return measure


def large(name: str, what: str, workload: Workload, factor: float, limit: str, *names: str) -> Benchmark:
    """Declare what a large array costs, as so many times what a limit takes; peers as in `peers`."""
    return Benchmark(
        name,
        what,
        MILLISECONDS,
        (ours(workload), copy(LARGE, limit), *peers(workload, *names)),
        (within(factor, limit),),
        rounds=10,
        heavy_rounds=3,
    )


COPYING = ("pool", "processpool", "joblib", "ray")
QUICK = ("pool", "processpool", "joblib", "loky", "mpire", "pebble")
BENCHMARKS = (
    Benchmark(
        "array8k",
        "8 KB argument, blocking",
        MICROSECONDS,
        (ours(Argument(8_192)), pipe(SPINNING), *peers(Argument(8_192), *QUICK)),
        (at_most(25e-6, MICROSECONDS),),
    ),
    Benchmark(
        "array1m",
        "1 MB argument, repeated",
        MICROSECONDS,
        (ours(Argument(1_000_000)), copy(1_000_000, COPY_SUM), *peers(Argument(1_000_000), *QUICK)),
        (at_most(120e-6, MICROSECONDS),),
    ),
    large(
        "array100m",
        "100 MB float64 argument, the kernel returns its sum, repeated",
        Argument(LARGE, 3),
        1.25,
        COPY_SUM,
    ),
    Benchmark(
        "first100m",
        "100 MB argument, the first time in a process",
        MILLISECONDS,
        (ours(First()), copy(LARGE, COPY_FRESH), *peers(First(), *COPYING)),
        (at_most(0.060, MILLISECONDS),),
        rounds=5,
        heavy_rounds=2,
        fresh=True,
    ),
    large("result100m", "100 MB result", result, 1.3, COPY, *COPYING),
    large("both100m", "one 100 MB argument to both cores, each returns its sum", both, 2.8, COPY, *COPYING),
    Benchmark(
        "resident",
        "resident data of 100 MB used again, no argument sent",
        MICROSECONDS,
        (
            ours(resident),
            ours(plain, "the plain call"),
            peer(stored, "ray", ", object store"),
            peer(plain, "ray", ", the plain call"),
        ),
        (within(1.1, "the plain call"),),
    ),
    Benchmark(
        "payload",
        "one array argument of each size from 8 B to 100 MB, together",
        MILLISECONDS,
        (ours(payloads), *peers(payloads)),
        rounds=5,
        heavy_rounds=2,
    ),
)
