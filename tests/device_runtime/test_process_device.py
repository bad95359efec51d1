"""The device of process cores, driven without a dispatcher: what it holds, and what it does with it."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from gates import Gate

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.launch import Ended, Event, Gone, Lost, Ready, ShardId, Work
from device_runtime.process.cores import ProcessDevice
from device_runtime.process.status import StatusPage

PATIENCE = 30  # seconds, for what takes a fraction of one unless it is broken

Kind = TypeVar("Kind", bound=Event)


class Opened:
    """A device that is open, and the events it has reported."""

    def __init__(self, units: int) -> None:
        self.device = ProcessDevice(units)
        self.device.open()
        self._events: list[Event] = []
        self._sent = 0

    def send(self, unit: int, function: Callable[..., object], *args: object) -> ShardId:
        """Send a unit a function to run."""
        self._sent += 1
        shard = ShardId(self._sent, 0)
        payload = codec.encode((args, {}), self.device.place)
        self.device.send(unit, [Work(shard, Capture(function).image(), payload, (unit,))])
        return shard

    def next(self, *kinds: type[Kind]) -> Kind:
        """Wait for the first event that is of one of these kinds, and take it out."""
        poll = select.poll()
        poll.register(self.device.fileno(), select.POLLIN)
        while True:
            for event in self._events:
                if isinstance(event, kinds):
                    self._events.remove(event)
                    return event
            assert poll.poll(PATIENCE * 1000), f"no {kinds} comes"
            self._events += self.device.receive()


@pytest.fixture
def opened() -> Iterator[Callable[[int], Opened]]:
    made = []

    def open_device(units: int) -> Opened:
        made.append(Opened(units))
        return made[-1]

    yield open_device
    while made:
        made.pop().device.close()


def test_closing_closes_nothing_twice(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the number of a descriptor may be somebody else's; a core that is gone was closed before."""
    monkeypatch.setattr("device_runtime.process.cores._MOST_STILLBORN", 1)
    used = opened(1)
    monkeypatch.setattr(StatusPage, "arrived", lambda page, unit: False)
    used.send(0, os._exit, 1)
    assert used.next(Gone).unit == 0
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(16)]
    used.device.close()
    others += [os.open(os.devnull, os.O_RDONLY) for _ in range(16)]
    used.device.close()
    for descriptor in others:
        os.close(descriptor)


def test_orders_for_which_the_zygote_has_no_room_wait(opened: Callable[[int], Opened]) -> None:
    """Its socket holds some hundreds; what comes at once beyond that must not be lost."""
    used = opened(12)
    device = used.device
    device._control._end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # some, not hundreds
    zygote = device._zygote.pid
    os.kill(zygote, signal.SIGSTOP)
    os.waitpid(zygote, os.WUNTRACED)
    for unit in range(12):
        device.kill(unit, used.send(unit, signal.pause))
    assert device._control.blocked
    os.kill(zygote, signal.SIGCONT)
    assert {used.next(Lost).unit for _ in range(12)} == set(range(12))
    assert {used.next(Ready).unit for _ in range(12)} == set(range(12))


def test_a_channel_with_nothing_to_send_is_not_watched_for_room(
    opened: Callable[[int], Opened], gate: Gate
) -> None:
    """Or the pump would never rest."""
    used = opened(1)
    used.send(0, gate.pass_through)
    gate.wait()
    core = used.device._cores[0]
    sent = 1
    while not core.blocked:
        used.send(0, os.getpid)
        sent += 1
    gate.let_on()
    room = select.poll()
    room.register(core.channel, select.POLLOUT)
    assert room.poll(PATIENCE * 1000)
    used.send(0, os.getpid)
    assert not core.blocked
    for _ in range(sent + 1):
        used.next(Ended)
    assert not select.select([used.device.fileno()], [], [], 0)[0]
