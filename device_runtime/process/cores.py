"""The device of process cores, seen from the host: `local:4`."""

from __future__ import annotations

import os
import pickle
import select
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from device_runtime.device import DirectDevice
from device_runtime.errors import DeviceMemoryError, DeviceUnavailable
from device_runtime.launch import (
    Buffer,
    Encoded,
    Ended,
    Event,
    Gone,
    Lost,
    Message,
    Outcome,
    Plan,
    Ready,
    ShardId,
    Work,
)
from device_runtime.process import arena, memory, wire
from device_runtime.process.channel import NOT, NOW
from device_runtime.process.control import Beginning, Control, begin_zygote
from device_runtime.process.cpus import available
from device_runtime.process.deaths import count_oom_kills, describe
from device_runtime.process.janitor import Janitor
from device_runtime.process.limits import allow_descriptors
from device_runtime.process.mapping import create
from device_runtime.process.settled import settle
from device_runtime.process.status import StatusPage

if TYPE_CHECKING:
    from device_runtime.process.core import Core

_NOFILE_PER_CORE = 8  # channel, output, and memory with what is mapped of it
_SPARE = 32  # descriptors of the device itself, and while cores are being made
_ROUNDS = 4  # that one `receive` looks again, as cores go on talking
_RESERVE = 6  # descriptors that a core, or the page of all of them, takes before the old ones are given back
_SOON = 5_000_000  # nanoseconds until ends are looked for that nobody has rung for
_MOST_STILLBORN = 5  # times in a row that a core may die before it has done anything


