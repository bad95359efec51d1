"""A simple model of the scheduler: it watches events and actions, and says what was wrong with them.

It looks at everything after every event, the plain and slow way. What has to
settle, and how, it works out for itself; for sends it knows what they must obey.
Of the state machine's own it reads only the keys of launches, and checks those.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.cards import FAIR
from scheduler.events import Action, Advance, Event, Kill, Load, Placed, Send, Settle, Unload
from scheduler.launches import Bundle
from scheduler.pace import AHEAD, BUNDLE
from scheduler.state import MAX_UNITS_LOST, State

Key = tuple[int, ...]

_OFTEN = 8  # after so many events the books are checked; what is promised, after each


def in_a_row(last: int, launches: int) -> range:
    """Return the numbers of so many launches."""
    return range(last - launches + 1, last + 1)


def _one_by_one(actions: Iterable[Action]) -> Iterable[Action]:
    """Take apart what is decided for several launches together."""
    for action in actions:
        if isinstance(action, Placed):
            for number in in_a_row(action.launch, action.launches):
                yield Placed(number, action.units)
        elif isinstance(action, Send):
            for number in in_a_row(action.shard.launch, action.launches):
                yield action._replace(shard=action.shard._replace(launch=number))
        elif isinstance(action, Advance):
            for number in range(action.launch, action.launch + action.launches):
                yield Settle(number, 0, "ended")
        else:
            yield action


class LaunchModel:
    """What is known of a launch that has not ended."""

    def __init__(self, asked: events.Submit) -> None:
        self.number, self.pool, self.count = asked.launch, asked.pool, asked.shards
        self.asked = asked
        self.units = asked.units
        self.needs: set[int] = set()  # unfinished launches it depends on
        self.behind = set(asked.behind)  # those of them that may fail
        self.entered = -1  # its place among the launches that entered the queue
        self.settled: dict[int, str] = {}
        self.failed = False
        self.causes: set[int] = set()  # the launches whose failure makes it fail
        self.sent: dict[int, int] = {}  # by rank: the attempt sent last
        self.flying: set[int] = set()
        self.deaths: Counter[int] = Counter()  # by rank
        self.losses = 0
        self.doomed: dict[int, str] = {}
        self.lacks = False  # what it came behind on its unit has failed
        self.waived = False  # it was cancelled there, before it could begin
        self.fresh = set(range(asked.shards))  # ranks that were never sent and have not ended
        self.moved = False  # its unit is gone, and it came back from there

    def fate(self, rank: int) -> str | None:
        waived = "cancelled" if self.waived else "dependency" if self.lacks else None
        return self.doomed.get(rank) or waived

    @property
    def partial(self) -> bool:
        return bool(self.sent) and bool(self.fresh)


class UnitModel:
    """What is known of a unit."""

    def __init__(self) -> None:
        self.held: list[ShardId] = []
        self.estimates: dict[ShardId, float | None] = {}
        self.resumed: list[tuple[int, int]] = []  # launch and rank of what it held when it was lost
        self.up = True
        self.gone = False
        self.killed: ShardId | None = None
        self.crashes: list[float] = []

    @property
    def able(self) -> bool:
        """Tell whether it may be sent shards: not if it is dead, or about to be killed."""
        return self.up and self.killed is None


class CardModel:
    """What is known of a card that pools share."""

    def __init__(self) -> None:
        self.pools: list[int] = []
        self.loaded: int | None = None
        self.leaving = False
        self.closed = False  # one of the pools is, and the others are about to be
        self.sent = 0  # shards sent to the loaded pool, since another one has something to run


class Model:
    """Follow a state machine and check all it does.

    It sends a pool `fair` shards before another one has its turn.
    """

    def __init__(self, state: State, fair: int = FAIR) -> None:
        self.state = state
        self.fair = fair
        self.cards: dict[str, CardModel] = {}
        self.pools: dict[int, list[UnitModel]] = {}
        self.depth: dict[int, int] = {}
        self.launches: dict[int, LaunchModel] = {}
        self.failures: set[int] = set()  # all launches that have failed
        self.outcomes: dict[tuple[int, int], str] = {}  # how each shard settled
        self.estimates: OrderedDict[int, float] = OrderedDict()
        self.deadlines: dict[ShardId, float] = {}
        self.stale = 0
        self._entries = 0
        self._checked = 0  # entries
        self._events = 0
        self._settles: list[tuple[int, int, str]] = []  # what the present event must settle
        self._kills: list[Kill] = []
        self._ended: list[LaunchModel] = []
        self._released: list[int] = []  # launches that may enter, now that others have ended
        self._early: set[int] = set()  # launches that the present event must place at once

    def step(self, event: Event) -> list[Action]:
        """Hand an event to the state machine, and check what it does."""
        self._settles, self._kills, self._ended, self._early = [], [], [], set()
        decided = self.state.step(event)
        actions = list(_one_by_one(decided))
        getattr(self, "_" + type(event).__name__)(event)
        while self._ended:
            self._follow(self._ended.pop(0))
            if not self._ended:
                released, self._released = sorted(self._released), []
                for number in released:
                    self._enter(self.launches[number])
        self._check_keys()
        settles = [(one.launch, one.rank, one.how) for one in actions if isinstance(one, Settle)]
        assert sorted(settles) == sorted(self._settles), "wrong ends"
        kills = [one for one in actions if isinstance(one, Kill)]
        assert kills == self._kills, "wrong kills"
        changed = set()
        for action in actions:
            if isinstance(action, (Load, Unload)):
                self._see_switched(action)
            elif isinstance(action, Placed):
                self._see_placed(action)
                changed.add(action.launch)
            elif isinstance(action, Send):
                self._see_sent(action)
                changed.add(action.shard.launch)
            elif isinstance(action, Settle):
                changed.add(action.launch)
                if action.how == "dependency":
                    assert action.cause in self.failures, "a launch failed because of one that did not"
        assert not self._early, "not placed, though a launch that names its units waits for it"
        self._check_cards(actions)
        self._check_idle()
        self._check_answers(changed)
        self._events += 1
        if not self._events % _OFTEN:
            self._check_books()
        return decided

    # ---- what an event must settle -----------------------------------------------------

    def _PoolOpened(self, event: events.PoolOpened) -> None:
        self.pools[event.pool] = [UnitModel() for _ in range(event.units)]
        self.depth[event.pool] = event.depth
        if event.card:
            card = self.cards.setdefault(event.card, CardModel())
            card.pools.append(event.pool)
            if event.loaded:
                card.loaded = event.pool

    def _PoolUnloaded(self, event: events.PoolUnloaded) -> None:
        card = self.card(event.pool)
        if card is None or not card.leaving or card.loaded != event.pool:
            self.stale += 1
        else:
            card.loaded, card.leaving, card.sent = None, False, 0

    def card(self, pool: int) -> CardModel | None:
        """Return the card that a pool shares with others, if it does."""
        for card in self.cards.values():
            if pool in card.pools:
                return card
        return None

    def _PoolClosed(self, event: events.PoolClosed) -> None:
        closed = self.card(event.pool)
        if closed is not None:
            closed.pools.remove(event.pool)
            closed.closed = True
        for unit in self.pools.pop(event.pool, []):
            for shard in unit.held:
                self.deadlines.pop(shard, None)
        for launch in list(self.launches.values()):
            if launch.pool == event.pool:
                self._settle_rest(launch, "closed")

    def _Submit(self, event: events.Submit) -> None:
        if event.launches > 1:
            for number in in_a_row(event.launch, event.launches):
                self._Submit(event._replace(launch=number, launches=1))
            return
        launch = self.launches[event.launch] = LaunchModel(event)
        if event.pool not in self.pools:
            self._settle_rest(launch, "closed")
            return
        launch.needs = {number for number in event.depends + event.behind if number in self.launches}
        if event.units is not None:
            self._enter_needed(launch)
            self._enter(launch)
        elif not launch.needs:
            self._enter(launch)

    def _enter_needed(self, launch: LaunchModel) -> None:
        for number in sorted(launch.needs):
            needed = self.launches[number]
            if needed.entered < 0 and len(needed.settled) < needed.count:
                self._enter_needed(needed)
                self._enter(needed)
                if len(needed.settled) < needed.count:
                    self._early.add(number)

    def _enter(self, launch: LaunchModel) -> None:
        """Let a launch take its place in the order, unless it cannot run at all."""
        units = self.pools[launch.pool]
        if launch.units is None and launch.count > sum(not unit.gone for unit in units):
            self._settle_rest(launch, "no units")
            return
        if launch.moved:
            return  # it has its place
        launch.entered = self._entries
        self._entries += 1
        for rank, number in enumerate(launch.units or ()):
            if units[number].gone:
                self._settle(launch, rank, "no units")

    def _ShardBegun(self, event: events.ShardBegun) -> None:
        if self._is_held(event.pool, event.unit, event.shard):
            timeout = self.launches[event.shard.launch].asked.timeout
            if timeout is not None:
                self.deadlines[event.shard] = event.now + timeout
        else:
            self.stale += 1

    def _ShardEnded(self, event: events.ShardEnded) -> None:
        if not self._is_held(event.pool, event.unit, event.shard):
            self.stale += 1
            return
        unit = self.pools[event.pool][event.unit]
        launch = self.launches[event.shard.launch]
        if event.seconds:
            self._learn(launch.asked.kernel, event.seconds)
        unit.crashes.clear()
        self._land(unit, event.shard)
        fate = launch.fate(event.shard.rank)
        self._settle(launch, event.shard.rank, fate or "ended", event.ok and not fate)
        self._kill_doomed(event.pool, event.unit)

    def _BundleAdvanced(self, event: events.BundleAdvanced) -> None:
        for number, seconds in enumerate(event.seconds, event.launch):
            self._ShardEnded(events.ShardEnded(event.pool, event.unit, ShardId(number, 0), True, seconds))

    def _UnitLost(self, event: events.UnitLost) -> None:
        if event.pool not in self.pools or self.pools[event.pool][event.unit].gone:
            self.stale += 1
            return
        unit = self.pools[event.pool][event.unit]
        crashed = event.begun is None and unit.killed is None
        unit.up, unit.killed = False, None
        held, again = list(unit.held), []
        for shard in held:
            launch = self.launches[shard.launch]
            self._land(unit, shard)
            begun = shard == event.begun
            suspect = begun or (crashed and event.served and shard == held[0])
            launch.losses += suspect
            launch.deaths[shard.rank] += begun
            fate = launch.fate(shard.rank)
            if fate:
                self._settle(launch, shard.rank, fate)
            elif begun and launch.deaths[shard.rank] > launch.asked.retries:
                tried = launch.asked.retries and launch.losses >= MAX_UNITS_LOST
                self._settle(launch, shard.rank, "poisoned" if tried else "died")
            elif suspect and launch.losses >= MAX_UNITS_LOST:
                self._settle(launch, shard.rank, "poisoned")
            else:
                again.append((shard.launch, shard.rank))
        unit.resumed = again + unit.resumed
        if crashed and event.own and not held:
            unit.crashes.append(event.now)
            if len(unit.crashes) >= 5 and event.now - unit.crashes[-5] <= 10:
                self._give_up(event.pool, event.unit)

    def _UnitReady(self, event: events.UnitReady) -> None:
        if event.pool in self.pools and not self.pools[event.pool][event.unit].gone:
            unit = self.pools[event.pool][event.unit]
            killed, unit.up, unit.killed = unit.killed, True, None
            if killed not in unit.held:
                self._kill_doomed(event.pool, event.unit)

    def _UnitGone(self, event: events.UnitGone) -> None:
        if event.pool in self.pools and not self.pools[event.pool][event.unit].gone:
            unit = self.pools[event.pool][event.unit]
            for shard in list(unit.held):
                launch = self.launches[shard.launch]
                self._land(unit, shard)
                fate = launch.fate(shard.rank)
                if fate or not launch.needs or launch.asked.units is not None:
                    self._settle(launch, shard.rank, fate or "no units")
            self._give_up(event.pool, event.unit)

    def _give_up(self, pool: int, number: int) -> None:
        unit = self.pools[pool][number]
        unit.gone, unit.up = True, False
        left = sum(not unit.gone for unit in self.pools[pool])
        for launch in list(self.launches.values()):
            if launch.pool != pool or launch.entered < 0:
                continue
            if launch.units is None:
                if launch.count > left and not launch.needs:
                    self._settle_rest(launch, "no units")
            elif number in launch.units and launch.units.index(number) not in launch.settled:
                if left and launch.count == 1 and launch.asked.units is None:
                    launch.units, launch.moved = None, True
                else:
                    self._settle(launch, launch.units.index(number), "no units")
        unit.resumed = []

    def _Cancel(self, event: events.Cancel) -> None:
        launch = self.launches.get(event.launch)
        if launch is None or (not event.kill and (launch.flying or launch.settled)):
            return
        for rank in range(launch.count):
            if rank in launch.flying and launch.needs:
                launch.waived = True
            elif rank in launch.flying:
                assert launch.units is not None
                unit = self.pools[launch.pool][launch.units[rank]]
                launch.doomed.setdefault(rank, "cancelled")
                if (unit.held[0].launch, unit.held[0].rank) == (launch.number, rank):
                    self._kill(launch.pool, launch.units[rank])
            elif rank not in launch.settled:
                self._settle(launch, rank, "cancelled")

    def _Tick(self, event: events.Tick) -> None:
        for shard, due in sorted(self.deadlines.items(), key=lambda item: (item[1], item[0])):
            if due <= event.now:
                del self.deadlines[shard]
                launch = self.launches[shard.launch]
                launch.doomed.setdefault(shard.rank, "timeout")
                assert launch.units is not None
                self._kill(launch.pool, launch.units[shard.rank])

    def _kill(self, pool: int, number: int) -> None:
        unit = self.pools[pool][number]
        if unit.killed is None:
            unit.killed = unit.held[0]
            self._kills.append(Kill(pool, number, unit.killed))

    def _kill_doomed(self, pool: int, number: int) -> None:
        unit = self.pools[pool][number]
        if unit.held and unit.held[0].rank in self.launches[unit.held[0].launch].doomed:
            self._kill(pool, number)

    def _land(self, unit: UnitModel, shard: ShardId) -> None:
        unit.held.remove(shard)
        del unit.estimates[shard]
        self.deadlines.pop(shard, None)
        self.launches[shard.launch].flying.discard(shard.rank)

    def _settle_rest(self, launch: LaunchModel, how: str) -> None:
        for rank in range(launch.count):
            if rank not in launch.settled:
                self._settle(launch, rank, how)

    def _settle(self, launch: LaunchModel, rank: int, how: str, ok: bool = False) -> None:
        assert rank not in launch.settled
        launch.settled[rank] = self.outcomes[launch.number, rank] = how
        launch.fresh.discard(rank)
        launch.flying.discard(rank)
        launch.failed = launch.failed or not ok
        self._settles.append((launch.number, rank, how))
        for unit in self.pools.get(launch.pool, []):
            if (launch.number, rank) in unit.resumed:
                unit.resumed.remove((launch.number, rank))
        if len(launch.settled) == launch.count:
            self._ended.append(launch)
            self._early.discard(launch.number)

    def _follow(self, launch: LaunchModel) -> None:
        """Let a launch's end have its consequences for those that depend on it."""
        del self.launches[launch.number]
        if launch.failed:
            self.failures.add(launch.number)
        for dependant in list(self.launches.values()):
            if launch.number not in dependant.needs:
                continue
            dependant.needs.discard(launch.number)
            lacks = launch.failed and launch.number not in dependant.behind
            # It waits, for those behind it, for all that the other has not waited for.
            unmet = {number for number in launch.needs if number in self.launches} - dependant.needs
            dependant.needs |= unmet
            dependant.behind |= unmet
            if len(dependant.settled) == dependant.count:
                continue
            if lacks and dependant.flying:
                dependant.lacks = True
            elif lacks:
                self._settle_rest(dependant, "dependency")
            elif not dependant.needs and dependant.units is None:
                self._released.append(dependant.number)

    # ---- what actions must obey --------------------------------------------------------

    def _see_placed(self, action: Placed) -> None:
        if any(action.launch == launch for launch, _, how in self._settles if how == "dependency"):
            return  # it turned out in the same step that it cannot run
        launch = self.launches[action.launch]
        units = self.pools[launch.pool]
        if launch.needs and launch.number not in self._early:
            assert launch.units is None and launch.entered < 0, "placed twice"
            assert self._follows(launch, action.units[0]), "placed before what it depends on has ended"
            last = self.pools[launch.pool][action.units[0]].held[-1]
            assert last.launch in launch.needs, "placed where others are before it"
            assert not self._queued(launch.pool, action.units[0]), "others wait for that unit"
            launch.entered, self._entries = self._entries, self._entries + 1
            launch.units = action.units
            return
        assert launch.units is None and launch.entered >= 0, "placed twice, or too early"
        assert list(action.units) == sorted(set(action.units)) and len(action.units) == launch.count
        assert not any(units[number].gone for number in action.units), "placed where no unit is left"
        early = launch.number in self._early
        self._early.discard(launch.number)
        if not self._is_open(launch.pool):
            launch.units = action.units
            return
        up = [number for number, unit in enumerate(units) if unit.able]
        down = [number for number in action.units if not units[number].able]
        assert not down or set(up) <= set(action.units), "placed on a unit that is down without need"
        # One that the launch just submitted waits for goes before that one.
        before = launch.entered if early else self._entries
        claimed = {number for number in up if self._queued(launch.pool, number, before)}
        idle = [number for number in up if number not in claimed and not units[number].held]
        assert set(idle[: launch.count]) <= set(action.units), "an idle unit was passed over"
        launch.units = action.units

    def _see_sent(self, action: Send) -> None:
        shard = action.shard
        launch = self.launches[shard.launch]
        unit = self.pools[action.pool][action.unit]
        assert unit.able and not unit.gone, "sent to a unit that is not there"
        assert launch.units is not None and launch.units[shard.rank] == action.unit, "sent to another unit"
        assert action.pool == launch.pool
        card = self.card(action.pool)
        there = card is None or (card.loaded == action.pool and not card.leaving)
        assert there, "sent to what is not loaded"
        assert shard.rank not in launch.settled and shard.rank not in launch.flying, "sent twice"
        follows = self._follows(launch, action.unit)
        assert not launch.needs or follows, "sent before what it depends on has ended"
        if unit.resumed:
            assert unit.resumed.pop(0) == (shard.launch, shard.rank), "what a unit lost comes first, in order"
        else:
            assert shard.rank not in launch.sent or launch.moved, "sent again without need"
            self._check_order(launch, action.unit)
        assert shard.attempt == launch.sent.get(shard.rank, -1) + 1
        launch.moved = False
        estimate = self.estimates.get(launch.asked.kernel)
        if unit.held:
            together = [*unit.estimates.values(), estimate]
            assert all(one is not None and one <= AHEAD for one in together), "sent ahead, though not short"
            total, bound = sum(one or 0 for one in together[:-1]), AHEAD
            if action.launches > 1:
                total, bound = total + (estimate or 0), 2 * BUNDLE
            assert total <= bound * 1.000001, "sent too far ahead"
            assert len(together) <= self.depth[action.pool], "sent more than the unit may hold"
        launch.sent[shard.rank] = shard.attempt
        launch.fresh.discard(shard.rank)
        launch.flying.add(shard.rank)
        unit.held.append(shard)
        unit.estimates[shard] = estimate

    def _follows(self, launch: LaunchModel, unit: int) -> bool:
        """Tell whether a unit runs all that a launch depends on before it, in the order sent."""
        held = {shard.launch for shard in self.pools[launch.pool][unit].held}
        whole = {number for number in held if self.launches[number].count == 1}
        return launch.asked.ahead and launch.count == 1 and launch.needs <= whole

    def _check_order(self, launch: LaunchModel, unit: int) -> None:
        for other in self._rivals(launch.pool, unit):
            if other is launch:
                continue
            assert self._key(other) > self._key(launch), "overtaken"
            if other.asked.priority == launch.asked.priority:
                assert other.entered > launch.entered, "overtaken by a launch of its own priority"

    def _rivals(self, pool: int, unit: int) -> Iterable[LaunchModel]:
        """Return the launches that could have been sent to a unit instead, or that claim it."""
        for launch in self.launches.values():
            if launch.pool == pool and launch.entered >= 0:
                units = launch.units
                if not launch.needs if units is None else unit in units and units.index(unit) in launch.fresh:
                    yield launch

    def _queued(self, pool: int, unit: int, before: int = sys.maxsize) -> int:
        """Count the shards that wait for a unit, of the first launches that entered the queue."""
        placed = sum(one.units is not None and one.entered < before for one in self._rivals(pool, unit))
        return placed + len(self.pools[pool][unit].resumed)

    def _is_open(self, pool: int) -> bool:
        """Tell whether the units of a pool may be sent something, as far as its card goes."""
        card = self.card(pool)
        if card is None:
            return True
        return card.loaded == pool and not (card.leaving or card.closed) and card.sent < self.fair

    def _has_work(self, pool: int) -> bool:
        """Tell whether a unit of a pool could run something."""
        for number, unit in enumerate(self.pools[pool]):
            if not unit.gone:
                first = min(self._rivals(pool, number), key=self._key, default=None)
                if unit.resumed or (first is not None and not first.needs):
                    return True
        return False

    def _see_switched(self, action: Load | Unload) -> None:
        card, units = self.card(action.pool), self.pools[action.pool]
        assert card is not None and not card.leaving
        if isinstance(action, Load):
            assert card.loaded is None, "two are loaded"
            card.loaded = action.pool
            for unit in units:
                unit.up = not unit.gone
        else:
            assert card.loaded == action.pool
            assert not any(unit.held or unit.killed for unit in units if not unit.gone), "it is not done"
            card.leaving = True

    def _check_cards(self, actions: Iterable[Action]) -> None:
        """Find cards of which nobody has the use, and pools that have it for too long."""
        for card in self.cards.values():
            loaded = card.loaded
            if card.closed:
                continue
            if card.leaving:
                told = loaded is not None and Unload(loaded) in actions
                waits = any(self._has_work(pool) for pool in card.pools if pool != loaded)
                assert waits or not told, "it has to leave, and nobody waits"
            elif loaded is None:
                assert not any(map(self._has_work, card.pools)), "nothing is loaded, though something waits"
            elif not any(self._has_work(pool) for pool in card.pools if pool != loaded):
                card.sent = 0
            else:
                sent = sum(isinstance(one, Send) and one.pool == loaded for one in actions)
                assert not sent or card.sent < self.fair, "others wait too long"
                card.sent += sent
                busy = any(unit.held or unit.killed for unit in self.pools[loaded] if not unit.gone)
                assert busy or (card.sent < self.fair and self._has_work(loaded)), "others wait for nothing"

    def _check_idle(self) -> None:
        """Find units that do nothing although there is something for them."""
        for pool, units in self.pools.items():
            if self.cards and not self._is_open(pool):
                continue
            for number, unit in enumerate(units):
                if unit.able and not unit.held:
                    assert not unit.resumed, "a unit idles, though a shard has come back to it"
                    first = min(self._rivals(pool, number), key=self._key, default=None)
                    assert first is None or first.needs, "a unit idles, though a shard could run on it"

    # ---- keys --------------------------------------------------------------------------

    def _key(self, launch: LaunchModel) -> Key:
        found = self.state._launches[launch.number]
        return (launch.number,) if isinstance(found, Bundle) else found.key

    def _check_keys(self) -> None:
        """Check the places of the launches that have just entered the queue."""
        if self._checked == self._entries:
            return
        entered = [launch for launch in self.launches.values() if launch.entered >= 0]
        for launch in entered:
            if launch.entered < self._checked:
                continue
            key = self._key(launch)
            for other in entered:
                if other.entered < launch.entered:
                    before = other.asked.priority == launch.asked.priority or other.partial
                    before = before or other.number in launch.needs
                    assert not before or self._key(other) < key, "it does not go behind what it must"
        self._checked = self._entries

    # ---- the rest ----------------------------------------------------------------------

    def _learn(self, kernel: int, seconds: float) -> None:
        known = self.estimates.get(kernel, 0.0)
        self.estimates[kernel] = seconds if seconds >= known else known + (seconds - known) / 8

    def _is_held(self, pool: int, unit: int, shard: ShardId) -> bool:
        return pool in self.pools and shard in self.pools[pool][unit].held

    def _check_answers(self, changed: set[int]) -> None:
        """Ask the state machine for what it tells others, of the launches that have changed."""
        state = self.state
        assert state.pending == len(self.launches)
        assert state.stale == self.stale
        assert state.next_deadline() == min(self.deadlines.values(), default=None)
        for number in changed & self.launches.keys():
            launch = self.launches[number]
            assert state.running(number) == len(launch.flying)
            assert state.outstanding(number) == launch.count - len(launch.settled)
            assert state.can_cancel(number) == (not launch.flying and not launch.settled)

    def _check_books(self) -> None:
        """Look into the state machine: what is queued where, and what units hold."""
        state, partial = self.state, set()
        autos = dict.fromkeys(self.pools, 0)
        queued = {pool: [len(unit.resumed) for unit in units] for pool, units in self.pools.items()}
        for number, launch in self.launches.items():
            if launch.entered < 0:
                continue
            if launch.partial:
                partial.add(number)
            if launch.units is None:
                autos[launch.pool] += not launch.needs
            else:
                for rank in launch.fresh:
                    queued[launch.pool][launch.units[rank]] += 1
        assert state._placing.order._partial == partial
        for pool, units in self.pools.items():
            inner = state._pools[pool]
            assert inner.autos.queued == autos[pool]
            for unit, inside, waiting in zip(units, inner.units, queued[pool], strict=True):
                assert [each for shard in inside.flight for each in self._apart(shard)] == unit.held
                assert inside.held == len(unit.held)
                assert inside.queued + len(inside.resumed) == waiting
            for line in (*inner.units, inner.autos):
                assert line._dropped == len(line._fifo) + len(line._heap) - line.queued

    def _apart(self, shard: ShardId) -> list[ShardId]:
        """Return what a unit is said to hold, launch by launch."""
        size = self.state._launches[shard.launch].size
        return [shard._replace(launch=number) for number in in_a_row(shard.launch, size)]

    def check_empty(self) -> None:
        """Check that nothing is left, once all launches have ended and all pools are closed."""
        state = self.state
        assert not self.launches and not self.pools and (state._cards is None or not state._cards._cards)
        assert state.pending == 0 and state.next_deadline() is None
        placing, order = state._placing, state._placing.order
        for left in (state._launches, state._pools, state._finished, state._deadlines._heap):
            assert not left
        for left in (
            state._deadlines._due,
            placing.dirty,
            placing.eager,
            order._partial,
            order._frontier,
            order._levels,
        ):
            assert not left
