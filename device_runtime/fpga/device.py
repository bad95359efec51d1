"""The device of an FPGA, seen from the host: `emu:vadd.xclbin`, `pynq:vadd.xclbin`."""

from __future__ import annotations

import marshal
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

from device_runtime.claims import claim, readable
from device_runtime.device import SharedDevice
from device_runtime.errors import DeviceUnavailable
from device_runtime.fpga import boards
from device_runtime.fpga.writing import pack
from device_runtime.interrupts import Shield
from device_runtime.launch import (
    Encoded,
    Ended,
    Event,
    Gone,
    Lost,
    Message,
    Plan,
    Ready,
    ShardId,
    Unloaded,
)
from device_runtime.process import memory
from device_runtime.process.channel_device import ChannelDevice, opened
from device_runtime.process.control import search_path
from device_runtime.process.core import Core
from device_runtime.process.deaths import count_oom_kills, describe
from device_runtime.process.limits import allow_descriptors
from device_runtime.process.mapping import create
from device_runtime.process.quick import Alarm
from device_runtime.process.settled import settle
from device_runtime.process.status import StatusPage

_OPENING = 60  # seconds that loading a bitstream may take
_NOFILE_PER_UNIT = 8  # channel, output, and memory, both ends of each while an owner is started
_SPARE = 40  # descriptors of the device itself, and of what starts
_MOST_STILLBORN = 5  # times in a row that an owner may end before it has done anything
# Run by the fresh interpreter. Its first entry of sys.path, the current
# directory, goes before anything is imported from there.
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import marshal, socket
orders = open(int(sys.argv[2]), "rb")
sys.path[:] = marshal.load(orders)
from device_runtime.fpga.owner import main
main(socket.socket(fileno=int(sys.argv[1])), orders)
"""


class _Owner(NamedTuple):
    """The process that has the device."""

    control: socket.socket
    process: subprocess.Popen[bytes]
    watch: int  # a descriptor that is readable when it has ended
    hold: int  # a pipe's: it is ended when nobody has that any more

    def close(self) -> None:
        """Give back descriptors."""
        self.control.close()
        os.close(self.watch)
        os.close(self.hold)


class FpgaDevice(ChannelDevice, SharedDevice):
    """Instances of a bitstream, each a compute unit.

    One process owns the device, and has a thread for each. While the device is
    not loaded there is none.
    """

    depth = 16

    def __init__(self, config: boards.Config) -> None:
        super().__init__()
        self.address = f"{config.kind}:{config.path}"
        self._config = config
        self._epoch = 0
        self._owner: _Owner | None = None
        self.card = config.card
        self._ready = False  # the owner has said so
        self._deaf = False  # the owner says nothing more
        self._leaving = False  # it was ended for another bitstream
        self._unchecked: set[int] = set()  # units that have to give a known answer before they are used
        self._stillborn = 0  # owners in a row that ended before they had done anything
        self._why = ""  # the last one could not do what it is for

    def open(self) -> int:
        try:
            self.bitstream = boards.load(self._config)
            members = self._config.members
            self.names = boards.names(self.bitstream, members)
            if members and all(member.batch for member in members):
                self.batches = tuple([member.batch or 0 for member in members])
            self._units = max(self.names.values()) + 1
            self.memory = sum(bank.nbytes for bank in self.bitstream.banks if bank.used)
            needed, allowed = allow_descriptors(_NOFILE_PER_UNIT * self._units + _SPARE)
            if needed > allowed:
                raise DeviceUnavailable(
                    f"{self.address} has {self._units} units, and needs {needed} open files; this process "
                    f"may have {allowed}: see `ulimit -Hn`, or ask for fewer with ?units="
                )
            self._settled = settle()
            self._prepare(memory.bound())
            self._status_descriptor = self._own(create())
            self._status = StatusPage(self._status_descriptor, self._units)
            self._status.settle(self._settled)
            self._link(others=5)
            self._set_alarm()
            self._limit = self._descriptors.enter_context(closing(Alarm(_OPENING * 10**9)))
            self._epoll.register(self._limit, select.EPOLLIN)
            self._file = self._own(os.memfd_create("offload-bitstream"))
            if self._config.kind == "emu":
                # What was read and checked is what pynq gets, whatever becomes of the file.
                os.write(self._file, pack(self.bitstream))
            self._answers = self._own(os.memfd_create("offload-answers"))
            self._oom_kills = count_oom_kills()
            if self.card and self.claim is None:
                self.claim = claim(self.card, self.address, self.patience)
            if self.loaded:
                self._start()
                self._wait_until_loaded()
        except OSError as error:
            self.close()
            raise DeviceUnavailable(f"{self.address} could not be opened: {error}") from error
        except BaseException:
            self.close()
            raise
        opened.add(self)
        return self._units

    @property
    def patience(self) -> float:
        return self._config.wait

    def changed(self) -> bool:
        """Tell whether its address names another bitstream now, and not none."""
        assert self.bitstream is not None
        if not os.path.exists(self._config.asked.partition("?")[0]):
            return False
        config = boards.configure(self._config.kind, self._config.asked)
        if not os.path.exists(config.path):
            return False
        return config != self._config or boards.read(config.path).uuid != self.bitstream.uuid

    def load(self) -> None:
        self._epoch += 1
        try:
            self._start(time.monotonic())
        except OSError as error:
            self._give_up(f"it could not be loaded: {error}")
            os.eventfd_write(self._again, 1)

    def unload(self) -> None:
        if self._owner is None:  # it ended, and could not be started again
            self._events.append(Unloaded())
            os.eventfd_write(self._again, 1)
        else:
            self._leaving = True
            self._owner.process.kill()

    def _start(self, since: float | None = None) -> None:
        """Start an owner, and make the ways to its units; launches have waited for it `since` then."""
        with Shield():  # Ctrl-C must not leave descriptors behind that nobody knows of
            self._start_owner(since)

    def _start_owner(self, since: float | None) -> None:
        with ExitStack() as ours, ExitStack() as theirs:
            cores = []
            for unit in range(self._units):
                core = Core(unit, self._epoch, self._arena, partial(self._lines.connect, unit))
                ours.callback(core.close)
                cores.append(core)
            control, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(control.close)
            theirs.callback(end.close)
            host, hold = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, host)
            ours.callback(os.close, hold)
            given = [end.fileno(), host, self._arena_descriptor, self._status_descriptor, self._file]
            given += [self._answers] if self.claim is None else [self._answers, self.claim.fileno()]
            orders = os.memfd_create("offload-orders")
            theirs.callback(os.close, orders)
            with open(orders, "wb", closefd=False) as file:
                marshal.dump(search_path(), file)
                pickle.dump(self._order(cores, since, host, given), file)
            os.lseek(orders, 0, os.SEEK_SET)
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(end.fileno()), str(orders)],
                stdin=subprocess.DEVNULL,
                pass_fds=[*given, orders, *(number for core in cores for number in core.birthright)],
                start_new_session=True,
            )
            ours.callback(process.wait)
            ours.callback(process.kill)
            watch = os.pidfd_open(process.pid)
            ours.callback(os.close, watch)
            for core in cores:
                core.give_away()
            control.setblocking(False)
            ours.pop_all()
        self._owner = _Owner(control, process, watch, hold)
        self._cores, self._ready, self._deaf, self._why = cores, False, False, ""
        for core in cores:
            self._watch_core(core)
        self._epoll.register(control, select.EPOLLIN)
        self._epoll.register(watch, select.EPOLLIN)
        self._limit.set(True)

    def _order(
        self, cores: Sequence[Core], since: float | None, host: int, given: Sequence[int]
    ) -> dict[str, Any]:
        """Return what an owner is told."""
        assert self.bitstream is not None
        return {
            "seats": [core.birthright for core in cores],
            "config": self._config,
            "path": f"/proc/self/fd/{self._file}" if self._config.kind == "emu" else self._config.path,
            "arena": self._arena_descriptor,
            "status": self._status_descriptor,
            "uuid": self.bitstream.uuid,
            "answers": self._answers,
            "since": since,
            "again": bool(self._unchecked),
            "host": host,
            "given": list(given),
        }

    def _wait_until_loaded(self) -> None:
        """Wait for the owner's first word.

        Raises DeviceUnavailable, with what it says, if that is not that it is ready.
        """
        assert self._owner is not None
        control = self._owner.control
        if not readable(control, _OPENING):
            raise DeviceUnavailable(f"{self.address} was not loaded within {_OPENING} s")
        self._hear_owner()
        if not self._ready:
            why = self._why or f"its owner ended ({describe(self._owner.process.wait())})"
            output = self._last_words()
            raise DeviceUnavailable(f"{self.address} cannot be opened: {why}" + (output and f"\n{output}"))

    def _last_words(self) -> str:
        core = self._cores[0]
        for descriptor in core.streams():
            core.read_output(descriptor, [])
        return core.tail()

    def post(self, plan: Plan, launch: int, args: Encoded) -> bool:
        return self._owner is not None and not self._leaving and super().post(plan, launch, args)

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        if self._owner is None:
            return []  # it could not be started; that its units are gone is about to be heard
        return super().send(unit, messages)

    def _note(self, core: Core, events: list[Event]) -> None:
        super()._note(core, events)
        if any(isinstance(event, Ended) for event in events):
            self._stillborn = 0

    def _attend(self, ready: Mapping[int, int]) -> None:
        owner, late = self._owner, self._limit.fileno() in ready
        if late:
            self._limit.hear()
        if owner is not None:
            if owner.control.fileno() in ready:
                self._hear_owner()
            if late and not self._ready:
                self._why = f"the device was not loaded within {_OPENING} s"
                owner.process.kill()
            if owner.watch in ready:
                self._owner_ended()

    def _hear_owner(self) -> bool:
        """Take in what the owner says of itself; return whether it said anything."""
        assert self._owner is not None
        try:
            data = self._owner.control.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            if not self._deaf:
                self._deaf = True
                self._epoll.unregister(self._owner.control)
            return False
        word, told = pickle.loads(data)
        if word == "ready":
            self._ready = True
            self._limit.set(False)
        elif word == "failed":
            self._why = told
        elif word == "hung":
            self._unchecked = set(range(self._units))
        else:
            unit, why = told
            self._unchecked.discard(unit)
            gone = Gone(unit, f"{why}; it is not used any more")
            self._events.append(Ready(unit) if word == "fit" else gone)
        return True

    def kill(self, unit: int, shard: ShardId) -> None:
        """End the owner, and all units with it: a thread cannot be ended by itself.

        It is stopped first: while a signal is under way the unit may begin
        another shard, which must not be hit.
        """
        assert self._owner is not None
        process = self._owner.process.pid
        position = self._cores[unit].position(shard)
        try:
            os.kill(process, signal.SIGSTOP)
            os.waitid(os.P_PID, process, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):
            return  # it has ended by itself
        if position == -1 or self._status.is_past(unit, position):
            os.kill(process, signal.SIGCONT)
            self._listen(self._cores[unit], self._cores[unit].read())
            self._events.append(Ready(unit))
            os.eventfd_write(self._again, 1)
        else:
            self._cores[unit].doomed = True
            os.kill(process, signal.SIGKILL)

    def _stop(self) -> None:
        if self._owner is not None:
            self._owner.process.kill()
            self._owner.process.wait()

    def _close_descriptors(self) -> None:
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        if self.claim is not None:
            self.claim.close()
        super()._close_descriptors()

    def _owner_ended(self) -> None:
        """Report the units as lost, and start another owner; not if this one had to leave."""
        while self._hear_owner():
            pass
        owner, self._owner = self._owner, None
        assert owner is not None
        self.losses += 1
        self._epoll.unregister(owner.watch)
        code = owner.process.wait()
        before, self._oom_kills = self._oom_kills, count_oom_kills()
        why = self._why or describe(code, self._oom_kills - before)
        begun: dict[int, ShardId] = {}  # by unit
        for core in self._cores:
            self._bury(core)
            shard = core.shard(self._status.begun(core.unit))
            if shard is not None:
                begun[core.unit] = shard
        blamed = {core.unit for core in self._cores if core.doomed}
        if not blamed and code != boards.HUNG:
            blamed = set(begun) or set(range(self._units))  # nobody knows better
        lost: list[Lost] = []
        for core in self._cores:
            own = core.unit in blamed
            told = why if own else f"the process that has the device was ended for another unit: {why}"
            # What the device was not lost by is not held against a launch.
            served = own and self._status.arrived(core.unit)
            lost.append(Lost(core.unit, begun.get(core.unit), told, code, core.tail(), own, served))
            self._status.clear(core.unit)
        owner.close()
        if self._leaving:
            self._leaving, self._cores = False, []
            self._events.append(Unloaded())
            return
        lost.sort(key=lambda event: not event.own)
        self._events += lost
        if begun or (self._ready and not self._unchecked):
            self._stillborn = 0
        elif not any(core.doomed for core in self._cores):
            self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN:
            told = f"{self._stillborn} in a row ended before they could be used"
            self._give_up(f"the owner of {self.address} ended ({why}); {told}")
            return
        self._epoch += 1
        self._unchecked = set(range(self._units))
        try:
            self._start(time.monotonic())
        except OSError as error:
            told = f"and could not be started again: {error}"
            self._give_up(f"the owner of {self.address} ended ({why}); {told}")

    def _give_up(self, why: str) -> None:
        self._events += [Gone(unit, why) for unit in range(self._units)]


def open_emulated(rest: str) -> FpgaDevice:
    """Make the device of an address such as `emu:vadd.xclbin?units=8&clock=300`."""
    return FpgaDevice(boards.configure("emu", rest))


def open_pynq(rest: str) -> FpgaDevice:
    """Make the device of an address such as `pynq:vadd.xclbin?device=1`."""
    return FpgaDevice(boards.configure("pynq", rest))
