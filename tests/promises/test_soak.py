"""Thousands of launches of every kind: no descriptor, thread, process or memory stays behind."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import numpy as np
import pytest
from processes import cores, private_memory

import offload as of
from offload import offload, offload_single
from offload.core import coreid, sendrecv, size

GROWTH = 5_000_000  # bytes


class Holdings(NamedTuple):
    """What a program holds."""

    descriptors: int
    threads: int
    cores: int
    mapped: int  # pieces of shared memory

    @classmethod
    def now(cls) -> Holdings:
        """Count them."""
        gc.collect()
        with open("/proc/self/maps") as maps:
            shared = sum("/memfd:" in line for line in maps)
        return cls(len(os.listdir("/proc/self/fd")), threading.active_count(), len(cores()), shared)


@offload
def whoami() -> int:
    return coreid()


@offload_single
def add(first: Any, second: Any) -> Any:
    return first + second


@offload_single
def fail(number: int) -> None:
    raise ValueError(number)


@offload
def exchange(array: Any) -> float:
    other = size() - 1 - coreid()
    return float(sendrecv(array, other)[0])


def calls(draw: random.Random) -> int:
    assert add.options(async_=False)(draw.random(), 0) is not None
    assert whoami() == [0, 1]
    return 2


def queued(draw: random.Random) -> int:
    handles = [add(n, n, priority=draw.randrange(2)) for n in range(50)]
    cancelled = [handle.cancel() for handle in handles[::7]]
    for n, handle in enumerate(handles):
        try:
            assert handle.result() == 2 * n
        except CancelledError:
            assert not n % 7 and cancelled[n // 7]
    return len(handles)


def pipelines(draw: random.Random) -> int:
    handle = add(0, 0)
    for n in range(20):
        handle = add(handle, n)
    assert handle.result() == sum(range(20))
    return 21


def arrays(draw: random.Random) -> int:
    array = np.full(draw.choice((10, 2000, 50_000)), draw.random())
    values = [add(array, n) for n in range(10)]
    assert all(np.array_equal(value.result(), array + n) for n, value in enumerate(values))
    assert exchange(array) == [array[0], array[0]]
    return 11


def errors(draw: random.Random) -> int:
    handles = [fail(n) for n in range(5)]
    assert [str(handle.exception()) for handle in handles] == list("01234")
    return 5


def maps(draw: random.Random) -> int:
    assert list(offload(abs).map(range(100), chunksize=draw.choice((1, 10)))) == list(range(100))
    return 100


KINDS: tuple[Callable[[random.Random], int], ...] = (calls, queued, pipelines, arrays, errors, maps)


@pytest.fixture
def two_cores() -> Iterator[None]:
    with of.connect("local:2"):
        yield


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    "launches",
    [
        10_000,
        pytest.param(200_000, marks=[pytest.mark.promises, pytest.mark.timeout(900)]),
        pytest.param(5_000_000, marks=[pytest.mark.long, pytest.mark.timeout(20_000)]),
    ],
)
def test_soak(launches: int) -> None:
    draw = random.Random(launches)
    made = 0
    while made < launches // 4:  # the warm-up
        made += draw.choice(KINDS)(draw)
    before, processes = Holdings.now(), [os.getpid(), *cores()]
    memory = {process: private_memory(process) for process in processes}
    made = 0
    while made < launches:
        made += draw.choice(KINDS)(draw)
    assert Holdings.now() == before
    grown = {process: private_memory(process) - memory[process] for process in processes}
    assert sum(grown.values()) <= GROWTH, "memory has grown"
    grew = sum(grown.values()) / 1e6
    print(f"\nsoak: {made} launches, {before}, the memory of host and cores grew by {grew:.1f} MB")
