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

from device_runtime.launch import ShardId, make
from scheduler import events
from scheduler.cards import FAIR, Cards
from scheduler.deadlines import Deadlines
from scheduler.events import Action, Advance, Event, Settle
from scheduler.launches import Bundle, Extra, Key, Launch
from scheduler.placing import Placing
from scheduler.pools import Pool
from scheduler.units import Unit

MAX_UNITS_LOST = 3  # units that one launch may lose before it is not tried again
_CRASHES, _CRASH_SPAN = 5, 10.0  # a unit that dies so often, within so many seconds, idle, is given up


class State:
    """The scheduler's decisions, and what they depend on.

    `fair`: the shards that a loaded bitstream is sent while another one waits for the card.
    """

    def __init__(self, fair: int = FAIR) -> None:
        self.stale = 0  # reports of shards that were not, or no longer, under way
        self._placing = Placing()
        self._pools, self._launches = self._placing.pools, self._placing.launches
        self._fair = fair
        self._cards: Cards | None = None  # once there is one
        self._deadlines = Deadlines()
        self._finished: deque[Launch] = deque()
        self._released: list[Launch] = []  # auto launches that wait for nothing more, in the present step

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

    def room_for(self, pool: int, kernel: int, count: int) -> int:
        """Return how many of `count` ordinary launches had best be submitted now, together; 0 for none yet.

        They are of one kernel, each for one unit of our choice. Where it is 0 units have enough to do; a
        shard will end, or a unit come back or be gone.
        """
        return self._placing.room_for(pool, kernel, count)

    def bundled(self, launch: int) -> int:
        """Return how many launches are in a bundle, if this one is the first of them; else 0."""
        found = self._launches.get(launch)
        return found.size if type(found) is Bundle and found.first == launch else 0

    def is_gone(self, pool: int, unit: int) -> bool:
        """Tell whether a unit is not used any more, whatever becomes of it."""
        return pool not in self._pools or self._pools[pool].units[unit].gone

    def next_deadline(self) -> float | None:
        """Return when a `Tick` is due."""
        return self._deadlines.first()

    # ---- events ------------------------------------------------------------------

    def step(self, event: Event) -> list[Action]:
        """Take in an event and return what is to be done, in order.

        Raises ValueError for a launch that is known already, has no shards,
        names units that the pool does not have, or depends on a later one.
        """
        placing = self._placing
        actions = placing.actions = []
        _HANDLERS[type(event)](self, event)
        while self._finished:
            self._finish(self._finished.popleft())
            if self._released and not self._finished:
                self._queue_released()
        if placing.dirty or placing.eager:
            placing.fill()
        if self._cards is not None:
            seen = 0
            while self._cards.turn(actions[seen:]):
                seen = len(actions)
                placing.fill()
        return actions

    def _open(self, event: events.PoolOpened) -> None:
        pool = self._pools[event.pool] = Pool(event.pool, event.units, event.depth)
        if event.card:
            if self._cards is None:
                self._cards = Cards(self._placing, self._fair)
            self._cards.add(event.card, pool, event.loaded)

    def _close(self, event: events.PoolClosed) -> None:
        pool = self._pools.get(event.pool)
        if pool is None:
            return
        if self._cards is not None:
            self._cards.drop(pool)
        for unit in pool.units:
            self._take_apart(unit)
        del self._pools[event.pool]
        for unit in pool.units:
            for shard in unit.flight:
                launch = self._launches[shard.launch]
                launch.flying -= 1
                self._deadlines.drop(shard)
                self._settle(launch, shard.rank, "closed")
        for launch in [one for one in self._launches.values() if one.pool == event.pool]:
            self._settle_rest(launch, "closed")

    def _submit(self, event: events.Submit) -> None:
        number, home, units, count, kernel, priority, needs, retries, timeout, launches = event[:10]
        behind, any_unit, ahead = event[10:]
        pool = self._pools.get(home)
        _check(event, pool)
        if launches > 1:
            self._submit_together(event)
            return
        if number in self._launches:
            raise ValueError(f"launch {number} is queued already")
        extra = None
        waits = needs or behind
        if count > 1 or waits or priority or retries or timeout is not None:
            extra = Extra(count, priority, needs, retries, timeout, behind, ahead)
        launch = self._launches[number] = Launch(number, home, units, count, kernel, extra)
        if pool is not None:
            pool.outside = False  # those that stood there come first
        if any_unit:
            launch.any_unit = True
        if pool is None:
            self._settle_rest(launch, "closed")
            return
        if waits:
            self._wait(launch)
        if units is not None:
            self._placing.order.enter(launch, self._bound(launch) if waits else ())
            for rank in self._placing.queue(launch):
                self._settle(launch, rank, "no units")
        elif waits and launch.waits():
            self._placing.follow(launch)
        elif not self._placing.queue_auto(launch, at_once=True):
            self._settle_rest(launch, "no units")

    def _submit_together(self, event: events.Submit) -> None:
        last, home, kernel, size = event.launch, event.pool, event.kernel, event.launches
        numbers = range(last - size + 1, last + 1)
        if not self._launches.keys().isdisjoint(numbers):
            raise ValueError(f"one of the launches {numbers[0]} to {last} is queued already")
        if home in self._pools:
            bundle = Bundle(last, home, kernel, size)
            if self._placing.queue_bundle(bundle):
                self._launches.update(dict.fromkeys(numbers, bundle))
                return
        for number in numbers:
            self._submit(event._replace(launch=number, launches=1))

    def _begun(self, event: events.ShardBegun) -> None:
        launch = self._launches.get(event.shard.launch)
        if launch is None or not self._placing.holds(event.pool, event.unit, event.shard):
            self.stale += 1
        elif launch.extra is not None and launch.extra.timeout is not None:
            self._deadlines.set(event.shard, event.now + launch.extra.timeout)

    def _ended(self, event: events.ShardEnded) -> None:
        home, number, shard, ok, seconds = event
        pool, placing = self._pools.get(home), self._placing
        launch = self._launches.get(shard.launch)
        if type(launch) is Bundle:
            launch = placing.single(shard.launch)
        if pool is None or launch is None or shard not in (unit := pool.units[number]).flight:
            self.stale += 1
            return
        if unit.crashes:
            unit.crashes.clear()
        if seconds:  # else it never ran
            placing.pace.learn(launch.kernel, seconds)
        if launch.extra is None:  # nothing else follows from it: so this is `_end` in fewer steps
            unit.put_down(shard)
            launch.left = launch.flying = 0
            placing.actions.append(make(Settle, (launch.number, 0, "ended", -1, 0)))
            del self._launches[launch.number]
            if len(launch.key) > 1:
                placing.order.leave(launch)
            if unit.doomed:
                self._kill_doomed(unit)
            placing.refill(pool, unit)
        else:
            self._end(unit, launch, shard, ok)

    def _advanced(self, event: events.BundleAdvanced) -> None:
        home, number, first, seconds = event
        pool, bundle, count = self._pools.get(home), self._launches.get(first), len(seconds)
        if pool is None or type(bundle) is not Bundle or self.bundled(first) < count:
            self.stale += count
            return
        unit, placing = pool.units[number], self._placing
        if unit.crashes:
            unit.crashes.clear()
        for each in seconds:
            if each:
                placing.pace.learn(bundle.kernel, each)
        for each in range(first, first + count):
            del self._launches[each]
        unit.put_down_some(bundle, count)
        bundle.advance(count)
        placing.actions.append(make(Advance, (first, count)))
        if unit.doomed:
            self._kill_doomed(unit)
        placing.refill(pool, unit)

    def _end(self, unit: Unit, launch: Launch, shard: ShardId, ok: bool) -> None:
        self._land(unit, shard, launch)
        fate = launch.fate(shard.rank)
        if fate is None:
            self._settle(launch, shard.rank, "ended", ok)
        else:  # its end was decided before: what comes late does not count
            unit.doomed -= launch.doom(shard.rank) is not None
            self._settle(launch, shard.rank, fate)
        self._kill_doomed(unit)

    def _lost(self, event: events.UnitLost) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or pool.units[event.unit].gone:
            self.stale += 1
            return
        unit = pool.units[event.unit]
        crashed = event.begun is None and unit.killed is None
        pool.set_alive(unit, False)
        unit.killed, unit.doomed = None, 0
        again = []
        self._take_apart(unit)
        held = list(unit.flight)
        for place, shard in enumerate(held):
            launch, rank = self._launches[shard.launch], shard.rank
            extra = launch.more()
            self._land(unit, shard, launch)
            begun = shard == event.begun
            # The first may have brought the unit down while it was being loaded.
            suspect = begun or (crashed and event.served and place == 0)
            extra.lost += suspect
            fate = launch.fate(rank)
            if fate is not None:
                self._settle(launch, rank, fate)
            elif begun and not _may_retry(extra, rank):
                tried = extra.retries and extra.lost >= MAX_UNITS_LOST
                self._settle(launch, rank, "poisoned" if tried else "died")
            elif suspect and extra.lost >= MAX_UNITS_LOST:
                self._settle(launch, rank, "poisoned")
            else:
                extra.attempts = extra.attempts or {}
                extra.attempts[rank] = shard.attempt + 1
                again.append(launch)
        # These stay before all others, as if they had never left the unit:
        # others of their launches may run already, and wait for them.
        unit.resumed.extendleft(reversed(again))
        pool.unstall(unit)
        if crashed and event.own and not held:  # else what it held may be to blame
            unit.crashes.append(event.now)
            if len(unit.crashes) == _CRASHES and event.now - unit.crashes.popleft() <= _CRASH_SPAN:
                self._give_up(unit)

    def _ready(self, event: events.UnitReady) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            killed, unit.killed = unit.killed, None
            if killed not in unit.flight:  # else the device cannot end it
                self._kill_doomed(unit)
            pool.set_alive(unit, True)
            self._placing.touch(unit)

    def _gone(self, event: events.UnitGone) -> None:
        pool = self._pools.get(event.pool)
        if pool is not None and not pool.units[event.unit].gone:
            unit = pool.units[event.unit]
            self._take_apart(unit)
            for shard in list(unit.flight):
                launch, rank = self._launches[shard.launch], shard.rank
                self._land(unit, shard, launch)
                fate = launch.fate(rank)
                if fate is None and launch.waits() and launch.any_unit:  # so it has not begun
                    launch.more().attempts = {rank: shard.attempt + 1}
                    unit.resumed.append(launch)
                else:
                    self._settle(launch, rank, fate or "no units")
            self._give_up(unit)

    def _unloaded(self, event: events.PoolUnloaded) -> None:
        pool = self._pools.get(event.pool)
        self.stale += pool is None or self._cards is None or not self._cards.unloaded(pool)

    def _cancel(self, event: events.Cancel) -> None:
        if not (event.kill or self.can_cancel(event.launch)):
            return
        launch = self._placing.single(event.launch)
        if launch is None:
            return
        if launch.flying:
            assert launch.units is not None
            units = self._pools[launch.pool].units
            for rank, number in enumerate(launch.units):
                unit, shard = units[number], launch.shard(rank)
                if shard in unit.flight and launch.waits():  # to kill the unit would strike what runs there
                    launch.more().waived = True
                elif shard in unit.flight:
                    _doom(launch, rank, "cancelled", unit)
                    if next(iter(unit.flight)) == shard:
                        self._placing.kill(unit)
                elif not launch.has_settled(rank):
                    self._settle_queued(launch, rank, "cancelled")
        else:
            self._settle_rest(launch, "cancelled")
            self._placing.drop_auto(launch)

    def _tick(self, event: events.Tick) -> None:
        for shard in self._deadlines.take(event.now):
            launch = self._launches[shard.launch]
            assert launch.units is not None
            unit = self._pools[launch.pool].units[launch.units[shard.rank]]
            _doom(launch, shard.rank, "timeout", unit)
            self._placing.kill(unit)

    def _kill_doomed(self, unit: Unit) -> None:
        """Kill a unit if the shard that it runs now has been given up."""
        if unit.doomed:
            first = next(iter(unit.flight))
            if self._launches[first.launch].doom(first.rank) is not None:
                self._placing.kill(unit)

    # ---- dependencies ------------------------------------------------------------------

    def _needed(self, launch: Launch) -> list[Launch]:
        """Return the unfinished launches that a launch depends on."""
        if launch.extra is None or not launch.extra.needs:
            return []
        found = [self._placing.single(number) for number in launch.extra.needs]
        return [needed for needed in found if needed is not None]

    def _bound(self, launch: Launch) -> Key:
        """Return the largest key among the launches that a launch depends on.

        In the place of one that has ended in this step, without having run, come those that it waited for.
        """
        bound: Key = ()
        found, seen = self._needed(launch), set[int]()
        while found:
            needed = found.pop()
            if needed.left:
                bound = max(bound, needed.key)
            elif needed.number not in seen:
                seen.add(needed.number)
                found += self._needed(needed)
        return bound

    def _wait(self, launch: Launch) -> None:
        """Let a launch wait for those that it depends on."""
        extra = launch.more()
        for needed in self._needed(launch):
            _note_dependant(needed, launch)
        if extra.waits and launch.units is not None:
            self._place_needed(launch)

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
        """Use a unit no more; end what only it could run, and leave the rest to others."""
        queued, too_large = self._placing.give_up(unit)
        for launch in queued:
            if launch.any_unit and launch.count == 1 and self._pools[unit.pool].left:
                self._placing.queue_again(launch)
            else:
                self._settle_queued(launch, launch.rank(unit.number), "no units")
        for launch in too_large:
            self._settle_rest(launch, "no units")
            self._placing.drop_auto(launch)

    def _take_apart(self, unit: Unit) -> None:
        """Let the bundles that a unit holds be launches by themselves."""
        for shard in list(unit.flight):
            self._placing.single(shard.launch)

    def _settle(self, launch: Launch, rank: int, how: str, ok: bool = False) -> None:
        launch.left -= 1
        cause, deaths, extra = -1, 0, launch.extra
        if extra is not None:
            extra.settled |= 1 << rank
            extra.ok = extra.ok and ok
            cause = extra.cause
            deaths = extra.deaths.get(rank, 0) if extra.deaths else 0
        self._placing.actions.append(make(Settle, (launch.number, rank, how, cause, deaths)))
        if not launch.left:
            self._finished.append(launch)

    def _settle_queued(self, launch: Launch, rank: int, how: str) -> None:
        """End a shard that is on no unit."""
        self._settle(launch, rank, how)
        self._placing.drop(launch, rank)

    def _settle_rest(self, launch: Launch, how: str) -> None:
        """End all shards that have not ended; none of them is on a unit."""
        if not launch.left:
            return
        for rank in range(launch.count):
            if not launch.has_settled(rank):
                self._settle_queued(launch, rank, how)

    def _finish(self, launch: Launch) -> None:
        del self._launches[launch.number]
        self._placing.order.leave(launch)
        unmet = self._needed(launch)  # it has ended without waiting for these
        for needed in unmet:
            dependants = needed.more().dependants
            if dependants:
                dependants.pop(launch.number, None)
        extra = launch.extra
        if extra is None or not extra.dependants:
            return
        for dependant in extra.dependants.values():
            other = dependant.more()
            # Those behind it rely on it to have waited for these, also where it ends in this step.
            late = [needed for needed in unmet if needed.number not in other.needs]
            if late:
                numbers = [needed.number for needed in late]
                other.needs += tuple(numbers)
                other.behind = other.behind.union(numbers)
                for needed in late:
                    _note_dependant(needed, dependant)
            if not dependant.left:
                continue
            other.waits -= 1
            if not extra.ok and launch.number not in other.behind:
                other.cause = launch.number if extra.cause < 0 else extra.cause
                if not dependant.flying:  # else its unit does not run it, and says so
                    self._settle_rest(dependant, "dependency")
                continue
            if not other.waits:
                if dependant.units is not None:
                    for number in dependant.units:
                        self._placing.touch(self._pools[dependant.pool].units[number])
                else:
                    self._released.append(dependant)

    def _queue_released(self) -> None:
        """Let auto launches that were released in one step wait for units, the first to come first."""
        released, self._released = self._released, []
        for launch in sorted(released, key=lambda one: one.number):
            if not self._placing.queue_auto(launch):
                self._settle_rest(launch, "no units")