class ProcessDevice(DirectDevice):
    """Cores that are processes of this machine, forked from one zygote."""

    depth = 64

    def __init__(self, units: int, begun: Beginning | None = None) -> None:
        self.address = f"local:{units}"
        self._begun = begun  # a zygote that has nothing to do yet
        self._unused = weakref.finalize(self, begun.give_up) if begun is not None else None
        self._units = units
        self._cores: list[Core] = []
        self._gone: set[int] = set()  # the units that will not come back
        self._by_descriptor: dict[int, Core] = {}
        self._active: dict[int, Core] = {}  # those that hold shards, and so have something to say
        self._events: list[Event] = []
        self._janitor = Janitor()  # gives back memory of the arena, and of results
        self._started = False  # the zygote has said so
        self._rested = False  # the launch that was posted was not to be had by looking
        self._descriptors = ExitStack()  # closes those of the device itself
        self._page = ExitStack()  # closes that of the status page
        self._reserve: list[int] = []  # descriptors to be closed when others are needed

    def open(self) -> int:
        try:
            return self._open()
        finally:
            if self._begun is not None and self._unused is not None:
                self._unused()

    def _open(self) -> int:
        if not hasattr(os, "memfd_create") or not hasattr(os, "fork"):
            raise DeviceUnavailable(f"{self.address}: process cores need Linux; use the device 'inline' here")
        self._settled, bound = settle(), memory.bound()
        try:
            needed, allowed = allow_descriptors(_NOFILE_PER_CORE * self._units + _SPARE)
            if needed > allowed:
                raise DeviceUnavailable(
                    f"{self.address} needs {needed} open files, and this process may have {allowed}; "
                    "see `ulimit -Hn`, or ask for fewer cores"
                )
            self._arena_descriptor = self._own(create())
            self._arena = arena.Arena(self._arena_descriptor, bound, self._janitor)
            self._epoll = select.epoll()
            self._descriptors.callback(self._epoll.close)
            # Rung by ourselves where cores have said more than is taken in at once.
            self._again = self._own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._epoll.register(self._again, select.EPOLLIN)
            self._oom_kills = count_oom_kills()
            self._start_zygote()
            self._set_alarm()
            for unit in range(self._units):
                self._cores.append(self._spawn(unit, 0))
            self._keep_reserve()
        except OSError as error:
            self.close()
            raise DeviceUnavailable(f"{self.address} could not be opened: {error}") from error
        _devices.add(self)
        return self._units

    def _own(self, descriptor: int) -> int:
        self._descriptors.callback(os.close, descriptor)
        return descriptor

    def _start_zygote(self) -> None:
        # Cores of a zygote that died may live a moment longer: they keep the page they have.
        self._page.close()
        self._status_descriptor = create()
        self._page.callback(os.close, self._status_descriptor)
        self._status = StatusPage(self._status_descriptor, self._units)
        self._status.settle(self._settled)
        begun, self._begun = self._begun or begin_zygote(self._units), None
        if self._unused is not None:
            self._unused.detach()
        self._control, self._zygote = Control(begun.end), begun.process
        self._epoll.register(self._control, select.EPOLLIN)
        # What the host has imported, kernels are likely to need. Where cores have to share CPUs, to import
        # in each of them what few kernels need takes longer than to do so once, before.
        preload = [name for name in ("cloudpickle", "numpy") if name in sys.modules]
        if self._units > available() and "cloudpickle" not in preload:
            preload.append("cloudpickle")
        self._order(("open", self._units, preload), [self._arena_descriptor, self._status_descriptor])
        # While the zygote starts:
        from device_runtime.process.lines import Lines
        from device_runtime.process.quick import Watch

        self._lines = Lines(self._settled, self._status)
        self._watch = Watch(self._epoll, 4 * self._units + 2)

    def _set_alarm(self) -> None:
        from device_runtime.process.quick import Alarm

        self._alarm = self._descriptors.enter_context(closing(Alarm(_SOON)))
        self._epoll.register(self._alarm, select.EPOLLIN)

    def _order(
        self,
        order: tuple[Any, ...],
        descriptors: Sequence[int] = (),
        sent: Callable[[], object] = lambda: None,
    ) -> None:
        self._control.send(pickle.dumps(order), descriptors, sent)
        if self._control.blocked:
            self._epoll.modify(self._control, select.EPOLLIN | select.EPOLLOUT)

    def _spawn(self, unit: int, epoch: int) -> Core:
        from device_runtime.process.core import Core  # while the zygote starts

        core = Core(unit, epoch, self._arena, partial(self._lines.connect, unit))
        for descriptor in core.descriptors():
            self._by_descriptor[descriptor] = core
            self._epoll.register(descriptor, select.EPOLLIN)
        self._order(("spawn", unit, epoch), core.birthright, core.give_away)
        return core

    def post(self, plan: Plan, launch: int, args: Encoded) -> bool:
        number, units = plan.number, plan.cores
        if not self._settled.rings:
            return False
        record = wire.plain_work(plan, launch, args)
        if record is None and not wire.is_short(args):
            return False
        cores = [self._cores[unit] for unit in units]
        try:
            for core in cores:
                if core.channel.blocked:
                    return False
                if number not in core.plans:
                    core.prepare(plan)
        except DeviceMemoryError:
            return False  # the ordinary way will say so
        self._lines.sleeps.set(NOT)
        self._lines.woken = self._rested = False
        for rank, core in enumerate(cores):
            self._active[core.unit] = core
            if record is None or core.owes:
                core.put_work(Work(ShardId(launch, rank), plan, args))
                core.channel.flush()
            else:
                core.held.append(ShardId(launch, rank))
                if core.channel.post(record):
                    self._lines.woken = True
        return True

    def look(self, plan: Plan) -> bool:
        return self._lines.look([self._cores[unit].channel for unit in plan.cores])

    def rest(self, plan: Plan) -> bool:
        self._rested = True
        return self._only_bells(plan) and self._lines.rest([self._cores[unit].channel for unit in plan.cores])

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
                return False
        return True

    def collect(self, plan: Plan) -> Sequence[bytes | Outcome] | None:
        if self._watch.stirs() and not (self._rested and self._only_bells(plan)):
            return None
        cores = [self._cores[unit] for unit in plan.cores]
        for core in cores:
            if core.channel.kind() != wire.ENDED:
                return None
        records = [core.channel.take() for core in cores]
        outcomes: list[bytes | Outcome] = []
        for core, record in zip(cores, records, strict=True):
            assert record is not None
            if self._rested:
                self._lines.learn(wire.duration(record))
            outcomes.append(core.end(record))
            del self._active[core.unit]
        return outcomes

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        core = self._cores[unit]
        if not self._active:  # else they ring already, or have rung
            self._lines.sleeps.set(NOW)
        unsent = core.send(messages)
        if core.held:
            self._active[unit] = core
        if core.channel.blocked and core.channel.polled:
            self._epoll.modify(core.channel, select.EPOLLIN | select.EPOLLOUT)
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
            control = ready.pop(self._control.fileno(), 0)
            rung = self._hear(ready)
            for core, events in said:
                self._note(core, events)
            for core in rung:
                self._listen(core, core.read())
            if control & select.EPOLLOUT and self._control.flush():
                self._epoll.modify(self._control, select.EPOLLIN)
            if control:
                self._hear_zygote()
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
            if (room or core.channel.blocked) and core.channel.flush() and room:
                self._epoll.modify(core.channel, select.EPOLLIN)
            rung.append(core)
        return rung

    def kill(self, unit: int, shard: ShardId) -> None:
        self._cores[unit].doomed = True
        self._order(("kill", unit, self._cores[unit].position(shard)))

    def close(self) -> None:
        _devices.discard(self)
        self._close_descriptors()
        if hasattr(self, "_arena"):
            self._arena.trim(0.0, 0)
        if hasattr(self, "_zygote"):
            self._zygote.wait()

    def place(self, view: memoryview) -> Buffer:
        return arena.place(self._arena, view)

    def abandon(self) -> None:
        """Let go of what a forked child has no business with.

        Its copies of descriptors would keep the cores from ending, and the
        memory is the parent's to give out.
        """
        self._arena.abandon()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        if hasattr(self, "_control"):
            self._control.close()
        for core in self._cores:
            core.close()
        self._janitor.close()
        self._free_reserve()
        self._page.close()
        self._descriptors.close()

    def _keep_reserve(self) -> None:
        """Hold the descriptors that replacing a core takes beyond those of the one that ended."""
        try:
            while len(self._reserve) < _RESERVE:
                self._reserve.append(os.dup(self._status_descriptor))
        except OSError:
            pass  # the process has none left; what is replaced next makes do without, or is gone

    def _free_reserve(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def _forget(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        del self._by_descriptor[descriptor]

    def _hear_zygote(self) -> None:
        reports, lives = self._control.hear()
        for report in reports:
            if report[0] == "ready":
                self._started = True
            elif report[0] == "spared":
                self._core_spared(*report[1:])
            else:
                self._core_ended(*report[1:])
        if not lives:
            self._zygote_ended()

    def _core_spared(self, unit: int) -> None:
        """Report that a core lives on: what it was to be killed for had ended."""
        self._cores[unit].doomed = False
        self._listen(self._cores[unit], self._cores[unit].read())
        self._events.append(Ready(unit))

    def _core_ended(self, unit: int, epoch: int, code: int | None, why: str) -> None:
        core = self._cores[unit]
        if core.epoch != epoch:
            return
        self._bury(core)
        kills, self._oom_kills = self._oom_kills, count_oom_kills()
        why = why or describe(code, out_of_memory=self._oom_kills > kills)
        begun, arrived = core.shard(self._status.begun(unit)), self._status.arrived(unit)
        self._status.clear(unit)
        self._events.append(Lost(unit, begun, why, code, core.tail(), served=arrived))
        stillborn = 0 if arrived else core.stillborn + (not core.doomed)
        if stillborn >= _MOST_STILLBORN:
            self._give_up(core, f"its process ended {stillborn} times before it could do anything: {why}")
            return
        self._free_reserve()
        self._replace(core, stillborn)
        self._keep_reserve()

    def _replace(self, core: Core, stillborn: int = 0) -> None:
        """Put a new core in the place of one that has ended."""
        unit = core.unit
        try:
            self._cores[unit] = self._spawn(unit, core.epoch + 1)
        except OSError as error:
            self._give_up(core, f"its process ended, and another could not be started: {error}")
        else:
            self._cores[unit].stillborn = stillborn
            self._events.append(Ready(unit))

    def _give_up(self, core: Core, why: str) -> None:
        self._gone.add(core.unit)
        self._events.append(Gone(core.unit, why))

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
        if not core.held:
            self._active.pop(core.unit, None)
        if core.channel.ended and core.channel.fileno() in self._by_descriptor:
            self._forget(core.channel.fileno())

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

    def _zygote_ended(self) -> None:
        """Start again when the zygote died, or give up when it never lived."""
        self._epoll.unregister(self._control)
        self._control.close()
        code = self._zygote.wait()
        why = f"the process that starts cores ended ({describe(code)})"
        lost = [core for core in self._cores if core.unit not in self._gone]
        for core in lost:
            self._bury(core)
            begun, arrived = core.shard(self._status.begun(core.unit)), self._status.arrived(core.unit)
            self._status.clear(core.unit)
            self._events.append(Lost(core.unit, begun, why, code, core.tail(), own=False, served=arrived))
        self._free_reserve()
        failed = "" if self._started else "before it could start one"
        if self._started:
            self._started = False
            try:
                self._start_zygote()
            except OSError as error:
                failed = f"and could not be started again: {error}"
        for core in lost:
            if failed:
                self._give_up(core, f"{why} {failed}")
            else:
                self._replace(core)
        self._keep_reserve()


_devices: weakref.WeakSet[ProcessDevice] = weakref.WeakSet()


def _after_fork() -> None:
    for device in list(_devices):
        device.abandon()


os.register_at_fork(after_in_child=_after_fork)
