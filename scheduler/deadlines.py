"""When the time of the shards that run is up."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from device_runtime.launch import ShardId

_SPARE = 64  # entries that the heap may hold beyond twice those that count


class Deadlines:
    """Keep the deadlines of shards that run."""

    def __init__(self) -> None:
        self._due: dict[ShardId, float] = {}
        self._heap: list[tuple[float, ShardId]] = []  # outdated ones in it

    def set(self, shard: ShardId, due: float) -> None:
        """Let a shard's time be up at `due`."""
        self._due[shard] = due
        heappush(self._heap, (due, shard))

    def drop(self, shard: ShardId) -> None:
        """Forget a shard's deadline, if it has one."""
        if self._due.pop(shard, None) is not None and len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [(due, one) for one, due in self._due.items()]
            heapify(self._heap)

    def first(self) -> float | None:
        """Return the earliest deadline."""
        while self._heap:
            due, shard = self._heap[0]
            if self._due.get(shard) == due:
                return due
            heappop(self._heap)
        return None

    def take(self, now: float) -> list[ShardId]:
        """Return the shards whose time is up, and forget their deadlines."""
        found = []
        while (due := self.first()) is not None and due <= now:
            shard = heappop(self._heap)[1]
            del self._due[shard]
            found.append(shard)
        return found
