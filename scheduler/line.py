"""Launches that wait, in order."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush

from scheduler.launches import Key, Launch

_SPARE = 64  # entries that have ended which a line may hold beyond as many as wait


class Line:
    """Launches of which a shard waits for a unit, by their keys.

    Keys mostly grow from launch to launch; only those that do not need a heap.
    What ends while it waits stays in the line, and is left out later.
    """

    __slots__ = ("_dropped", "_fifo", "_heap", "number", "queued")

    def __init__(self, number: int = -1) -> None:
        self.number = number  # the unit's; -1 if none is chosen yet
        self.queued = 0  # those that have not ended
        self._fifo: deque[Launch] = deque()
        self._heap: list[tuple[Key, Launch]] = []
        self._dropped = 0  # those that have

    def push(self, launch: Launch) -> bool:
        """Let a launch wait; return whether it may be the first."""
        self.queued += 1
        fifo = self._fifo
        if fifo and fifo[-1].key < launch.key:
            fifo.append(launch)
            return self._dropped > 0
        if fifo:
            heappush(self._heap, (launch.key, launch))
        else:
            fifo.append(launch)
        return True

    def head(self) -> Launch | None:
        """Return the first launch, without taking it out."""
        if self._dropped:
            self._skip()
        heap, fifo = self._heap, self._fifo
        if not heap:
            return fifo[0] if fifo else None
        return fifo[0] if fifo and fifo[0].key < heap[0][0] else heap[0][1]

    def take(self) -> None:
        """Take out the launch that `head` has just returned."""
        self.queued -= 1
        if self._heap:
            self._take()
        else:
            self._fifo.popleft()

    def drop(self) -> None:
        """Leave out one launch whose shard has just ended."""
        self.queued -= 1
        self._dropped += 1
        if self._dropped > self.queued + _SPARE:
            self._fifo = deque(one for one in self._fifo if not self._has_ended(one))
            self._heap = [entry for entry in self._heap if not self._has_ended(entry[1])]
            heapify(self._heap)
            self._dropped = 0

    def waiting(self) -> list[Launch]:
        """Return all that wait, in no special order."""
        launches = [*self._fifo, *(launch for _, launch in self._heap)]
        return [launch for launch in launches if not self._has_ended(launch)]

    def clear(self) -> None:
        """Forget all that wait."""
        self._fifo.clear()
        self._heap.clear()
        self.queued = self._dropped = 0

    def _skip(self) -> None:
        """Take out what has ended, as far as nothing comes before it that has not."""
        while self._dropped:
            heap, fifo = self._heap, self._fifo
            head = fifo[0] if fifo and (not heap or fifo[0].key < heap[0][0]) else heap[0][1]
            if not self._has_ended(head):
                return
            self._take()
            self._dropped -= 1

    def _take(self) -> None:
        heap, fifo = self._heap, self._fifo
        if fifo and (not heap or fifo[0].key < heap[0][0]):
            fifo.popleft()
        else:
            heappop(heap)

    def _has_ended(self, launch: Launch) -> bool:
        if launch.units is None or launch.count == 1:
            return not launch.left
        return launch.has_settled(launch.rank(self.number))
