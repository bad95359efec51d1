"""The reading side of an arena: views of blocks that the other side has written."""

from __future__ import annotations

import mmap
import time
import weakref
from collections import deque
from typing import Any

from device_runtime.errors import DeviceMemoryError
from device_runtime.interrupts import uninterrupted
from device_runtime.process.janitor import IDLE, Janitor
from device_runtime.process.mapping import Mapping, kind_at, size_of

LARGE = 1 << 18  # bytes of a block that is worth giving back by itself
MANY = 64  # blocks that are worth giving back together


class Reader:
    """The reading side: makes views of blocks, and notes in `returned` those no longer looked at."""

    def __init__(self, descriptor: int, writable: bool, janitor: Janitor | None = None) -> None:
        self.returned: deque[int] = deque()
        self.janitor = janitor
        self._memory = Mapping(descriptor, writable)
        self._leases: dict[int, _Lease] = {}
        self._bare: set[int] = set()  # those in `returned` whose memory was given back
        self._seen: set[int] = set()  # all that were looked at
        self._looked = 0.0  # when the last view was made
        if janitor is not None:
            janitor.watch(self)

    @property
    def lent(self) -> bool:
        """Tell whether there are views."""
        return bool(self._leases)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a view of a block; its offset goes to `returned` when nothing refers to the view."""
        import numpy as np  # an exporter of memory that can be watched; nothing else here needs it

        memory, start = self._locate(offset)
        exporter = np.frombuffer(memory, np.uint8, nbytes, start)
        lease = _Lease(exporter, _end)
        lease.reader, lease.offset, lease.large = self, offset, nbytes >= LARGE
        self._leases[id(lease)] = lease
        self._looked = time.monotonic()
        if self.janitor is not None:
            self._seen.add(offset)
            self._bare.discard(offset)
            if lease.large:
                self.janitor.start()
        return exporter.data

    def copy(self, offset: int, nbytes: int) -> bytes:
        """Return a copy of a block's bytes, and note the block as returned."""
        memory, start = self._locate(offset)
        data = memory[start : start + nbytes]
        self.returned.append(offset)
        self._bare.discard(offset)
        return data

    def trim(self, idle: float = IDLE) -> float | None:
        """Give back the memory of what was returned a while ago, and not sent for since."""
        waiting = len(self.returned)
        if not waiting:
            return None
        if time.monotonic() - self._looked < idle:
            return idle
        for _ in range(waiting):
            try:
                offset = self.returned.popleft()  # until it is back there, nobody else has it
            except IndexError:
                break
            if offset not in self._bare:
                try:
                    self._memory.give_up(offset, size_of(kind_at(offset)))
                except (OSError, DeviceMemoryError):
                    pass
                self._bare.add(offset)
            self.returned.append(offset)
        return None

    def close(self) -> None:
        """Take back all that nobody looks at: the writer is gone."""
        self.returned.extend(self._seen - {lease.offset for lease in list(self._leases.values())})
        if self.janitor is not None:
            self.janitor.ring()

    def _locate(self, offset: int) -> tuple[mmap.mmap, int]:
        try:
            return self._memory.locate(offset)
        except DeviceMemoryError:
            self.returned.append(offset)  # it cannot be looked at, ever
            raise


class _Lease(weakref.ref[Any]):
    """Refers to what a view of a block is kept alive by."""

    __slots__ = ("large", "offset", "reader")
    reader: Reader
    offset: int
    large: bool


@uninterrupted
def _end(lease: _Lease) -> None:
    """Note that a block is no longer looked at."""
    reader = lease.reader
    del reader._leases[id(lease)]
    reader.returned.append(lease.offset)
    janitor = reader.janitor
    if janitor is not None:
        last = janitor.closed and not reader._leases  # then its thread has nothing more to wait for
        if lease.large or last or len(reader.returned) > MANY:
            janitor.ring()


class Viewed:
    """A block of the other side's arena, as a buffer of a payload."""

    lasting = True  # the view keeps the block, also without this object
    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view
