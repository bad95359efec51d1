"""The process that all cores are forked from.

It is a fresh interpreter, not a copy of the host: it has imported what every
core needs, runs one thread, and does nothing but fork cores, see them end, and
report it. When the host is gone its socket closes; then the zygote ends all
cores, and itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import time
from typing import Any, NamedTuple, NoReturn

from device_runtime.process import worker
from device_runtime.process.deaths import end_group
from device_runtime.process.limits import allow_descriptors
from device_runtime.process.status import StatusPage

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
TERM_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_SPARE = 64  # descriptors for what cores open themselves
RECEIVE = 1 << 17  # bytes of a message, sys.path in it


class Doom(NamedTuple):
    """What a core is to be killed for, and how far that has come."""

    work: int  # counted as on the status page
    deadline: float  # of the present step
    signal: signal.Signals | None  # to be sent once the core has stopped; None if it was


class Zygote:
    """Fork cores on demand, and report their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        order, descriptors = self._read()
        if order is None:
            os._exit(0)  # the device was not opened
        _, self._units, preload = order
        self._host_arena, self._status_descriptor = descriptors
        self._status = StatusPage(self._status_descriptor, self._units)
        for name in preload:
            try:
                importlib.import_module(name)
            except ImportError:
                pass  # the core will say so where a kernel needs it
        allow_descriptors(2 * self._units + _SPARE)
        self._inboxes = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self._units)]
        self._cores: dict[int, tuple[int, int]] = {}  # by process: unit and its epoch
        self._processes: dict[int, int] = {}  # by unit
        self._doomed: dict[int, Doom] = {}  # by process
        self._prctl = ctypes.CDLL(None).prctl
        # What kernels started and left behind becomes this process's child; so it can be ended with it.
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)
        gc.freeze()  # cores share these objects' memory; a collection must not touch it
        gc.enable()

    def serve(self) -> None:
        """Obey the host until it is gone."""
        bell, ring = os.pipe()
        os.set_blocking(bell, False)
        os.set_blocking(ring, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        self._bells = (bell, ring)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(bell, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(self._until_next_kill()):
                if descriptor == bell:
                    os.read(bell, 4096)
                else:
                    order, descriptors = self._read()
                    if order is None:
                        self._end_all()
                        return
                    if order[0] == "spawn":
                        self._spawn(order[1], order[2], descriptors)
                    elif order[0] == "kill":
                        self._kill(order[1], order[2])
            self._reap()
            now = time.monotonic()
            for process in [p for p, doom in self._doomed.items() if doom.deadline <= now]:
                self._insist(process)

    def _read(self) -> tuple[Any, list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, RECEIVE, 8)
        except ConnectionResetError:  # the host has closed its end with reports of ours unread
            return None, []
        return (pickle.loads(data) if data else None), descriptors

    def _until_next_kill(self) -> int | None:
        if not self._doomed:
            return None
        first = min(doom.deadline for doom in self._doomed.values())
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def _spawn(self, unit: int, epoch: int, descriptors: list[int]) -> None:
        try:
            process = os.fork()
        except OSError as error:
            self._tell(("exit", unit, epoch, None, f"no process could be started for it: {error}"))
        else:
            if not process:
                self._become_core(unit, descriptors)
            self._cores[process] = (unit, epoch)
            self._processes[unit] = process
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_core(self, unit: int, descriptors: list[int]) -> NoReturn:
        status = 1
        try:
            parent = os.getppid()
            os.setsid()  # away from the terminal's Ctrl-C, and a group that can be ended as a whole
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            for descriptor in (self._control.detach(), *self._bells):
                os.close(descriptor)
            if os.getppid() == parent:  # else the zygote died before the signal was asked for
                channel, stdout, stderr, arena, room = descriptors
                outs = [out for out, _ in self._inboxes]
                inbox = self._inboxes[unit][1]
                worker.main(
                    worker.Seat(
                        unit,
                        self._units,
                        channel,
                        stdout,
                        stderr,
                        arena,
                        room,
                        self._host_arena,
                        self._status_descriptor,
                        inbox,
                        outs,
                    )
                )
                status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _kill(self, unit: int, work: int) -> None:
        """Kill a core, unless the work it is to be killed for has ended.

        While a signal is under way the core may begin another work, which must
        not be hit. So the core is stopped first, and looked at while it stands.
        """
        process = self._processes.get(unit)
        if process is not None and process not in self._doomed:
            self._stop(process, work, signal.SIGTERM)

    def _stop(self, process: int, work: int, then: signal.Signals) -> None:
        os.kill(process, signal.SIGSTOP)
        self._doomed[process] = Doom(work, time.monotonic() + TERM_GRACE, then)

    def _stopped(self, process: int) -> None:
        doom = self._doomed.get(process)
        if doom is None or doom.signal is None:
            return  # a kernel has stopped itself
        unit, _ = self._cores[process]
        if self._status.is_past(unit, doom.work):
            del self._doomed[process]
            self._tell(("spared", unit))
        else:
            self._doomed[process] = Doom(doom.work, time.monotonic() + TERM_GRACE, None)
            os.kill(process, doom.signal)
        os.kill(process, signal.SIGCONT)

    def _insist(self, process: int) -> None:
        """Go on with a core that has not done in time what it was signalled."""
        doom = self._doomed.pop(process)
        if doom.signal is None:
            self._stop(process, doom.work, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGKILL)  # it stands already, or is caught in the kernel of the system

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not process:
                return
            if os.WIFSTOPPED(status):
                self._stopped(process)
                continue
            self._doomed.pop(process, None)
            if process in self._cores:
                unit, epoch = self._cores.pop(process)
                del self._processes[unit]
                end_group(process)
                self._tell(("exit", unit, epoch, os.waitstatus_to_exitcode(status), ""))

    def _tell(self, report: tuple[Any, ...]) -> None:
        try:
            self._control.send(pickle.dumps(report))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the host is gone; the next read of the socket says so

    def _end_all(self) -> None:
        for process in self._cores:
            end_group(process)
            os.kill(process, signal.SIGKILL)
        for process in self._cores:
            os.waitpid(process, 0)
        _end_children()


def _end_children() -> None:
    """End what kernels started in sessions of its own; the children of what ends become ours."""
    spared: set[int] = set()  # they belong to another user by now
    while left := _children() - spared:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            except PermissionError:
                spared.add(process)


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return {int(process) for process in file.read().split()}
    except FileNotFoundError:  # a system that was built without it
        return set()


def main(control: socket.socket) -> None:
    """Be the zygote until the host is gone."""
    Zygote(control).serve()
    os._exit(0)
