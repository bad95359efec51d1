"""How much memory launches need that wait for their turn, and what is kept when arrays have gone."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import kernels
from benchmarks.arrays import LARGE
from benchmarks.declare import BYTES, MEGABYTES, Benchmark, Measure, Setting
from benchmarks.peers import peers
from benchmarks.processes import family, held_bytes
from benchmarks.reach import at_most
from benchmarks.systems import Submits, System, ours


def waiting(system: Submits, setting: Setting) -> Measure:
    """Queue launches of a no-op, without arguments, behind kernels that hold every core."""
    hold, submit = system.submitting(kernels.hold), system.submitting(kernels.noop)
    ours = system.title == "offload"
    count = setting.pick(100_000 if ours else 20_000, 100)

    def measure() -> float:
        system.gather([submit() for _ in range(100)])
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            gates = [Path(folder, str(core)) for core in range(system.cores)]
            for gate in gates:
                os.mkfifo(gate)
            held = [hold(str(gate)) for gate in gates]
            # Each is opened once a kernel is there to read, which so has begun.
            for gate in gates:
                stack.enter_context(open(gate, "w"))
            members = family(os.getpid())
            gc.collect()
            before = held_bytes(members)
            started = [submit() for _ in range(count)]
            gc.collect()
            each = (held_bytes(members) - before) / count
            stack.close()
            system.gather(held)
        system.gather(started)
        return max(0.0, each)

    return measure


def given_back(system: System, setting: Setting) -> Measure:
    """Send ten large arrays at once; five seconds after the last value, see what memory is kept."""
    import numpy as np

    from benchmarks.array_kernels import total

    array = np.ones(setting.pick(LARGE, 1_000_000) // 8)
    call = system.blocking(total)
    run = system.many(total)
    for _ in range(10):
        call(array[:8])

    def measure() -> float:
        before = held_bytes(family(os.getpid()))
        run([(array,)] * 10)
        gc.collect()
        time.sleep(setting.pick(5.0, 0.1))
        return max(0, held_bytes(family(os.getpid())) - before)

    return measure


BENCHMARKS = (
    Benchmark(
        "arena",
        "memory kept 5 s after a burst of 10 × 100 MB",
        MEGABYTES,
        (ours(given_back), *peers(given_back, "pool", "processpool")),
        (at_most(50e6, MEGABYTES),),
        rounds=2,
        heavy_rounds=1,
        fresh=True,
    ),
    Benchmark(
        "queued",
        "100,000 queued launches and their handles: memory for each",
        BYTES,
        (ours(waiting), *peers(waiting, "pool", "processpool", "loky", "ray", "pebble")),
        (at_most(450, BYTES),),
        rounds=3,
        heavy_rounds=1,
        fresh=True,
    ),
)
