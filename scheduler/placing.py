"""Queue the shards of launches, and send each unit the first one that it may run.

Every launch has a place in the order (see `order`). A unit always takes the
first among the shards it may run, and holds them in the order sent. As the
order is the same on all units, kernels that talk to each other cannot deadlock
on where they were placed.
"""

from __future__ import annotations

from collections import deque

from device_runtime.launch import ShardId
from scheduler.events import Action, Kill, Placed, Send
from scheduler.order import Order
from scheduler.pace import Pace
from scheduler.units import Entry, Key, Launch, Pool, Unit


class Placing:
    """Hold the queues of all units; `actions` collects what is to be done."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.pools: dict[int, Pool] = {}
        self.pace = Pace()
        self._order = Order()
        self._dirty: deque[Unit] = deque()  # units that may take a shard
        self._eager: dict[int, None] = {}  # pools with new auto launches

    # ---- queues ------------------------------------------------------------------

    def queue(self, launch: Launch, bound: Key) -> list[int]:
        """Queue the shards of a launch that names its units, behind `bound`.

        Returns the ranks whose units are gone; these cannot be queued.
        """
        self._order.enter(launch, bound)
        return self._queue(launch)

    def queue_auto(self, launch: Launch) -> bool:
        """Let a launch wait for the first unit that can take it; return whether there are enough of them."""
        pool = self.pools[launch.pool]
        if launch.count > pool.left:
            return False
        self._order.enter(launch, ())
        pool.push(launch)
        self._eager[launch.pool] = None
        return True

    def queue_now(self, launch: Launch, bound: Key) -> bool:
        """Queue an auto launch on units that are chosen now; return whether there are enough of them."""
        pool = self.pools[launch.pool]
        if launch.count > pool.left:
            return False
        self._order.enter(launch, bound)
        self._place(pool, launch)
        return True

    def drop(self, launch: Launch, rank: int) -> None:
        """Leave out a queued shard that is about to settle."""
        if not launch.was_sent(rank):
            launch.unsent -= 1
            self._order.mark(launch)
        pool = self.pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is not None:
            unit = pool.units[launch.units[rank]]
            if not unit.gone:
                unit.drop()
                pool.rank(unit)
                self.touch(unit)

    def drop_auto(self, launch: Launch) -> None:
        """Leave out a launch that is about to settle, if it waits for a unit."""
        pool = self.pools.get(launch.pool)
        if pool is not None and launch.key and launch.units is None and launch.left:
            pool.drop()

    def forget(self, launch: Launch) -> None:
        """Give back the place of a launch that has ended."""
        self._order.leave(launch)

    def _queue(self, launch: Launch) -> list[int]:
        assert launch.units is not None
        units, gone = self.pools[launch.pool].units, []
        for rank, number in enumerate(launch.units):
            unit = units[number]
            if unit.gone:
                gone.append(rank)
                launch.unsent -= 1
            else:
                unit.push(launch, rank)
                self.touch(unit)
        return gone

    def _place(self, pool: Pool, launch: Launch, first: Unit | None = None) -> None:
        """Choose the units of an auto launch, and queue it there."""
        launch.units = pool.choose(launch.count, first)
        self.actions.append(Placed(launch.number, launch.units))
        self._queue(launch)

    # ---- units -------------------------------------------------------------------

    def touch(self, unit: Unit) -> None:
        """Let a unit be looked at: it may take a shard now."""
        if not unit.dirty:
            unit.dirty = True
            self._dirty.append(unit)

    def fill(self) -> None:
        """Send all units that may have room what they may take."""
        while self._dirty or self._eager:
            if self._dirty:
                unit = self._dirty.popleft()
                unit.dirty = False
                pool = self.pools.get(unit.pool)
                if pool is not None:
                    self._fill(pool, unit)
            else:
                pool = self.pools.get(self._eager.popitem()[0])
                if pool is not None:
                    self._draw(pool)

    def holds(self, pool: int, unit: int, shard: ShardId) -> bool:
        """Tell whether a unit holds a shard."""
        found = self.pools.get(pool)
        return found is not None and shard in found.units[unit].flight

    def land(self, unit: Unit, shard: ShardId, launch: Launch) -> None:
        """Take a shard from its unit, however it ended."""
        self.pace.remove(unit, shard)
        launch.flying -= 1
        self.pools[unit.pool].rank(unit)
        self.touch(unit)

    def kill(self, unit: Unit) -> None:
        """End the shard that a unit runs."""
        if unit.killed is None:
            unit.killed = next(iter(unit.flight))
            self.actions.append(Kill(unit.pool, unit.number, unit.killed))

    def give_up(self, unit: Unit) -> tuple[list[Entry], list[Launch]]:
        """Use a unit no more; return what was queued for it, and the auto launches that now are too large."""
        pool = self.pools[unit.pool]
        return pool.give_up(unit), pool.too_large()

    def _fill(self, pool: Pool, unit: Unit) -> None:
        pool.unstall(unit)
        while unit.up and unit.killed is None:  # what a unit is sent that is about to die would die with it
            head, auto = unit.head(), pool.head()
            if auto is not None and (head is None or auto.key < head[0]):
                if not self.pace.has_room(unit, pool.depth, auto.kernel):
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
            if not self.pace.has_room(unit, pool.depth, launch.kernel):
                return
            unit.take()
            self._send(unit, launch, rank)

    def _draw(self, pool: Pool) -> None:
        """Place the first auto launch, if a unit that does nothing can take it."""
        auto, unit = pool.head(), pool.idle() or pool.last_stalled()
        if auto is not None and unit is not None and not (unit.stalled and unit.stalled < auto.key):
            self._place(pool, auto, unit)
            pool.drop()
            self._eager[auto.pool] = None  # there may be more

    def _send(self, unit: Unit, launch: Launch, rank: int) -> None:
        shard = launch.shard(rank)
        self.pace.add(unit, shard, launch.kernel)
        launch.flying += 1
        if not shard.attempt:
            launch.begun = True
            launch.unsent -= 1
            if launch.count > 1:
                self._order.mark(launch)
        self.actions.append(Send(unit.pool, unit.number, shard))
