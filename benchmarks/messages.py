"""What cores pay to talk to each other inside a kernel."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from time import perf_counter
from typing import Any

from benchmarks.declare import MICROSECONDS, Benchmark, Measure, Open, Setting, Subject
from benchmarks.launch import BARE
from benchmarks.reach import at_most
from benchmarks.systems import System, Workload, ours

BYTES = 8_192


def exchanging(count: int) -> float:
    """Exchange an array with the other core so many times; return the time of one."""
    import numpy as np

    from offload.core import coreid, sendrecv

    array, other = np.zeros(BYTES // 8), 1 - coreid()
    sendrecv(array, other)
    begun = perf_counter()
    for _ in range(count):
        array = sendrecv(array, other)
    return (perf_counter() - begun) / count


def synchronising(count: int) -> float:
    """Wait for the other core so many times; return the time of one."""
    from offload.core import sync

    sync()
    begun = perf_counter()
    for _ in range(count):
        sync()
    return (perf_counter() - begun) / count


def exchange(system: System, setting: Setting) -> Measure:
    """Exchange arrays between two cores."""
    call = system.everywhere(exchanging)
    return lambda: max(call(setting.pick(500, 3)))


def meet(system: System, setting: Setting) -> Measure:
    """Let two cores wait for each other."""
    call = system.everywhere(synchronising)
    return lambda: max(call(setting.pick(500, 3)))


def _exchange_by_connection(link: Connection[Any, Any], count: int, report: Connection[Any, Any]) -> None:
    import numpy as np

    array = np.zeros(BYTES // 8)
    while report.recv():
        begun = perf_counter()
        for _ in range(count):
            link.send(array)
            array = link.recv()
        report.send((perf_counter() - begun) / count)


def _meet_at_barrier(barrier: Barrier, count: int, report: Connection[Any, Any]) -> None:
    while report.recv():
        begun = perf_counter()
        for _ in range(count):
            barrier.wait()
        report.send((perf_counter() - begun) / count)


@contextmanager
def standard_exchange(setting: Setting) -> Iterator[Measure]:
    """Exchange arrays between two processes over `multiprocessing.Pipe`."""
    count = setting.pick(500, 3)
    left, right = multiprocessing.Pipe()
    with _pair(_exchange_by_connection, (left, count), (right, count)) as measure:
        yield measure


@contextmanager
def standard_meeting(setting: Setting) -> Iterator[Measure]:
    """Let two processes wait for each other at a `multiprocessing.Barrier`."""
    given = multiprocessing.Barrier(2), setting.pick(500, 3)
    with _pair(_meet_at_barrier, given, given) as measure:
        yield measure


@contextmanager
def _pair(target: Any, *arguments: tuple[Any, ...]) -> Iterator[Measure]:
    reports, members = [], []
    for given in arguments:
        mine, theirs = multiprocessing.Pipe()
        reports.append(mine)
        members.append(multiprocessing.Process(target=target, args=(*given, theirs), daemon=True))
        members[-1].start()

    def measure() -> float:
        for report in reports:
            report.send(True)
        return float(max(report.recv() for report in reports))

    yield measure
    for report in reports:
        report.send(False)
    for member in members:
        member.join()


def between(name: str, what: str, workload: Workload, standard: tuple[str, Open], most: float) -> Benchmark:
    """Declare what two cores do together, beside the standard library's way, and what it may cost."""
    peer = Subject(*standard, "peer", "pool")
    return Benchmark(name, what, MICROSECONDS, (ours(workload), *BARE, peer), (at_most(most, MICROSECONDS),))


BENCHMARKS = (
    between(
        "exchange",
        "exchange of 8 KB between two cores inside a kernel (sendrecv)",
        exchange,
        ("multiprocessing.Pipe", standard_exchange),
        25e-6,
    ),
    between("sync", "sync() on 2 cores", meet, ("multiprocessing.Barrier", standard_meeting), 15e-6),
)
