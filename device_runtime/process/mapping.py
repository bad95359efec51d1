"""The file of an arena: how it is divided into blocks, and how it gets into a process's memory.

The file is anonymous and passed as a descriptor: it has no name that another
user could open or that could be left behind. It is sparse. Each size class of
blocks has a range of addresses of its own.
"""

from __future__ import annotations

import mmap
import os
import sys

from device_runtime.errors import DeviceMemoryError

WINDOW = 1 << 26  # bytes mapped at once, at least
_SMALLEST = 14  # log2 of the smallest block
_RANGE = 38  # log2 of the addresses of one class
LARGEST = 1 << (_RANGE - 1)  # bytes of the largest block
_POPULATE_READ = 22  # MADV_POPULATE_READ, from 5.14 on: many pages at once, and they can be written to
_SOON = 1 << 16  # bytes that are worth mapping at once
_RELEASING = 1 << 15  # bytes from which on a copy lets other threads run


def class_of(nbytes: int) -> int:
    """Return the size class of a block: four classes to each power of two."""
    scaled = max(nbytes - 1, (1 << _SMALLEST) - 1)
    power = scaled.bit_length() - 1
    return (power - _SMALLEST) * 4 + (scaled >> (power - 2)) - 3


def size_of(kind: int) -> int:
    """Return the size of the blocks of a class."""
    return (4 + kind % 4) << (_SMALLEST + kind // 4 - 2)


def kind_at(offset: int) -> int:
    """Return the class of the block at an offset."""
    return (offset >> _RANGE) - 1


def offset_of(kind: int, index: int) -> int:
    """Return where a class's block of this index begins; no block begins at 0."""
    return ((kind + 1) << _RANGE) + index * size_of(kind)


def create() -> int:
    """Make the anonymous file of an arena and return its descriptor."""
    return os.memfd_create("offload", os.MFD_CLOEXEC)


def whole_pages(nbytes: int) -> int:
    """Return the size of the pages that so many bytes take."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes; if they are many and NumPy is loaded, other threads run meanwhile."""
    np = sys.modules.get("numpy")
    if np is None or source.nbytes < _RELEASING:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


class Mapping:
    """An arena's file in this process's memory, mapped where it is first used."""

    def __init__(self, descriptor: int, writable: bool) -> None:
        self._descriptor = descriptor
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._windows: dict[int, mmap.mmap] = {}
        self._unmapped: dict[int, int] = {}  # by offset of a block: from where on it was not touched here

    def make_room(self) -> None:
        """Give the file its size, of which nothing takes memory yet."""
        os.ftruncate(self._descriptor, (class_of(LARGEST) + 2) << _RANGE)

    def locate(self, offset: int) -> tuple[mmap.mmap, int]:
        """Return the memory that holds the block at `offset`, and where in it the block begins.

        Raises DeviceMemoryError where the process may have no more addresses.
        """
        size = size_of(kind_at(offset))
        window = size * max(1, WINDOW // size)
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

    def write(self, offset: int, data: memoryview, begin: int) -> None:
        """Write bytes from `begin` on to a block that has no memory there.

        It takes half as long as touching it, and lack of memory is an OSError, not a SIGBUS.
        """
        if data.nbytes - begin > _SOON:
            self._unmapped[offset] = begin // mmap.PAGESIZE * mmap.PAGESIZE
        while begin < data.nbytes:
            begin += os.pwrite(self._descriptor, data[begin:], offset + begin)

    def populate(self, offset: int, nbytes: int) -> None:
        """Map at once what `write` wrote to a block, before it is written to again."""
        begin = self._unmapped.pop(offset, nbytes)
        if begin < nbytes:
            memory, start = self.locate(offset)
            try:
                memory.madvise(_POPULATE_READ, start + begin, nbytes - begin)
            except OSError:
                pass  # it is mapped page by page, then

    def give_up(self, offset: int, nbytes: int) -> None:
        """Give back the memory of whole pages.

        Raises OSError where they are locked in memory (`mlockall`).
        """
        memory, start = self.locate(offset)
        memory.madvise(mmap.MADV_REMOVE, start, nbytes)
