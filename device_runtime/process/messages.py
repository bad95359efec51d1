"""What cores send each other: values made into messages, cut into chunks, and put in order again."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.errors import SerializationError
from device_runtime.launch import Payload, view_of

CHUNK = 60_000  # bytes of a message in one packet
# Instead of the number of buffers: the message is all the codec has made of the value, plain or not.
_PLAIN, _WHOLE = 0xFFFF_FFFF, 0xFFFF_FFFE
_ALIGN = 64  # bytes; arrays are used where they lie in a message


class Message(NamedTuple):
    """A value on its way, whole."""

    data: bytes | bytearray
    buffers: int  # how many, _PLAIN or _WHOLE
    tag: int


def message_of(chunk: bytes | memoryview, buffers: int, tag: int) -> Message:
    """Return a message that came in one piece."""
    return Message(bytes(chunk) if buffers >= _WHOLE else bytearray(chunk), buffers, tag)


class Peer:
    """What this core and another have exchanged in the running shard."""

    def __init__(self) -> None:
        self.asked = False  # the host will tell when its shard has ended
        self.ended = ""  # why it will send and take nothing more
        self.missed = 0  # ns: since when a probe has found nothing from it
        self.sent = 0  # messages to it
        self.restart(0)

    def restart(self, attempt: int) -> None:
        """Forget what came: an attempt sends all of it again."""
        self.attempt = attempt
        self.queues: dict[int, deque[Message]] = {}  # by tag
        self.partial: bytearray | None = None  # a message of which a part came
        self._next = 0  # the number of the next message
        self._early: dict[int, Message] = {}  # by number: those that came before it

    def add(self, number: int, message: Message) -> None:
        """Take in a whole message."""
        if number != self._next:
            self._early[number] = message
            return
        found: Message | None = message
        while found is not None:
            self.queues.setdefault(found.tag, deque()).append(found)
            self._next += 1
            found = self._early.pop(self._next, None)


class _Part(NamedTuple):
    """A part of a message where it lies, as the codec takes it."""

    view: memoryview


def pieces_of(value: Any) -> tuple[list[Any], int]:
    """Return a message, and the number of its buffers.

    Where there are buffers, it is a table of sizes, a pickle and the buffers, each but the table aligned.
    """
    payload = codec.encode(value, _Part, error=SerializationError)
    if isinstance(payload, bytes):
        return [payload], _PLAIN
    assert isinstance(payload, Payload)
    if isinstance(payload.data, bytes) and not payload.buffers:
        return [payload.data], _WHOLE
    parts = [view_of(part) for part in (payload.data, *payload.buffers)]
    pieces = [memoryview(struct.pack(f"<{len(parts)}Q", *[part.nbytes for part in parts]))]
    for part in parts:
        pieces += [memoryview(bytes(-pieces[-1].nbytes % _ALIGN)), part]
    return [piece for piece in pieces if piece.nbytes], len(payload.buffers)


def chunks_of(pieces: list[memoryview]) -> Iterator[list[memoryview]]:
    """Cut a message into lists of pieces of at most one packet's size."""
    chunk: list[memoryview] = []
    room = CHUNK
    for piece in pieces:
        while piece.nbytes > room:
            yield [*chunk, piece[:room]]
            piece, chunk, room = piece[room:], [], CHUNK
        chunk.append(piece)
        room -= piece.nbytes
    yield chunk


def load(message: Message) -> Any:
    """Rebuild a value; its arrays use the message's memory and may be written to."""
    if message.buffers >= _WHOLE:
        data = bytes(message.data)
        return codec.decode(
            data if message.buffers == _PLAIN else Payload(data), writable=True, error=SerializationError
        )
    whole = memoryview(message.data)
    sizes = struct.unpack_from(f"<{message.buffers + 1}Q", whole)
    start = 8 * len(sizes)
    parts = []
    for size in sizes:
        start += -start % _ALIGN
        parts.append(_Part(whole[start : start + size]))
        start += size
    return codec.decode(Payload(parts[0], tuple(parts[1:])), writable=True, error=SerializationError)
