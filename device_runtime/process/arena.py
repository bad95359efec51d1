"""Memory that a host and a core share: written by one side, read by the other.

Touching fresh shared memory costs nine times a copy, so blocks are kept and
used again, the last one freed first. The memory is an anonymous file passed
as a descriptor: it has no name that another user could open or that could be
left behind. The file is sparse. Each size class has a range of addresses of
its own, so that giving out a block needs no lock: it is one atomic `pop` of
the free list, or one atomic `next` of a counter.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import weakref
from collections import deque
from typing import Any

from device_runtime.errors import DeviceMemoryError, ForkedHandleError
from device_runtime.interrupts import uninterrupted
from device_runtime.launch import Buffer, view_of

SMALL = 8192  # bytes; what is smaller travels inside messages
_SMALLEST = 14  # log2 of the smallest block
_RANGE = 38  # log2 of the addresses of one class
_WINDOW = 1 << 26  # bytes mapped at once, at least
_KEEP = 1 << 30  # bytes of free blocks that stay in memory


def _class_of(nbytes: int) -> int:
    """Return the size class of a block: four classes to each power of two."""
    scaled = max(nbytes - 1, (1 << _SMALLEST) - 1)
    power = scaled.bit_length() - 1
    return (power - _SMALLEST) * 4 + (scaled >> (power - 2)) - 3


def _size_of(kind: int) -> int:
    """Return the size of the blocks of a class."""
    return (4 + kind % 4) << (_SMALLEST + kind // 4 - 2)


def create() -> int:
    """Make the anonymous file of an arena and return its descriptor."""
    return os.memfd_create("offload", os.MFD_CLOEXEC)


class _Mapping:
    """An arena's file in this process's memory, mapped where it is first used."""

    def __init__(self, descriptor: int, writable: bool) -> None:
        self._descriptor = descriptor
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._windows: dict[int, mmap.mmap] = {}

    def locate(self, offset: int) -> tuple[mmap.mmap, int]:
        """Return the memory that holds the block at `offset`, and where in it the block begins.

        Raises DeviceMemoryError where the process may have no more addresses.
        """
        size = _size_of(offset >> _RANGE)
        window = size * max(1, _WINDOW // size)
        base = offset & ~((1 << _RANGE) - 1)
        start = base + (offset - base) // window * window
        found = self._windows.get(start)
        if found is None:
            try:
                made = mmap.mmap(self._descriptor, window, offset=start, access=self._access)
            except OSError as error:
                raise DeviceMemoryError(
                    f"{window:,} bytes of memory that host and cores share cannot be mapped: "
                    f"{error.strerror}; the limit may be the process's own (ulimit -v)"
                ) from error
            # Another thread may map the same window at once; one of the two is kept.
            found = self._windows.setdefault(start, made)
        return found, offset - start


class Block:
    """One piece of an arena; free again when the last reference to it goes."""

    __slots__ = ("_free", "nbytes", "offset", "view")

    def __init__(self, offset: int, nbytes: int, view: memoryview, free: deque[int]) -> None:
        self.offset = offset
        self.nbytes = nbytes
        self.view = view
        self._free = free

    @uninterrupted
    def __del__(self) -> None:
        # Runs in whichever thread, and in the middle of anything: so it takes no lock.
        self._free.append(self.offset)


class Arena:
    """The writing side: gives out blocks. Any thread may call it."""

    def __init__(self, descriptor: int) -> None:
        os.ftruncate(descriptor, (_class_of(1 << (_RANGE - 1)) + 1) << _RANGE)
        self._memory = _Mapping(descriptor, writable=True)
        self._freed: deque[int] = deque()
        self._free: dict[int, list[int]] = {}
        self._fresh: dict[int, itertools.count[int]] = {}
        self._kept = 0  # bytes of free blocks; an estimate, for it is changed without a lock
        self._abandoned = False

    def abandon(self) -> None:
        """Give out no more blocks: in a forked child, which shares the memory but not the account of it."""
        self._abandoned = True

    def store(self, data: memoryview) -> Block:
        """Copy bytes into a block.

        Raises DeviceMemoryError if there is not that much memory.
        """
        block = self.allocate(data.nbytes)
        copy(data, block.view)
        return block

    def allocate(self, nbytes: int) -> Block:
        """Return a block of at least one byte.

        Raises ForkedHandleError after `abandon`.
        """
        if self._abandoned:
            raise ForkedHandleError(
                "this process was forked from the one that opened the device; only that one can use it"
            )
        self._recycle()
        kind = _class_of(nbytes)
        size = _size_of(kind)
        if size > 1 << (_RANGE - 1):
            raise DeviceMemoryError(
                f"{nbytes:,} bytes are more than one array may have ({1 << (_RANGE - 1):,})"
            )
        try:
            offset = self._free.setdefault(kind, []).pop()
            self._kept -= size
        except IndexError:
            if size > _WINDOW:
                _check_memory(nbytes)
            offset = (kind << _RANGE) + next(self._fresh.setdefault(kind, itertools.count())) * size
        try:
            memory, start = self._memory.locate(offset)
        except DeviceMemoryError:
            self._free[kind].append(offset)
            self._kept += size
            raise
        return Block(offset, nbytes, memoryview(memory)[start : start + nbytes], self._freed)

    def _recycle(self) -> None:
        while self._freed:
            try:
                offset = self._freed.popleft()
            except IndexError:
                return  # another thread took it
            kind = offset >> _RANGE
            size = _size_of(kind)
            if self._kept + size > _KEEP:
                memory, start = self._memory.locate(offset)
                memory.madvise(mmap.MADV_REMOVE, start, size)
            else:
                self._kept += size
            self._free.setdefault(kind, []).append(offset)


class Reader:
    """The reading side: makes views of blocks, and notes in `returned` those no longer looked at."""

    def __init__(self, descriptor: int, writable: bool) -> None:
        self._memory = _Mapping(descriptor, writable)
        self._leases: dict[int, _Lease] = {}
        self.returned: deque[int] = deque()

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a view of a block; its offset goes to `returned` when nothing refers to the view."""
        import numpy as np  # an exporter of memory that can be watched; nothing else here needs it

        memory, start = self._locate(offset)
        exporter = np.frombuffer(memory, np.uint8, nbytes, start)
        lease = _Lease(exporter, _end)
        lease.reader, lease.offset = self, offset
        self._leases[id(lease)] = lease
        return exporter.data

    def copy(self, offset: int, nbytes: int) -> bytes:
        """Return a copy of a block's bytes, and note the block as returned."""
        memory, start = self._locate(offset)
        data = memory[start : start + nbytes]
        self.returned.append(offset)
        return data

    def _locate(self, offset: int) -> tuple[mmap.mmap, int]:
        try:
            return self._memory.locate(offset)
        except DeviceMemoryError:
            self.returned.append(offset)  # it cannot be looked at, ever
            raise


