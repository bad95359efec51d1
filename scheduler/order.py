"""Give launches their places in the order in which units take shards.

A launch's place is its key; the smallest key comes first. Naturally that is its
priority, then when it came. But it goes behind what it depends on, behind the
queued launches of its own priority, and behind any launch that has begun in
part: that one holds units, and if this one held others that it waits for,
neither could end. So the key is made of the shortest beginning of the largest
such key that still sorts behind it.
"""

from __future__ import annotations

import itertools

from scheduler.units import Key, Launch


class Order:
    """Keep what the places of new launches depend on."""

    __slots__ = ("_counts", "_frontier", "_levels", "_partial")

    def __init__(self) -> None:
        self._counts = itertools.count(1)
        self._partial: set[int] = set()  # launches with shards sent and shards unsent
        self._frontier: Key = ()  # the largest key among them since there last were none
        self._levels: dict[int, tuple[int, Key]] = {}  # by priority: launches with a key, the last key

    def enter(self, launch: Launch, bound: Key) -> None:
        """Give a launch its key, behind `bound`."""
        entered, last = self._levels.get(launch.priority, (0, ()))
        bound = max(bound, self._frontier, last)
        own = (-launch.priority, next(self._counts))
        key: Key = own
        while key <= bound:
            key = bound[: len(key)] + own
        launch.key = key
        self._levels[launch.priority] = (entered + 1, key)

    def mark(self, launch: Launch) -> None:
        """Note whether a launch has begun in part: some of its shards sent, and some not."""
        if launch.key and launch.begun and launch.unsent:
            self._partial.add(launch.number)
            self._frontier = max(self._frontier, launch.key)
        else:
            self._end_part(launch)

    def leave(self, launch: Launch) -> None:
        """Forget a launch that has ended."""
        self._end_part(launch)
        if launch.key:
            entered, last = self._levels[launch.priority]
            if entered == 1:
                del self._levels[launch.priority]
            else:
                self._levels[launch.priority] = (entered - 1, last)

    def _end_part(self, launch: Launch) -> None:
        self._partial.discard(launch.number)
        if not self._partial:
            self._frontier = ()
