"""Decide which shard runs on which unit, and when.

A pure state machine: `step(event)` returns the actions that follow. It has no
threads, no clock and no I/O, so that a simulator can drive it through millions
of histories.

Every launch has a place in the order (see `order`). A unit always takes the
first among the shards it may run, and holds them in the order sent. As the
order is the same on all units, kernels that talk to each other cannot deadlock
on where they were placed. An event costs the logarithm of what is queued at
most, for each shard it touches.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Action, Event, Kill, Placed, Send, Settle
from scheduler.order import Order
from scheduler.units import Key, Launch, Pool, Unit

MAX_UNITS_LOST = 3  # units that one launch may lose before it is not tried again
SHORT = 250e-6  # seconds; only shorter kernels are sent ahead
AHEAD = 500e-6  # seconds of work that a unit holds at most, if more than one shard
_ESTIMATES_KEPT = 4096  # kernels
_CRASHES, _CRASH_SPAN = 5, 10.0  # a unit that dies so often, within so many seconds, idle, is given up
_SPARE_DEADLINES = 64


class State:
    """The scheduler's decisions, and what they depend on."""

    def __init__(self) -> None:
        self.stale = 0  # reports of shards that were not, or no longer, under way
        self._pools: dict[int, Pool] = {}
        self._launches: dict[int, Launch] = {}
        self._order = Order()
        self._estimates: OrderedDict[int, float] = OrderedDict()  # seconds, by kernel
        self._deadlines: list[tuple[float, ShardId, int, int]] = []  # a heap; pool and unit
        self._deadlines_kept = _SPARE_DEADLINES
        self._actions: list[Action] = []
        self._finished: deque[Launch] = deque()
        self._dirty: deque[Unit] = deque()  # units that may take a shard
        self._eager: dict[int, None] = {}  # pools with new auto launches

    # ---- questions ---------------------------------------------------------------

    @property
    def pending(self) -> int:
        """The number of launches that have not ended."""
        return len(self._launches)

    def can_cancel(self, launch: int) -> bool:
        """Tell whether a launch is queued, all of it."""
        found = self._launches.get(launch)
        return found is not None and found.left == found.count and not found.flying

    def running(self, launch: int) -> int:
        """Return how many shards of a launch are on units."""
        found = self._launches.get(launch)
        return 0 if found is None else found.flying

    def outstanding(self, launch: int) -> int:
        """Return how many shards of a launch have not ended."""
        found = self._launches.get(launch)
        return 0 if found is None else found.left

    def next_deadline(self) -> float | None:
        """Return when a `Tick` is due."""
        while self._deadlines:
            due, shard, pool, unit = self._deadlines[0]
            if self._is_flying(pool, unit, shard):
                return due
            heappop(self._deadlines)
        return None

    # ---- events ------------------------------------------------------------------

    def step(self, event: Event) -> list[Action]:
        """Take in an event and return what is to be done, in order.

        Raises ValueError for a launch that is known already, has no shards,
        names units that the pool does not have, or depends on a later one.
        """
        self._actions = []
        _HANDLERS[type(event)](self, event)
        self._follow()
        return self._actions

    def _open(self, event: events.PoolOpened) -> None:
        self._pools[event.pool] = Pool(event.pool, event.units, event.depth)

    def _close(self, event: events.PoolClosed) -> None:
        pool = self._pools.pop(event.pool, None)
        if pool is None:
            return
        for unit in pool.units:
            for shard in unit.flight:
                launch = self._launches[shard.launch]
                launch.flying -= 1
                self._settle(launch, shard.rank, "closed")
        for launch in [one for one in self._launches.values() if one.pool == event.pool]:
            self._settle_rest(launch, "closed")

    def _submit(self, event: events.Submit) -> None:
        pool = self._pools.get(event.pool)
        _check(event, pool)
        if event.launch in self._launches:
            raise ValueError(f"launch {event.launch} is queued already")
        launch = self._launches[event.launch] = Launch(event)
        if pool is None:
            self._settle_rest(launch, "closed")
            return
        for needed in self._needed(launch):
            if needed.dependants is None:
                needed.dependants = {}
            needed.dependants[launch.number] = launch
            launch.waits += 1
        if launch.units is not None:
            if launch.waits:
                self._place_needed(launch)
            self._order.enter(launch, self._bound(launch))
            self._queue(launch, pool)
        elif not launch.waits:
            self._queue_auto(launch, pool)

    def _begun(self, event: events.ShardBegun) -> None:
        launch = self._launches.get(event.shard.launch)
        if launch is None or not self._is_flying(event.pool, event.unit, event.shard):
            self.stale += 1
        elif launch.timeout is not None:
            heappush(self._deadlines, (event.now + launch.timeout, event.shard, event.pool, event.unit))
            if len(self._deadlines) > self._deadlines_kept:
                self._deadlines = [one for one in self._deadlines if self._is_flying(one[2], one[3], one[1])]
                heapify(self._deadlines)
                self._deadlines_kept = 2 * len(self._deadlines) + _SPARE_DEADLINES

    def _ended(self, event: events.ShardEnded) -> None:
        if not self._is_flying(event.pool, event.unit, event.shard):
            self.stale += 1
            return
        unit = self._pools[event.pool].units[event.unit]
        launch = self._launches[event.shard.launch]
        unit.crashes.clear()
        self._land(unit, event.shard, launch)
        self._learn(launch.kernel, event.seconds)
        self._settle(launch, event.shard.rank, "ended", event.ok)
        if unit.flight:
            first = next(iter(unit.flight))
            doomed = self._launches[first.launch].doomed
            if doomed and first.rank in doomed:
                self._kill(unit)

    def _lost(self, event: events.UnitLost) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or pool.units[event.unit].gone:
            self.stale += 1
            return
        unit = pool.units[event.unit]
        crashed = event.begun is None and not unit.killed
        unit.up = unit.killed = False
        again = []
        for place, shard in enumerate(list(unit.flight)):
            launch, rank = self._launches[shard.launch], shard.rank
            self._land(unit, shard, launch)
            begun = shard == event.begun
            # The first may have brought the unit down while it was being loaded.
            suspect = begun or (crashed and place == 0)
            launch.lost += suspect
            if launch.doomed and rank in launch.doomed:
                self._settle(launch, rank, launch.doomed[rank])
            elif begun and not self._may_retry(launch, rank):
                self._settle(launch, rank, "died")
            elif suspect and launch.lost >= MAX_UNITS_LOST:
                self._settle(launch, rank, "poisoned")
            else:
                launch.attempts = launch.attempts or {}
                launch.attempts[rank] = shard.attempt + 1
                again.append((rank, launch))
        unit.resume(again)
        pool.unstall(unit)
        if crashed:
            unit.crashes.append(event.now)
            if len(unit.crashes) == _CRASHES and event.now - unit.crashes.popleft() <= _CRASH_SPAN:
                self._give_up(pool, unit)

    def _ready(self, event: events.UnitReady) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            unit.up = True
            pool.rank(unit)
            self._touch(unit)

    def _gone(self, event: events.UnitGone) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            for shard in list(unit.flight):
                launch = self._launches[shard.launch]
                self._land(unit, shard, launch)
                self._settle(launch, shard.rank, (launch.doomed or {}).get(shard.rank, "no units"))
            self._give_up(pool, unit)

    def _cancel(self, event: events.Cancel) -> None:
        launch = self._launches.get(event.launch)
        if launch is None or not (event.kill or self.can_cancel(event.launch)):
            return
        if launch.flying:
            assert launch.units is not None
            units = self._pools[launch.pool].units
            for rank, number in enumerate(launch.units):
                unit, shard = units[number], launch.shard(rank)
                if shard in unit.flight:
                    launch.doom(rank, "cancelled")
                    if next(iter(unit.flight)) == shard:
                        self._kill(unit)
                elif not launch.has_settled(rank):
                    self._settle_queued(launch, rank, "cancelled")
        else:
            self._settle_rest(launch, "cancelled")

    def _tick(self, event: events.Tick) -> None:
        while self._deadlines and self._deadlines[0][0] <= event.now:
            _, shard, pool, unit = heappop(self._deadlines)
            if self._is_flying(pool, unit, shard):
                self._launches[shard.launch].doom(shard.rank, "timeout")
                self._kill(self._pools[pool].units[unit])

    # ---- queues ------------------------------------------------------------------

    def _needed(self, launch: Launch) -> list[Launch]:
        """Return the unfinished launches that a launch depends on."""
        if not launch.needs:
            return []
        return [self._launches[number] for number in launch.needs if number in self._launches]

    def _bound(self, launch: Launch) -> Key:
        """Return the largest key among the launches that a launch depends on."""
        return max((needed.key for needed in self._needed(launch)), default=()) if launch.waits else ()

    def _queue(self, launch: Launch, pool: Pool) -> None:
        """Put the shards of a launch whose units are known in their queues."""
        assert launch.units is not None
        for rank, number in enumerate(launch.units):
            unit = pool.units[number]
            if unit.gone:
                launch.unsent -= 1
                self._settle(launch, rank, "no units")
            else:
                unit.push(launch, rank)
                self._touch(unit)

    def _queue_auto(self, launch: Launch, pool: Pool) -> None:
        """Let a launch wait for the first unit that can take it."""
        if launch.count > pool.left:
            self._settle_rest(launch, "no units")
            return
        self._order.enter(launch, ())
        pool.push(launch)
        self._eager[launch.pool] = None

    def _place_needed(self, launch: Launch) -> None:
        """Place the auto launches that a launch depends on and that wait themselves, now.

        A launch that names its units holds them from now on. What it waits for
        must have its place before it, or could find those units held.
        """
        path = [launch]
        while path:
            last = path[-1]
            unplaced = [needed for needed in self._needed(last) if not needed.key and needed.left]
            if unplaced:
                path.extend(sorted(unplaced, key=lambda one: one.number, reverse=True))
                continue
            path.pop()
            if last is launch or last.key or not last.left:
                continue
            pool = self._pools[last.pool]
            if last.count > pool.left:
                self._settle_rest(last, "no units")
            else:
                self._order.enter(last, self._bound(last))
                self._place(pool, last)

    def _place(self, pool: Pool, launch: Launch, first: Unit | None = None) -> None:
        """Choose the units of an auto launch, and queue it there."""
        launch.units = pool.choose(launch.count, first)
        self._actions.append(Placed(launch.number, launch.units))
        self._queue(launch, pool)

    def _draw(self, pool: Pool) -> None:
        """Place the first auto launch, if a unit that does nothing can take it."""
        auto, unit = pool.head(), pool.idle() or pool.last_stalled()
        if auto is not None and unit is not None and not (unit.stalled and unit.stalled < auto.key):
            self._place(pool, auto, unit)
            pool.drop()
            self._eager[auto.pool] = None  # there may be more

    # ---- units -------------------------------------------------------------------

    def _fill(self, pool: Pool, unit: Unit) -> None:
        """Send a unit what it may take now."""
        pool.unstall(unit)
        while unit.up:
            head, auto = unit.head(), pool.head()
            if auto is not None and (head is None or auto.key < head[0]):
                if not self._has_room(pool, unit, auto):
                    return
                self._place(pool, auto, pool.idle() or unit)
                pool.drop()
                continue
            if head is None:
                return
            key, rank, launch = head
            if launch.waits:
                if not unit.flight:
                    pool.stall(unit, key)
                return
            if not self._has_room(pool, unit, launch):
                return
            unit.take()
            self._send(unit, launch, rank)

    def _has_room(self, pool: Pool, unit: Unit, launch: Launch) -> bool:
        if not unit.flight:
            return True
        estimate = self._estimates.get(launch.kernel)
        return (
            len(unit.flight) < pool.depth
            and not unit.long
            and estimate is not None
            and estimate <= SHORT
            and unit.load + estimate <= AHEAD
        )

    def _send(self, unit: Unit, launch: Launch, rank: int) -> None:
        shard = launch.shard(rank)
        estimate = self._estimates.get(launch.kernel)
        if estimate is None or estimate > SHORT:
            unit.long += 1
            estimate = None
        else:
            unit.load += estimate
        unit.flight[shard] = estimate
        launch.flying += 1
        if not shard.attempt:
            launch.begun = True
            launch.unsent -= 1
            if launch.count > 1:
                self._order.mark(launch)
        self._actions.append(Send(unit.pool, unit.number, shard))

    def _land(self, unit: Unit, shard: ShardId, launch: Launch) -> None:
        """Take a shard from its unit, however it ended."""
        estimate = unit.flight.pop(shard)
        if estimate is None:
            unit.long -= 1
        else:
            unit.load -= estimate
        if not unit.flight:
            unit.load = 0.0  # rounding must not add up
        launch.flying -= 1
        self._pools[unit.pool].rank(unit)
        self._touch(unit)

    def _kill(self, unit: Unit) -> None:
        if not unit.killed:
            unit.killed = True
            self._actions.append(Kill(unit.pool, unit.number))

    def _give_up(self, pool: Pool, unit: Unit) -> None:
        """Use a unit no more; end what only it could run."""
        for _, rank, launch in pool.give_up(unit):
            self._settle_queued(launch, rank, "no units")
        for launch in pool.too_large():
            self._settle_rest(launch, "no units")

    def _may_retry(self, launch: Launch, rank: int) -> bool:
        """Count that a unit died while it ran a shard; tell whether the shard may run again."""
        launch.deaths = launch.deaths or {}
        launch.deaths[rank] = launch.deaths.get(rank, 0) + 1
        return launch.deaths[rank] <= launch.retries

    def _is_flying(self, pool: int, unit: int, shard: ShardId) -> bool:
        found = self._pools.get(pool)
        return found is not None and shard in found.units[unit].flight

    def _learn(self, kernel: int, seconds: float) -> None:
        known = self._estimates.get(kernel)
        if known is None or seconds >= known:
            # One long run counts at once: what was sent ahead would wait behind the next.
            self._estimates[kernel] = seconds
        else:
            self._estimates[kernel] = known + (seconds - known) / 8
        if len(self._estimates) > _ESTIMATES_KEPT:
            self._estimates.popitem(last=False)

    def _touch(self, unit: Unit) -> None:
        if not unit.dirty:
            unit.dirty = True
            self._dirty.append(unit)

    # ---- ends --------------------------------------------------------------------

    def _settle(self, launch: Launch, rank: int, how: str, ok: bool = False) -> None:
        launch.settled |= 1 << rank
        launch.left -= 1
        launch.ok = launch.ok and ok
        self._actions.append(Settle(launch.number, rank, how, launch.cause))
        if not launch.left:
            self._finished.append(launch)

    def _settle_queued(self, launch: Launch, rank: int, how: str) -> None:
        """End a shard that is on no unit; its entry in a queue is dropped when it comes to the front."""
        if not (launch.attempts and rank in launch.attempts):
            launch.unsent -= 1
            self._order.mark(launch)
        pool = self._pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is not None:
            unit = pool.units[launch.units[rank]]
            if not unit.gone:
                unit.drop()
                pool.rank(unit)
                self._touch(unit)
        self._settle(launch, rank, how)

    def _settle_rest(self, launch: Launch, how: str) -> None:
        """End all shards that have not ended; none of them is on a unit."""
        pool = self._pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is None and launch.left:
            pool.drop()
        for rank in range(launch.count):
            if not launch.has_settled(rank):
                self._settle_queued(launch, rank, how)

    def _follow(self) -> None:
        """Let what follows from ends and free units follow, until nothing does."""
        while self._finished or self._dirty or self._eager:
            if self._finished:
                self._finish(self._finished.popleft())
            elif self._dirty:
                unit = self._dirty.popleft()
                unit.dirty = False
                pool = self._pools.get(unit.pool)
                if pool is not None:
                    self._fill(pool, unit)
            else:
                pool = self._pools.get(self._eager.popitem()[0])
                if pool is not None:
                    self._draw(pool)

    def _finish(self, launch: Launch) -> None:
        del self._launches[launch.number]
        self._order.leave(launch)
        for needed in self._needed(launch):
            if needed.dependants:
                needed.dependants.pop(launch.number, None)
        for dependant in (launch.dependants or {}).values():
            if not dependant.left:
                continue  # it has ended in this very step
            dependant.waits -= 1
            if not launch.ok:
                dependant.cause = launch.number if launch.cause < 0 else launch.cause
                self._settle_rest(dependant, "dependency")
            elif not dependant.waits:
                pool = self._pools[dependant.pool]
                if dependant.units is None:
                    self._queue_auto(dependant, pool)
                else:
                    for number in dependant.units:
                        self._touch(pool.units[number])


def _check(asked: events.Submit, pool: Pool | None) -> None:
    """Raise ValueError for a launch that cannot be meant."""
    units, needs = asked.units, asked.depends
    right = asked.count > 0
    if needs:
        right = right and len(set(needs)) == len(needs) and max(needs) < asked.launch
    if right and units is not None and pool is not None:
        right = len(units) == asked.count and 0 <= units[0] and units[-1] < len(pool.units)
        right = right and (len(units) == 1 or all(a < b for a, b in pairwise(units)))
    if not right:
        raise ValueError(f"launch {asked.launch} cannot be queued: {asked}")


_HANDLERS: dict[type[Any], Callable[[State, Any], None]] = {
    events.PoolOpened: State._open,
    events.PoolClosed: State._close,
    events.Submit: State._submit,
    events.ShardBegun: State._begun,
    events.ShardEnded: State._ended,
    events.UnitLost: State._lost,
    events.UnitReady: State._ready,
    events.UnitGone: State._gone,
    events.Cancel: State._cancel,
    events.Tick: State._tick,
}
