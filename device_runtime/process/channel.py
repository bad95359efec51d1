"""The way between host and core: records, in order, both ways.

Where the processor keeps stores in order, records go through rings in shared
memory; a socket beside them is a bell that wakes the other side, and tells by
its end that there is no other side any more. Elsewhere the socket carries the
records, several in a packet.

Who wants to sleep marks that, and looks once more. Who has written something
looks for the mark. Between the two steps either one has a *fence*: else both
could see what was there before, and the one would sleep on what the other
wrote. Taking and releasing a lock is one.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque

from device_runtime.process.quick import hear_bell, ring_bell
from device_runtime.process.ring import Ring

LARGEST = 32_000  # bytes of a record
_PACKET = 1 << 16  # bytes of a packet, at most
_SIZE = struct.Struct("<I")


NOT, NOW, SOON = range(3)  # whether a side is to be woken: for any record, or not for one that others follow


class Mark:
    """A word in shared memory that one side sets and the other side sees."""

    __slots__ = ("index", "words")

    def __init__(self, words: memoryview, index: int) -> None:
        self.words = words
        self.index = index

    def set(self, value: int) -> None:
        self.words[self.index] = value

    def taken(self) -> bool:
        """Tell whether it is set, and wipe it off."""
        if not self.words[self.index]:
            return False
        self.words[self.index] = 0
        return True


class Channel(ABC):
    """One end of the way."""

    polled = False  # the socket must be watched for room in it

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.backlog: deque[bytes] = deque()  # records there was no room for
        self.ended = False  # the other side is no more

    def fileno(self) -> int:
        return self._end.fileno()

    @abstractmethod
    def put(self, record: bytes) -> None:
        """Take a record to be sent; `flush` must follow, once for any number of them."""

    def post(self, record: bytes, followed: bool = False) -> bool:
        """Put and flush a record; tell whether the other side is known to have been asleep.

        `followed`: others are expected to follow soon, and the other side may be left to sleep till then.
        """
        self.put(record)
        self.flush()
        return False

    def post_words(self, first: int, second: int, rest: bytes) -> bool | None:
        """Post a record of two words and what follows; None, with nothing done, if `post` is to be asked."""
        return None

    @abstractmethod
    def flush(self) -> bool:
        """Send what can be sent, and wake the other side; return whether all is sent."""

    def wake(self) -> None:
        """Wake the other side, whether it sleeps or not."""

    @abstractmethod
    def take(self) -> bytes | None:
        """Return the next record that came, None if there is none."""

    def take_behind(self, first: int, skipped: int) -> bytes | None:
        """Return the next record without so many bytes, if it begins with a word of eight.

        None, with nothing done, where it does not, or that cannot be told.
        """
        return None

    @abstractmethod
    def ready(self) -> bool:
        """Tell whether a record has come, as far as that can be told without a system call."""

    def give_room(self) -> None:
        """Tell the other side that there is room again, if it waits for some."""

    def kind(self) -> int:
        """Return the first byte of the next record, -1 if that cannot be told."""
        return -1

    def wait_for_room(self) -> None:
        """Wait, on a core, until `flush` can go on; it may be in vain."""

    @abstractmethod
    def hear(self) -> None:
        """Take note of the socket's being readable."""

    @abstractmethod
    def arm(self) -> bool:
        """Have the socket become readable with the next record; return False if one is there."""

    @abstractmethod
    def sleep(self) -> None:
        """Wait for a record, or for the end of the other side."""

    def close(self) -> None:
        self.backlog.clear()
        self._end.close()


