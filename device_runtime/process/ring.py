"""A ring in shared memory: records from one process to another, in order, without a system call.

One process writes and one reads. What makes it sound is that the writer's
stores become visible in the order they were made: the record first, then the
word that says how far the ring is written. x86-64 promises that; elsewhere
rings are not used.
"""

from __future__ import annotations

import mmap
import os

SIZE = 1 << 16  # bytes of records that a ring holds
_SKIP = 1 << 63  # in the place of a record's size: what follows is at the ring's start
_PAGE = mmap.PAGESIZE
AREA = _PAGE + 2 * SIZE  # bytes of the memory that a pair of rings takes
_DOWN, _UP = 0, 16  # words of the first page, each on a cache line of its own
CORE_SLEEPS = 32  # the core must be woken to look at what it is sent
HOST_WANTS, CORE_WANTS = 40, 48  # one side waits for room in its ring


def are_sound() -> bool:
    """Tell whether this processor keeps stores in order."""
    return os.uname().machine in ("x86_64", "AMD64")


class Ring:
    """One direction. The process that writes calls `put`, the one that reads the rest.

    `words[tail]` is how many bytes were ever written, and `words[head]` how
    many were read. The bytes of `data` are as many as a power of two.
    """

    __slots__ = ("_data", "_mask", "_room", "_size", "_sizes", "at", "head", "tail", "words")

    def __init__(self, words: memoryview, first: int, data: memoryview) -> None:
        self.words = words
        self.tail = first
        self.head = first + 8
        self._data = data
        self._size = len(data)
        self._mask = self._size - 1
        self._sizes = data.cast("Q")
        self.at = 0  # how far this process has come
        self._room = self._size  # the writer may go so far without looking at the head

    def put(self, record: bytes) -> bool:
        """Write a record; return False if there is no room for it."""
        at = self.at
        size = len(record)
        place = at & self._mask
        end = place + 8 + size
        after = at + (size + 15 & -8)
        if end > self._size:
            after += self._size - place
        if after > self._room:
            self._room = self.words[self.head] + self._size
            if after > self._room:
                return False
        if end > self._size:
            self._sizes[place >> 3] = _SKIP
            place, end = 0, 8 + size
        self._sizes[place >> 3] = size
        self._data[place + 8 : end] = record
        self.at = after
        self.words[self.tail] = after
        return True

    def put_words(self, first: int, second: int, rest: bytes) -> bool:
        """Write a record of two words and what follows them; return False if `put` has to be asked."""
        at, sizes = self.at, self._sizes
        size = 16 + len(rest)
        place = at & self._mask
        end = place + 8 + size
        after = at + (size + 15 & -8)
        if end > self._size or after > self._room:
            return False
        index = place >> 3
        sizes[index] = size
        sizes[index + 1] = first
        sizes[index + 2] = second
        self._data[place + 24 : end] = rest
        self.at = self.words[self.tail] = after
        return True

    def ready(self) -> bool:
        """Tell whether there is a record to read."""
        return bool(self.words[self.tail] != self.at)

    def kind(self) -> int:
        """Return the first byte of the next record, -1 if there is none."""
        at = self.at
        if self.words[self.tail] == at:
            return -1
        place = at & self._mask
        return self._data[8 if self._sizes[place >> 3] == _SKIP else place + 8]

    def get_behind(self, first: int, skipped: int) -> bytes | None:
        """Take out the next record if it begins with this word; return it without so many bytes of it.

        Return None, with nothing done, for any other one, and for one at the ring's start.
        """
        at, sizes = self.at, self._sizes
        if self.words[self.tail] == at:
            return None
        place = at & self._mask
        index = place >> 3
        size = sizes[index]
        if not 8 <= size < _SKIP or sizes[index + 1] != first:
            return None
        rest = bytes(self._data[place + 8 + skipped : place + 8 + size])
        self.at = self.words[self.head] = at + (size + 15 & -8)
        return rest

    def get(self) -> bytes | None:
        """Take out the next record, None if there is none."""
        at = self.at
        if self.words[self.tail] == at:
            return None
        place = at & self._mask
        size = self._sizes[place >> 3]
        if size == _SKIP:
            at += self._size - place
            place, size = 0, self._sizes[0]
        record = bytes(self._data[place + 8 : place + 8 + size])
        self.at = at = at + (size + 15 & -8)
        self.words[self.head] = at
        return record


class Rings:
    """The memory of the rings between host and one core, and of words for what each tells the other."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.words = self._memory[:_PAGE].cast("Q")

    def clear(self) -> None:
        """Empty both rings, for a new core: nobody may use them meanwhile."""
        for word in (_DOWN, _DOWN + 8, _UP, _UP + 8, CORE_SLEEPS, HOST_WANTS, CORE_WANTS):
            self.words[word] = 0

    def down(self) -> Ring:
        """Return this process's side of the empty ring from host to core."""
        return Ring(self.words, _DOWN, self._memory[_PAGE : _PAGE + SIZE])

    def up(self) -> Ring:
        """Return this process's side of the empty ring from core to host."""
        return Ring(self.words, _UP, self._memory[_PAGE + SIZE : AREA])
