"""What devices have in common whose units are other processes, or their threads, each with a channel."""

from __future__ import annotations

import os
import select
import time
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from device_runtime.device import DirectDevice
from device_runtime.errors import DeviceMemoryError
from device_runtime.launch import Begun, Buffer, Encoded, Ended, Event, Message, Outcome, Plan, ShardId, make
from device_runtime.process import arena, wire
from device_runtime.process.channel import NOT, NOW
from device_runtime.process.janitor import Janitor
from device_runtime.process.mapping import create
from device_runtime.process.settled import Settled
from device_runtime.process.status import StatusPage

if TYPE_CHECKING:
    from device_runtime.process.core import Core

_ROUNDS = 4  # that one `receive` looks again, as cores go on talking
_SOON = 5_000_000  # nanoseconds until ends are looked for that nobody has rung for


class ChannelDevice(DirectDevice):
    """Hand shards to cores, and take in what they say and print.

    What starts cores, and tells of their ends, has descriptors of its own in
    the epoll; `_attend` looks after those.
    """

    _units: int
    _settled: Settled
    _status: StatusPage

    def __init__(self) -> None:
        self._cores: list[Core] = []
        self._by_descriptor: dict[int, Core] = {}
        self._active: dict[int, Core] = {}  # those that hold shards, and so have something to say
        self._events: list[Event] = []
        self._janitor = Janitor()  # gives back memory of the arena, and of results
        self._rested = False  # the launch that was posted was not to be had by looking
        self._descriptors = ExitStack()  # closes those of the device itself

    def _prepare(self, bound: int) -> None:
        """Make what a device has one of; its arena has at most so many bytes. Raises OSError."""
        self._arena_descriptor = self._own(create())
        self._arena = arena.Arena(self._arena_descriptor, bound, self._janitor)
        self._epoll = select.epoll()
        self._descriptors.callback(self._epoll.close)
        # Rung by ourselves where there is more to report than is taken in at once.
        self._again = self._own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._epoll.register(self._again, select.EPOLLIN)

    def _link(self, others: int) -> None:
        """Make the lines to cores that use the status page; the device has so many descriptors of its own."""
        # Later than the rest: to load these takes a while, in which what starts cores starts.
        from device_runtime.process.lines import Lines
        from device_runtime.process.quick import Watch

        self._lines = Lines(self._settled, self._status)
        self._watch = Watch(self._epoll, 4 * self._units + others)

    def _set_alarm(self) -> None:
        from device_runtime.process.quick import Alarm

        self._alarm = self._descriptors.enter_context(closing(Alarm(_SOON)))
        self._epoll.register(self._alarm, select.EPOLLIN)

    @abstractmethod
    def _attend(self, ready: Mapping[int, int]) -> None:
        """Look after the device's own descriptors: those with something to report are among these."""

    def _watch_core(self, core: Core) -> None:
        """Have a core's words reported."""
        for descriptor in core.descriptors():
            self._by_descriptor[descriptor] = core
            self._epoll.register(descriptor, select.EPOLLIN)

    def _own(self, descriptor: int) -> int:
        self._descriptors.callback(os.close, descriptor)
        return descriptor

    def post(self, plan: Plan, launch: int, args: Encoded) -> bool:
        if not (self._settled.rings and wire.is_short(args)):
            return False
        number, units, cores, lines = plan.number, plan.cores, self._cores, self._lines
        for unit in units:
            core = cores[unit]
            if core.channel.backlog or not (number in core.plans or self._has_prepared(core, plan)):
                return False
        lines.sleeps.set(NOT)
        lines.woken = self._rested = False
        for rank, unit in enumerate(units):
            self._active[unit] = core = cores[unit]
            if core.post(make(ShardId, (launch, rank, 0)), plan, args):
                lines.woken = True
        return True

    def _has_prepared(self, core: Core, plan: Plan) -> bool:
        """Tell a core of a plan; return False where memory is short: the ordinary way will say so."""
        try:
            core.prepare(plan)
        except DeviceMemoryError:
            return False
        return True

    def look(self, plan: Plan) -> bool:
        return self._lines.look(self._cores, plan.cores)

    def rest(self, plan: Plan) -> bool:
        self._rested = True
        return self._only_bells(plan) and self._lines.rest(self._cores, plan.cores)

    def _only_bells(self, plan: Plan) -> bool:
        """Hear the bells of a launch's cores; tell whether there was nothing else to report."""
        for descriptor, mask in self._watch.reports().items():
            core = self._by_descriptor.get(descriptor)
            if core is None or descriptor != core.channel.fileno() or mask != select.EPOLLIN:
                return False
            core.channel.hear()
            if core.channel.ended:
                return False
            # A core may have rung when its outcome had just been found without that.
            if core.unit not in plan.cores and core.channel.ready():
                self._active[core.unit] = core  # so that `receive` looks there: the bell is heard
                return False
        return True

    def collect(self, plan: Plan) -> Sequence[bytes | Outcome] | None:
        if self._watch.stirs() and not (self._rested and self._only_bells(plan)):
            return None
        cores, units = self._cores, plan.cores
        if len(units) == 1 and not self._rested:  # and most of the time it has given a plain value
            value = cores[units[0]].take_plain()
            if value is not None:
                del self._active[units[0]]
                return [value]
        for unit in units:
            if cores[unit].channel.kind() != wire.ENDED:
                return None
        outcomes: list[bytes | Outcome] = []
        for unit in units:
            core = cores[unit]
            record = core.channel.take()
            assert record is not None
            if self._rested:
                self._lines.learn(wire.duration(record))
            outcomes.append(core.end(record))
            del self._active[unit]
        return outcomes

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        core = self._cores[unit]
        if not self._active:  # else they ring already, or have rung
            self._lines.sleeps.set(NOW)
        now = time.monotonic()  # not later: the core may begin at once
        unsent = core.send(messages)
        if core.held:
            self._active[unit] = core
        if core.channel.backlog and core.channel.polled:
            self._epoll.modify(core.channel, select.EPOLLIN | select.EPOLLOUT)
        if core.limited and self._count_first(core, now):
            os.eventfd_write(self._again, 1)
        return unsent

    def fileno(self) -> int:
        return self._epoll.fileno()

    def receive(self) -> list[Event]:
        for _ in range(_ROUNDS):
            # Those first: what a kernel printed before it ended is then there when we look for output.
            said = [(core, core.read()) for core in list(self._active.values()) if core.channel.ready()]
            ready = self._watch.reports()
            if ready.pop(self._alarm.fileno(), 0):
                self._alarm.hear()
                for core in self._active.values():
                    core.find_slow()
            rung = self._hear(ready)
            for core, events in said:
                self._note(core, events)
            for core in rung:
                self._listen(core, core.read())
            self._attend(ready)
            rung = [
                core for core in rung if core.channel.fileno() in self._by_descriptor
            ]  # others have ended
            patient = self._is_patient()
            self._alarm.set(patient)
            if self._lines.arm({*self._active.values(), *rung}, patient):
                break
        else:
            os.eventfd_write(self._again, 1)
        events, self._events = self._events, []
        return events

    def _is_patient(self) -> bool:
        """Tell whether the host need not be rung for each of many works: it looks by itself after a while."""
        if not self._settled.rings:
            return False
        more = [core for core in self._active.values() if core.has_more]
        return bool(more) and not any([core.is_slow for core in more])

    def ends(self) -> list[Event]:
        said = [(core, core.read()) for core in list(self._active.values()) if core.channel.ready()]
        if said:
            for descriptor in self._watch.reports():
                core = self._by_descriptor.get(descriptor)
                # Bells are left to whoever sleeps until one rings.
                if core is not None and descriptor != core.channel.fileno():
                    self._read_output(core, descriptor)
            with self._lines.fence:  # see `Lines.arm`
                pass
            for core, events in said:
                core.channel.give_room()
                self._note(core, events)
        events, self._events = self._events, []
        return events

    def _hear(self, ready: dict[int, int]) -> list[Core]:
        """Take in output; return the cores whose channels have something to say."""
        rung = []
        for descriptor, mask in ready.items():
            core = self._by_descriptor.get(descriptor)
            if core is None:
                if descriptor == self._again:
                    os.eventfd_read(self._again)
                continue
            if descriptor != core.channel.fileno():
                self._read_output(core, descriptor)
                continue
            core.channel.hear()
            room = mask & select.EPOLLOUT
            if (room or core.channel.backlog) and core.channel.flush() and room:
                self._epoll.modify(core.channel, select.EPOLLIN)
            rung.append(core)
        return rung

    def place(self, view: memoryview) -> Buffer:
        return arena.place(self._arena, view)

    def abandon(self) -> None:
        """Let go of what a forked child has no business with.

        Its copies of descriptors would keep the cores from ending, and the
        memory is the parent's to give out.
        """
        self._arena.abandon()
        self._close_descriptors()

    def close(self) -> list[Event]:
        opened.discard(self)
        self._stop()
        for core in self._cores:
            if core.streams():  # else it was given up, and all it said taken in
                self._bury(core)
        self._close_descriptors()
        if hasattr(self, "_arena"):
            self._arena.trim(0.0, 0)
        events, self._events = self._events, []
        return events

    @abstractmethod
    def _stop(self) -> None:
        """End what runs the units, if it was started, and wait for that."""

    def _close_descriptors(self) -> None:
        for core in self._cores:
            core.close()
        self._janitor.close()
        self._descriptors.close()

    def _listen(self, core: Core, events: list[Event]) -> None:
        """Take in what a core has said, behind what it printed before it said so."""
        if events:
            self._read_all_output(core)
        self._note(core, events)

    def _read_all_output(self, core: Core) -> None:
        for descriptor in core.streams():
            if descriptor in self._by_descriptor:
                self._read_output(core, descriptor)

    def _read_output(self, core: Core, descriptor: int) -> None:
        if not core.read_output(descriptor, self._events):
            self._forget(descriptor)

    def _note(self, core: Core, events: list[Event]) -> None:
        """Report what a core said."""
        ended = [event.outcome for event in events if isinstance(event, Ended)]
        if ended:
            core.finish_output(self._events)
            self._lines.learn(ended[-1].ended - ended[-1].begun)
        self._events += events
        if core.limited:
            self._count_first(core, time.monotonic())
        if not core.held:
            self._active.pop(core.unit, None)
        if core.channel.ended and core.channel.fileno() in self._by_descriptor:
            self._forget(core.channel.fileno())

    def _count_first(self, core: Core, now: float) -> bool:
        """Let the time of what a core is to take up next count, if limited; return whether that is new.

        The core says so, too, a moment later; but it may have hung since what it ran last has ended. A core
        that is still being started has time.
        """
        shard = core.take_first_limited() if self._status.arrived(core.unit) else None
        if shard is not None:
            self._events.append(Begun(core.unit, shard, now))
        return shard is not None

    def _forget(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        del self._by_descriptor[descriptor]

    def _bury(self, core: Core) -> None:
        """Take in what a dead core still said, and forget it."""
        core.channel.hear()
        events = core.read()
        self._read_all_output(core)
        self._note(core, events)
        self._active.pop(core.unit, None)
        core.finish_output(self._events)
        for descriptor in core.descriptors():
            if descriptor in self._by_descriptor:
                self._forget(descriptor)
        core.close()


opened: weakref.WeakSet[ChannelDevice] = weakref.WeakSet()


def _after_fork() -> None:
    for device in list(opened):
        device.abandon()


os.register_at_fork(after_in_child=_after_fork)
