"""The channels between one device and its cores, and what all of them share."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from device_runtime.process.channel import NOW, SOON, Channel, Mark, RingChannel, SocketChannel
from device_runtime.process.patience import Patience
from device_runtime.process.quick import give_way, this_cpu
from device_runtime.process.ring import CORE_SLEEPS, CORE_WANTS, HOST_WANTS, Rings
from device_runtime.process.settled import Settled
from device_runtime.process.status import StatusPage

_OFTEN = 32  # of so many looks, one also marks on which CPU


class Speaker(Protocol):
    """Whatever has a channel."""

    channel: Channel


class Lines:
    """The host's side of all channels."""

    def __init__(self, settled: Settled, status: StatusPage) -> None:
        self.settled = settled
        self._status = status
        self._rings: dict[int, Rings] = {}
        self.sleeps = Mark(status.words, status.host_sleeps)
        self.fence = threading.Lock()
        self._patience = Patience(settled.spin, probes=True)
        self._looks = 0
        self.woken = False  # one of those that are looked for has been asleep

    def connect(self, unit: int, end: socket.socket, room: int) -> Channel:
        """Return the host's end of the channel of a new core, that waits for room at `room`."""
        if not self.settled.rings:
            return SocketChannel(end)
        rings = self._rings.get(unit)
        if rings is None:
            rings = self._rings[unit] = Rings(self._status.area(unit))
        rings.clear()
        return RingChannel(
            end,
            room,
            True,
            rings.down(),
            rings.up(),
            Mark(rings.words, CORE_SLEEPS),
            self.sleeps,
            Mark(rings.words, CORE_WANTS),
            Mark(rings.words, HOST_WANTS),
        )

    def learn(self, seconds: float) -> None:
        """Take note of how long a shard ran whose end nobody looked for."""
        if not self._patience.pays():
            self._patience.learn(int(seconds * 1e9))

    def look(self, speakers: Sequence[Speaker], units: Sequence[int]) -> bool:
        """Look for a short while, if that pays, until each of some speakers has said something; tell if so.

        The interpreter lock is kept: with a busy thread beside this one, it
        would take a whole turn of that thread to have it back.
        """
        patience, cpus = self._patience, self.settled.cpus
        if len(units) > cpus or not patience.pays():
            return all([speakers[unit].channel.ready() for unit in units])
        self._looks += 1
        if not self._looks % _OFTEN:
            self._status.host_runs_on(this_cpu())
        alone = len(units) < cpus
        for unit in units:
            ready = speakers[unit].channel.ready
            if not (ready() or patience.until(ready, give_way, alone, self.woken)):
                return False
        return True

    def rest(self, speakers: Sequence[Speaker], units: Sequence[int]) -> bool:
        """Have some cores ring when they say something; return False if all of them have said it."""
        self.sleeps.set(NOW)
        with self.fence:
            pass
        missing = False
        for unit in units:
            channel = speakers[unit].channel
            channel.give_room()
            missing = missing or not channel.ready()
        return missing

    def arm(self, active: Iterable[Speaker], patient: bool = False) -> bool:
        """Have the cores ring when they say something; return False if one has, and did not.

        `patient`: they need not for the ends of works that others follow.
        """
        if not self.settled.rings:
            return True
        self.sleeps.set(SOON if patient else NOW)
        with self.fence:
            pass
        silent = True
        for core in active:
            core.channel.give_room()
            if core.channel.ready():
                silent = False
        return silent


def core_channel(status: StatusPage, core: int, end: socket.socket, room: int) -> Channel:
    """Return the core's end of its channel."""
    if not status.settled().rings:
        return SocketChannel(end)
    rings = Rings(status.area(core))
    return RingChannel(
        end,
        room,
        False,
        rings.up(),
        rings.down(),
        Mark(status.words, status.host_sleeps),
        Mark(rings.words, CORE_SLEEPS),
        Mark(rings.words, HOST_WANTS),
        Mark(rings.words, CORE_WANTS),
    )
