"""A process core: what runs in the process that the zygote forked for it."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from device_runtime import context
from device_runtime.launch import Encoded, Outcome, ShardId, make
from device_runtime.process import wire
from device_runtime.process.arena import place
from device_runtime.process.cpus import leave
from device_runtime.process.endpoint import Endpoint, LogForwarder, Place
from device_runtime.process.entered import Entered
from device_runtime.process.lines import core_channel
from device_runtime.process.links import Links
from device_runtime.process.mesh import ProcessMesh
from device_runtime.process.patience import Patience
from device_runtime.process.quick import this_cpu
from device_runtime.process.status import StatusPage
from device_runtime.process.streams import KernelStream
from device_runtime.runner import Runner


class Seat(NamedTuple):
    """What a core is born with: its number, and descriptors that it shares with host and cores."""

    core: int
    cores: int
    channel: int
    stdout: int
    stderr: int
    arena: int  # its own, for results
    room: int  # rung when there is room again for what it has to say
    host_arena: int
    status: int
    inbox: socket.socket
    outs: Sequence[socket.socket]


_OFTEN = 32  # of so many waits that look on, one sees whether host and core share a CPU


class Worker:
    """Run what the host sends, one shard after the other, until the channel closes."""

    def __init__(self, seat: Seat) -> None:
        self._core = seat.core
        self._status = StatusPage(seat.status, seat.cores)
        end = socket.socket(fileno=seat.channel)
        self._channel = core_channel(self._status, seat.core, end, seat.room)
        settled = self._status.settled()
        self._patience = Patience(settled.spin if settled.rings else 0)
        self._settled_cpus = settled.cpus
        self._alone = False  # host and cores of the last launch were no more than there are CPUs
        self._looks = 0
        self._cpus = settled.cpus if settled.cpus < seat.cores else 0  # 0: cores cannot be more than CPUs
        self._endpoint = Endpoint(seat.core, self._channel, seat.host_arena, seat.arena, self._notice)
        self._work = 0  # the number of works that have ended
        self._streams = (KernelStream(seat.stdout), KernelStream(seat.stderr))
        self._mesh = ProcessMesh(
            seat.core,
            seat.inbox,
            seat.outs,
            self._status,
            Links(seat.core, self._status, seat.status),
            seat.channel,
            self._report_waiting,
            self._channel.arm,
            self._hear,
            self._channel.ready,
            Patience(settled.spin),
        )
        self._entered = Entered(context.enter_process)
        self._runner = Runner(
            seat.core,
            seat.cores,
            self._mesh,
            partial(place, self._endpoint.arena),
            self._entered,
            self._begin,
        )
        self._root = logging.getLogger()
        self._forwarder = LogForwarder(self._endpoint.say)
        self._root.addHandler(self._forwarder)
        os.register_at_fork(before=self._flush, after_in_child=self._let_go)

    def serve(self) -> None:
        """Run shards until the host is gone."""
        self._mend_streams()
        self._status.arrive(self._core)
        works, take, take_in = self._endpoint.works, self._channel.take, self._endpoint.take
        while True:
            while works:
                self._run(*works.popleft())
            record = take()
            if record is not None:
                take_in(record)
            elif not self._wait():
                return

    def _wait(self) -> bool:
        """Wait for the next record; return False when the host is gone."""
        channel = self._channel
        if channel.ended:
            return False
        patience = self._patience
        if patience.pays() and not (self._cpus and self._status.busy() >= self._cpus):
            self._looks += 1
            if not self._looks % _OFTEN:
                self._keep_apart()
            if patience.until(channel.ready, os.sched_yield, self._alone):
                return True
        self._endpoint.sleep(patience)
        return True

    def _keep_apart(self) -> None:
        """Leave the CPU to the host if it runs on the same one.

        The system tends to leave them together, and each then waits for the
        other to give way. The last of the CPUs' cores stays where it is.
        """
        cpu = this_cpu()
        if self._core < self._settled_cpus - 1 and self._status.shares_cpu(cpu):
            leave(cpu)

    def _run(
        self, launch: int, attempt: int, place: Place, args: Encoded | None, more: Any, followed: bool
    ) -> None:
        plan, rank = place
        self._alone = len(plan.cores) < self._settled_cpus
        shard = make(ShardId, (launch, rank, attempt))
        if self._root.level != plan.log_level:
            self._root.setLevel(plan.log_level)
        self._endpoint.running = True
        self._mesh.begin(shard, plan.cores)
        if plan.report_begin:  # loading the arguments counts, too
            self._endpoint.post(wire.pack(("begun", tuple(shard), time.monotonic())))
        work = self._endpoint.work(shard, plan, args, more)
        del args, more
        outcome = work if isinstance(work, Outcome) else self._runner.run(work)
        del work
        self._mesh.end()
        for stream in self._streams:
            if stream.written:
                stream.finish()
        self._endpoint.running = False
        self._endpoint.end(outcome, followed)
        self._status.end(self._core, self._work)
        self._work += 1
        self._mend_streams()

    def _flush(self) -> None:
        for stream in self._streams:
            stream.finish()

    def _let_go(self) -> None:
        """Leave the core's ways to host and cores to the core; called in a process that a kernel forked.

        What it prints still arrives, as it does from any program that a kernel starts.
        """
        self._root.removeHandler(self._forwarder)
        self._endpoint.close()
        self._entered.fork()

    def _begin(self, shard: ShardId, at: float) -> None:
        self._status.begin(self._core, self._work)
        self._mesh.open()

    def _report_waiting(self, shard: ShardId, core: int) -> None:
        self._endpoint.post(wire.pack(("waiting", tuple(shard), core)))

    def _notice(self, shard: ShardId, core: int, why: str) -> None:
        self._mesh.notice(shard, core, why)

    def _hear(self) -> None:
        """Take in what the host sent, in the midst of a shard."""
        self._channel.hear()
        while (record := self._channel.take()) is not None:
            self._endpoint.take(record)

    def _mend_streams(self) -> None:
        """Give the next kernel its streams, whatever the last one did to them."""
        try:
            os.get_blocking(1)
            os.get_blocking(2)
        except OSError:
            for number, stream in enumerate(self._streams, 1):
                os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = self._streams


def main(seat: Seat) -> None:
    """Be a core until the host is gone; runs in a process of its own."""
    # Out of reach of a kernel that closes descriptors 1 and 2.
    for number, descriptor in ((1, seat.stdout), (2, seat.stderr)):
        os.dup2(descriptor, number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.enable(file=2, all_threads=False)
    sys.modules["__main__"] = types.ModuleType("__main__")
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # else all cores forked from one process draw the same numbers
    Worker(seat).serve()
