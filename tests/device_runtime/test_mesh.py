"""Messages of process cores, from mesh to mesh, with nothing around them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from device_runtime.errors import PeerEnded
from device_runtime.launch import ShardId
from device_runtime.process.links import Links
from device_runtime.process.mesh import ProcessMesh
from device_runtime.process.patience import Patience
from device_runtime.process.ring import are_sound
from device_runtime.process.settled import Settled
from device_runtime.process.status import StatusPage


class Died(BaseException):
    """Ends a core's part in the test where it would have to wait."""


class Wires:
    """What cores are born with; it outlives them."""

    def __init__(self, stack: ExitStack, rings: bool) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        self._outs = [out for out, _ in pairs]
        self._inboxes = [inbox for _, inbox in pairs]
        self._channel, self._host = host = socket.socketpair()
        for end in (*self._outs, *self._inboxes, *host):
            stack.enter_context(end)
        self._page = os.memfd_create("status")
        stack.callback(os.close, self._page)
        self._status = StatusPage(self._page, 3)
        self._status.settle(Settled(rings, 0, 2))
        stack.callback(delattr, self, "_status")  # it keeps its file open

    def mesh(
        self, core: int, wait: Callable[[ShardId, int], None] | None = None, patience: Patience | None = None
    ) -> ProcessMesh:
        """Make the mesh of a new core that calls `wait` where it has to wait for long, or else dies there."""

        def die(shard: ShardId, core: int) -> None:
            raise Died

        self._status.clear(core)
        return ProcessMesh(
            core,
            self._inboxes[core],
            self._outs,
            self._status,
            Links(core, self._status, self._page),
            self._channel.fileno(),
            wait or die,
            lambda: True,
            self._hear,
            lambda: False,
            patience or Patience(0),
        )

    def ring(self) -> None:
        """Wake a core in vain, as where it has taken what it was woken for."""
        self._host.send(b"x")

    def call(self, core: int) -> None:
        """Put a word into a core's inbox that says nothing, and do not say so: whoever did it has died."""
        self._outs[core].send(bytes(64))

    def _hear(self) -> None:
        try:
            self._channel.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass


@pytest.fixture(params=["rings", "sockets"])
def wires(request: pytest.FixtureRequest) -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack, request.param == "rings" and are_sound())


def begun(mesh: ProcessMesh, launch: int = 1, attempt: int = 0) -> ProcessMesh:
    """Begin a shard of a launch on all three cores."""
    mesh.begin(ShardId(launch, mesh._core, attempt), (0, 1, 2))
    mesh.open()
    return mesh


BIG = b"x" * 5_000_000  # more than there is room for on the way
AGAIN = "in vain: it died and runs its shard again"


def test_a_core_is_sent_nothing_before_it_runs_its_shard(wires: Wires) -> None:
    receiver = wires.mesh(1)
    begun(receiver, 1)
    sender = begun(wires.mesh(0, lambda shard, core: begun(receiver, 2) and None), 2)
    receiver.end()
    sender.put(1, "for the second launch")
    assert receiver.get(0) == "for the second launch"


def test_a_core_that_has_gone_on_to_another_launch_is_sent_nothing(wires: Wires) -> None:
    sender, receiver = begun(wires.mesh(0), 1), begun(wires.mesh(1), 1)
    sender.put(1, "nobody takes it")
    receiver.end()
    begun(receiver, 2)
    assert not receiver.probe(0)
    with pytest.raises(PeerEnded, match="core 0 waits for core 1 in vain: its shard has ended"):
        sender.put(1, "too late")


def test_what_nobody_took_makes_room_when_the_next_shard_begins(wires: Wires) -> None:
    sender, receiver = begun(wires.mesh(0), 1), begun(wires.mesh(1), 1)
    with pytest.raises(Died):
        sender.put(1, BIG)
    sender.end(), receiver.end()
    begun(sender, 2), begun(receiver, 2)
    sender.put(1, "there is room")
    assert receiver.get(0) == "there is room"


def test_the_host_is_asked_once_about_a_core(wires: Wires) -> None:
    asked = []

    def ask(shard: ShardId, core: int) -> None:
        asked.append(core)
        mesh.notice(shard, core, "its shard has ended")

    mesh = begun(wires.mesh(0, ask))
    for _ in range(2):
        with pytest.raises(PeerEnded, match="core 0 waits for core 1 in vain: its shard has ended"):
            mesh.get(1)
    with pytest.raises(PeerEnded, match="its shard has ended"):
        mesh.put(1, "in vain")
    assert asked == [1]


