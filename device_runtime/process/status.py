"""The page on which each core writes how far it has come, readable by others and after its death.

A core counts the works it was sent, from 0, and marks one as begun just before
user code runs. The mark is in shared memory, so it survives a SIGKILL and tells
whether the shard may have had effects. It is a single word, so nobody reads
half of it.
"""

from __future__ import annotations

import mmap
import os

_SLOT = 8  # words a core, 64 bytes: one cache line, so that cores do not disturb each other
_PROGRESS, _ARRIVED = 0, 1  # words of a slot


class StatusPage:
    """One slot for each core."""

    def __init__(self, descriptor: int, units: int) -> None:
        size = max(units * _SLOT * 8, mmap.PAGESIZE)
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._words = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    def arrive(self, unit: int) -> None:
        """Mark that a core waits for its first work."""
        self._words[unit * _SLOT + _ARRIVED] = 1

    def arrived(self, unit: int) -> bool:
        """Tell whether a core has come so far as to wait for works."""
        return bool(self._words[unit * _SLOT + _ARRIVED])

    def clear(self, unit: int) -> None:
        """Wipe off what a core has marked that is dead now."""
        self._words[unit * _SLOT + _ARRIVED] = self._words[unit * _SLOT + _PROGRESS] = 0

    def begin(self, unit: int, work: int) -> None:
        """Mark a work as begun."""
        self._words[unit * _SLOT + _PROGRESS] = 2 * work + 1

    def end(self, unit: int, work: int) -> None:
        """Mark a work as ended; its outcome must have been sent."""
        self._words[unit * _SLOT + _PROGRESS] = 2 * work + 2

    def begun(self, unit: int) -> int | None:
        """Return the work that has begun and not ended."""
        word = self._words[unit * _SLOT + _PROGRESS]
        return word >> 1 if word & 1 else None

    def is_past(self, unit: int, work: int) -> bool:
        """Tell whether a work has ended."""
        return self._words[unit * _SLOT + _PROGRESS] > 2 * work + 1
