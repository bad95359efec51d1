"""The owner of a device: the one process that touches its driver, with a thread for each unit.

It is a fresh interpreter, told what to be over a socket, and ends with it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import io
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, Any, ClassVar, NamedTuple, NoReturn

from device_runtime import context
from device_runtime.context import Context, NoMesh
from device_runtime.errors import DeviceError, MessageError, NotOnDevice
from device_runtime.fpga.answers import Answers
from device_runtime.fpga.boards import HUNG, open_board
from device_runtime.fpga.instance import InstanceDriver
from device_runtime.launch import Encoded, Outcome, ShardId
from device_runtime.process import wire
from device_runtime.process.arena import place
from device_runtime.process.endpoint import Endpoint, LogForwarder, Place
from device_runtime.process.entered import Entered
from device_runtime.process.lines import core_channel
from device_runtime.process.patience import Patience
from device_runtime.process.status import StatusPage
from device_runtime.process.streams import KernelStream
from device_runtime.runner import Runner


class Seat(NamedTuple):
    """A unit's descriptors: as a process core has them."""

    channel: int
    stdout: int
    stderr: int
    arena: int
    room: int


_LONGEST = 4000  # characters of what is told of a unit, or of opening
_NO_MESSAGES = "the units of an FPGA exchange no messages; launch on process cores for that"


class Owner(NamedTuple):
    """What all units of an owner share."""

    units: int  # how many there are
    host_arena: int
    status: StatusPage
    loading: float  # seconds that launches have waited for the bitstream
    again: bool  # they have to be checked first
    tell: Callable[[str, Any], None]  # tells the host something of a unit itself
    awake: set[int]  # the units whose threads do not sleep


class _Over:
    """Stand for the instance of a launch that has ended, in threads of its kernel that have not."""

    meter = None
    over = True

    def __getattr__(self, name: str) -> NoReturn:
        raise NotOnDevice(
            "the launch that this thread belongs to has ended: its instance may be another's now"
        )


_OVER = _Over()


class UnitThread(threading.Thread):
    """Run shards on one unit, one after the other, until the channel closes."""

    def __init__(
        self,
        unit: int,
        seat: Seat,
        instance: InstanceDriver,
        owner: Owner,
    ) -> None:
        super().__init__(name=f"offload-unit-{unit}")
        self._unit = unit
        self._owner = owner
        self._status = owner.status
        self._channel = core_channel(self._status, unit, socket.socket(fileno=seat.channel), seat.room)
        settled = self._status.settled()
        self._patience = Patience(settled.spin if settled.rings else 0)
        self._awake = owner.awake
        self._endpoint = Endpoint(unit, self._channel, owner.host_arena, seat.arena, lambda *_: None)
        self.streams = KernelStream(seat.stdout), KernelStream(seat.stderr)
        self._work = 0  # the number of works that have ended
        self._pure = False  # what runs may be run again
        self._instance = instance
        self._entered = Entered(context.enter_thread)
        self._context: Context | None = None  # of what runs
        self._runner = Runner(
            unit,
            owner.units,
            NoMesh(MessageError, _NO_MESSAGES),
            partial(place, self._endpoint.arena),
            self._enter,
            self._begin,
        )
        self.say = self._endpoint.say

    def run(self) -> None:
        if self._owner.again:
            why = self._instance.check()
            self._instance.meter.take()
            self._owner.tell("unfit" if why else "fit", (self._unit, _cut(why)))
            if why:
                return  # the host sends it nothing more
        self._instance.meter.loading = self._owner.loading
        self._status.arrive(self._unit)
        self._awake.add(self._unit)
        works, channel = self._endpoint.works, self._channel
        while True:
            while works:
                launch, attempt, place, args, more, followed = works.popleft()
                self._run(ShardId(launch, place.rank, attempt), place, args, more, followed)
            record = channel.take()
            if record is not None:
                self._endpoint.take(record)
            elif channel.ended:
                os._exit(0)  # the host is gone
            else:
                self._wait()

    def _wait(self) -> None:
        # Only one thread looks on, and while no other has anything to do: it has the interpreter's lock.
        patience = self._patience
        if patience.pays() and len(self._awake) == 1 and patience.until(self._stirs, os.sched_yield):
            return
        self._awake.discard(self._unit)
        self._endpoint.sleep(patience)
        self._awake.add(self._unit)

    def _stirs(self) -> bool:
        """Tell whether there is a record, or another thread has woken up."""
        return len(self._awake) > 1 or self._channel.ready()

    def _run(self, shard: ShardId, place: Place, args: Encoded | None, more: Any, followed: bool) -> None:
        if place.plan.report_begin:
            self._endpoint.post(wire.pack(("begun", tuple(shard), time.monotonic())))
        root = logging.getLogger()
        if root.level != place.plan.log_level:
            root.setLevel(place.plan.log_level)
        self._endpoint.running, self._pure = True, place.plan.image.pure
        work = self._endpoint.work(shard, place.plan, args, more)
        outcome = work if isinstance(work, Outcome) else self._runner.run(work)
        del work, args, more
        if self._context is not None:
            self._context.instance, self._context = _OVER, None
        _Streams.mend()
        for stream in self.streams:
            stream.finish()
        self._endpoint.running = False
        if self._instance.hung:
            self._owner.tell("hung", (self._unit, ""))  # first: it may be that the owner is ended at once
        self._endpoint.end(outcome._replace(costs=self._instance.meter.take()), followed)
        self._status.end(self._unit, self._work)
        self._work += 1
        del outcome
        self._instance.launch_ended()
        if self._instance.hung:
            os._exit(HUNG)  # and the host starts another owner, which sets the device up anew

    def fork(self) -> None:
        """Leave the way to the host to the owner; called in a process that a kernel forked."""
        self._endpoint.close()
        self._entered.fork()

    def _enter(self, entered: Context) -> Entered:
        entered.instance = self._instance
        self._context = entered
        return self._entered(entered)

    def _begin(self, shard: ShardId, at: float) -> None:
        if not self._pure:
            self._status.begin(self._unit, self._work)