@pytest.mark.parametrize("vain", ["ring", "call"])
def test_a_core_that_looks_on_asks_the_host_though_it_was_woken_in_vain(wires: Wires, vain: str) -> None:
    sender = wires.mesh(0, patience=Patience(20_000))
    begun(sender), begun(wires.mesh(1))
    wires.ring() if vain == "ring" else wires.call(0)
    with pytest.raises(Died):
        sender.put(1, BIG)


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_dead_core_sent_in_part_is_dropped(wires: Wires, taken: bool) -> None:
    receiver = begun(wires.mesh(1))
    with pytest.raises(Died):
        begun(wires.mesh(0)).put(1, BIG)
    if taken:
        assert not receiver.probe(0)
    sender = begun(wires.mesh(0, lambda *_: receiver.probe(0) and None), attempt=1)
    sender.put(1, ["whole", b"x" * 100_000])
    assert receiver.get(0) == ["whole", b"x" * 100_000]


def test_what_is_sent_again_is_there_once(wires: Wires) -> None:
    receiver = begun(wires.mesh(1))
    for attempt in range(2):
        begun(wires.mesh(0), attempt=attempt).put(1, "a")
        assert receiver.probe(0)
    assert receiver.get(0) == "a" and not receiver.probe(0)


def test_who_took_messages_of_a_core_that_died_is_told(wires: Wires) -> None:
    receiver, sender = begun(wires.mesh(1)), begun(wires.mesh(0))
    sender.put(1, "a")
    sender.put(1, "b")
    assert receiver.get(0) == "a"
    begun(wires.mesh(0), attempt=1).put(1, "a")
    assert receiver.get(0) == "b"
    told_by: list[Callable[[], object]] = [
        lambda: receiver.get(0),
        lambda: receiver.get(2),  # it may wait for core 0
        lambda: receiver.probe(0),
        lambda: receiver.put(0, "c"),
    ]
    for call in told_by:
        with pytest.raises(PeerEnded, match=f"core 1 waits for core 0 {AGAIN}"):
            call()


def test_who_sent_messages_to_a_core_that_died_is_told_while_it_waits(wires: Wires) -> None:
    sender = begun(wires.mesh(0, lambda *_: begun(wires.mesh(1), attempt=1) and None))
    dying = begun(wires.mesh(1))
    sender.put(1, "a")
    assert dying.get(0) == "a"
    with pytest.raises(PeerEnded, match=f"core 0 waits for core 1 {AGAIN}"):
        sender.get(1)


def test_what_was_sent_to_a_core_that_died_is_not_taken_by_the_next(wires: Wires) -> None:
    begun(wires.mesh(1))
    begun(wires.mesh(0)).put(1, "a")
    receiver = begun(wires.mesh(1), attempt=1)
    assert not receiver.probe(0)
    begun(wires.mesh(2)).put(1, "b")
    assert receiver.get(2) == "b"


def test_that_a_peer_ran_again_is_told_although_it_has_ended_since(wires: Wires) -> None:
    receiver = begun(wires.mesh(1))
    begun(wires.mesh(0)).put(1, "first")
    assert receiver.get(0) == "first"
    begun(wires.mesh(0), attempt=1).end()
    receiver.notice(ShardId(1, 1, 0), 0, "its shard has ended")
    with pytest.raises(PeerEnded, match=AGAIN):
        receiver.get(0)


def test_small_messages_and_large_ones_keep_their_order(wires: Wires) -> None:
    sender, receiver = begun(wires.mesh(0)), begun(wires.mesh(1))
    sent = [b"x" * size for size in (1, 30_000, 2, 30_000, 15_000, 15_000, 15_000, 3)]
    for message in sent:
        sender.put(1, message)
    assert [receiver.get(0) for _ in sent] == sent


def test_what_is_left_of_a_launch_hinders_no_later_one(wires: Wires) -> None:
    sender, receiver = wires.mesh(0), wires.mesh(1)
    for launch in range(1, 20):
        begun(sender, launch), begun(receiver, launch)
        for number in range(3):
            sender.put(1, (launch, number, b"x" * 10_000))
        assert receiver.get(0)[:2] == (launch, 0)
        sender.end(), receiver.end()


def test_a_new_core_goes_on_where_the_one_that_died_had_come(wires: Wires) -> None:
    for launch in range(1, 20):
        sender, receiver = begun(wires.mesh(0), launch), begun(wires.mesh(1), launch)
        for number in range(launch):
            sender.put(1, number)
        assert receiver.get(0) == 0
