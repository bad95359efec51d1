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


def run(events: int, units: int, queued: int) -> dict[str, float]:
    """Drive the state machine through so many events, with so many units and queued launches.

    Returns, for launches that name their unit, for launches that leave it to
    the scheduler, and for launches of all kinds (several shards, priorities,
    dependencies, timeouts, retries): microseconds for each event, the median
    over rounds of 100, and bytes for each queued launch.
    """
    found: dict[str, float] = {}
    kinds: dict[str, Callable[[int], Iterator[Asked]]] = {"named": _named, "auto": _auto, "mixed": _mixed}
    for name, launches in kinds.items():
        found[f"{name} µs"] = _time(launches(units), events, units, queued)
        found[f"{name} bytes"] = _weigh(launches(units), units, queued)
    return found


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
    return statistics.median(rounds) / _ROUND * 1e6


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
