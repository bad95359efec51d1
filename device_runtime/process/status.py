"""The page on which each core writes what it runs, readable after its death.

A core marks a shard as begun just before user code runs. The mark is in shared
memory, so it survives a SIGKILL and tells whether the shard may have had effects.
"""

from __future__ import annotations

import mmap
import os
import struct

from device_runtime.launch import ShardId

_SLOT = 64  # bytes a core; one cache line, so that cores do not disturb each other
_SHARD = struct.Struct("<QQQ")
_MARK = struct.Struct("<Q")
_ARRIVED = 32  # where in a slot a core marks that it lives


class StatusPage:
    """One slot for each core."""

    def __init__(self, descriptor: int, units: int) -> None:
        size = max(units * _SLOT, mmap.PAGESIZE)
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)

    def arrive(self, unit: int) -> None:
        """Mark that a core waits for its first shard."""
        _MARK.pack_into(self._memory, unit * _SLOT + _ARRIVED, 1)

    def arrived(self, unit: int) -> bool:
        """Tell whether a core has come so far as to wait for shards."""
        return bool(_MARK.unpack_from(self._memory, unit * _SLOT + _ARRIVED)[0])

    def clear(self, unit: int) -> None:
        """Wipe off what a core has marked that is dead now."""
        _MARK.pack_into(self._memory, unit * _SLOT + _ARRIVED, 0)
        self.end(unit)

    def begin(self, unit: int, shard: ShardId) -> None:
        """Mark a shard as begun."""
        _SHARD.pack_into(self._memory, unit * _SLOT + 8, *shard)
        _MARK.pack_into(self._memory, unit * _SLOT, 1)

    def end(self, unit: int) -> None:
        """Mark that no shard runs."""
        _MARK.pack_into(self._memory, unit * _SLOT, 0)

    def begun(self, unit: int) -> ShardId | None:
        """Return the shard that is marked as begun."""
        if not _MARK.unpack_from(self._memory, unit * _SLOT)[0]:
            return None
        return ShardId(*_SHARD.unpack_from(self._memory, unit * _SLOT + 8))
