"""Give launches their places in the order in which units take shards.

A launch's place is its key; the smallest key comes first. Naturally that is its
priority, then when it came. But it goes behind what it depends on, behind the
queued launches of its own priority, and behind any launch that has begun in
part: that one holds units, and if this one held others that it waits for,
neither could end. So the key is made of the shortest beginning of the largest
such key that still sorts behind it.
"""

from __future__ import annotations

from scheduler.launches import Key, Launch

_PRIORITY = 1 << 60  # more than the number of any launch


class Order:
    """Keep what the places of new launches depend on."""

    __slots__ = ("_frontier", "_levels", "_newest", "_partial")

    def __init__(self) -> None:
        self._newest = -1  # the largest number of a launch that has a key
        self._partial: set[int] = set()  # launches with shards sent and shards unsent
        self._frontier: Key = ()  # the largest key among them since there last were none
        # By priority: launches with a key of several numbers, and the last such key. Others grow anyway.
        self._levels: dict[int, tuple[int, Key]] = {}

    def is_plain(self, launch: Launch) -> bool:
        """Tell whether a launch that nothing special is asked of has just its number for a key."""
        return launch.number > self._newest and not (self._frontier or self._levels)

    def enter(self, launch: Launch, bound: Key = ()) -> None:
        """Give a launch its key, behind `bound`."""
        number, extra = launch.number, launch.extra
        if extra is None and not bound and self.is_plain(launch):
            self._newest = number
            launch.key = (number,)
            return
        priority = 0 if extra is None else extra.priority
        own: Key = (number - priority * _PRIORITY,)
        if number > self._newest:
            self._newest = number
        else:  # it has come when it had ended to wait, behind all that came till then
            own = (self._newest - priority * _PRIORITY, number)
        longer, last = self._levels.get(priority, (0, ()))
        bound = max(bound, self._frontier, last)
        launch.key, length = own, 0
        while launch.key <= bound:
            length += 1
            launch.key = bound[:length] + own
        if len(launch.key) > 1:
            self._levels[priority] = (longer + 1, launch.key)

    def mark(self, launch: Launch) -> None:
        """Note whether a launch has begun in part: some of its shards sent, and some not."""
        extra = launch.extra
        if extra is not None and extra.begun and extra.unsent and launch.key:
            self._partial.add(launch.number)
            self._frontier = max(self._frontier, launch.key)
        else:
            self._end_part(launch)

    def leave(self, launch: Launch) -> None:
        """Forget a launch that has ended."""
        if launch.count > 1:
            self._end_part(launch)
        if len(launch.key) > 1:
            priority = 0 if launch.extra is None else launch.extra.priority
            longer, last = self._levels[priority]
            if longer == 1:
                del self._levels[priority]
            else:
                self._levels[priority] = (longer - 1, last)

    def _end_part(self, launch: Launch) -> None:
        self._partial.discard(launch.number)
        if not self._partial:
            self._frontier = ()
