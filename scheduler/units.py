"""What the state machine knows of launches, units and pools, and the queues of these."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from heapq import heapify, heappop, heappush, heapreplace

from device_runtime.launch import ShardId
from scheduler import events

Key = tuple[int, ...]
_SPARE = 64  # entries that a queue may hold beyond twice those that count
_DOWN = 1 << 40  # more than any backlog


class Launch:
    """A launch that has not ended."""

    __slots__ = (
        "attempts",
        "begun",
        "cause",
        "count",
        "deaths",
        "dependants",
        "doomed",
        "flying",
        "kernel",
        "key",
        "left",
        "lost",
        "needs",
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
        self.unsent = asked.count  # of those, never sent to a unit
        self.kernel = asked.kernel
        self.priority = asked.priority
        self.retries = asked.retries
        self.timeout = asked.timeout
        self.needs = asked.depends
        self.key: Key = ()  # () while it has no place in the order
        self.ok = True
        self.begun = False  # a shard of it was sent
        self.flying = 0  # shards on units
        self.lost = 0  # units lost under it
        self.waits = 0  # unfinished launches it depends on
        self.settled = 0  # a bit for each rank
        self.cause = -1
        # Made when they are needed; most launches have none of them.
        self.dependants: dict[int, Launch] | None = None  # unfinished ones, by number
        self.attempts: dict[int, int] | None = None  # by rank, of shards that were sent again
        self.deaths: dict[int, int] | None = None  # by rank: units that died while they ran it
        self.doomed: dict[int, str] | None = None  # by rank: how a shard ends when its unit is lost

    def shard(self, rank: int) -> ShardId:
        """Name the present attempt at a shard."""
        return ShardId(self.number, rank, self.attempts.get(rank, 0) if self.attempts else 0)

    def was_sent(self, rank: int) -> bool:
        """Tell whether a shard that is queued was on a unit before."""
        return self.attempts is not None and rank in self.attempts

    def has_settled(self, rank: int) -> bool:
        """Tell whether a shard's end is final."""
        return bool(self.settled >> rank & 1)

    def doom(self, rank: int, how: str) -> None:
        """Note how a shard ends when its unit is lost."""
        if self.doomed is None:
            self.doomed = {}
        self.doomed.setdefault(rank, how)


Entry = tuple[Key, int, Launch]  # a shard in a queue: key, rank, launch


class Unit:
    """A compute unit: what waits for it and what it holds."""

    __slots__ = (
        "crashes",
        "dirty",
        "flight",
        "gone",
        "killed",
        "load",
        "long",
        "number",
        "pool",
        "queue",
        "queued",
        "ranked",
        "resumed",
        "stalled",
        "up",
    )

    def __init__(self, pool: int, number: int) -> None:
        self.pool = pool
        self.number = number
        self.queue: list[Entry] = []  # a heap, settled ones in it
        self.resumed: deque[Entry] = deque()  # lost with the unit, to be sent again before all others
        self.queued = 0  # shards in the two that are not settled
        self.flight: dict[ShardId, float | None] = {}  # in the order sent; and the estimated seconds
        self.load = 0.0  # the sum of the estimates
        self.long = 0  # shards in flight that are not known to be short
        self.up = True
        self.gone = False
        self.dirty = False  # it may take a shard, and has not been looked at yet
        self.ranked = 0  # at most its backlog: what it counts for among the pool's units
        self.killed: ShardId | None = None  # what we have asked the device to end
        self.stalled: Key = ()  # the key of its next shard if it idles because that one waits
        self.crashes: deque[float] = deque()  # when it last died of its own accord, running nothing

    @property
    def backlog(self) -> int:
        """How many shards are before a new one; a unit that is down is the last choice."""
        return self.queued + len(self.flight) + (0 if self.up and self.killed is None else _DOWN)

    def push(self, launch: Launch, rank: int) -> None:
        """Queue a shard."""
        heappush(self.queue, (launch.key, rank, launch))
        self.queued += 1

    def resume(self, shards: list[tuple[int, Launch]]) -> None:
        """Queue shards that the unit held when it was lost.

        They stay before all others, as if they had never left the unit: others
        of their launches may run already, and wait for them.
        """
        self.resumed.extendleft(((), rank, launch) for rank, launch in reversed(shards))
        self.queued += len(shards)

    def head(self) -> Entry | None:
        """Return the next shard, without taking it out."""
        while self.resumed:
            entry = self.resumed[0]
            if not entry[2].has_settled(entry[1]):
                return entry
            self.resumed.popleft()
        while self.queue:
            entry = self.queue[0]
            if not entry[2].has_settled(entry[1]):
                return entry
            heappop(self.queue)
        return None

    def take(self) -> None:
        """Take out the shard that `head` has returned."""
        if self.resumed:
            self.resumed.popleft()
        else:
            heappop(self.queue)
        self.queued -= 1

    def drop(self) -> None:
        """Leave out one shard that is about to settle in the queue."""
        self.queued -= 1
        if len(self.queue) > 2 * self.queued + _SPARE:
            self.queue = [entry for entry in self.queue if not entry[2].has_settled(entry[1])]
            heapify(self.queue)