class _Lease(weakref.ref[Any]):
    """Refers to what a view of a block is kept alive by."""

    __slots__ = ("offset", "reader")
    reader: Reader
    offset: int


@uninterrupted
def _end(lease: _Lease) -> None:
    """Note that a block is no longer looked at."""
    del lease.reader._leases[id(lease)]
    lease.reader.returned.append(lease.offset)


class Viewed:
    """A block of the other side's arena, as a buffer of a payload."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view


def copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes; with NumPy loaded, other threads run meanwhile."""
    np = sys.modules.get("numpy")
    if np is None or source.nbytes < SMALL:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def place(arena: Arena, data: memoryview) -> Buffer:
    """Copy bytes to where the other side can read them: a block, or the message if they are few."""
    return bytes(data) if data.nbytes < SMALL else arena.store(data)


def on_wire(buffer: Buffer) -> bytes | tuple[int, int]:
    """Return what a message says of a buffer: its bytes, or offset and size of its block."""
    if isinstance(buffer, Block):
        return buffer.offset, buffer.nbytes
    return buffer if isinstance(buffer, bytes) else bytes(view_of(buffer))


def _check_memory(nbytes: int) -> None:
    """Refuse what would make the kernel kill processes: it gives no error of its own."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as file:
            available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass  # free pages are the lower estimate
    if nbytes > available:
        raise DeviceMemoryError(
            f"{nbytes:,} bytes do not fit in memory: {available:,} bytes are available on this machine"
        )
