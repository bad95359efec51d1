"""Memory that a host and a core share: written by one side, read by the other.

Memory that was never touched costs several times a copy, so blocks are kept
and used again, the last one freed first; what was free for a second is given
back. Giving out a block that was used before needs no lock: it is one atomic
`pop`. Only the account of how much memory there is has one.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import weakref
from collections import deque

from device_runtime.device import MemoryFull
from device_runtime.errors import DeviceMemoryError, ForkedHandleError
from device_runtime.flat import OUT_OF_BAND
from device_runtime.interrupts import Guard, Shield, uninterrupted
from device_runtime.launch import Buffer, view_of
from device_runtime.process import memory
from device_runtime.process.janitor import IDLE, Janitor
from device_runtime.process.mapping import (
    LARGEST,
    Mapping,
    class_of,
    copy,
    kind_at,
    offset_of,
    size_of,
    whole_pages,
)

FLOOR = 1 << 24  # bytes that are kept all the same
CHECKED = 1 << 26  # bytes for which memory is asked whether it has them

# A free block: when it was freed, its offset, how many of its bytes have memory, and all of it.
Free = tuple[float, int, int, memoryview]


class Block:
    """One piece of an arena; free again when the last reference to it goes.

    `touched` is how many of its bytes have memory, from its beginning.
    """

    __slots__ = ("_arena", "_whole", "nbytes", "offset", "touched", "view")

    @uninterrupted
    def __init__(self, arena: Arena, offset: int, nbytes: int, touched: int, whole: memoryview) -> None:
        self._arena = arena
        self._whole = whole
        self.offset = offset
        self.nbytes = nbytes
        self.touched = touched
        self.view = whole[:nbytes]

    @uninterrupted
    def __del__(self) -> None:
        # Runs in whichever thread, and in the middle of anything: so it takes no lock.
        arena, whole = self._arena, self._whole
        arena.free[whole.nbytes].append((time.monotonic(), self.offset, self.touched, whole))
        if arena.resident > FLOOR and arena.janitor is not None:
            arena.janitor.ring()


class Arena:
    """The writing side: gives out blocks. Any thread may call it.

    It takes `bound` bytes of memory at most, but for what cannot wait.
    """

    def __init__(self, descriptor: int, bound: int = sys.maxsize, janitor: Janitor | None = None) -> None:
        self.free: dict[int, deque[Free]] = {}  # by size: blocks that have memory, the last one freed last
        self.resident = 0  # bytes of blocks that have memory, free or not
        self.janitor = janitor
        # Its own: a thread may still be writing when the device is closed, and its number another file's.
        descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, descriptor).atexit = False
        self._memory = Mapping(descriptor, writable=True)
        self._memory.make_room()
        self._account = Guard(inner=True)  # of `resident`
        self._bare: dict[int, list[int]] = {}  # by class: offsets of free blocks without memory
        self._unused: dict[int, itertools.count[int]] = {}  # by class: indices never given out
        self._bound = bound
        self._abandoned = False
        if janitor is not None:
            janitor.watch(self)

    @property
    def lent(self) -> bool:
        """Tell that what is lent here needs no janitor once the device is closed."""
        return False

    def abandon(self) -> None:
        """Give out no more blocks: in a forked child, which shares the memory but not the account of it."""
        self._abandoned = True

    def store(self, data: memoryview, beyond: bool = True) -> Block:
        """Copy bytes, at least one, into a block; `beyond` the bound if need be.

        Raises ForkedHandleError after `abandon`, DeviceMemoryError if there is
        not that much memory, and MemoryFull if there will be.
        """
        if self._abandoned:
            raise ForkedHandleError(
                "this process was forked from the one that opened the device; only that one can use it"
            )
        nbytes = data.nbytes
        kind = class_of(nbytes)
        block = self._take_warm(size_of(kind), nbytes) or self._take_bare(kind, nbytes)
        warm = block.touched
        if warm:
            self._memory.populate(block.offset, warm)
        if warm >= nbytes:
            copy(data, block.view)
            return block
        with Shield():  # Ctrl-C must not part memory from the account of it
            self._reserve(block, nbytes, beyond)
            self._write_bare(block, data, warm)
        if warm:
            copy(data[:warm], block.view[:warm])
        return block

    @uninterrupted
    def _take_warm(self, size: int, nbytes: int) -> Block | None:
        try:
            _, offset, touched, whole = self.free[size].pop()
        except (KeyError, IndexError):
            return None
        return Block(self, offset, nbytes, touched, whole)

    def _take_bare(self, kind: int, nbytes: int) -> Block:
        size = size_of(kind)
        if size > LARGEST:
            raise DeviceMemoryError(f"{nbytes:,} bytes are more than one array may have ({LARGEST:,})")
        self.free.setdefault(size, deque())
        bare = self._bare.setdefault(kind, [])
        with Shield():
            try:
                offset = bare.pop()
            except IndexError:
                offset = offset_of(kind, next(self._unused.setdefault(kind, itertools.count())))
            try:
                memory, start = self._memory.locate(offset)
            except DeviceMemoryError:
                bare.append(offset)
                raise
            return Block(self, offset, nbytes, 0, memoryview(memory)[start : start + size])

    def _reserve(self, block: Block, nbytes: int, beyond: bool) -> None:
        """Enter into the account that a block will have memory for `nbytes`."""
        end = whole_pages(nbytes)
        more = end - block.touched
        if not beyond and end > self._bound:
            raise DeviceMemoryError(
                f"{nbytes:,} bytes are more than host and cores may share ({self._bound:,}); "
                "OFFLOAD_ARENA, such as 4G, sets how much that is"
            )
        if self.resident + more > self._bound:
            self.trim(0.0, self._bound - more)
        if more > CHECKED:
            try:
                memory.check(more)
            except DeviceMemoryError:
                self.trim(0.0, 0)
                memory.check(more)
        with self._account:
            if self.resident + more > self._bound and not beyond:
                raise MemoryFull(
                    f"there is no room for {nbytes:,} bytes: arguments on their way to cores take "
                    f"{self.resident:,} bytes, and may take {self._bound:,}; OFFLOAD_ARENA=4G allows more"
                )
            self.resident += more
        if self.janitor is not None and self.resident > FLOOR:
            self.janitor.start()

    def _write_bare(self, block: Block, data: memoryview, begin: int) -> None:
        """Copy bytes from `begin` on to where a block has no memory yet, all of which is in the account."""
        end = whole_pages(data.nbytes)
        try:
            self._memory.write(block.offset, data, begin)
        except OSError as error:
            block.touched = 0
            self._give_up(block.offset, end)
            raise DeviceMemoryError(
                f"{data.nbytes:,} bytes do not fit in memory: {error.strerror}"
            ) from error
        block.touched = end

    def trim(self, idle: float = IDLE, floor: int = FLOOR) -> float | None:
        """Give back memory beyond `floor` bytes that was free for a while.

        Return in how many seconds to look again, None if there is nothing to look for.
        """
        if self.resident <= floor or self._abandoned:
            return None
        before = time.monotonic() - idle
        left = False
        for size in sorted(self.free, reverse=True):
            free = self.free[size]
            while free and self.resident > floor:
                try:
                    entry = free.popleft()  # the one that has been free for longest
                except IndexError:
                    break
                if entry[0] > before or not self._give_up(entry[1], entry[2]):
                    free.appendleft(entry)
                    left = True
                    break
                self._bare[kind_at(entry[1])].append(entry[1])
        return idle if left else None

    def _give_up(self, offset: int, touched: int) -> bool:
        try:
            self._memory.give_up(offset, touched)
        except OSError:
            return False
        with self._account:
            self.resident -= touched
        return True


def place(arena: Arena, data: memoryview) -> Buffer:
    """Copy bytes to where the other side can read them: a block, or the message if they are few."""
    return bytes(data) if data.nbytes < OUT_OF_BAND else arena.store(data, beyond=False)


def on_wire(buffer: Buffer) -> bytes | tuple[int, int]:
    """Return what a message says of a buffer: its bytes, or offset and size of its block."""
    if isinstance(buffer, Block):
        return buffer.offset, buffer.nbytes
    return buffer if isinstance(buffer, bytes) else bytes(view_of(buffer))