class Pool:
    """The units of one device, and the launches that leave it to us which ones they run on."""

    __slots__ = ("_autos", "_ranking", "_stalled", "depth", "left", "units", "waiting")

    def __init__(self, number: int, units: int, depth: int) -> None:
        self.units = [Unit(number, each) for each in range(units)]
        self.depth = depth
        self.left = units  # those that are not gone
        self.waiting = 0  # auto launches in the queue
        self._autos: list[tuple[Key, Launch]] = []  # a heap, placed and settled ones in it
        self._ranking: list[tuple[int, int]] = []  # backlog, unit; a heap, outdated ones in it
        self._stalled: list[tuple[Key, int]] = []  # sorted
        self._rank_all()

    # ---- units by their backlog -----------------------------------------------------

    def rank(self, unit: Unit) -> None:
        """Note that a unit's backlog has become smaller; that it has grown is found out in time."""
        backlog = unit.backlog
        if backlog < unit.ranked:
            unit.ranked = backlog
            heappush(self._ranking, (backlog, unit.number))
            if len(self._ranking) > 8 * len(self.units) + _SPARE:
                self._rank_all()

    def _rank_all(self) -> None:
        for unit in self.units:
            unit.ranked = unit.backlog
        self._ranking = [(unit.ranked, unit.number) for unit in self.units if not unit.gone]
        heapify(self._ranking)

    def best(self) -> Unit | None:
        """Return the unit with the smallest backlog."""
        while self._ranking:
            ranked, number = self._ranking[0]
            unit = self.units[number]
            if unit.gone or unit.ranked != ranked:
                heappop(self._ranking)
            elif unit.backlog > ranked:
                unit.ranked = unit.backlog
                heapreplace(self._ranking, (unit.ranked, number))
            else:
                return unit
        return None

    def idle(self) -> Unit | None:
        """Return the first unit that has nothing to do."""
        unit = self.best()
        return unit if unit is not None and not unit.backlog else None

    def choose(self, count: int, first: Unit | None = None) -> tuple[int, ...]:
        """Return `count` units: `first`, then those with the smallest backlog."""
        chosen = {} if first is None else {first.number: first}
        while len(chosen) < count:
            unit = self.best()
            assert unit is not None, "more units were asked for than are left"
            heappop(self._ranking)
            chosen[unit.number] = unit
        for unit in chosen.values():
            heappush(self._ranking, (unit.ranked, unit.number))
        return tuple(sorted(chosen))

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

    # ---- launches without units -----------------------------------------------------------

    def push(self, launch: Launch) -> None:
        """Queue an auto launch."""
        heappush(self._autos, (launch.key, launch))
        self.waiting += 1

    def head(self) -> Launch | None:
        """Return the first auto launch, without taking it out."""
        while self._autos:
            launch = self._autos[0][1]
            if launch.units is None and launch.left:
                return launch
            heappop(self._autos)
        return None

    def drop(self) -> None:
        """Leave out one auto launch that has been placed or is about to settle."""
        self.waiting -= 1
        if len(self._autos) > 2 * self.waiting + _SPARE:
            self._autos = [entry for entry in self._autos if entry[1].units is None and entry[1].left]
            heapify(self._autos)

    def give_up(self, unit: Unit) -> list[Entry]:
        """Use a unit no more; return what was queued for it."""
        unit.gone, unit.up = True, False
        self.left -= 1
        self.unstall(unit)
        queued = [entry for entry in (*unit.resumed, *unit.queue) if not entry[2].has_settled(entry[1])]
        unit.queue.clear()
        unit.resumed.clear()
        unit.queued = 0
        self._rank_all()
        return queued

    def too_large(self) -> list[Launch]:
        """Return the auto launches that ask for more units than are left."""
        return [one for _, one in self._autos if one.units is None and one.left and one.count > self.left]
