"""Decide which shard runs on which unit, and when.

A pure state machine: `step(event)` returns the actions that follow. It has no
threads, no clock and no I/O, so that a simulator can drive it through millions
of histories.

Order. Every launch has a key, and keys are totally ordered. A unit always takes
the smallest key among the shards it may run, and holds them in the order sent.
As the order is the same on all units, kernels that talk to each other cannot
deadlock on where they were placed. An event costs the logarithm of what is
queued at most, for each shard it touches.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Action, Event, Kill, Placed, Send, Settle

MAX_UNITS_LOST = 3  # units that one launch may lose before it is not tried again
SHORT = 250e-6  # seconds; only shorter kernels are sent ahead
AHEAD = 500e-6  # seconds of work that a unit holds at most, if more than one shard
_ESTIMATES_KEPT = 4096  # kernels
_DEATHS, _DEATH_SPAN = 5, 10.0  # a unit that dies so often, within so many seconds, idle, is given up

Key = tuple[int, ...]


class _Launch:
    __slots__ = (
        "attempts",
        "begun",
        "cause",
        "count",
        "dependants",
        "doomed",
        "flying",
        "kernel",
        "key",
        "left",
        "lost",
        "number",
        "ok",
        "pool",
        "priority",
        "retries",
        "settled",
        "timeout",
        "units",
        "unsent",
        "waits",
    )

    def __init__(self, asked: events.Submit) -> None:
        self.number = asked.launch
        self.pool = asked.pool
        self.units = asked.units
        self.count = asked.count
        self.left = asked.count  # shards that have not ended
        self.unsent = asked.count  # of those, not on a unit
        self.kernel = asked.kernel
        self.priority = asked.priority
        self.retries = asked.retries
        self.timeout = asked.timeout
        self.key: Key | None = None  # an auto launch that waits for others has none yet
        self.ok = True
        self.begun = False  # a shard of it was sent
        self.flying = 0  # shards on units
        self.lost = 0  # units lost under it
        self.waits = 0  # unfinished launches it depends on
        self.settled = 0  # a bit for each rank
        self.cause = -1
        # Made when they are needed; most launches have none of them.
        self.dependants: list[_Launch] | None = None
        self.attempts: dict[int, int] | None = None  # by rank
        self.doomed: dict[int, str] | None = None  # by rank: how a shard ends when its unit is lost

    def shard(self, rank: int) -> ShardId:
        return ShardId(self.number, rank, self.attempts.get(rank, 0) if self.attempts else 0)


class _Unit:
    __slots__ = ("deaths", "flight", "gone", "load", "long", "number", "pool", "queue", "queued", "up")

    def __init__(self, pool: int, number: int) -> None:
        self.pool = pool
        self.number = number
        self.queue: list[tuple[Key, int, int]] = []  # key, launch, rank; a heap, settled ones in it
        self.queued = 0  # of those, not settled
        self.flight: OrderedDict[ShardId, float | None] = OrderedDict()  # and the estimated seconds
        self.load = 0.0  # the sum of the estimates
        self.long = 0  # shards in flight that are not known to be short
        self.up = True
        self.gone = False
        self.deaths: deque[float] = deque()

    @property
    def backlog(self) -> int:
        return self.queued + len(self.flight) + (not self.up)


class _Pool:
    __slots__ = ("autos", "depth", "ranking", "stalled", "units")

    def __init__(self, units: list[_Unit], depth: int) -> None:
        self.units = units
        self.depth = depth
        self.autos: list[tuple[Key, int]] = []  # a heap, settled ones in it
        self.ranking: list[tuple[int, int]] = []  # backlog, unit; a heap, outdated ones in it
        self.stalled: set[int] = set()  # idle units whose next shard waits for a dependency
        self.rank_all()

    def rank_all(self) -> None:
        self.ranking = [(unit.backlog, unit.number) for unit in self.units if not unit.gone]
        heapify(self.ranking)

    def rank(self, unit: _Unit) -> None:
        heappush(self.ranking, (unit.backlog, unit.number))
        if len(self.ranking) > 8 * len(self.units) + 64:
            self.rank_all()

    def best(self) -> _Unit | None:
        """Return the unit with the smallest backlog, without taking it out."""
        while self.ranking:
            backlog, number = self.ranking[0]
            unit = self.units[number]
            if not unit.gone and unit.backlog == backlog:
                return unit
            heappop(self.ranking)
        return None


class State:
    """The scheduler's decisions, and what they depend on."""

    def __init__(self) -> None:
        self.stale = 0  # reports of shards that were not, or no longer, under way
        self._pools: dict[int, _Pool] = {}
        self._launches: dict[int, _Launch] = {}
        self._estimates: OrderedDict[int, float] = OrderedDict()
        self._partial: set[int] = set()  # launches with shards sent and shards unsent
        self._frontier: Key = ()  # the largest key among them since there last were none
        self._levels: dict[int, tuple[int, Key]] = {}  # by priority: launches with a key, the last key
        self._deadlines: list[tuple[float, ShardId, int, int]] = []  # a heap; pool and unit
        self._actions: list[Action] = []
        self._finished: deque[_Launch] = deque()
        self._dirty: OrderedDict[tuple[int, int], None] = OrderedDict()  # units that may take a shard

    # ---- questions ---------------------------------------------------------------

    @property
    def pending(self) -> int:
        """The number of launches that have not ended."""
        return len(self._launches)

    def can_cancel(self, launch: int) -> bool:
        """Tell whether a launch is queued, all of it."""
        found = self._launches.get(launch)
        return found is not None and found.unsent == found.left == found.count

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
        """Take in an event and return what is to be done, in order."""
        self._actions = []
        _HANDLERS[type(event)](self, event)
        self._follow()
        return self._actions

    def _open(self, event: events.PoolOpened) -> None:
        units = [_Unit(event.pool, number) for number in range(event.units)]
        self._pools[event.pool] = _Pool(units, event.depth)

    def _close(self, event: events.PoolClosed) -> None:
        self._pools.pop(event.pool, None)
        for launch in [one for one in self._launches.values() if one.pool == event.pool]:
            self._settle_rest(launch, "closed")

    def _submit(self, event: events.Submit) -> None:
        if event.count < 1 or event.launch in self._launches:
            raise ValueError(f"launch {event.launch} of {event.count} shards cannot be queued")
        launch = self._launches[event.launch] = _Launch(event)
        pool = self._pools.get(event.pool)
        if pool is None:
            self._settle_rest(launch, "closed")
            return
        if event.units is not None and (
            len(event.units) != event.count or not all(0 <= unit < len(pool.units) for unit in event.units)
        ):
            raise ValueError(f"launch {event.launch} names units {event.units} of {len(pool.units)}")
        bound: Key = ()
        for number in event.depends:
            needed = self._launches.get(number)
            if needed is not None:
                launch.waits += 1
                if needed.dependants is None:
                    needed.dependants = []
                needed.dependants.append(launch)
                if needed.key is not None:
                    bound = max(bound, needed.key)
        if launch.units is not None:
            self._give_key(launch, bound)
            self._queue(launch, pool)
        elif not launch.waits:
            self._queue_auto(launch, pool)

    def _begun(self, event: events.ShardBegun) -> None:
        launch = self._launches.get(event.shard.launch)
        if launch is None or not self._is_flying(event.pool, event.unit, event.shard):
            self.stale += 1
        elif launch.timeout is not None:
            heappush(self._deadlines, (event.now + launch.timeout, event.shard, event.pool, event.unit))

    def _ended(self, event: events.ShardEnded) -> None:
        if not self._is_flying(event.pool, event.unit, event.shard):
            self.stale += 1
            return
        unit = self._pools[event.pool].units[event.unit]
        launch = self._launches[event.shard.launch]
        unit.deaths.clear()
        self._land(unit, event.shard, launch)
        self._learn(launch.kernel, event.seconds)
        self._settle(launch, event.shard.rank, "ended", event.ok)
        self._kill_doomed(unit)

    def _lost(self, event: events.UnitLost) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or pool.units[event.unit].gone:
            self.stale += 1
            return
        unit = pool.units[event.unit]
        unit.up = False
        held = list(unit.flight)
        for place, shard in enumerate(held):
            launch = self._launches[shard.launch]
            self._land(unit, shard, launch)
            begun = shard == event.begun
            # It may have brought the unit down while it was being loaded.
            suspect = begun or (event.begun is None and place == 0)
            launch.lost += suspect
            doom = launch.doomed.pop(shard.rank, None) if launch.doomed else None
            if doom is not None and (begun or suspect):
                self._settle(launch, shard.rank, doom)
            elif begun and launch.retries <= 0:
                self._settle(launch, shard.rank, "died")
            elif suspect and launch.lost >= MAX_UNITS_LOST:
                self._settle(launch, shard.rank, "poisoned")
            else:
                launch.retries -= begun
                self._requeue(unit, launch, shard)
        if event.begun is None:
            unit.deaths.append(event.now)
            if len(unit.deaths) > _DEATHS - 1 and event.now - unit.deaths.popleft() <= _DEATH_SPAN:
                self._give_up(pool, unit)
        pool.rank(unit)

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
                self._settle(launch, shard.rank, "no units")
            self._give_up(pool, unit)

    def _cancel(self, event: events.Cancel) -> None:
        launch = self._launches.get(event.launch)
        if launch is None or not (event.kill or self.can_cancel(event.launch)):
            return
        flying = self._where(launch) if launch.flying else {}
        for rank in range(launch.count):
            if launch.settled >> rank & 1:
                continue
            unit = flying.get(rank)
            if unit is None:
                self._settle_queued(launch, rank, "cancelled")
            else:
                if launch.doomed is None:
                    launch.doomed = {}
                if rank not in launch.doomed:
                    launch.doomed[rank] = "cancelled"
                    if next(iter(unit.flight)) == launch.shard(rank):
                        self._actions.append(Kill(unit.pool, unit.number))

    def _tick(self, event: events.Tick) -> None:
        while self._deadlines and self._deadlines[0][0] <= event.now:
            _, shard, pool, unit = heappop(self._deadlines)
            if not self._is_flying(pool, unit, shard):
                continue
            launch = self._launches[shard.launch]
            if launch.doomed is None:
                launch.doomed = {}
            if shard.rank not in launch.doomed:
                launch.doomed[shard.rank] = "timeout"
                self._actions.append(Kill(pool, unit))

    # ---- order -------------------------------------------------------------------

    def _give_key(self, launch: _Launch, bound: Key = ()) -> None:
        """Give a launch its place in the order.

        Naturally that is its priority, then its number. But it goes behind what
        it depends on, behind the launches of its own priority, and behind any
        launch that has begun in part: that one holds units, and if this one held
        others that it waits for, neither could end. So the key is made of the
        shortest beginning of the largest such key that still sorts behind it.
        """
        bound = max(bound, self._frontier)
        count, last = self._levels.get(launch.priority, (0, ()))
        bound = max(bound, last)
        own = (-launch.priority, launch.number)
        key: Key = own
        while key <= bound:
            key = bound[: len(key)] + own
        launch.key = key
        self._levels[launch.priority] = (count + 1, key)

    def _drop_key(self, launch: _Launch) -> None:
        count, last = self._levels[launch.priority]
        if count == 1:
            del self._levels[launch.priority]
        else:
            self._levels[launch.priority] = (count - 1, last)

    def _mark_partial(self, launch: _Launch) -> None:
        """Note whether a launch is a barrier: some of its shards sent, and some not."""
        assert launch.key is not None
        if launch.begun and launch.unsent:
            self._partial.add(launch.number)
            self._frontier = max(self._frontier, launch.key)
        else:
            self._partial.discard(launch.number)
            if not self._partial:
                self._frontier = ()

    # ---- queues ------------------------------------------------------------------

    def _queue(self, launch: _Launch, pool: _Pool) -> None:
        """Put the shards of a launch whose units are known in their queues."""
        assert launch.key is not None and launch.units is not None
        for rank, number in enumerate(launch.units):
            unit = pool.units[number]
            if unit.gone:
                launch.unsent -= 1
                self._settle(launch, rank, "no units")
                continue
            heappush(unit.queue, (launch.key, launch.number, rank))
            unit.queued += 1
            pool.rank(unit)
            self._touch(unit)

    def _queue_auto(self, launch: _Launch, pool: _Pool) -> None:
        if launch.count > sum(not unit.gone for unit in pool.units):
            self._settle_rest(launch, "no units")
            return
        self._give_key(launch)
        assert launch.key is not None
        heappush(pool.autos, (launch.key, launch.number))
        best = pool.best()
        if best is not None and not best.backlog:
            self._touch(best)
        for number in pool.stalled:
            self._touch(pool.units[number])

    def _requeue(self, unit: _Unit, launch: _Launch, shard: ShardId) -> None:
        assert launch.key is not None
        if launch.attempts is None:
            launch.attempts = {}
        launch.attempts[shard.rank] = shard.attempt + 1
        launch.unsent += 1
        heappush(unit.queue, (launch.key, launch.number, shard.rank))
        unit.queued += 1
        self._mark_partial(launch)

    def _place(self, pool: _Pool, launch: _Launch, first: _Unit) -> None:
        """Choose the units of an auto launch: `first`, then those with the smallest backlog."""
        chosen = {first.number}
        skipped = []
        while len(chosen) < launch.count:
            unit = pool.best()
            assert unit is not None
            entry = heappop(pool.ranking)
            skipped.append(entry)
            chosen.add(unit.number)
        for entry in skipped:
            heappush(pool.ranking, entry)
        launch.units = tuple(sorted(chosen))
        self._actions.append(Placed(launch.number, launch.units))
        self._queue(launch, pool)

    def _head(self, unit: _Unit) -> tuple[Key, int, int] | None:
        """Return the next shard of a unit's own queue."""
        while unit.queue:
            launch = self._launches.get(unit.queue[0][1])
            if launch is not None and not launch.settled >> unit.queue[0][2] & 1:
                return unit.queue[0]
            heappop(unit.queue)
        return None

    def _auto_head(self, pool: _Pool) -> _Launch | None:
        while pool.autos:
            launch = self._launches.get(pool.autos[0][1])
            if launch is not None and launch.units is None:
                return launch
            heappop(pool.autos)
        return None

    # ---- units -------------------------------------------------------------------

    def _fill(self, pool: _Pool, unit: _Unit) -> None:
        """Send a unit what it may take now."""
        pool.stalled.discard(unit.number)
        while unit.up and not unit.gone:
            head = self._head(unit)
            auto = self._auto_head(pool)
            if auto is not None and auto.key is not None and (head is None or auto.key < head[0]):
                if not self._has_room(pool, unit, auto):
                    return
                heappop(pool.autos)
                self._place(pool, auto, unit)
                continue
            if head is None:
                return
            launch = self._launches[head[1]]
            if launch.waits:
                if not unit.flight:
                    pool.stalled.add(unit.number)
                return
            if not self._has_room(pool, unit, launch):
                return
            heappop(unit.queue)
            self._send(unit, launch, head[2])

    def _has_room(self, pool: _Pool, unit: _Unit, launch: _Launch) -> bool:
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

    def _send(self, unit: _Unit, launch: _Launch, rank: int) -> None:
        shard = launch.shard(rank)
        estimate = self._estimates.get(launch.kernel)
        if estimate is None or estimate > SHORT:
            unit.long += 1
            estimate = None
        else:
            unit.load += estimate
        unit.flight[shard] = estimate
        unit.queued -= 1
        launch.unsent -= 1
        launch.begun = True
        launch.flying += 1
        if launch.count > 1:
            self._mark_partial(launch)
        self._actions.append(Send(unit.pool, unit.number, shard))

    def _land(self, unit: _Unit, shard: ShardId, launch: _Launch) -> None:
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

    def _give_up(self, pool: _Pool, unit: _Unit) -> None:
        """Use a unit no more; end what only it could run."""
        unit.gone = True
        pool.stalled.discard(unit.number)
        for _, number, rank in unit.queue:
            launch = self._launches.get(number)
            if launch is not None and not launch.settled >> rank & 1:
                self._settle_queued(launch, rank, "no units")
        unit.queue.clear()
        unit.queued = 0
        left = sum(not other.gone for other in pool.units)
        for _, number in pool.autos:
            launch = self._launches.get(number)
            if launch is not None and launch.units is None and launch.count > left:
                self._settle_rest(launch, "no units")
        pool.rank_all()

    def _kill_doomed(self, unit: _Unit) -> None:
        """End the shard that now is a unit's first, if it was cancelled while it was not."""
        if unit.flight:
            shard = next(iter(unit.flight))
            launch = self._launches[shard.launch]
            if launch.doomed and shard.rank in launch.doomed:
                self._actions.append(Kill(unit.pool, unit.number))

    def _is_flying(self, pool: int, unit: int, shard: ShardId) -> bool:
        found = self._pools.get(pool)
        return found is not None and shard in found.units[unit].flight

    def _where(self, launch: _Launch) -> dict[int, _Unit]:
        """Return the units that hold shards of a launch, by rank."""
        assert launch.units is not None
        units = self._pools[launch.pool].units
        return {
            rank: units[number]
            for rank, number in enumerate(launch.units)
            if launch.shard(rank) in units[number].flight
        }

    def _learn(self, kernel: int, seconds: float) -> None:
        known = self._estimates.get(kernel)
        # One long run counts at once: what was sent ahead would wait behind the next.
        slow = known is None or seconds >= known
        self._estimates[kernel] = seconds if slow else known + (seconds - known) / 8  # type: ignore[operator]
        if known is None and len(self._estimates) > _ESTIMATES_KEPT:
            self._estimates.popitem(last=False)

    def _touch(self, unit: _Unit) -> None:
        self._dirty[unit.pool, unit.number] = None

    # ---- ends --------------------------------------------------------------------

    def _settle(self, launch: _Launch, rank: int, how: str, ok: bool = False) -> None:
        launch.settled |= 1 << rank
        launch.left -= 1
        launch.ok = launch.ok and ok
        self._actions.append(Settle(launch.number, rank, how, launch.cause))
        if not launch.left:
            self._finished.append(launch)

    def _settle_queued(self, launch: _Launch, rank: int, how: str) -> None:
        """End a shard that is on no unit; its entry in a queue is dropped when it comes to the front."""
        launch.unsent -= 1
        pool = self._pools.get(launch.pool)
        if pool is not None and launch.units is not None:
            unit = pool.units[launch.units[rank]]
            unit.queued -= 1
            pool.rank(unit)
            self._touch(unit)
        self._settle(launch, rank, how)

    def _settle_rest(self, launch: _Launch, how: str) -> None:
        """End all shards that have not ended; none of them is on a unit that is still there."""
        for rank in range(launch.count):
            if not launch.settled >> rank & 1:
                self._settle_queued(launch, rank, how)

    def _follow(self) -> None:
        """Let what follows from ends and free units follow, until nothing does."""
        while self._finished or self._dirty:
            if self._finished:
                self._finish(self._finished.popleft())
                continue
            (number, unit), _ = self._dirty.popitem(last=False)
            pool = self._pools.get(number)
            if pool is not None:
                self._fill(pool, pool.units[unit])

    def _finish(self, launch: _Launch) -> None:
        del self._launches[launch.number]
        if launch.key is not None:
            self._drop_key(launch)
            self._partial.discard(launch.number)
            if not self._partial:
                self._frontier = ()
        for dependant in launch.dependants or ():
            if not dependant.left:
                continue  # it ended meanwhile
            dependant.waits -= 1
            if not launch.ok:
                dependant.cause = launch.number
                self._settle_rest(dependant, "dependency")
            elif not dependant.waits:
                pool = self._pools[dependant.pool]
                if dependant.units is None:
                    self._queue_auto(dependant, pool)
                else:
                    for number in dependant.units:
                        self._touch(pool.units[number])


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
