"""Thousands of launches of every kind: no descriptor, thread, process or memory stays behind."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from processes import cores, parent, private_memory
from programs import children

import offload as of
from offload import offload, offload_single
from offload.core import coreid, sendrecv, size

GROWTH = 5  # MB, of each process: one that shrinks does not make up for another


class Holdings(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    mapped: int  # files in shared memory

    @classmethod
    def of(cls, process: int) -> Holdings:
        """Count them."""
        here = Path("/proc", str(process))
        lines = (here / "maps").read_text().splitlines()
        shared = {line.split()[4] for line in lines if "/memfd:" in line}
        return cls(len(os.listdir(here / "fd")), len(os.listdir(here / "task")), len(shared))


class Soaked(NamedTuple):
    """What each process of this program holds, and how much memory it has to itself."""

    holdings: dict[str, Holdings]
    memory: dict[str, int]

    @classmethod
    def now(cls) -> Soaked:
        """Look at this process, the one that starts cores, and the cores, of which there are no others."""
        gc.collect()
        first, second = offload(lambda: os.getpid())()
        assert {first, second} == set(cores())
        here = {"host": os.getpid(), "zygote": parent(first), "core 0": first, "core 1": second}
        assert children() == {here["zygote"]}
        holdings = {name: Holdings.of(process) for name, process in here.items()}
        return cls(holdings, {name: private_memory(process) for name, process in here.items()})

    def grown(self, before: Soaked) -> dict[str, float]:
        """Check that each process holds what it did before; return by how many MB its memory has grown."""
        assert self.holdings == before.holdings
        grown = {name: (size - before.memory[name]) / 1e6 for name, size in self.memory.items()}
        assert max(grown.values()) <= GROWTH, f"memory has grown: {grown}"
        return grown


@offload
def whoami() -> int:
    return coreid()


@offload_single
def add(first: Any, second: Any) -> Any:
    return first + second


@offload
def echo(array: Any) -> Any:
    return array


@offload_single
def fail(number: int) -> None:
    raise ValueError(number)


@offload
def exchange(array: Any) -> float:
    other = size() - 1 - coreid()
    return float(sendrecv(array, other)[0])


@offload_single
def nested(depth: int) -> int:
    return nested(depth - 1).result() + 1 if depth else 0


table = None


@offload
def read() -> float:
    return float(table[0])


@offload_single
def die(code: int) -> None:
    os._exit(code)


@offload_single(timeout=0.02)
def hang() -> None:
    threading.Event().wait()


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


def nests(draw: random.Random) -> int:
    depth = draw.randrange(4)
    assert nested(depth).result() == depth
    return depth + 1


def residents(draw: random.Random) -> int:
    array = np.full(draw.choice((10, 50_000)), draw.random())
    of.define_on_device(table=array)
    assert read() == [array[0], array[0]]
    of.copy_to_device("table", 2 * array)
    assert read() == [2 * array[0], 2 * array[0]]
    return 2


def deaths(draw: random.Random) -> int:
    handles = [die(number) if number == 3 else add(number, 0) for number in range(8)]
    assert [number for number, handle in enumerate(handles) if handle.exception() is not None] == [3]
    return len(handles)


def timeouts(draw: random.Random) -> int:
    assert isinstance(hang().exception(), of.LaunchTimeout)
    return 1


KINDS: tuple[Callable[[random.Random], int], ...] = (
    calls,
    queued,
    pipelines,
    arrays,
    errors,
    maps,
    nests,
    residents,
)


def launch(kinds: Sequence[Callable[[random.Random], int]], launches: int, draw: random.Random) -> int:
    """Make launches of all kinds at random; return how many there were."""
    made = 0
    while made < launches:
        made += draw.choice(kinds)(draw)
    return made


def renewed() -> Soaked:
    """Look at everything with cores that have just been started, and have seen every kind of launches."""
    for core in range(2):
        with pytest.raises(of.WorkerDied):
            offload(lambda: os._exit(1), target=core)()
    for kind in KINDS:
        for seed in range(5):  # so that what they draw has been there, too
            kind(random.Random(seed))
    echo(np.ones(100_000))  # the host has mapped what either core writes
    return Soaked.now()


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
    launch(KINDS, launches // 4, draw)  # the warm-up
    before = Soaked.now()
    made = launch(KINDS, launches, draw)
    grown = Soaked.now().grown(before)
    print(f"\nsoak: {made} launches, {before.holdings}; memory grew by so many MB: {grown}")


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    "launches", [1500, pytest.param(20_000, marks=[pytest.mark.promises, pytest.mark.timeout(900)])]
)
def test_soak_with_cores_that_die(launches: int) -> None:
    draw, kinds = random.Random(launches), (*KINDS, deaths, timeouts)
    echo(np.ones(5_000_000))  # as much as makes the host start the thread that gives memory back
    launch(kinds, launches, draw)
    before = renewed()
    made = launch(kinds, launches, draw)
    grown = renewed().grown(before)
    print(f"\nsoak: {made} launches with deaths and timeouts; memory grew by so many MB: {grown}")
