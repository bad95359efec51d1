"""Messages from core to core, past the host.

Every core has one inbox, a socket that keeps the bounds of packets; all others
hold its sending end. A packet is a header and a chunk of a message. A core
empties its inbox whenever it waits, also when it waits to send, so that two
cores that send to each other cannot block for ever.

A core that has waited for a while tells the host whom it waits for. The host
knows which shards have ended or died, and answers when nothing can come.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.errors import PeerEnded, SerializationError
from device_runtime.launch import Payload, ShardId, view_of

_HEADER = struct.Struct("<QQHHI")  # launch, size of the message, sender, tag, number of out-of-band buffers
_CHUNK = 60_000  # bytes of a message in one packet
_ALIGN = 64  # bytes; arrays are used where they lie in a message
_GRACE = 2  # ms of waiting before the host is told

_Key = tuple[int, int, int]  # launch, sender, tag


class ProcessMesh:
    """The mesh of one process core.

    `report` tells the host that the running shard waits for a core;
    `channel` becomes readable when the host may have answered, and
    `hear` then takes in what it said.
    """

    def __init__(
        self,
        core: int,
        inbox: socket.socket,
        outs: Sequence[socket.socket],
        channel: int,
        report: Callable[[ShardId, int], None],
        hear: Callable[[], object],
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._outs = outs
        self._report = report
        self._hear = hear
        self._receiving = select.poll()
        self._receiving.register(inbox, select.POLLIN)
        self._receiving.register(channel, select.POLLIN)
        self._shard = ShardId(0, 0)
        self._cores: tuple[int, ...] = ()
        self._queues: dict[_Key, deque[tuple[bytearray, int]]] = {}  # messages, and their numbers of buffers
        self._partial: dict[int, tuple[_Key, bytearray, int]] = {}  # by sender: message, bytes that came
        self._ended: dict[int, str] = {}  # cores of this launch that will send nothing more, and why

    def begin(self, shard: ShardId, cores: tuple[int, ...]) -> None:
        """Start with a new shard; what was sent to earlier ones and not taken is dropped.

        What is for other launches is kept: their shards may be yet to come here.
        """
        self._shard, self._cores, self._ended = shard, cores, {}

    def end(self) -> None:
        """Drop what was sent to this shard and not taken."""
        if self._queues:
            launch = self._shard.launch
            self._queues = {key: queue for key, queue in self._queues.items() if key[0] != launch}
        self._shard = ShardId(0, 0)

    def notice(self, shard: ShardId, core: int, why: str) -> None:
        """Take down the host's word that a core will send nothing more."""
        if shard == self._shard:
            self._ended[core] = why

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        self._check(core)
        pieces, count = _pieces(value)
        key = (self._shard.launch, self._core, tag)
        if core == self._core:
            message = bytearray().join(pieces)
            self._queues.setdefault(key, deque()).append((message, count))
            return
        total = sum(piece.nbytes for piece in pieces)
        header = _HEADER.pack(self._shard.launch, total, self._core, tag, count)
        for chunk in _chunks(pieces):
            self._send(core, [header, *chunk])

    def get(self, core: int, tag: int = 0) -> Any:
        self._check(core)
        key = (self._shard.launch, core, tag)
        self._wait(core, self._receiving, lambda: bool(self._queues.get(key)))
        queue = self._queues[key]
        message, count = queue.popleft()
        if not queue:
            del self._queues[key]
        return _load(message, count)

    def probe(self, core: int, tag: int = 0) -> bool:
        self._check(core)
        self._drain()
        return bool(self._queues.get((self._shard.launch, core, tag)))

    def _check(self, core: int) -> None:
        if core not in self._cores:
            raise PeerEnded(f"core {core} is not in this launch, which runs on cores {list(self._cores)}")

    def _wait(self, core: int, poll: select.poll, ready: Callable[[], bool]) -> None:
        """Take in packets until `ready()`; raise PeerEnded once the host says it never will be."""
        grace: int | None = _GRACE
        while True:
            # What the core sent before its end is in the inbox when the host says that it ended.
            why = self._ended.get(core)
            self._drain()
            if ready():
                return
            if core == self._core:
                raise PeerEnded(f"core {core} waits for itself, and has sent itself nothing")
            if why is not None:
                raise PeerEnded(f"core {self._core} waits for core {core} in vain: {why}")
            if not poll.poll(grace) and grace is not None:
                self._report(self._shard, core)
                grace = None
            self._hear()

    def _send(self, core: int, packet: list[Any]) -> None:
        out = self._outs[core]
        try:
            out.sendmsg(packet, (), socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            pass
        either = select.poll()
        either.register(self._inbox, select.POLLIN)
        either.register(out, select.POLLOUT)

        def sent() -> bool:
            try:
                out.sendmsg(packet, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            return True

        self._wait(core, either, sent)

    def _drain(self) -> None:
        """Take in the packets that are there."""
        while True:
            try:
                packet = self._inbox.recv(_HEADER.size + _CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            launch, total, sender, tag, count = _HEADER.unpack_from(packet)
            key = (launch, sender, tag)
            chunk = memoryview(packet)[_HEADER.size :]
            begun = self._partial.pop(sender, None)
            if begun is None or begun[0] != key:  # a sender that died leaves a message unfinished
                begun = (key, bytearray(total), 0)
            _, message, filled = begun
            message[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            if filled < total:
                self._partial[sender] = (key, message, filled)
            else:
                self._queues.setdefault(key, deque()).append((message, count))


class _Part(NamedTuple):
    """A part of a message where it lies, as the codec takes it."""

    view: memoryview


def _pieces(value: Any) -> tuple[list[memoryview], int]:
    """Return a message: a table of sizes, a pickle and its buffers, each but the table aligned."""
    payload = codec.encode(value, _Part, error=SerializationError)
    parts = [view_of(part) for part in (payload.data, *payload.buffers)]
    pieces = [memoryview(struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts)))]
    for part in parts:
        pieces += [memoryview(bytes(-pieces[-1].nbytes % _ALIGN)), part]
    return [piece for piece in pieces if piece.nbytes], len(payload.buffers)


def _chunks(pieces: list[memoryview]) -> Iterator[list[memoryview]]:
    """Cut a message into lists of pieces of at most one packet's size."""
    chunk: list[memoryview] = []
    room = _CHUNK
    for piece in pieces:
        while piece.nbytes > room:
            yield [*chunk, piece[:room]]
            piece, chunk, room = piece[room:], [], _CHUNK
        chunk.append(piece)
        room -= piece.nbytes
    yield chunk


def _load(message: bytearray, count: int) -> Any:
    """Rebuild a value; its arrays use the message's memory and may be written to."""
    whole = memoryview(message)
    sizes = struct.unpack_from(f"<{count + 1}Q", message)
    start = 8 * (count + 1)
    parts = []
    for size in sizes:
        start += -start % _ALIGN
        parts.append(_Part(whole[start : start + size]))
        start += size
    return codec.decode(Payload(parts[0], tuple(parts[1:])), writable=True, error=SerializationError)
