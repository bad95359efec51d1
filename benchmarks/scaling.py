"""More cores than CPUs, more threads than one, and long kernels among short ones."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from time import perf_counter

from benchmarks import kernels
from benchmarks.declare import MILLISECONDS, RATE, Benchmark, Measure, Setting
from benchmarks.launch import NO_SPIN
from benchmarks.peers import peers
from benchmarks.processes import family, processor_seconds
from benchmarks.reach import Reach, at_most, share_of, within
from benchmarks.systems import System, Workload, ours, seconds_per_call

FLAT = 1.25  # how much more may still be called flat
HOST_THREADS = 8


def work(system: System, setting: Setting) -> Measure:
    """Run launches that compute for 0.5 ms each."""
    run = system.many(kernels.compute)
    calls = [(500_000,)] * setting.pick(200, 4)

    def measure() -> float:
        begun = perf_counter()
        run(calls)
        return len(calls) / (perf_counter() - begun)

    return measure


def everywhere(system: System, setting: Setting) -> Measure:
    """Call a function that does nothing on every core."""
    call = system.everywhere(kernels.noop)
    return lambda: seconds_per_call(call, setting.pick(20, 1))


def threads(count: int) -> Workload:
    """Start launches from so many threads at once; each gathers its own."""

    def workload(system: System, setting: Setting) -> Measure:
        run = system.many(kernels.echo)
        return _in_threads(count, setting.pick(8_000, 16), lambda numbers: run([(n,) for n in numbers]))

    return workload


def blocking_threads(count: int) -> Workload:
    """Make blocking calls from so many threads at once."""

    def workload(system: System, setting: Setting) -> Measure:
        call = system.blocking(kernels.echo)
        return _in_threads(count, setting.pick(1_600, 16), lambda numbers: [call(n) for n in numbers])

    return workload


def _in_threads(threads: int, total: int, run: Callable[[range], list[object]]) -> Measure:
    """Measure the rate at which threads together run calls, and see that each has its own values."""
    share = total // threads

    def measure() -> float:
        right: list[bool] = []
        start = threading.Barrier(threads + 1)

        def launch(first: int) -> None:
            numbers = range(first, first + share)
            start.wait()
            right.append(run(numbers) == list(numbers))

        crew = [threading.Thread(target=launch, args=(n * share,)) for n in range(threads)]
        for thread in crew:
            thread.start()
        start.wait()
        begun = perf_counter()
        for thread in crew:
            thread.join()
        rate = share * threads / (perf_counter() - begun)
        assert right == [True] * threads, "values were lost or mixed up"
        return rate

    return measure


def mixed(system: System, setting: Setting) -> Measure:
    """Queue kernels of 10 ms and of 50 µs in a mixed order; see how long the short ones take to be done."""
    from offload import offload

    long, short = (offload(fn).options(auto=1) for fn in (kernels.compute_long, kernels.compute_short))
    count = setting.pick(100, 10)
    order = random.Random(1).sample([long] * (count // 10) + [short] * (count - count // 10), count)

    def measure() -> float:
        begun = perf_counter()
        handles = []
        for kernel in order:
            handles.append((perf_counter() - begun, kernel is short, kernel.launch()))
        ends = []
        for started, is_short, handle in handles:
            handle.wait()
            ended = handle.timing[0].ended
            assert ended is not None
            if is_short:
                ends.append(started + ended)
        return statistics.fmean(ends)

    return measure


def script(system: System, setting: Setting) -> Measure:
    """Alternate between 3 ms of the host's own work and 3 ms on all cores; count processor time per step."""
    call = system.everywhere(kernels.compute)
    steps = setting.pick(20, 2)

    def measure() -> float:
        members = family(os.getpid())
        before = processor_seconds(members)
        for _ in range(steps):
            kernels.compute(3_000_000)
            call(3_000_000)
            time.sleep(0.003)  # as for a file or an answer from the network
        return (processor_seconds(members) - before) / steps

    return measure


def beside_one(
    name: str, do: str, workload: Callable[[int], Workload], reach: tuple[Reach, ...] = ()
) -> Benchmark:
    """Declare what host threads reach together, beside what one of them does."""
    several = workload(HOST_THREADS)
    return Benchmark(
        name,
        f"{HOST_THREADS} host threads {do} at once, all together",
        RATE,
        (ours(several), ours(workload(1), "one thread"), *peers(several, "pool", "processpool")),
        reach,
        rounds=10,
    )


def flat(subject: str, of: str, times: int) -> Reach:
    """Ask that what is so many times larger costs no more for each part."""
    inner = within(times * FLAT, of, subject)
    return Reach(f"{subject}: flat per shard, ≤ {FLAT:g}× that of {of}", inner.met)


BENCHMARKS = (
    Benchmark(
        "eight",
        "8 process cores on the machine's CPUs, kernels of 0.5 ms",
        RATE,
        (ours(work, cores=8), ours(work, "2 cores"), *peers(work, "pool", "processpool")),
        (share_of(0.85, "2 cores"),),
        rounds=10,
    ),
    Benchmark(
        "sixtyfour",
        "all-core no-op launch on 64 process cores",
        MILLISECONDS,
        (ours(everywhere, "offload, 64 cores", 64), ours(everywhere, "8 cores", 8)),
        (at_most(0.006, MILLISECONDS), flat("offload, 64 cores", "8 cores", 8)),
        rounds=10,
    ),
    beside_one("threads", "launch asynchronously", threads, (share_of(0.7, "one thread"),)),
    beside_one("blockingthreads", "make blocking calls", blocking_threads),
    Benchmark(
        "mixed",
        "kernels of 50 µs queued among some of 10 ms: mean time until a short one is done",
        MILLISECONDS,
        (ours(mixed), ours(mixed, "fed one at a time", depth=1)),
        (within(1.3, "fed one at a time"),),
        rounds=15,
    ),
    Benchmark(
        "spincost",
        "processor time per step of a script with work on the host, work on the cores, and a pause",
        MILLISECONDS,
        (ours(script), ours(script, "OFFLOAD_SPIN=0", environ=NO_SPIN)),
        rounds=15,
    ),
)
