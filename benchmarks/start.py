"""What a program pays before its first value, and while it has nothing to do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from compileall import compile_dir
from contextlib import contextmanager
from importlib.util import find_spec
from time import perf_counter

from benchmarks.declare import (
    MEGABYTES,
    MILLISECONDS,
    PERCENT,
    Benchmark,
    Measure,
    Open,
    Setting,
    Subject,
    Unit,
)
from benchmarks.peers import PEERS
from benchmarks.processes import family, processor_seconds, proportional_bytes
from benchmarks.reach import at_most

Program = subprocess.Popen[bytes]
_OURS = ("benchmarks", "offload", "scheduler", "device_runtime")


def compile_ours() -> None:
    """Compile our modules, as those of the peers were when these were installed."""
    for name in _OURS:
        found = find_spec(name)
        assert found is not None and found.submodule_search_locations is not None
        for folder in found.submodule_search_locations:
            compile_dir(folder, quiet=1)


def imported(module: str) -> Open:
    """Measure an import in an interpreter that has done nothing else."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        compile_ours()
        code = f"from time import perf_counter as now; t = now(); import {module}; print(now() - t)"
        yield lambda: float(subprocess.check_output([sys.executable, "-c", code]))

    return opened


def first_result(system: str, kernel: str) -> Open:
    """Measure the time from a program's start to the value of its first call."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        compile_ours()

        def measure() -> float:
            begun = perf_counter()
            with _program(system, kernel):
                return perf_counter() - begun

        yield measure

    return opened


def at_rest(system: str, look: Callable[[Program, Setting], float], seconds: float) -> Open:
    """Measure something of a program, and all it has started, some time after its first call."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        def measure() -> float:
            with _program(system, "pure") as program:
                time.sleep(setting.pick(seconds, 0.01))
                return look(program, setting)

        yield measure

    return opened


def share_used(program: Program, setting: Setting) -> float:
    """Return how much of one CPU it uses, over two seconds."""
    members = family(program.pid)
    begun, before = perf_counter(), processor_seconds(members)
    time.sleep(setting.pick(2.0, 0.02))
    return (processor_seconds(members) - before) / (perf_counter() - begun)


def memory(program: Program, setting: Setting) -> float:
    """Return its proportional set size."""
    return proportional_bytes(family(program.pid))


@contextmanager
def _program(system: str, kernel: str) -> Iterator[Program]:
    """Run a small script; it has printed the value of its first call."""
    program = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.program", system, kernel],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdin is not None and program.stdout is not None
    try:
        if not program.stdout.readline().strip():
            raise RuntimeError(f"a program with {system} ended without a value")
        yield program
    finally:
        program.stdin.close()
        program.wait()
        program.stdout.close()


def _subjects(make: Callable[[str], Open], *names: str) -> tuple[Subject, ...]:
    """Return offload and peers as subjects, all peers if none is named."""
    return (
        Subject("offload", make("offload")),
        *(
            Subject(PEERS[name].title, make(name), "peer", name, PEERS[name].heavy, (PEERS[name].package,))
            for name in names or PEERS
        ),
    )


def _import(name: str) -> Open:
    return imported("offload" if name == "offload" else PEERS[name].module)


def resting(
    name: str, what: str, unit: Unit, look: Callable[[Program, Setting], float], seconds: float, most: float
) -> Benchmark:
    """Declare what a program uses that has done its first call and now rests."""
    return Benchmark(
        name,
        what,
        unit,
        _subjects(lambda system: at_rest(system, look, seconds)),
        (at_most(most, unit),),
        rounds=3,
        heavy_rounds=1,
    )


BENCHMARKS = (
    Benchmark(
        "import",
        "import",
        MILLISECONDS,
        _subjects(_import),
        (at_most(0.030, MILLISECONDS),),
        rounds=15,
    ),
    Benchmark(
        "first",
        "from process start to the first result, pure-Python kernel",
        MILLISECONDS,
        _subjects(lambda name: first_result(name, "pure")),
        (at_most(0.100, MILLISECONDS),),
        rounds=8,
        heavy_rounds=2,
    ),
    Benchmark(
        "firstnumpy",
        "from process start to the first result, NumPy kernel",
        MILLISECONDS,
        _subjects(
            lambda name: first_result(name, "numpy"),
            "pool",
            "processpool",
            "joblib",
            "loky",
            "mpire",
            "pebble",
        ),
        (at_most(0.250, MILLISECONDS),),
        rounds=8,
    ),
    resting("idle", "processor time in host and cores, idle for 1 s", PERCENT, share_used, 1.0, 0.0005),
    resting(
        "memory",
        "memory of host and 2 cores at idle, before NumPy (proportional set size)",
        MEGABYTES,
        memory,
        0.2,
        32e6,
    ),
)
