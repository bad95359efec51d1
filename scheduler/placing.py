"""Queue the shards of launches, and send each unit the first one that it may run.

Every launch has a place in the order (see `order`). A unit always takes the
first among the shards it may run, and holds them in the order sent. As the
order is the same on all units, kernels that talk to each other cannot deadlock
on where they were placed.

A unit is only looked at when it may take something that it could not before.
"""

from __future__ import annotations

from collections import deque
from math import inf

from device_runtime.launch import RECENT, ShardId, make
from scheduler.events import Action, Kill, Placed, Send
from scheduler.launches import Bundle, Key, Launch
from scheduler.order import Order
from scheduler.pace import AHEAD, BUNDLE, Pace
from scheduler.pools import Pool
from scheduler.units import Unit

_LOOKED = 32  # units that are looked at each time for one with room: it costs as much as all the rest
_FEW = 4  # the part of what a unit may hold that is better sent together


class Placing:
    """Hold the queues of all units; `actions` collects what is to be done."""

    def __init__(self) -> None:
        self.launches: dict[int, Launch] = {}  # that have not ended; a bundle under each of its numbers
        self.actions: list[Action] = []
        self.pools: dict[int, Pool] = {}
        self.pace = Pace()
        self._costs = self.pace.costs
        self.order = Order()
        self.dirty: deque[Unit] = deque()  # units that may take a shard
        self.eager: dict[int, None] = {}  # pools with new auto launches

    # ---- queues ------------------------------------------------------------------

    def queue(self, launch: Launch) -> list[int]:
        """Queue the shards of a launch whose units are known; send those that come first on units with room.

        Returns the ranks whose units are gone; these cannot be queued.
        """
        assert launch.units is not None
        pool, extra, gone = self.pools[launch.pool], launch.extra, []
        behind = pool.autos.queued or (extra is not None and extra.waits)
        for rank, number in enumerate(launch.units):
            unit = pool.units[number]
            if unit.gone:
                gone.append(rank)
                launch.more().unsent -= 1
            elif behind or unit.queued or unit.resumed:
                if unit.push(launch):
                    self.touch(unit)
            elif (
                unit.up
                and unit.killed is None
                and (not unit.flight or self._has_room(pool, unit, launch.kernel))
            ):
                self._send(unit, launch, rank)
            else:
                unit.push(launch)
        if gone:
            self.order.mark(launch)  # all the others may have been sent
        return gone

    def queue_auto(self, launch: Launch, at_once: bool = False) -> bool:
        """Let a launch wait for the first unit that can take it; return whether there are enough of them.

        `at_once`: nothing else happens in this step that could go before it.
        """
        pool = self.pools[launch.pool]
        if launch.count > pool.left:
            return False
        if not launch.key:  # else it comes back from a unit that is gone
            self.order.enter(launch)
        idle = pool.idle()
        if at_once and (idle is not None or not pool.autos.queued):  # so no others wait
            unit = idle if launch.count > 1 else self._next(pool, launch.kernel, 1)[0]
            if unit is not None:
                self._place(pool, launch, unit)
                return True
        pool.push_auto(launch)
        if idle is not None or pool.last_stalled() is not None:
            self.eager[launch.pool] = None
        return True

    def queue_now(self, launch: Launch, bound: Key) -> bool:
        """Queue an auto launch on units that are chosen now; return whether there are enough of them."""
        pool = self.pools[launch.pool]
        if launch.count > pool.left:
            return False
        self.order.enter(launch, bound)
        self._place(pool, launch)
        return True

    def queue_again(self, launch: Launch) -> None:
        """Let a launch of one shard, whose unit is gone, wait for another one; it keeps its place.

        A launch that comes after it may run on any unit by now, and need one that idles for what waits for
        it. So it goes only to a unit that holds nothing, as that one is, once what it waits for has ended.
        """
        launch.units = None
        launch.more().moved = True
        if not launch.waits():
            self.pools[launch.pool].push_auto(launch)
            self.eager[launch.pool] = None

    def drop(self, launch: Launch, rank: int) -> None:
        """Leave out a queued shard that has just settled."""
        if launch.count > 1 and not launch.was_sent(rank):
            launch.more().unsent -= 1
            self.order.mark(launch)
        pool = self.pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is not None:
            unit = pool.units[launch.units[rank]]
            if not unit.gone:
                unit.leave_out(launch, rank)
                pool.eased(unit)
                self.touch(unit)

    def drop_auto(self, launch: Launch) -> None:
        """Leave out a launch that has just settled, if it waited for any unit, and for nothing else."""
        pool = self.pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is None and not launch.waits():
            pool.drop_auto(launch)

    # ---- launches that wait for what a unit holds ----------------------------------

    def follow(self, launch: Launch) -> None:
        """Send an auto launch that waits to the unit that holds all it waits for, if that may have it."""
        pool, needed = self.pools[launch.pool], self.launches.get(max(launch.more().needs))
        if needed is not None and needed.units is not None and needed.pool == launch.pool:
            unit = pool.units[needed.units[0]]
            if unit.is_open and unit.flight and not pool.autos.queued:
                self._send_behind(pool, unit, launch)

    def _fill_behind(self, pool: Pool, unit: Unit) -> None:
        """Send a unit, where nothing else waits for it, what waits for what it holds."""
        sent = True
        while sent:
            last = self.launches[next(reversed(unit.flight)).launch].extra
            if last is None or not last.dependants:
                return
            first = next(iter(last.dependants.values()))
            sent = first.units is None and self._send_behind(pool, unit, first)

    def _send_behind(self, pool: Pool, unit: Unit, launch: Launch) -> bool:
        """Send a unit an auto launch that waits, if it may have it: for the last that it holds, among others.

        Else it has enough to do, and several that wait for one would all go there while others idle.
        """
        if launch.pool != unit.pool or launch.more().moved or not launch.left:
            return False
        if pool.outside or not self._has_room(pool, unit, launch.kernel):
            return False
        awaited = self._awaited(unit, launch)
        if not awaited or awaited[-1].number != next(reversed(unit.flight)).launch:
            return False
        self.order.enter(launch, max([one.key for one in awaited]))
        self._place(pool, launch, unit)
        return True

    def _awaited(self, unit: Unit, launch: Launch) -> list[Launch]:
        """Return what a launch waits for where a unit holds all of that, and so may have it already; else [].

        It runs what it is sent one after the other, and nothing that comes after what has failed.
        """
        extra = launch.extra
        if extra is None or not extra.ahead or launch.count > 1 or extra.waits > len(unit.flight):
            return []
        if unit.held >= RECENT:
            return []
        held = [self.launches[shard.launch] for shard in unit.flight]
        found = [one for one in held if one.count == 1 and _is_awaited(one, launch)]
        return found if len(found) == extra.waits else []

    def _place(self, pool: Pool, launch: Launch, first: Unit | None = None) -> None:
        """Choose the units of an auto launch, and queue it there; `first` can take it now."""
        if first is None or launch.count > 1:
            launch.units = pool.choose(launch.count, first)
            self.actions.append(Placed(launch.number, launch.units))
            self.queue(launch)
            return
        launch.units, pool.turn = first.alone, first.number + 1
        self.actions.append(make(Placed, (launch.number, first.alone, launch.size)))
        self._send(first, launch, 0)

    # ---- bundles -----------------------------------------------------------------

    def room_for(self, pool: int, kernel: int, count: int) -> int:
        """Return how many of some launches of a kernel, for one unit each, had best come now; 0 if none.

        Then units have enough to do, and one of them will end a shard, come back, or be gone.
        """
        found = self.pools.get(pool)
        if found is None:
            return 1
        if found.autos.queued or found.held or not found.left:
            room = int(not found.full)
        else:
            room = self._next(found, kernel, count)[1]
        found.outside = not room
        return room

    def queue_bundle(self, bundle: Bundle) -> bool:
        """Send a bundle to a unit; return False if it cannot be sent as one, now.

        Nothing else happens in this step that could go before it.
        """
        pool = self.pools[bundle.pool]
        if pool.autos.queued or not self.order.is_plain(bundle):
            return False
        unit, most = self._next(pool, bundle.kernel, bundle.size)
        if unit is None or most < bundle.size:
            return False
        self.order.enter(bundle)
        self._place(pool, bundle, unit)
        return True

    def take_apart(self, bundle: Bundle) -> None:
        """Let the launches of a bundle go on each by itself."""
        found = bundle.apart()
        self.launches.update((launch.number, launch) for launch in found)
        assert bundle.units is not None
        self.pools[bundle.pool].units[bundle.units[0]].take_apart(bundle, found)

    def single(self, number: int) -> Launch | None:
        """Return a launch that has not ended, taken out of its bundle if it is in one."""
        found = self.launches.get(number)
        if type(found) is Bundle:
            self.take_apart(found)
            found = self.launches[number]
        return found

    def _next(self, pool: Pool, kernel: int, count: int) -> tuple[Unit | None, int]:
        """Return the unit that the next launches of a kernel go to, where no others wait, and how many."""
        most = min(count, self.pace.together(kernel, pool.depth // 2)) if count > 1 else 1
        idle = pool.idle()
        if idle is not None:
            return idle, 1 if most > 1 and pool.idle_besides(idle) else most
        few = max(1, pool.depth // _FEW)  # a unit that holds as many can wait until some come together
        units, turn = pool.units, pool.turn
        last = turn + min(len(units), _LOOKED)
        for place in range(turn, last):
            unit = units[place % len(units)]
            enough = unit.held >= few > most
            if unit.is_open and not enough and self._has_room(pool, unit, kernel, most):
                return unit, most
        pool.turn = last % len(units)
        return None, 0

    # ---- units -------------------------------------------------------------------

    def touch(self, unit: Unit) -> None:
        """Let a unit be looked at: it may take a shard now."""
        if not unit.dirty:
            unit.dirty = True
            self.dirty.append(unit)

    def fill(self) -> None:
        """Send all units that may have room what they may take."""
        while self.dirty or self.eager:
            if self.dirty:
                unit = self.dirty.popleft()
                unit.dirty = False
                pool = self.pools.get(unit.pool)
                if pool is not None:
                    self._fill(pool, unit)
            else:
                pool = self.pools.get(self.eager.popitem()[0])
                if pool is not None:
                    self._draw(pool)

    def has_work(self, pool: Pool) -> bool:
        """Tell whether a unit would run something if it were sent what comes first for it."""
        auto = pool.autos.head() if pool.autos.queued else None
        for unit in pool.units:
            if unit.gone:
                continue
            head = unit.resumed[0] if unit.resumed else unit.head() if unit.queued else None
            if auto is not None and (head is None or (not unit.resumed and auto.key < head.key)):
                return True
            if head is not None and not head.waits():
                return True
        return False

    def holds(self, pool: int, unit: int, shard: ShardId) -> bool:
        """Tell whether a unit holds a shard."""
        found = self.pools.get(pool)
        return found is not None and shard in found.units[unit].flight

    def land(self, unit: Unit, shard: ShardId, launch: Launch) -> None:
        """Take a shard from its unit, however it ended."""
        unit.put_down(shard)
        launch.flying -= 1
        self.pools[unit.pool].eased(unit)
        self.touch(unit)

    def kill(self, unit: Unit) -> None:
        """End the shard that a unit runs."""
        if unit.killed is None:
            unit.killed = next(iter(unit.flight))
            self.actions.append(Kill(unit.pool, unit.number, unit.killed))

    def give_up(self, unit: Unit) -> tuple[list[Launch], list[Launch]]:
        """Use a unit no more; return what was queued for it, and the auto launches that now are too large."""
        pool = self.pools[unit.pool]
        return pool.give_up(unit), pool.too_large()

    def refill(self, pool: Pool, unit: Unit) -> None:
        """Send a unit, of which a shard has just ended, what it may take."""
        if pool.ranking or not (unit.flight or unit.queued):
            pool.eased(unit)
        if unit.queued or pool.autos.queued or unit.resumed:
            self._fill(pool, unit)

    def _has_room(self, pool: Pool, unit: Unit, kernel: int, size: int = 1) -> bool:
        """Tell whether a unit that holds shards already may be sent one of a kernel, or so many together."""
        cost = self._costs.get(kernel, inf)
        if cost > AHEAD or unit.held + size > pool.depth:
            return False
        return unit.load <= AHEAD if size == 1 else unit.load + size * cost <= 2 * BUNDLE

    def _fill(self, pool: Pool, unit: Unit) -> None:
        if unit.stalled:
            pool.unstall(unit)
        autos = pool.autos
        # What a unit is sent that is about to die would die with it.
        while unit.up and unit.killed is None:
            head = unit.resumed[0] if unit.resumed else unit.head() if unit.queued else None
            auto = autos.head() if autos.queued else None
            if auto is not None and (head is None or (not unit.resumed and auto.key < head.key)):
                if unit.flight:
                    if auto.extra is not None and auto.extra.moved:
                        return  # see `queue_again`
                    if not self._has_room(pool, unit, auto.kernel):
                        return
                pool.take_auto(auto)
                self._place(pool, auto, pool.idle() or unit)
                continue
            if head is None:
                if unit.flight:
                    self._fill_behind(pool, unit)
                return
            if head.extra is not None and head.extra.waits and not self._awaited(unit, head):
                if not unit.flight:
                    pool.stall(unit, head.key)
                return
            if unit.flight and not self._has_room(pool, unit, head.kernel):
                return
            if unit.resumed:
                unit.resumed.popleft()
            else:
                unit.take()
            self._send(unit, head, 0 if head.count == 1 else head.rank(unit.number))

    def _draw(self, pool: Pool) -> None:
        """Place the first auto launch, if a unit that does nothing can take it."""
        auto, unit = pool.autos.head(), pool.idle() or pool.last_stalled()
        if auto is not None and unit is not None and (not unit.stalled or auto.key < unit.stalled):
            pool.take_auto(auto)
            self._place(pool, auto, unit)
            self.touch(unit)  # it may have room for more
            self.eager[auto.pool] = None  # and so may others

    def _send(self, unit: Unit, launch: Launch, rank: int) -> None:
        if launch.extra is None:
            shard = make(ShardId, (launch.number, 0, 0))
        else:
            shard = launch.shard(rank)
            if launch.count > 1 and not shard.attempt:
                launch.extra.begun = True
                launch.extra.unsent -= 1
                self.order.mark(launch)
        launch.flying += 1
        size = launch.size
        cost = self._costs.get(launch.kernel, inf) * size
        unit.load += cost
        unit.held += size
        unit.flight[shard] = cost
        self.actions.append(make(Send, (unit.pool, unit.number, shard, size)))


def _is_awaited(held: Launch, launch: Launch) -> bool:
    """Tell whether a launch waits for another one."""
    dependants = None if held.extra is None else held.extra.dependants
    return dependants is not None and launch.number in dependants
