"""What the state machine knows of a launch.

There may be millions of them. Most are of one shard, and ask for nothing
special; so what only some have is kept apart, and made when it is needed.
"""

from __future__ import annotations

from bisect import bisect_left

from device_runtime.launch import ShardId

Key = tuple[int, ...]  # a place in the order; the smallest comes first


class Launch:
    """A launch that has not ended."""

    __slots__ = ("any_unit", "count", "extra", "flying", "kernel", "key", "left", "number", "pool", "units")
    size = 1  # launches that it stands for

    def __init__(
        self,
        number: int,
        pool: int,
        units: tuple[int, ...] | None,
        count: int,
        kernel: int,
        extra: Extra | None,
    ) -> None:
        self.number = number
        self.pool = pool
        self.units = units
        self.any_unit = units is None  # its units are of our choice
        self.count = count
        self.kernel = kernel
        self.extra = extra  # never None if there are several shards
        self.key: Key = ()  # () while it has no place in the order
        self.left = count  # shards that have not ended
        self.flying = 0  # shards on units

    def more(self) -> Extra:
        """Return what only some launches have; from now on this one has it, too."""
        if self.extra is None:
            self.extra = Extra(self.count)
        return self.extra

    def rank(self, unit: int) -> int:
        """Return the rank of the shard that is meant for a unit."""
        if self.count == 1:
            return 0
        assert self.units is not None
        return bisect_left(self.units, unit)

    def shard(self, rank: int) -> ShardId:
        """Name the present attempt at a shard."""
        attempts = None if self.extra is None else self.extra.attempts
        return ShardId(self.number, rank, attempts.get(rank, 0) if attempts else 0)

    def was_sent(self, rank: int) -> bool:
        """Tell whether a shard that is queued was on a unit before."""
        return self.extra is not None and self.extra.attempts is not None and rank in self.extra.attempts

    def has_settled(self, rank: int) -> bool:
        """Tell whether a shard's end is final."""
        return not self.left or (self.extra is not None and bool(self.extra.settled >> rank & 1))

    def doom(self, rank: int) -> str | None:
        """Return how a shard ends that was given up while a unit held it, None if it was not."""
        doomed = None if self.extra is None else self.extra.doomed
        return doomed.get(rank) if doomed else None

    def fate(self, rank: int) -> str | None:
        """Return how a shard ends that a unit holds, None if as that says."""
        if self.extra is None:
            return None
        waived = "cancelled" if self.extra.waived else "dependency" if self.extra.cause >= 0 else None
        return self.doom(rank) or waived

    def waits(self) -> bool:
        """Tell whether a launch that it depends on has not ended."""
        return self.extra is not None and self.extra.waits > 0


class Bundle(Launch):
    """Launches in a row of one kernel, each of one shard, that go through the scheduler as one.

    They are those from `first`, which grows as they end, to `number`. It is
    made where they can be sent to a unit at once. If anything but its end is to
    happen to one of them, they are taken apart first (`Placing.take_apart`).
    """

    __slots__ = ("first", "size")

    def __init__(self, number: int, pool: int, kernel: int, size: int) -> None:
        super().__init__(number, pool, None, 1, kernel, None)
        self.first = number - size + 1
        self.size = size  # those that have not ended

    def advance(self, count: int) -> None:
        """Note that the first launches have ended."""
        self.first += count
        self.size -= count
        if not self.size:
            self.left = self.flying = 0

    def apart(self) -> list[Launch]:
        """Return the launches that have not ended, each by itself."""
        found = []
        for number in range(self.first, self.number + 1):
            launch = Launch(number, self.pool, self.units, 1, self.kernel, None)
            launch.any_unit = True
            launch.key = (number,)
            launch.flying = self.flying
            found.append(launch)
        return found


class Extra:
    """What only some launches have: several shards, options, dependencies, accidents."""

    __slots__ = (
        "ahead",
        "attempts",
        "begun",
        "behind",
        "cause",
        "deaths",
        "dependants",
        "doomed",
        "lost",
        "moved",
        "needs",
        "ok",
        "priority",
        "retries",
        "settled",
        "timeout",
        "unsent",
        "waits",
        "waived",
    )

    def __init__(
        self,
        count: int,
        priority: int = 0,
        needs: tuple[int, ...] = (),
        retries: int = 0,
        timeout: float | None = None,
        behind: tuple[int, ...] = (),
        ahead: bool = False,
    ) -> None:
        self.priority = priority
        self.needs = needs + behind
        self.behind = frozenset(behind)  # those of them that may fail
        self.ahead = ahead  # a unit may have it while it runs those
        self.retries = retries
        self.timeout = timeout
        self.unsent = count  # shards that have not ended and were never sent to a unit
        self.begun = False  # a shard of it was sent
        self.settled = 0  # a bit for each rank
        self.ok = True
        self.lost = 0  # units lost under it
        self.moved = False  # a unit that it was given was given up
        self.waits = 0  # unfinished launches it depends on
        self.cause = -1  # the launch because of which it fails
        self.waived = False  # it was cancelled while its unit had it already, and could not have begun
        # Made when they are needed.
        self.dependants: dict[int, Launch] | None = None  # unfinished ones, by number
        self.attempts: dict[int, int] | None = None  # by rank, of shards that were sent again
        self.deaths: dict[int, int] | None = None  # by rank: units that died while they ran it
        self.doomed: dict[int, str] | None = None  # by rank: how a shard ends when its unit is lost
