"""What the scheduler's decisions cost without any device: time for an event, memory for a queued launch.

The state machine is driven by itself. `queued` launches are made first; then
shards end and launches are made in turn, so that the queue keeps its length.
An event is counted with the making of it, and with reading what it led to.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

from scheduler import events
from scheduler.events import Send
from scheduler.state import State

_DEPTH = 32  # shards that a unit may hold
_SHORT = 20e-6  # seconds that a kernel is said to run
_ROUND = 100  # events

Asked = tuple[Any, ...]  # the fields of a Submit


def seconds(events: int, units: int, queued: int) -> dict[str, float]:
    """Return the time of an event, by kind of launches: the median over rounds of 100 of so many events."""
    return {name: _time(launches(units), events, units, queued) for name, launches in KINDS.items()}


def weights(units: int, queued: int) -> dict[str, float]:
    """Return the bytes of a queued launch, by kind of launches."""
    return {name: _weigh(launches(units), units, queued) for name, launches in KINDS.items()}


# ---- launches --------------------------------------------------------------------------


def _named(units: int) -> Iterator[Asked]:
    places = [(unit,) for unit in range(units)]
    return ((number, 0, places[number % units], 1) for number in count(1))


def _auto(units: int) -> Iterator[Asked]:
    return ((number, 0, None, 1) for number in count(1))


def _mixed(units: int) -> Iterator[Asked]:
    draw = random.Random(units)
    for number in count(1):
        size = min(draw.choice((1, 1, 1, 2)), units)
        named = draw.random() < 0.5
        yield (
            number,
            0,
            tuple(sorted(draw.sample(range(units), size))) if named else None,
            size,
            draw.choice((0, 1)),  # kernel
            draw.choice((0, 0, 0, 1, 2)),  # priority
            (number - 1,) if number > 1 and draw.random() < 0.1 else (),
            draw.choice((0, 0, 3)),  # retries
            draw.choice((None, None, 60.0)),  # timeout
        )


# Launches that name their unit, that leave it to the scheduler, and of all kinds: with several
# shards, priorities, dependencies, timeouts and retries.
KINDS: dict[str, Callable[[int], Iterator[Asked]]] = {"named": _named, "auto": _auto, "mixed": _mixed}


# ---- measuring -------------------------------------------------------------------------


class _Drive:
    """A state machine, and how the shards on its units are going to end."""

    def __init__(self, units: int) -> None:
        self.state = State()
        self._ends: deque[events.ShardEnded] = deque()
        self.state.step(events.PoolOpened(0, units, _DEPTH))

    def submit(self, asked: Asked) -> None:
        self._step(events.Submit(*asked))

    def turn(self, asked: list[Asked]) -> None:
        """Let a shard end before each launch that is made."""
        for one in asked:
            self._step(self._ends.popleft())
            self.submit(one)

    def _step(self, event: events.Event) -> None:
        for action in self.state.step(event):
            if type(action) is Send:
                end = events.ShardEnded(0, action.unit, action.shard, True, _SHORT)
                self._ends.append(end)


def _time(launches: Iterator[Asked], events: int, units: int, queued: int) -> float:
    drive = _Drive(units)
    for asked in islice(launches, queued):
        drive.submit(asked)
    drive.turn(list(islice(launches, units)))
    gc.collect()
    rounds = []
    for _ in range(max(1, events // _ROUND)):
        made = list(islice(launches, _ROUND // 2))
        begin = time.perf_counter()
        drive.turn(made)
        rounds.append(time.perf_counter() - begin)
    return statistics.median(rounds) / _ROUND


def _weigh(launches: Iterator[Asked], units: int, queued: int) -> float:
    """Return the bytes of a queued launch, without its number and its units, which its handle has too."""
    asked = list(islice(launches, queued))
    drive = _Drive(units)
    gc.collect()
    tracemalloc.start()
    for one in asked:
        drive.submit(one)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / queued