class RingChannel(Channel):
    """Records go through a pair of rings.

    `asleep` is set by the other side when it sleeps, `sleeps` by this one.
    `wanted` is set by the other side when it waits for room, `wants` by this one.
    A core waits for room at `room`, a bell of its own: any of its threads may,
    while another one sleeps.
    """

    def __init__(
        self,
        end: socket.socket,
        room: int,
        is_host: bool,
        out: Ring,
        into: Ring,
        asleep: Mark,
        sleeps: Mark,
        wanted: Mark,
        wants: Mark,
    ) -> None:
        super().__init__(end)
        self._room = room
        self._is_host = is_host
        self.out = out
        self.into = into
        self.asleep = asleep
        self.sleeps = sleeps
        self._wanted = wanted
        self._wants = wants
        self.fence = threading.Lock()
        self.take = into.get  # type: ignore[method-assign]
        self.ready = into.ready  # type: ignore[method-assign]
        self.kind = into.kind  # type: ignore[method-assign]
        self.take_behind = into.get_behind  # type: ignore[method-assign]

    def put(self, record: bytes) -> None:
        if self.backlog or not self.out.put(record):
            self.backlog.append(record)

    def post(self, record: bytes, followed: bool = False) -> bool:
        if self.backlog or not self.out.put(record):
            self.backlog.append(record)
            self.flush()
            return False
        with self.fence:
            pass
        asleep = self.asleep
        wanted = asleep.words[asleep.index]
        if wanted == NOT or (followed and wanted == SOON):
            return False
        asleep.words[asleep.index] = NOT
        ring_bell(self._end)
        return True

    def post_words(self, first: int, second: int, rest: bytes) -> bool | None:
        if self.backlog or not self.out.put_words(first, second, rest):
            return None
        with self.fence:
            pass
        asleep = self.asleep
        if asleep.words[asleep.index] == NOT:
            return False
        asleep.words[asleep.index] = NOT
        ring_bell(self._end)
        return True

    def flush(self) -> bool:
        backlog = self.backlog
        while backlog:
            if self.out.put(backlog[0]):
                backlog.popleft()
                continue
            self._wants.set(True)
            with self.fence:
                pass
            if not self.out.put(backlog[0]):  # there was none before it could see that we want some
                break
            backlog.popleft()
        with self.fence:
            pass
        if self.asleep.taken():
            ring_bell(self._end)
        return not backlog

    def wake(self) -> None:
        ring_bell(self._end)

    def take(self) -> bytes | None:
        return self.into.get()

    def hear(self) -> None:
        heard = False
        while hear_bell(self._end):
            heard = True
        try:
            if not heard:
                self.ended = not self._end.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True

    def ready(self) -> bool:
        return self.into.ready()

    def give_room(self) -> None:
        if not self._wanted.taken():
            return
        if self._is_host:
            os.eventfd_write(self._room, 1)
        else:
            ring_bell(self._end)

    def wait_for_room(self) -> None:
        os.eventfd_read(self._room)

    def arm(self) -> bool:
        self.sleeps.set(True)
        with self.fence:
            pass
        self.give_room()
        return not self.into.ready()

    def sleep(self) -> None:
        try:
            self.ended = not self._end.recv(16)
        except ConnectionResetError:
            self.ended = True


class SocketChannel(Channel):
    """Records go through the socket, as many in a packet as fit."""

    polled = True

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._came: deque[bytes] = deque()

    def put(self, record: bytes) -> None:
        self.backlog.append(record)

    def flush(self) -> bool:
        backlog = self.backlog
        while backlog:
            pieces, size, count = [], 0, 0
            for record in backlog:
                size += _SIZE.size + len(record)
                if count and size > _PACKET:
                    break
                pieces += [_SIZE.pack(len(record)), record]
                count += 1
            try:
                self._end.send(b"".join(pieces))
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self.ended = True
                backlog.clear()
                return True
            for _ in range(count):
                backlog.popleft()
        return True

    def take(self) -> bytes | None:
        if not self._came:
            self._receive(socket.MSG_DONTWAIT)
        return self._came.popleft() if self._came else None

    def hear(self) -> None:
        """Do nothing: `take` finds what came."""

    def ready(self) -> bool:
        return bool(self._came)

    def arm(self) -> bool:
        return not self._came

    def sleep(self) -> None:
        self._receive(0)

    def _receive(self, flags: int) -> None:
        try:
            packet = self._end.recv(_PACKET + 4096, flags)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self.ended = True
        place = 0
        while place < len(packet):
            (size,) = _SIZE.unpack_from(packet, place)
            place += _SIZE.size
            self._came.append(packet[place : place + size])
            place += size
