"""The units of one open device: which of them has the least to do."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush, heapreplace

from scheduler.launches import Key, Launch
from scheduler.line import Line
from scheduler.units import Unit

_ENOUGH = 128  # launches that wait for any unit: so many are known at least, if there are as many
_SPARE = 64  # entries that the ranking may hold beyond 8 for each unit


class Pool:
    """The units of one device, and the launches that leave it to us which ones they run on."""

    __slots__ = (
        "_free",
        "_low",
        "_stalled",
        "autos",
        "depth",
        "enough",
        "held",
        "left",
        "number",
        "outside",
        "ranking",
        "turn",
        "units",
    )

    def __init__(self, number: int, units: int, depth: int) -> None:
        self.number = number
        self.units = [Unit(number, each) for each in range(units)]
        self.depth = depth
        self.held = False  # it is sent nothing: another one has their card, or is to have it (see `cards`)
        self.left = units  # those that are not gone
        self.outside = False  # launches wait that are not known here, as there was no room for them
        self.autos = Line()  # launches that wait for the first unit that can take them
        self._low = 0  # those of them that an ordinary launch goes before
        self.enough = max(_ENOUGH, 8 * units)
        self.turn = 0  # the unit from which on one is looked for that may be sent more
        self._free: list[int] = []  # units that may have nothing to do: a heap, with all that have nothing
        self.ranking: list[
            tuple[int, int]
        ] = []  # backlog, unit: a heap, outdated ones in it; empty until needed
        self._stalled: list[tuple[Key, int]] = []  # sorted
        for unit in self.units:
            self.eased(unit)

    # ---- launches that wait for any unit ---------------------------------------------

    @property
    def full(self) -> bool:
        """Tell whether so many wait that one more, of ordinary priority, need not be known yet."""
        return self.autos.queued - self._low >= self.enough

    def push_auto(self, launch: Launch) -> None:
        """Let a launch wait for the first unit that can take it."""
        self.autos.push(launch)
        self._low += _is_low(launch)

    def take_auto(self, launch: Launch) -> None:
        """Take out the launch that `autos.head` has just returned."""
        self.autos.take()
        self._low -= _is_low(launch)

    def drop_auto(self, launch: Launch) -> None:
        """Leave out a launch that has just ended."""
        self.autos.drop()
        self._low -= _is_low(launch)

    # ---- units by their backlog -----------------------------------------------------

    def eased(self, unit: Unit) -> None:
        """Note that a unit's backlog has become smaller; that it has grown is found out in time."""
        backlog = unit.backlog
        if not backlog and not unit.listed:
            unit.listed = True
            heappush(self._free, unit.number)
        if self.ranking and backlog < unit.ranked:
            unit.ranked = backlog
            heappush(self.ranking, (backlog, unit.number))
            if len(self.ranking) > 8 * len(self.units) + _SPARE:
                self.ranking = []  # made anew when it is needed

    def idle(self) -> Unit | None:
        """Return the first unit that has nothing to do."""
        while self._free:
            unit = self.units[self._free[0]]
            if not unit.backlog:
                return unit
            heappop(self._free)
            unit.listed = False
        return None

    def idle_besides(self, unit: Unit) -> bool:
        """Tell whether units other than this one have nothing to do."""
        if self.idle() is not unit:
            return bool(self._free)
        heappop(self._free)
        found = self.idle() is not None
        heappush(self._free, unit.number)
        return found

    def choose(self, count: int, first: Unit | None = None) -> tuple[int, ...]:
        """Return `count` units: `first`, then those with the smallest backlog."""
        if not self.ranking:
            self._rank_all()
        chosen = {} if first is None else {first.number: first}
        while len(chosen) < count:
            unit = self._best()
            heappop(self.ranking)
            chosen[unit.number] = unit
        for unit in chosen.values():
            heappush(self.ranking, (unit.ranked, unit.number))
        return tuple(sorted(chosen))

    def _best(self) -> Unit:
        """Return the unit with the smallest backlog."""
        while True:
            ranked, number = self.ranking[0]
            unit = self.units[number]
            if unit.gone or unit.ranked != ranked:
                heappop(self.ranking)
            elif unit.backlog > ranked:
                unit.ranked = unit.backlog
                heapreplace(self.ranking, (unit.ranked, number))
            else:
                return unit

    def _rank_all(self) -> None:
        for unit in self.units:
            unit.ranked = unit.backlog
        self.ranking = [(unit.ranked, unit.number) for unit in self.units if not unit.gone]
        heapify(self.ranking)

    # ---- units that idle because their next shard waits ----------------------------------

    def stall(self, unit: Unit, key: Key) -> None:
        """Note that a unit idles because its next shard waits for a dependency."""
        unit.stalled = key
        insort(self._stalled, (key, unit.number))

    def unstall(self, unit: Unit) -> None:
        """Take back `stall`."""
        if unit.stalled:
            del self._stalled[bisect_left(self._stalled, (unit.stalled, unit.number))]
            unit.stalled = ()

    def last_stalled(self) -> Unit | None:
        """Return the stalled unit whose next shard comes last: it takes a launch if any of them does."""
        return self.units[self._stalled[-1][1]] if self._stalled else None

    # ---- units that cannot be sent anything ---------------------------------------------

    def set_alive(self, unit: Unit, alive: bool) -> None:
        """Note that a unit is there, or not any more."""
        unit.alive, unit.up = alive, alive and not self.held
        if unit.up:
            self.eased(unit)

    def hold(self) -> None:
        """Send the units nothing from now on."""
        self.held = True
        for unit in self.units:
            unit.up = False
            self.unstall(unit)

    def let_on(self, new: bool) -> list[Unit]:
        """Take back `hold`; `new`: all units are there. Return those that may be sent something."""
        self.held = False
        left = [unit for unit in self.units if not unit.gone]
        for unit in left:
            self.set_alive(unit, new or unit.alive)
        return left

    def is_busy(self) -> bool:
        """Tell whether a unit holds something, or is about to be ended."""
        return any(unit.flight or unit.killed is not None for unit in self.units if not unit.gone)

    def give_up(self, unit: Unit) -> list[Launch]:
        """Use a unit no more; return the launches of which a shard waited for it."""
        unit.gone, unit.alive, unit.up = True, False, False
        self.left -= 1
        self.unstall(unit)
        queued = [*unit.resumed, *unit.waiting()]
        unit.resumed.clear()
        unit.clear()
        self.ranking = []
        return queued

    def too_large(self) -> list[Launch]:
        """Return the waiting auto launches that ask for more units than are left."""
        return [one for one in self.autos.waiting() if one.count > self.left]


def _is_low(launch: Launch) -> bool:
    return launch.extra is not None and launch.extra.priority < 0
