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
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from device_runtime.claims import claim, readable
from device_runtime.device import SharedDevice
from device_runtime.errors import DeviceUnavailable
from device_runtime.fpga import boards
from device_runtime.fpga.writing import pack
from device_runtime.interrupts import Shield
from device_runtime.launch import Buffer, Ended, Event, Gone, Lost, Message, Ready, ShardId, Unloaded
from device_runtime.process import arena, memory
from device_runtime.process.channel import SocketChannel
from device_runtime.process.control import search_path
from device_runtime.process.core import Core
from device_runtime.process.deaths import count_oom_kills, describe
from device_runtime.process.janitor import Janitor
from device_runtime.process.mapping import create
from device_runtime.process.status import StatusPage

_OPENING = 60.0  # seconds that loading a bitstream may take
_MOST_STILLBORN = 5  # times in a row that an owner may end before it has done anything
# Run by the fresh interpreter. Its first entry of sys.path, the current
# directory, goes before anything is imported from there.
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import marshal, socket
control = socket.socket(fileno=int(sys.argv[1]))
sys.path[:] = marshal.loads(control.recv(1 << 17))
from device_runtime.fpga.owner import main
main(control)
"""


class _Owner(NamedTuple):
    """The process that has the device."""

    control: socket.socket
    process: subprocess.Popen[bytes]
    watch: int  # a descriptor that is readable when it has ended


class FpgaDevice(SharedDevice):
    """Instances of a bitstream, each a compute unit.

    One process owns the device, and has a thread for each. While the device is
    not loaded there is none.
    """

    depth = 16

    def __init__(self, config: boards.Config) -> None:
        self.address = f"{config.kind}:{config.path}"
        self._config = config
        self._epoch = 0
        self._cores: list[Core] = []
        self._by_descriptor: dict[int, Core] = {}
        self._events: list[Event] = []
        self._janitor = Janitor()
        self._descriptors = ExitStack()
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
            self._arena_descriptor = self._own(create())
            self._arena = arena.Arena(self._arena_descriptor, memory.bound(), self._janitor)
            self._status_descriptor = self._own(create())
            self._status = StatusPage(self._status_descriptor, self._units)
            self._epoll = select.epoll()
            self._descriptors.callback(self._epoll.close)
            self._file = self._own(os.memfd_create("offload-bitstream"))
            if self._config.kind == "emu":
                # What was read and checked is what pynq gets, whatever becomes of the file.
                os.write(self._file, pack(self.bitstream))
            self._answers = self._own(os.memfd_create("offload-answers"))
            self._bell = self._own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))  # rung by ourselves
            self._epoll.register(self._bell, select.EPOLLIN)
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
        _devices.add(self)
        return self._units

    @property
    def patience(self) -> float:
        return self._config.wait

    def load(self) -> None:
        self._epoch += 1
        try:
            self._start(time.monotonic())
        except OSError as error:
            self._give_up(f"it could not be loaded: {error}")
            os.eventfd_write(self._bell, 1)

    def unload(self) -> None:
        if self._owner is None:  # it ended, and could not be started again
            self._events.append(Unloaded())
            os.eventfd_write(self._bell, 1)
        else:
            self._leaving = True
            self._owner.process.kill()

    def _own(self, descriptor: int) -> int:
        self._descriptors.callback(os.close, descriptor)
        return descriptor

    def _start(self, since: float | None = None) -> None:
        """Start an owner, and make the ways to its units; launches have waited for it `since` then."""
        with Shield():  # Ctrl-C must not leave descriptors behind that nobody knows of
            self._start_owner(since)

    def _start_owner(self, since: float | None) -> None:
        cores = [
            Core(unit, self._epoch, self._arena, lambda end, _: SocketChannel(end))
            for unit in range(self._units)
        ]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            given = [theirs.fileno(), self._arena_descriptor, self._status_descriptor, self._file]
            given += [self._answers] if self.claim is None else [self._answers, self.claim.fileno()]
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[*given, *(number for core in cores for number in core.birthright)],
                start_new_session=True,
            )
        for core in cores:
            core.give_away()
            for descriptor in core.descriptors():
                self._by_descriptor[descriptor] = core
                self._epoll.register(descriptor, select.EPOLLIN)
        assert self.bitstream is not None
        order = {
            "seats": [core.birthright for core in cores],
            "config": self._config,
            "path": f"/proc/self/fd/{self._file}" if self._config.kind == "emu" else self._config.path,
            "arena": self._arena_descriptor,
            "status": self._status_descriptor,
            "uuid": self.bitstream.uuid,
            "answers": self._answers,
            "since": since,
            "again": bool(self._unchecked),
            "given": given,
        }
        self._owner = _Owner(ours, process, os.pidfd_open(process.pid))
        self._epoll.register(ours, select.EPOLLIN)
        self._epoll.register(self._owner.watch, select.EPOLLIN)
        self._cores, self._ready, self._deaf, self._why = cores, False, False, ""
        ours.send(marshal.dumps(search_path()))
        ours.send(pickle.dumps(order))
        ours.setblocking(False)

    def _wait_until_loaded(self) -> None:
        """Wait for the owner's first word.

        Raises DeviceUnavailable, with what it says, if that is not that it is ready.
        """
        assert self._owner is not None
        control = self._owner.control
        if not readable(control, _OPENING):
            raise DeviceUnavailable(f"{self.address} was not loaded within {_OPENING:g} s")
        self._hear()
        if not self._ready:
            why = self._why or f"its owner ended ({describe(self._owner.process.wait())})"
            output = self._last_words()
            raise DeviceUnavailable(f"{self.address} cannot be opened: {why}" + (output and f"\n{output}"))

    def _last_words(self) -> str:
        core = self._cores[0]
        for descriptor in core.streams():
            core.read_output(descriptor, [])
        return core.tail()

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        if self._owner is None:
            return []  # it could not be started; that its units are gone is about to be heard
        core = self._cores[unit]
        unsent = core.send(messages)
        self._watch_for_room(core)
        return unsent

    def _watch_for_room(self, core: Core) -> None:
        if core.channel.fileno() in self._by_descriptor:
            room = select.EPOLLOUT if core.channel.blocked else 0
            self._epoll.modify(core.channel, select.EPOLLIN | room)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def receive(self) -> list[Event]:
        ended, owner = False, self._owner
        for descriptor, mask in self._epoll.poll(0):
            core = self._by_descriptor.get(descriptor)
            if core is None:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                elif owner is not None and descriptor == owner.watch:
                    ended = True
                elif owner is not None and descriptor == owner.control.fileno():
                    self._hear()
                # Any other was let go of in this very turn.
            elif descriptor != core.channel.fileno():
                self._read_output(core, descriptor)
            else:
                if mask & select.EPOLLOUT:
                    core.channel.flush()
                    self._watch_for_room(core)
                self._listen(core)
        if ended:
            self._owner_ended()
        events, self._events = self._events, []
        return events

    def _hear(self) -> bool:
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

    def _listen(self, core: Core) -> None:
        """Take in what a unit has said, behind what it printed before it said so."""
        events = core.read()
        if events:
            for descriptor in core.streams():
                if descriptor in self._by_descriptor:
                    self._read_output(core, descriptor)
        if any(isinstance(event, Ended) for event in events):
            core.finish_output(self._events)
            self._stillborn = 0
        self._events += events
        if core.channel.ended:
            self._forget(core.channel.fileno())

    def _read_output(self, core: Core, descriptor: int) -> None:
        if not core.read_output(descriptor, self._events):
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        if self._by_descriptor.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

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
            self._events.append(Ready(unit))
            os.eventfd_write(self._bell, 1)
        else:
            self._cores[unit].doomed = True
            os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        _devices.discard(self)
        owner = self._owner
        self._let_go()
        if hasattr(self, "_arena"):
            self._arena.trim(0.0, 0)
        if owner is not None:
            owner.process.kill()
            owner.process.wait()

    def place(self, view: memoryview) -> Buffer:
        return arena.place(self._arena, view)

    def abandon(self) -> None:
        """Let go of what a forked child has no business with."""
        self._arena.abandon()
        self._let_go()

    def _let_go(self) -> None:
        if self._owner is not None:
            self._owner.control.close()
            os.close(self._owner.watch)
            self._owner = None
        if self.claim is not None:
            self.claim.close()
        for core in self._cores:
            core.close()
        self._janitor.close()
        self._descriptors.close()

    def _owner_ended(self) -> None:
        """Report the units as lost, and start another owner; not if this one had to leave."""
        while self._hear():
            pass
        owner, self._owner = self._owner, None
        assert owner is not None
        self._epoll.unregister(owner.watch)
        os.close(owner.watch)
        code = owner.process.wait()
        kills, self._oom_kills = self._oom_kills, count_oom_kills()
        why = self._why or describe(code, out_of_memory=self._oom_kills > kills)
        blamed = code == boards.HUNG or any(core.doomed for core in self._cores)  # it is known by whom
        lost: list[Lost] = []
        for core in self._cores:
            self._listen(core)
            core.finish_output(self._events)
            for descriptor in core.descriptors():
                self._forget(descriptor)
            if self._leaving:
                self._status.clear(core.unit)
                core.close()
                continue
            begun, arrived = core.shard(self._status.begun(core.unit)), self._status.arrived(core.unit)
            own = not blamed or core.doomed
            told = why if own else f"the process that has the device was ended for another unit: {why}"
            # What the device was not lost by is not held against a launch.
            lost.append(Lost(core.unit, begun, told, code, core.tail(), own, arrived and own))
            self._status.clear(core.unit)
            core.close()
        owner.control.close()
        if self._leaving:
            self._leaving, self._cores = False, []
            self._events.append(Unloaded())
            return
        lost.sort(key=lambda event: not event.own)
        self._events += lost
        usable = self._ready and not self._unchecked
        self._stillborn += not (usable or any(core.doomed for core in self._cores))
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


_devices: weakref.WeakSet[FpgaDevice] = weakref.WeakSet()


def _after_fork() -> None:
    for device in list(_devices):
        device.abandon()


os.register_at_fork(after_in_child=_after_fork)
