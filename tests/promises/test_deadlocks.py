"""Kernels that talk, nested launches, dependencies and cancellations, mixed at random by several threads."""

from __future__ import annotations

import _thread
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from processes import cores

import offload as of
from offload import offload, offload_single
from offload.core import bcast, coreid, numcores, rank, recv, reduce, send, size, sync

CORES, THREADS = 4, 3
STUCK = 30  # seconds without the end of anything; less than any test may take, or nobody saw the stacks

Errors = tuple[type[BaseException], ...]
Made = tuple[of.Handle[Any], list[Any] | None, Errors]


class Watchdog(threading.Thread):
    """Show where everybody is, and interrupt the test, once nothing has ended for too long."""

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._sign = threading.Semaphore(0)
        self._over = False

    def run(self) -> None:
        while self._sign.acquire(timeout=STUCK):
            if self._over:
                return
        faulthandler.dump_traceback(sys.__stderr__)
        for core in cores():
            os.kill(core, signal.SIGABRT)  # it shows its stacks, too
        _thread.interrupt_main()

    def tell(self) -> None:
        """Note that something has ended."""
        self._sign.release()

    def stop(self) -> None:
        self._over = True
        self.tell()
        self.join()


@offload
def ring(rounds: int, elements: int, deadly: int) -> float:
    """Hand an array round and round; the core `deadly` dies in the midst of it."""
    cores = _cores()
    array = np.full(elements, float(rank()))
    for _ in range(rounds):
        if coreid() == deadly:
            os._exit(1)
        if size() > 1:
            send(array, cores[(rank() + 1) % size()])
            array = recv(cores[rank() - 1])
    return float(array[0])


@offload
def together(number: int) -> int:
    """Agree on a number, in all the ways there are."""
    cores = _cores()
    number = bcast(number if rank() == 0 else None, cores[0])
    total = reduce(number, "sum")
    sync()
    return int(total)


def _cores() -> list[int]:
    from device_runtime.context import current

    context = current()
    assert context is not None and numcores() == CORES
    return list(context.cores)


@offload_single
def nested(depth: int, number: int) -> int:
    """Launch itself on the core's own place."""
    return nested(depth - 1, number).result() + 1 if depth else number


@offload_single
def add(*numbers: Any) -> Any:
    return sum(numbers)


@offload_single
def hang() -> None:
    threading.Event().wait()


class Player:
    """Make launches at random, and wait for them in one way or another."""

    def __init__(self, seed: int, tell: Callable[[], None]) -> None:
        self.draw = random.Random(seed)
        self.tell = tell
        self.ends: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._recent: list[of.Handle[Any]] = []

    def play(self, until: float) -> None:
        try:
            while time.monotonic() < until:
                self._step()
        except BaseException as error:
            self.error = error

    def _step(self) -> None:
        draw = self.draw
        made = [self._launch() for _ in range(draw.choice((1, 1, 3, 8)))]
        for place, (handle, expected, errors) in enumerate(made):
            if draw.random() < 0.1:
                handle.cancel(kill=draw.random() < 0.5)
                made[place] = handle, expected, (*errors, CancelledError, of.PeerEnded)
        self._recent = [handle for handle, _, _ in made] + self._recent[:4]
        if draw.random() < 0.3:
            for handle in of.as_completed(*(handle for handle, _, _ in made)):
                handle.done()
        for handle, expected, errors in made:
            try:
                values = handle.wait()
            except errors as error:
                self.ends[type(error).__name__] += 1
            else:
                self.ends["value"] += 1
                assert expected is None or values == expected
            self.tell()

    def _launch(self) -> Made:
        """Make a launch; return also what it must give, if anything, and which errors it may end with.

        None is for a value that depends, or that there cannot be.
        """
        draw = self.draw
        where = sorted(draw.sample(range(CORES), draw.randint(1, CORES)))
        kind = draw.random()
        if kind < 0.25:
            rounds, deadly = draw.randint(0, 5), draw.choice(where) if draw.random() < 0.05 else -1
            launched = ring.launch(rounds, draw.choice((10, 3000, 60_000)), deadly, target=where)
            values = [float((n - rounds) % len(where)) for n in range(len(where))]
            return launched, values, () if deadly < 0 else (of.WorkerDied, of.PeerEnded)
        if kind < 0.4:
            return together.launch(7, target=where), [7 * len(where)] * len(where), ()
        if kind < 0.5:
            return together.launch(7, auto=len(where)), [7 * len(where)] * len(where), ()
        if kind < 0.65:
            depth = draw.randint(0, 3)
            return nested(depth, 5), [5 + depth], ()
        if kind < 0.67:
            return hang(timeout=0.05), None, (of.LaunchTimeout,)
        if kind < 0.85 and self._recent:
            needed = draw.sample(self._recent, draw.randint(1, min(2, len(self._recent))))
            counts = offload_single(lambda *values: len(values))
            return counts(*needed), [len(needed)], (of.DependencyError,)
        return add(1, 2, priority=draw.randrange(-1, 2)), [3], ()


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    dog = Watchdog()
    dog.start()
    yield dog
    dog.stop()


@pytest.mark.parametrize(
    "seconds",
    [
        3,
        pytest.param(30, marks=[pytest.mark.promises, pytest.mark.timeout(300)]),
        pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(1500)]),
    ],
)
def test_nothing_waits_for_ever(watchdog: Watchdog, seconds: float) -> None:
    with of.connect(f"local:{CORES}"):
        until = time.monotonic() + seconds
        players = [Player(seed, watchdog.tell) for seed in range(THREADS)]
        threads = [threading.Thread(target=player.play, args=(until,)) for player in players]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for player in players:
        if player.error is not None:
            raise player.error
    ends = sum((player.ends for player in players), Counter[str]())
    print(f"\ndeadlocks: none among {ends.total()} launches in {seconds} s; {dict(ends)}")
