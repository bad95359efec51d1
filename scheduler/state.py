"""Decide which shard runs on which unit, and when.

A pure state machine: `step(event)` returns the actions that follow. It has no
threads, no clock and no I/O, so that a simulator can drive it through millions
of histories. `placing` says in which order shards are sent to units; here is
how shards end, and what follows from it. An event costs the logarithm of what
is queued at most, for each shard it touches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.deadlines import Deadlines
from scheduler.events import Action, Event, Settle
from scheduler.placing import Placing
from scheduler.units import Key, Launch, Pool, Unit

MAX_UNITS_LOST = 3  # units that one launch may lose before it is not tried again
_CRASHES, _CRASH_SPAN = 5, 10.0  # a unit that dies so often, within so many seconds, idle, is given up


class State:
    """The scheduler's decisions, and what they depend on."""

    def __init__(self) -> None:
        self.stale = 0  # reports of shards that were not, or no longer, under way
        self._placing = Placing()
        self._pools = self._placing.pools
        self._launches: dict[int, Launch] = {}
        self._deadlines = Deadlines()
        self._actions: list[Action] = []
        self._finished: deque[Launch] = deque()

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
        return self._deadlines.first()

    # ---- events ------------------------------------------------------------------

    def step(self, event: Event) -> list[Action]:
        """Take in an event and return what is to be done, in order.

        Raises ValueError for a launch that is known already, has no shards,
        names units that the pool does not have, or depends on a later one.
        """
        self._actions = self._placing.actions = []
        _HANDLERS[type(event)](self, event)
        while self._finished:
            self._finish(self._finished.popleft())
        self._placing.fill()
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
                self._deadlines.drop(shard)
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
            for rank in self._placing.queue(launch, self._bound(launch)):
                self._settle(launch, rank, "no units")
        elif not launch.waits and not self._placing.queue_auto(launch):
            self._settle_rest(launch, "no units")

    def _begun(self, event: events.ShardBegun) -> None:
        launch = self._launches.get(event.shard.launch)
        if launch is None or not self._placing.holds(event.pool, event.unit, event.shard):
            self.stale += 1
        elif launch.timeout is not None:
            self._deadlines.set(event.shard, event.now + launch.timeout)

    def _ended(self, event: events.ShardEnded) -> None:
        if not self._placing.holds(event.pool, event.unit, event.shard):
            self.stale += 1
            return
        unit = self._pools[event.pool].units[event.unit]
        launch = self._launches[event.shard.launch]
        unit.crashes.clear()
        self._land(unit, event.shard, launch)
        doomed = (launch.doomed or {}).get(event.shard.rank)
        if event.seconds:  # else it never ran
            self._placing.pace.learn(launch.kernel, event.seconds)
        if doomed is None:
            self._settle(launch, event.shard.rank, "ended", event.ok)
        else:  # its end was decided before: what comes late does not count
            self._settle(launch, event.shard.rank, doomed)
        self._kill_doomed(unit)

    def _lost(self, event: events.UnitLost) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or pool.units[event.unit].gone:
            self.stale += 1
            return
        unit = pool.units[event.unit]
        crashed = event.begun is None and unit.killed is None
        unit.up, unit.killed = False, None
        again = []
        held = list(unit.flight)
        for place, shard in enumerate(held):
            launch, rank = self._launches[shard.launch], shard.rank
            self._land(unit, shard, launch)
            begun = shard == event.begun
            # The first may have brought the unit down while it was being loaded.
            suspect = begun or (crashed and place == 0)
            launch.lost += suspect
            if launch.doomed and rank in launch.doomed:
                self._settle(launch, rank, launch.doomed[rank])
            elif begun and not self._may_retry(launch, rank):
                tried = launch.retries and launch.lost >= MAX_UNITS_LOST
                self._settle(launch, rank, "poisoned" if tried else "died")
            elif suspect and launch.lost >= MAX_UNITS_LOST:
                self._settle(launch, rank, "poisoned")
            else:
                launch.attempts = launch.attempts or {}
                launch.attempts[rank] = shard.attempt + 1
                again.append((rank, launch))
        unit.resume(again)
        pool.unstall(unit)
        if crashed and event.own and not held:  # else what it held may be to blame
            unit.crashes.append(event.now)
            if len(unit.crashes) == _CRASHES and event.now - unit.crashes.popleft() <= _CRASH_SPAN:
                self._give_up(unit)

    def _ready(self, event: events.UnitReady) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            killed, unit.up, unit.killed = unit.killed, True, None
            if killed not in unit.flight:  # else the device cannot end it
                self._kill_doomed(unit)
            pool.rank(unit)
            self._placing.touch(unit)

    def _gone(self, event: events.UnitGone) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            for shard in list(unit.flight):
                launch = self._launches[shard.launch]
                self._land(unit, shard, launch)
                self._settle(launch, shard.rank, (launch.doomed or {}).get(shard.rank, "no units"))
            self._give_up(unit)

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
                        self._placing.kill(unit)
                elif not launch.has_settled(rank):
                    self._settle_queued(launch, rank, "cancelled")
        else:
            self._settle_rest(launch, "cancelled")

    def _tick(self, event: events.Tick) -> None:
        for shard in self._deadlines.take(event.now):
            launch = self._launches[shard.launch]
            launch.doom(shard.rank, "timeout")
            assert launch.units is not None
            self._placing.kill(self._pools[launch.pool].units[launch.units[shard.rank]])

    def _kill_doomed(self, unit: Unit) -> None:
        """Kill a unit if the shard that it runs now has been given up."""
        if unit.flight:
            first = next(iter(unit.flight))
            doomed = self._launches[first.launch].doomed
            if doomed and first.rank in doomed:
                self._placing.kill(unit)

    # ---- dependencies ------------------------------------------------------------------

    def _needed(self, launch: Launch) -> list[Launch]:
        """Return the unfinished launches that a launch depends on."""
        if not launch.needs:
            return []
        return [self._launches[number] for number in launch.needs if number in self._launches]

    def _bound(self, launch: Launch) -> Key:
        """Return the largest key among the launches that a launch depends on."""
        return max((needed.key for needed in self._needed(launch)), default=()) if launch.waits else ()

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
            if not self._placing.queue_now(last, self._bound(last)):
                self._settle_rest(last, "no units")

    # ---- ends --------------------------------------------------------------------

    def _land(self, unit: Unit, shard: ShardId, launch: Launch) -> None:
        self._deadlines.drop(shard)
        self._placing.land(unit, shard, launch)

    def _give_up(self, unit: Unit) -> None:
        """Use a unit no more; end what only it could run."""
        queued, too_large = self._placing.give_up(unit)
        for _, rank, launch in queued:
            self._settle_queued(launch, rank, "no units")
        for launch in too_large:
            self._settle_rest(launch, "no units")

    def _may_retry(self, launch: Launch, rank: int) -> bool:
        """Count that a unit died while it ran a shard; tell whether the shard may run again."""
        launch.deaths = launch.deaths or {}
        launch.deaths[rank] = launch.deaths.get(rank, 0) + 1
        return launch.deaths[rank] <= launch.retries

    def _settle(self, launch: Launch, rank: int, how: str, ok: bool = False) -> None:
        launch.settled |= 1 << rank
        launch.left -= 1
        launch.ok = launch.ok and ok
        deaths = launch.deaths.get(rank, 0) if launch.deaths else 0
        self._actions.append(Settle(launch.number, rank, how, launch.cause, deaths))
        if not launch.left:
            self._finished.append(launch)

    def _settle_queued(self, launch: Launch, rank: int, how: str) -> None:
        """End a shard that is on no unit."""
        self._placing.drop(launch, rank)
        self._settle(launch, rank, how)

    def _settle_rest(self, launch: Launch, how: str) -> None:
        """End all shards that have not ended; none of them is on a unit."""
        self._placing.drop_auto(launch)
        for rank in range(launch.count):
            if not launch.has_settled(rank):
                self._settle_queued(launch, rank, how)

    def _finish(self, launch: Launch) -> None:
        del self._launches[launch.number]
        self._placing.forget(launch)
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
                if dependant.units is not None:
                    for number in dependant.units:
                        self._placing.touch(self._pools[dependant.pool].units[number])
                elif not self._placing.queue_auto(dependant):
                    self._settle_rest(dependant, "no units")


def _check(asked: events.Submit, pool: Pool | None) -> None:
    """Raise ValueError for a launch that cannot be meant."""
    units, needs = asked.units, asked.depends
    right = asked.count > 0
    if needs:
        right = right and len(set(needs)) == len(needs) and max(needs) < asked.launch
    if right and units is not None and pool is not None:
        right = len(units) == asked.count and units[0] >= 0 and units[-1] < len(pool.units)
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