class _Streams(io.TextIOBase):
    """Standard output or error of all units: each thread writes to its own."""

    encoding = "utf-8"
    _made: ClassVar[list[_Streams]] = []  # those of standard output, and error

    def __init__(self, streams: Sequence[KernelStream]) -> None:
        self._streams = streams
        self._made.append(self)

    @classmethod
    def mend(cls) -> None:
        """Give kernels their streams, whatever one of them did to them."""
        sys.stdout, sys.stderr = cls._made

    @classmethod
    def finish(cls) -> None:
        """Hand on what this thread's kernel has written."""
        for stream in cls._made:
            stream._mine().finish()

    def _mine(self) -> KernelStream:
        here = context.current()
        return self._streams[0 if here is None else here.core]

    @property
    def name(self) -> Any:
        return self._mine().name

    def reconfigure(self, **settings: Any) -> None:
        self._mine().reconfigure(**settings)

    def write(self, text: str) -> int:
        return self._mine().write(text)

    def flush(self) -> None:
        self._mine().flush()

    @property
    def buffer(self) -> Any:
        return self._mine().buffer

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._mine().fileno()

    def close(self) -> None:
        """Stay open, for those that come after."""


class _UnitForwarder(LogForwarder):
    """Send log records to the host by the unit whose thread logs."""

    def __init__(self, threads: Sequence[UnitThread]) -> None:
        super().__init__(lambda record: threads[_core()].say(record))


def _core() -> int:
    here = context.current()
    return 0 if here is None else here.core


def main(control: socket.socket, orders: IO[bytes]) -> None:
    """Be the owner of a device until the host is gone."""
    order = pickle.load(orders)
    orders.close()
    _end_with_the_host(order["host"])
    for descriptor in order["given"]:
        os.set_inheritable(descriptor, False)  # what a kernel starts must not keep the card
    seats = [Seat(*seat) for seat in order["seats"]]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(seats[0].stdout, 1)
    os.dup2(seats[0].stderr, 2)
    faulthandler.enable(file=2, all_threads=False)
    try:
        instances = open_board(order["config"], order["path"], order["uuid"], Answers(order["answers"]))
    except BaseException as error:
        told = str(error) if isinstance(error, DeviceError) else repr(error)
        if sys.flags.optimize > 1 and type(error).__name__ == "YaccError":
            told += " (PYTHONOPTIMIZE=2 leaves out docstrings, which pynq's parser needs)"
        _say(control, "failed", _cut(told))
        os._exit(1)
    status = StatusPage(order["status"], len(seats))
    loading = 0.0 if order["since"] is None else time.monotonic() - order["since"]
    tell = partial(_say, control)
    owner = Owner(len(seats), order["arena"], status, loading, order["again"], tell, set())
    threads = [
        UnitThread(unit, seat, instance, owner)
        for unit, (seat, instance) in enumerate(zip(seats, instances, strict=True))
    ]
    for kind in (0, 1):
        _Streams([thread.streams[kind] for thread in threads])
    _Streams.mend()
    forwarder = _UnitForwarder(threads)
    logging.getLogger().addHandler(forwarder)
    given: list[int] = order["given"]
    os.register_at_fork(before=_flush, after_in_child=partial(_leave, threads, forwarder, given))
    sys.modules["__main__"] = types.ModuleType("__main__")
    _inherit()
    gc.freeze()  # a full bank has garbage collected, which would take 40 ms: these objects stay
    _say(control, "ready", None)
    for thread in threads:
        thread.start()
    control.recv(1)  # the host says nothing more; this is its end
    os._exit(0)


def _flush() -> None:
    """Let what this thread's kernel has printed not be printed again by a process that it forks."""
    if context.current() is not None:
        _Streams.finish()


def _leave(threads: Sequence[UnitThread], forwarder: _UnitForwarder, given: list[int]) -> None:
    """Leave device and host to the owner; called in a process that a kernel forked.

    What it prints still arrives, as it does from any program that a kernel starts.
    """
    logging.getLogger().removeHandler(forwarder)
    for thread in threads:
        thread.fork()
    descriptors, given[:] = list(given), []  # once: a process that this one forks has no part in them
    for descriptor in descriptors:  # the owner's end would not be seen, nor would the card be free
        os.close(descriptor)


def _inherit() -> None:
    """Have threads that a kernel starts belong to its launch: they have its instance, and its streams."""
    start = threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        here = context.current()
        if here is not None and thread.ident is None:
            vars(thread)["run"] = partial(_within, here, thread, thread.run)
        start(thread)

    threading.Thread.start = begin  # type: ignore[method-assign, assignment]


def _within(here: Context, thread: threading.Thread, run: Callable[[], None]) -> None:
    vars(thread).pop("run", None)  # else it would be in a cycle
    context.enter_thread(here)
    run()


def _end_with_the_host(its: int) -> None:
    """Have the system end this process with the host, the one that may write to a pipe.

    A kernel that never lets go of the interpreter's lock would keep every thread from hearing of that.
    """
    fcntl.fcntl(its, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(its, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(its, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(its, 0)
    if poll.poll(0):  # it has ended before
        os._exit(0)


def _cut(told: str) -> str:
    """Return a text that is short enough for one record to the host."""
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]} ... ({len(told):,} characters)"


def _say(control: socket.socket, word: str, told: Any) -> None:
    try:
        control.send(pickle.dumps((word, told)))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