def _note_dependant(needed: Launch, launch: Launch) -> None:
    """Have a launch wait for another one."""
    other = needed.more()
    if other.dependants is None:
        other.dependants = {}
    other.dependants[launch.number] = launch
    launch.more().waits += 1


def _check(asked: events.Submit, pool: Pool | None) -> None:
    """Raise ValueError for a launch that cannot be meant."""
    units, needs = asked.units, asked.depends + asked.behind
    right = asked.shards > 0 and asked.launches > 0
    if asked.launches > 1:
        extra = asked.priority or needs or asked.retries or asked.timeout is not None
        right = right and asked.shards == 1 and units is None and not extra
    if needs:
        right = right and len(set(needs)) == len(needs) and max(needs) < asked.launch
    if right and units is not None and pool is not None:
        right = len(units) == asked.shards and units[0] >= 0 and units[-1] < len(pool.units)
        right = right and (len(units) == 1 or all(a < b for a, b in pairwise(units)))
    if not right:
        raise ValueError(f"launch {asked.launch} cannot be queued: {asked}")


def _doom(launch: Launch, rank: int, how: str, unit: Unit) -> None:
    """Note how a shard ends that a unit holds, whatever comes of it."""
    extra = launch.more()
    if extra.doomed is None:
        extra.doomed = {}
    if rank not in extra.doomed:
        extra.doomed[rank] = how
        unit.doomed += 1


def _may_retry(extra: Extra, rank: int) -> bool:
    """Count that a unit died while it ran a shard; tell whether the shard may run again."""
    extra.deaths = extra.deaths or {}
    extra.deaths[rank] = extra.deaths.get(rank, 0) + 1
    return extra.deaths[rank] <= extra.retries


_HANDLERS: dict[type[Any], Callable[[State, Any], None]] = {
    events.PoolOpened: State._open,
    events.PoolClosed: State._close,
    events.Submit: State._submit,
    events.ShardBegun: State._begun,
    events.ShardEnded: State._ended,
    events.BundleAdvanced: State._advanced,
    events.UnitLost: State._lost,
    events.UnitReady: State._ready,
    events.UnitGone: State._gone,
    events.PoolUnloaded: State._unloaded,
    events.Cancel: State._cancel,
    events.Tick: State._tick,
}
