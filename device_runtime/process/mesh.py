"""Messages from core to core, past the host.

Every core has one inbox, a socket that keeps the bounds of packets; all others
hold its sending end. A packet is a header and a chunk of a message. A core
empties its inbox whenever it waits, also when it waits to send, so that two
cores that send to each other cannot block for ever. What is small goes through
a ring in shared memory (`links`) where there is room in it. Messages from one
core to another are numbered, and taken in that order, whichever way they come.

A core is sent nothing before it runs its shard of the launch: the status page
tells. So all that it finds in its inbox is for the shard that it runs, or for
one that is over, and is then dropped. What was sent to a core that died is lost
with it, and nothing else is. Where a shard runs again after that, those that
had exchanged messages with the attempt that died cannot go on: they are told.

A core that has waited, or probed in vain, for a while tells the host whom it waits for. The host
knows which shards have ended or died, and answers when nothing can come, or
when nobody will take what is sent.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from device_runtime.errors import PeerEnded
from device_runtime.launch import ShardId
from device_runtime.process.cpus import leave
from device_runtime.process.links import LARGEST, Links
from device_runtime.process.messages import CHUNK, Message, Peer, chunks_of, load, message_of, pieces_of
from device_runtime.process.patience import Patience
from device_runtime.process.quick import this_cpu
from device_runtime.process.status import StatusPage

# Launch, size of the message, place of the chunk in it, number of the message, number of
# out-of-band buffers, attempts of the receiver and of the sender, sender, tag.
_HEADER = struct.Struct("<QQQIIHHHH")
_CALL = bytes(_HEADER.size)  # wakes a core that waits, and says nothing
_SMALL = LARGEST - _HEADER.size  # bytes of a message that may go through a ring
_GRACE = 2  # ms of waiting before the host is told
_OFTEN = 32  # of so many waits that look on, one sees whether both cores share a CPU
_IDLE = ShardId(-1, -1, -1)


class ProcessMesh:
    """The mesh of one process core.

    `report` tells the host that the running shard waits for a core;
    `channel` becomes readable when the host may have answered, if `arm`, called
    before, gave True; `hear` then takes in what it said, and `told` looks whether it has
    said something. `patience` says how long to look on before sleeping.
    """

    def __init__(
        self,
        core: int,
        inbox: socket.socket,
        outs: Sequence[socket.socket],
        status: StatusPage,
        links: Links,
        channel: int,
        report: Callable[[ShardId, int], None],
        arm: Callable[[], bool],
        hear: Callable[[], object],
        told: Callable[[], object],
        patience: Patience,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._outs = outs
        self._status = status
        self._links = links
        self._channel = channel
        self._report = report
        self._arm = arm
        self._hear = hear
        self._told = told
        self._patience = patience
        self._looks = 0
        self._lock = threading.Lock()  # a ring has one end, and a kernel may have several threads
        self._waiter = threading.Lock()  # only one of them may wait: what wakes one would not wake another
        self._receiving = self._poll()
        self._buffer = bytearray(_HEADER.size + CHUNK)
        self._shard = _IDLE
        self._cores: tuple[int, ...] = ()
        self._peers: dict[int, Peer] = {}
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
        self._links.begin(self._cores)
        self._links.fence()  # between the two, so that each of two cores sees what the other has marked
        if not self._links.sound or self._status.has_mail(self._core):
            self._drain()  # what is there is for shards that are over
        if self._status.take_awaited(self._core) or attempt:
            for core in range(len(self._outs)):
                if core != self._core:
                    self._call(core)

    def end(self) -> None:
        """Drop what was sent to this shard and not taken."""
        self._shard = _IDLE
        if self._waiter.locked():
            # By a thread that the kernel left behind: it goes, before it takes what is for the next one.
            self._call(self._core)
            with self._waiter:
                pass
        self._cores, self._peers, self._met = (), {}, {}

    def notice(self, shard: ShardId, core: int, why: str) -> None:
        """Take down the host's word that a core will send and take nothing more."""
        if shard == self._shard:
            self._peer(core).ended = why

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        peer = self._peer(core)
        pieces, count = pieces_of(value)
        if core == self._core:
            peer.add(peer.sent, message_of(b"".join(pieces), count, tag))
            peer.sent += 1
            return
        if core not in self._met:
            self._met[core] = self._meet(core)
        met = self._met[core]
        launch, _, attempt = self._shard
        running = self._status.attempt(core, launch)
        if running != met or peer.ended:
            self._check(core)
            raise self._in_vain(core, peer.ended or "its shard has ended")
        total, place = sum([len(piece) for piece in pieces]), 0
        with self._lock:
            number, peer.sent = peer.sent, peer.sent + 1
            header = _HEADER.pack(launch, total, 0, number, count, met, attempt, self._core, tag)
            put = total <= _SMALL and self._links.put(core, b"".join([header, *pieces]))
        if put:
            if self._status.take_sleep(core):
                self._call(core)
            return
        for chunk in chunks_of([memoryview(piece) for piece in pieces]):
            header = _HEADER.pack(launch, total, place, number, count, met, attempt, self._core, tag)
            self._send(core, [header, *chunk])
            place += sum(piece.nbytes for piece in chunk)

    def get(self, core: int, tag: int = 0) -> Any:
        peer = self._peer(core)
        if not peer.queues.get(tag):
            self._drain()
            if not peer.queues.get(tag):
                self._wait(core, lambda: bool(peer.queues.get(tag)))
        message = peer.queues[tag].popleft()
        if core != self._core:
            self._met[core] = peer.attempt
        return load(message)

    def probe(self, core: int, tag: int = 0) -> bool:
        peer = self._peer(core)
        ended = peer.ended  # first, as in `_wait_alone`
        self._drain()
        if peer.queues.get(tag):
            peer.missed = 0
            return True
        if core in self._met:
            self._check(core)
        if ended:
            raise self._in_vain(core, ended)
        if core != self._core:
            self._miss(core, peer)
        return False

    def _miss(self, core: int, peer: Peer) -> None:
        """Ask the host about a core of which a probe has found nothing for a while, and hear what it says."""
        now = time.monotonic_ns()
        peer.missed = peer.missed or now
        if not peer.asked:
            if now - peer.missed > _GRACE * 1_000_000:
                peer.asked = True
                self._report(self._shard, core)
        elif self._waiter.acquire(blocking=False):  # else another thread hears it
            try:
                self._hear()
            finally:
                self._waiter.release()

    def _peer(self, core: int) -> Peer:
        peer = self._peers.get(core)
        if peer is None:
            if core not in self._cores:
                raise PeerEnded(f"core {core} is not in this launch, which runs on cores {list(self._cores)}")
            peer = self._peers[core] = Peer()
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
        launch = self._shard.launch
        found = self._status.attempt(core, launch)

        def running() -> bool:
            nonlocal found
            self._status.wait_for(core)
            self._links.fence()  # as in `open`
            if not self._links.sound:
                self._drain()
            found = self._status.attempt(core, launch)
            return found is not None

        if found is None:
            self._wait(
                core, running, lambda: self._status.attempt(core, launch) is not None or self._links.stirs()
            )
        assert found is not None
        return found

    def _wait(
        self,
        core: int,
        ready: Callable[[], bool],
        stirs: Callable[[], bool] | None = None,
        poll: select.poll | None = None,
    ) -> None:
        """Take in packets until `ready()`; raise PeerEnded once it never will be.

        `stirs` tells without a system call whether it may be, and `poll` is what to sleep on.
        """
        if not self._waiter.acquire(blocking=False):
            raise RuntimeError(
                f"two threads of a kernel on core {self._core} wait at once, one of them for core {core}: "
                "only one may wait for a value, for a core to begin, or for room on the way to it"
            )
        try:
            self._wait_alone(core, ready, stirs, poll)
        finally:
            self._waiter.release()

    def _wait_alone(
        self,
        core: int,
        ready: Callable[[], bool],
        stirs: Callable[[], bool] | None,
        poll: select.poll | None,
    ) -> None:
        shard, peer, links, patience = self._shard, self._peers[core], self._links, self._patience
        stirs, poll = stirs or links.stirs, poll or self._receiving
        by_memory = links.sound and poll is self._receiving
        look = self._either(stirs) if by_memory else partial(poll.poll, 0)
        while True:
            # What the core sent before its end is in the inbox when the host says that it ended.
            ended = peer.ended
            self._drain()
            if ready():
                return
            if self._shard is not shard or shard is _IDLE:
                raise self._in_vain(core, "the kernel that this thread is of has ended")
            if core == self._core:
                raise PeerEnded(f"core {core} waits for itself, and has sent itself nothing")
            for other in self._met:
                self._check(other)  # it may wait for what is lost, and this core, through others, for it
            if ended:
                raise self._in_vain(core, ended)
            if patience.pays() and self._look(core, look):
                if not by_memory:  # whatever has ended the look must not end the next one, too
                    self._status.mail(self._core, True)
                if not by_memory or self._told():
                    self._hear()
                continue
            begun = time.monotonic_ns()
            self._status.sleep(self._core, True)
            links.fence()
            if (
                not stirs()
                and self._arm()
                and not poll.poll(None if peer.asked else _GRACE)
                and not peer.asked
            ):
                peer.asked = True
                self._report(self._shard, core)
            self._status.sleep(self._core, False)
            self._status.mail(self._core, True)  # a sender may have died before it could say so
            patience.learn(time.monotonic_ns() - begun)
            self._hear()

    def _look(self, core: int, look: Callable[[], object]) -> bool:
        """Look on for a while, for what comes from a core, on another CPU than it."""
        self._looks += 1
        if not self._looks % _OFTEN:
            cpu = this_cpu()
            self._status.runs_on(self._core, cpu)
            if self._core < core and self._status.ran_on(core, cpu):
                leave(cpu)
        return self._patience.until(look, os.sched_yield, len(self._cores) <= self._links.cpus)

    def _either(self, stirs: Callable[[], bool]) -> Callable[[], object]:
        told = self._told
        return lambda: stirs() or told()

    def _poll(self) -> select.poll:
        """Return what wakes a core that waits, for whatever."""
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        return poll

    def _call(self, core: int) -> None:
        """Wake a core."""
        try:
            self._outs[core].send(_CALL, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # what fills its inbox will wake it
        self._status.mail(core, True)

    def _send(self, core: int, packet: list[Any]) -> None:
        """Send a packet by socket."""
        out = self._outs[core]

        def sent() -> bool:
            try:
                out.sendmsg(packet, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            self._status.mail(core, True)
            return True

        if not sent():
            sending = self._poll()
            sending.register(out, select.POLLOUT)
            self._wait(core, sent, poll=sending)

    def _drain(self) -> None:
        """Take in the packets that are there, and drop those for shards that are over."""
        with self._lock:
            self._drain_all()

    def _drain_all(self) -> None:
        links, status = self._links, self._status
        for ring in links.reading():
            while ring.words[ring.tail] != ring.at and (packet := ring.get()) is not None:
                self._accept(memoryview(packet))
        if links.sound and not status.has_mail(self._core):
            return
        status.mail(self._core, False)
        links.fence()
        buffer = memoryview(self._buffer)
        while True:
            try:
                size = self._inbox.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._accept(buffer[:size])

    def _accept(self, packet: memoryview) -> None:
        launch, total, place, number, count, mine, attempt, sender, tag = _HEADER.unpack_from(packet)
        if launch != self._shard.launch or mine != self._shard.attempt:
            return
        peer = self._peer(sender)
        if self._met.get(sender, attempt) != attempt:
            return  # see _check
        if peer.attempt != attempt:
            peer.restart(attempt)
        chunk = packet[_HEADER.size :]
        if len(chunk) == total:
            peer.add(number, message_of(chunk, count, tag))
            return
        if not place:
            peer.partial = bytearray(total)
        message = peer.partial
        if message is None:
            return
        message[place : place + len(chunk)] = chunk
        if place + len(chunk) == total:
            peer.add(number, Message(message, count, tag))
            peer.partial = None
