"""The device of process cores, driven without a dispatcher: what it holds, and what it does with it."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.launch import Event, Gone, ShardId, Work
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
