"""Messages from core to core, past the host.

Every core has one inbox, a socket that keeps the bounds of packets; all others
hold its sending end. A packet is a header and a chunk of a message. A core
empties its inbox whenever it waits, also when it waits to send, so that two
cores that send to each other cannot block for ever.

A core is sent nothing before it runs its shard of the launch: the status page
tells. So all that it finds in its inbox is for the shard that it runs, or for
one that is over, and is then dropped. What was sent to a core that died is lost
with it, and nothing else is. Where a shard runs again after that, those that
had exchanged messages with the attempt that died cannot go on: they are told.

A core that has waited for a while tells the host whom it waits for. The host
knows which shards have ended or died, and answers when nothing can come, or
when nobody will take what is sent.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.errors import PeerEnded, SerializationError
from device_runtime.launch import Payload, ShardId, view_of
from device_runtime.process.patience import Patience
from device_runtime.process.status import StatusPage

# Launch, size of the message, place of the chunk in it, number of out-of-band
# buffers, attempts of the receiver and of the sender, sender, tag.
_HEADER = struct.Struct("<QQQIHHHH")
_CALL = _HEADER.pack(0, 0, 0, 0, 0, 0, 0, 0)  # wakes a core that waits, and says nothing
_CHUNK = 60_000  # bytes of a message in one packet
_ALIGN = 64  # bytes; arrays are used where they lie in a message
_GRACE = 2  # ms of waiting before the host is told
_IDLE = ShardId(-1, -1, -1)


class _Peer:
    """What this core and another have exchanged in the running shard."""

    def __init__(self) -> None:
        self.asked = False  # the host will tell when its shard has ended
        self.ended = ""  # why it will send and take nothing more
        self.queues: dict[int, deque[tuple[bytearray, int]]] = {}  # by tag: messages, and numbers of buffers
        self.queued = 0  # the attempt that sent them
        self.partial: bytearray | None = None  # a message of which a part came

    def add(self, tag: int, message: bytearray, buffers: int) -> None:
        self.queues.setdefault(tag, deque()).append((message, buffers))


class ProcessMesh:
    """The mesh of one process core.

    `report` tells the host that the running shard waits for a core;
    `channel` becomes readable when the host may have answered, if `arm`, called
    before, gave True; `hear` then takes in what it said. `patience` says how long to
    look on before sleeping.
    """

    def __init__(
        self,
        core: int,
        inbox: socket.socket,
        outs: Sequence[socket.socket],
        status: StatusPage,
        channel: int,
        report: Callable[[ShardId, int], None],
        arm: Callable[[], bool],
        hear: Callable[[], object],
        patience: Patience,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._outs = outs
        self._status = status
        self._channel = channel
        self._report = report
        self._arm = arm
        self._hear = hear
        self._patience = patience
        self._receiving = self._poll()
        self._shard = _IDLE
        self._cores: tuple[int, ...] = ()
        self._peers: dict[int, _Peer] = {}
        self._met: dict[int, int] = {}  # by core: the attempt with which messages were exchanged

    def begin(self, shard: ShardId, cores: tuple[int, ...]) -> None:
        """Start with a new shard, which is sent nothing before `open`."""
        self._shard, self._cores = shard, cores

    def open(self) -> None:
        """Let others send to the shard, and wake those that wait until they can."""
        launch, _, attempt = self._shard
        self._status.enter(self._core, launch, attempt)
        if len(self._cores) == 1:
            return
        self._drain()  # what is there is for shards that are over
        if self._status.take_awaited(self._core) or attempt:
            for core, out in enumerate(self._outs):
                if core != self._core:
                    try:
                        out.send(_CALL, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        pass  # what fills its inbox will wake it

    def end(self) -> None:
        """Drop what was sent to this shard and not taken."""
        self._shard, self._cores, self._peers, self._met = _IDLE, (), {}, {}

    def notice(self, shard: ShardId, core: int, why: str) -> None:
        """Take down the host's word that a core will send and take nothing more."""
        if shard == self._shard:
            self._peer(core).ended = why

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        peer = self._peer(core)
        pieces, count = _pieces(value)
        if core == self._core:
            peer.add(tag, bytearray().join(pieces), count)
            return
        if core not in self._met:
            self._met[core] = self._meet(core)
        self._check(core)
        launch, _, attempt = self._shard
        met = self._met[core]
        if peer.ended or self._status.attempt(core, launch) is None:
            raise self._in_vain(core, peer.ended or "its shard has ended")
        total, place = sum(piece.nbytes for piece in pieces), 0
        for chunk in _chunks(pieces):
            header = _HEADER.pack(launch, total, place, count, met, attempt, self._core, tag)
            self._send(core, [header, *chunk])
            place += sum(piece.nbytes for piece in chunk)

    def get(self, core: int, tag: int = 0) -> Any:
        peer = self._peer(core)
        self._wait(core, self._receiving, lambda: bool(peer.queues.get(tag)))
        message, count = peer.queues[tag].popleft()
        if core != self._core:
            self._met[core] = peer.queued
        return _load(message, count)

    def probe(self, core: int, tag: int = 0) -> bool:
        peer = self._peer(core)
        self._drain()
        found = bool(peer.queues.get(tag))
        if not found and core in self._met:
            self._check(core)
        return found

    def _peer(self, core: int) -> _Peer:
        if core not in self._cores:
            raise PeerEnded(f"core {core} is not in this launch, which runs on cores {list(self._cores)}")
        peer = self._peers.get(core)
        if peer is None:
            peer = self._peers[core] = _Peer()
        return peer

    def _in_vain(self, core: int, why: str) -> PeerEnded:
        return PeerEnded(f"core {self._core} waits for core {core} in vain: {why}")

    def _check(self, core: int) -> None:
        """Raise PeerEnded if a core runs its shard again since messages were exchanged with it."""
        if self._status.attempt(core, self._shard.launch) not in (self._met[core], None):
            raise self._in_vain(
                core, "it died and runs its shard again, without the messages exchanged so far"
            )

    def _meet(self, core: int) -> int:
        """Wait until a core runs its shard of this launch, and return which attempt at it."""
        found = self._status.attempt(core, self._shard.launch)

        def running() -> bool:
            nonlocal found
            self._status.wait_for(core)
            self._drain()  # between the two, so that each of two cores sees what the other has marked
            found = self._status.attempt(core, self._shard.launch)
            return found is not None

        if found is None:
            self._wait(core, self._receiving, running)
        assert found is not None
        return found

    def _wait(self, core: int, poll: select.poll, ready: Callable[[], bool]) -> None:
        """Take in packets until `ready()`; raise PeerEnded once it never will be."""
        peer = self._peers[core]
        while True:
            # What the core sent before its end is in the inbox when the host says that it ended.
            ended = peer.ended
            self._drain()
            if ready():
                return
            if core == self._core:
                raise PeerEnded(f"core {core} waits for itself, and has sent itself nothing")
            for other in self._met:
                self._check(other)  # it may wait for what is lost, and this core, through others, for it
            if ended:
                raise self._in_vain(core, ended)
            if self._patience.pays() and self._patience.until(partial(poll.poll, 0), os.sched_yield):
                self._hear()
                continue
            if self._arm() and not poll.poll(None if peer.asked else _GRACE) and not peer.asked:
                peer.asked = True
                self._report(self._shard, core)
            self._hear()

    def _poll(self) -> select.poll:
        """Return what wakes a core that waits, for whatever."""
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        return poll

    def _send(self, core: int, packet: list[Any]) -> None:
        out = self._outs[core]
        try:
            out.sendmsg(packet, (), socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            pass
        sending = self._poll()
        sending.register(out, select.POLLOUT)

        def sent() -> bool:
            try:
                out.sendmsg(packet, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            return True

        self._wait(core, sending, sent)

    def _drain(self) -> None:
        """Take in the packets that are there, and drop those for shards that are over."""
        while True:
            try:
                packet = self._inbox.recv(_HEADER.size + _CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            launch, total, place, count, mine, attempt, sender, tag = _HEADER.unpack_from(packet)
            if (launch, mine) != (self._shard.launch, self._shard.attempt):
                continue
            peer = self._peer(sender)
            if self._met.get(sender, attempt) != attempt:
                continue  # see _check
            if peer.queued != attempt:
                peer.queues, peer.partial, peer.queued = {}, None, attempt  # it sends all of it again
            chunk = memoryview(packet)[_HEADER.size :]
            if not place:
                peer.partial = bytearray(total)
            message = peer.partial
            if message is None:
                continue
            message[place : place + len(chunk)] = chunk
            if place + len(chunk) == total:
                peer.add(tag, message, count)
                peer.partial = None


class _Part(NamedTuple):
    """A part of a message where it lies, as the codec takes it."""

    view: memoryview


def _pieces(value: Any) -> tuple[list[memoryview], int]:
    """Return a message: a table of sizes, a pickle and its buffers, each but the table aligned."""
    payload = codec.encode(value, _Part, error=SerializationError)
    if isinstance(payload, bytes):
        payload = Payload(payload)
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
