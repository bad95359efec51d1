"""Bare limits: what the machine takes for the least that a launch or an array needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from benchmarks.declare import Measure, Setting, Subject

SPINNING, BLOCKING, NEAR = "spinning pipe", "blocking pipe", "blocking pipe, placed by the kernel"
COPY, COPY_SUM, COPY_FRESH = "memcpy", "memcpy + sum", "memcpy to fresh memory + sum"


def pipe(name: str) -> Subject:
    """Return a byte's way to another process and back, through two pipes, as a subject."""
    return Subject(name, lambda setting: _ping_pong(setting, name), "limit")


def copy(nbytes: int, name: str) -> Subject:
    """Return a copy of an array, perhaps summed or to fresh memory, as a subject."""
    return Subject(name, lambda setting: _copying(setting, nbytes, name), "limit")


@contextmanager
def _ping_pong(setting: Setting, name: str) -> Iterator[Measure]:
    """Exchange bytes with a forked process, which blocks between rounds."""
    calls = setting.pick(200, 5)
    here_in, there_out = os.pipe()
    there_in, here_out = os.pipe()
    spin = name == SPINNING
    cpus = sorted(os.sched_getaffinity(0))
    if name == NEAR or len(cpus) < 2:
        cpus = []
    child = os.fork()
    if child == 0:
        os.close(here_in)
        os.close(here_out)
        try:
            _serve(there_in, there_out, calls, spin, set(cpus[1:2]))
        finally:
            os._exit(0)
    os.close(there_in)
    os.close(there_out)
    if cpus:
        os.sched_setaffinity(0, cpus[:1])
    receive = _reader(here_in, spin)

    def measure() -> float:
        os.write(here_out, b"s")  # wakes the other side
        receive()
        begun = perf_counter()
        for _ in range(calls):
            os.write(here_out, b"x")
            receive()
        return (perf_counter() - begun) / calls

    try:
        yield measure
    finally:
        os.close(here_in)
        os.close(here_out)
        os.waitpid(child, 0)


def _serve(source: int, target: int, calls: int, spin: bool, cpus: set[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    receive = _reader(source, spin)
    while True:
        os.set_blocking(source, True)
        if not os.read(source, 1):
            return
        os.set_blocking(source, not spin)
        os.write(target, b"s")
        for _ in range(calls):
            receive()
            os.write(target, b"x")


def _reader(descriptor: int, spin: bool) -> Callable[[], object]:
    """Return what waits for a byte."""
    read = os.read
    if not spin:
        return lambda: read(descriptor, 1)
    os.set_blocking(descriptor, False)

    def receive() -> bytes:
        while True:
            try:
                return read(descriptor, 1)
            except BlockingIOError:
                pass

    return receive


@contextmanager
def _copying(setting: Setting, nbytes: int, name: str) -> Iterator[Measure]:
    import numpy as np

    count = setting.pick(nbytes, min(nbytes, 100_000)) // 8
    source: Any = np.arange(count, dtype=np.float64)
    target: Any = np.zeros_like(source)
    times = max(1, min(200, 20_000_000 // nbytes))

    def measure() -> float:
        begun = perf_counter()
        for _ in range(times):
            if name == COPY_FRESH:
                source.copy().sum()
            else:
                np.copyto(target, source)
                if name == COPY_SUM:
                    target.sum()
        return (perf_counter() - begun) / times

    yield measure
