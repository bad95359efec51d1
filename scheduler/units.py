"""What the state machine knows of compute units."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from device_runtime.launch import ShardId
from scheduler.launches import Bundle, Key, Launch
from scheduler.line import Line

_DOWN = 1 << 40  # more than any backlog


class Unit(Line):
    """A compute unit: the launches that wait for it, and the shards that it holds."""

    __slots__ = (
        "alive",
        "alone",
        "crashes",
        "dirty",
        "doomed",
        "flight",
        "gone",
        "held",
        "killed",
        "listed",
        "load",
        "pool",
        "ranked",
        "resumed",
        "stalled",
        "up",
    )

    def __init__(self, pool: int, number: int) -> None:
        super().__init__(number)
        self.pool = pool
        self.alone = (number,)  # the units of a launch that was placed on this one
        # Lost with the unit, to be sent again before all others; none of them has ended.
        self.resumed: deque[Launch] = deque()
        self.flight: dict[ShardId, float] = {}  # what it holds, in the order sent; its cost (see `pace`)
        self.load = 0.0  # the sum of the costs
        self.held = 0  # launches in flight, those in bundles counted one by one
        self.doomed = 0  # shards in flight whose end is decided
        self.alive = True
        self.up = True  # it is alive, and may be sent something
        self.gone = False
        self.killed: ShardId | None = None  # what we have asked the device to end
        self.stalled: Key = ()  # the key of its next shard if it idles because that one waits
        self.dirty = False  # it may take a shard, and has not been looked at yet
        self.listed = False  # it is among those that may have nothing to do
        self.ranked = 0  # at most its backlog: what it counts for among the pool's units
        self.crashes: deque[float] = deque()  # when it last died of its own accord, running nothing

    @property
    def backlog(self) -> int:
        """How many shards are before a new one; a unit that is down is the last choice."""
        waiting = self.queued + len(self.resumed)
        return waiting + self.held + (0 if self.up and self.killed is None else _DOWN)

    @property
    def is_open(self) -> bool:
        """Whether it can be sent something, and nothing waits for it."""
        return self.up and self.killed is None and not (self.queued or self.resumed)

    def put_down(self, shard: ShardId) -> None:
        """Hold a shard no more."""
        self.held -= 1
        cost = self.flight.pop(shard)
        # With none left the sum is 0: neither rounding nor infinity must stay in it.
        self.load = self.load - cost if self.flight else 0.0

    def put_down_some(self, bundle: Bundle, count: int) -> None:
        """Hold the first launches of a bundle no more."""
        shard = ShardId(bundle.number, 0)
        self.held -= count
        if count == bundle.size:
            self.held += 1
            self.put_down(shard)
            return
        share = self.flight[shard] * count / bundle.size
        self.flight[shard] -= share
        self.load -= share

    def take_apart(self, bundle: Bundle, launches: Sequence[Launch]) -> None:
        """Hold the launches of a bundle each by itself."""
        whole = ShardId(bundle.number, 0)
        share = self.flight[whole] / bundle.size
        held, self.flight = self.flight, {}
        for shard, cost in held.items():
            if shard == whole:
                self.flight.update((ShardId(launch.number, 0), share) for launch in launches)
            else:
                self.flight[shard] = cost

    def leave_out(self, launch: Launch, rank: int) -> None:
        """Leave out a queued shard that has just ended."""
        if launch.was_sent(rank):
            self.resumed.remove(launch)
        else:
            self.drop()
