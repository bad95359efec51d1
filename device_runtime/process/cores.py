"""The device of process cores, seen from the host: `local:4`."""

from __future__ import annotations

import os
import pickle
import select
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from device_runtime.errors import DeviceUnavailable
from device_runtime.launch import Gone, Lost, Ready, ShardId
from device_runtime.process import memory
from device_runtime.process.channel_device import ChannelDevice, opened
from device_runtime.process.control import Beginning, Control, begin_zygote
from device_runtime.process.cpus import available
from device_runtime.process.deaths import count_oom_kills, describe, end_group
from device_runtime.process.limits import allow_descriptors
from device_runtime.process.mapping import create
from device_runtime.process.settled import settle
from device_runtime.process.status import StatusPage

if TYPE_CHECKING:
    from device_runtime.process.core import Core

_NOFILE_PER_CORE = 8  # channel, output, and memory with what is mapped of it
_SPARE = 32  # descriptors of the device itself, and while cores are being made
_RESERVE = 6  # descriptors that a core, or the page of all of them, takes before the old ones are given back
_MOST_STILLBORN = 5  # times in a row that a core, or the zygote, may die before it has done anything


class ProcessDevice(ChannelDevice):
    """Cores that are processes of this machine, forked from one zygote."""

    depth = 64

    def __init__(self, units: int, begun: Beginning | None = None) -> None:
        super().__init__()
        self.address = f"local:{units}"
        self._begun = begun  # a zygote that has nothing to do yet
        self._unused = weakref.finalize(self, begun.give_up) if begun is not None else None
        self._units = units
        self._gone: set[int] = set()  # the units that will not come back
        self._stillborn = 0  # zygotes in a row that died before a core of theirs could do anything
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
            self._prepare(bound)
            self._oom_kills = count_oom_kills()
            self._start_zygote()
            self._set_alarm()
            for unit in range(self._units):
                self._cores.append(self._spawn(unit, 0))
            self._keep_reserve()
        except OSError as error:
            self.close()
            raise DeviceUnavailable(f"{self.address} could not be opened: {error}") from error
        opened.add(self)
        return self._units

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
        # Cores read arguments there, and so are not given what a kernel could write to by mistake.
        arena = os.open(f"/proc/self/fd/{self._arena_descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        self._page.callback(os.close, arena)
        self._order(("open", self._units, preload), [arena, self._status_descriptor])
        self._link(others=2)

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
        self._watch_core(core)
        self._order(("spawn", unit, epoch), core.birthright, core.give_away)
        return core

    def kill(self, unit: int, shard: ShardId) -> None:
        self._cores[unit].doomed = True
        self._order(("kill", unit, self._cores[unit].position(shard)))

    def _stop(self) -> None:
        if hasattr(self, "_zygote"):
            self._control.close()
            self._zygote.wait()

    def _close_descriptors(self) -> None:
        if hasattr(self, "_control"):
            self._control.close()
        self._free_reserve()
        self._page.close()
        super()._close_descriptors()

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

    def _attend(self, ready: Mapping[int, int]) -> None:
        mask = ready.get(self._control.fileno(), 0)
        if mask & select.EPOLLOUT and self._control.flush():
            self._epoll.modify(self._control, select.EPOLLIN)
        if mask:
            self._hear_zygote()

    def _hear_zygote(self) -> None:
        reports, lives = self._control.hear()
        for report in reports:
            if report[0] == "spared":
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
        before, self._oom_kills = self._oom_kills, count_oom_kills()
        why = why or describe(code, self._oom_kills - before)
        begun, arrived = core.shard(self._status.begun(unit)), self._status.arrived(unit)
        self._status.clear(unit)
        self._events.append(Lost(unit, begun, why, code, core.tail(), served=arrived))
        if arrived:
            self._stillborn = 0
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

    def _zygote_ended(self) -> None:
        """Start another zygote, unless one after the other has died before it was of use."""
        self._epoll.unregister(self._control)
        self._control.close()
        code = self._zygote.wait()
        why = f"the process that starts cores ended ({describe(code)})"
        lost = [core for core in self._cores if core.unit not in self._gone]
        self._stillborn += 1
        for core in lost:
            process = self._status.process(core.unit)
            if process:
                end_group(process)  # what its kernels have started would live on
            self._bury(core)
            begun, arrived = core.shard(self._status.begun(core.unit)), self._status.arrived(core.unit)
            self._status.clear(core.unit)
            self._events.append(Lost(core.unit, begun, why, code, core.tail(), own=False, served=arrived))
            if arrived:
                self._stillborn = 0
        self._free_reserve()
        failed = ""
        if self._stillborn >= _MOST_STILLBORN:
            failed = f", {self._stillborn} times in a row before a core could do anything"
        else:
            try:
                self._start_zygote()
            except OSError as error:
                failed = f" and could not be started again: {error}"
        for core in lost:
            if failed:
                self._give_up(core, why + failed)
            else:
                self._replace(core)
        self._keep_reserve()
