"""A process core: what runs in the process that the zygote forked for it."""

from __future__ import annotations

import faulthandler
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
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from device_runtime import codec, context
from device_runtime.context import Context
from device_runtime.errors import DeviceMemoryError, NotOnDevice
from device_runtime.launch import Buffer, Encoded, Image, Outcome, Payload, Plan, ShardId, Work, make
from device_runtime.process import wire
from device_runtime.process.arena import Arena, Block, place
from device_runtime.process.channel import LARGEST
from device_runtime.process.cpus import leave
from device_runtime.process.lines import core_channel
from device_runtime.process.links import Links
from device_runtime.process.mesh import ProcessMesh
from device_runtime.process.patience import Patience
from device_runtime.process.quick import this_cpu
from device_runtime.process.reader import Reader
from device_runtime.process.status import StatusPage
from device_runtime.runner import Kept, Remembered, Runner


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


class _Place(NamedTuple):
    """A plan, and this core's place in it."""

    plan: Plan
    rank: int


class KernelStream(io.TextIOWrapper):
    """Standard output or error of kernels, which they cannot close for those that come after."""

    def __init__(self, descriptor: int) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )

        self.written = False  # since it was last flushed

    def write(self, text: str) -> int:
        self.written = True
        size = super().write(text)
        self.written = True  # a flush by another thread may have been between
        return size

    @property
    def buffer(self) -> Any:
        """What is below; whoever has it may write there at any time."""
        self.written = self._lent = True
        return super().buffer

    _lent = False

    def finish(self) -> None:
        """Hand on what was written."""
        if self.written and not self.closed:
            self.written = self._lent
            self.flush()

    def close(self) -> None:
        if not self.closed:
            self.flush()


class LogForwarder(logging.Handler):
    """Send log records to the host, where the logger of the same name takes them up."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__(level=1)
        self._post = send

    def emit(self, record: logging.LogRecord) -> None:
        fields = dict(record.__dict__)
        # The message is put together here: its arguments may mean nothing on the host.
        fields["msg"], fields["args"] = record.getMessage(), None
        if record.exc_info:
            fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
            fields["exc_info"] = None
        self._post(wire.pack(("log", {k: v if _is_plain(v) else repr(v) for k, v in fields.items()})))


class _Entered:
    """Within the block, a shard is what this process runs; a process that a kernel forked ends with it."""

    def __init__(self) -> None:
        self.context: Context | None = None  # of the last shard
        self.forked = False  # this is a process that a kernel forked

    def __call__(self, entered: Context) -> _Entered:
        self.context = entered
        return self

    def __enter__(self) -> None:
        context.enter_process(self.context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.forked:
            _end_child(error)
        context.enter_process(None)


class _NoMesh:
    """Refuse messages in a process that a kernel forked: they are for the core."""

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        self._refuse()

    def get(self, core: int, tag: int = 0) -> Any:
        self._refuse()

    def probe(self, core: int, tag: int = 0) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotOnDevice("a process that a kernel forked can neither send nor receive: only the core can")


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
        self._out: deque[tuple[bytes, bool]] = deque()  # records to be sent
        self._sending = threading.Lock()
        self._reader = Reader(seat.host_arena, writable=False)
        self._arena = Arena(seat.arena)
        self._lent: dict[int, Block] = {}  # by offset: blocks that the host looks at
        # Launch, attempt, place, arguments if they are all there is to tell, else what more the record
        # told, and whether another work follows that came with it.
        self._works: deque[tuple[int, int, _Place, Encoded | None, Any, bool]] = deque()
        self._work = 0  # the number of works that have ended
        self._running = False  # a shard
        self._images = Remembered()
        self._plans = Kept()
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
        self._entered = _Entered()
        self._runner = Runner(
            seat.core,
            seat.cores,
            self._mesh,
            lambda data: place(self._arena, data),
            self._entered,
            self._begin,
        )
        self._root = logging.getLogger()
        self._forwarder = LogForwarder(self._say)
        self._root.addHandler(self._forwarder)
        os.register_at_fork(before=self._flush, after_in_child=self._let_go)

    def serve(self) -> None:
        """Run shards until the host is gone."""
        self._mend_streams()
        self._status.arrive(self._core)
        works, take = self._works, self._channel.take
        while True:
            while works:
                self._run(*works.popleft())
            record = take()
            if record is not None:
                self._take(record)
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
        begun = time.monotonic_ns()
        while channel.arm():
            pause = self._arena.trim()  # gives back memory of results
            if pause is not None and not select.select([channel], [], [], pause)[0]:
                continue
            channel.sleep()
            if channel.ended:
                return True  # what it said before is still to be taken
        patience.learn(time.monotonic_ns() - begun)
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
        self, launch: int, attempt: int, place: _Place, args: Encoded | None, more: Any, followed: bool
    ) -> None:
        plan, rank = place
        self._alone = len(plan.cores) < self._settled_cpus
        shard = make(ShardId, (launch, rank, attempt))
        if self._root.level != plan.log_level:
            self._root.setLevel(plan.log_level)
        self._running = True
        self._mesh.begin(shard, plan.cores)
        outcome = self._run_shard(shard, plan, args, more)
        del args, more
        self._mesh.end()
        for stream in self._streams:
            if stream.written:
                stream.finish()
        self._running = False
        self._end(outcome, followed)
        self._mend_streams()

    def _run_shard(self, shard: ShardId, plan: Plan, args: Encoded | None, more: Any) -> Outcome:
        if plan.report_begin:  # loading the arguments counts, too
            self._post(wire.pack(("begun", tuple(shard), time.monotonic())))
        if args is not None:
            work = make(Work, (shard, plan, args, ()))
        else:
            try:
                needs = tuple([wire.dependency_in(need, self._reader) for need in more[1]])
                work = Work(shard, plan, wire.payload_in(more[0], self._reader), needs)
            except DeviceMemoryError as error:
                return Outcome(codec.encode_error(error, bytes), True)
        return self._runner.run(work)

    def _end(self, outcome: Outcome, followed: bool) -> None:
        returned = []
        while self._reader.returned:
            returned.append(self._reader.returned.popleft())
        self._post(wire.outcome_out(outcome, self._lend, returned), followed)
        self._status.end(self._core, self._work)
        self._work += 1

    def _flush(self) -> None:
        for stream in self._streams:
            stream.finish()

    def _let_go(self) -> None:
        """Leave the core's ways to host and cores to the core; called in a process that a kernel forked.

        What it prints still arrives, as it does from any program that a kernel starts.
        """
        self._root.removeHandler(self._forwarder)
        self._channel.close()
        self._arena.abandon()
        self._entered.forked = True
        running = self._entered.context
        if running is not None:
            running.mesh = _NoMesh()
            running.nested = None  # its own launches make a session of its own

    def _begin(self, shard: ShardId, at: float) -> None:
        self._status.begin(self._core, self._work)
        self._mesh.open()

    def _report_waiting(self, shard: ShardId, core: int) -> None:
        self._post(wire.pack(("waiting", tuple(shard), core)))

    def _lend(self, buffer: Buffer) -> Buffer:
        if isinstance(buffer, Block):
            self._lent[buffer.offset] = buffer
        return buffer

    def _say(self, record: bytes) -> None:
        """Send a record that may come when no shard runs; the host does not look for what idle cores say."""
        self._post(record)
        if not self._running:
            self._channel.wake()

    def _post(self, record: bytes, followed: bool = False) -> None:
        """Send a record to the host. Any thread may, and a signal handler in the midst of it."""
        if len(record) > LARGEST:
            record, block = wire.fit(record, self._arena)
            assert block is not None
            self._lend(block)
        self._out.append((record, followed))
        while self._out and self._sending.acquire(blocking=False):  # else who holds it sends this one, too
            try:
                self._send()
            finally:
                self._sending.release()

    def _send(self) -> None:
        channel, out = self._channel, self._out
        while out:
            channel.post(*out.popleft())
        while channel.blocked and not channel.flush():
            channel.wake()  # whatever it has looked for
            channel.wait_for_room()
        if channel.ended:
            os._exit(0)  # the host is gone

    def _hear(self) -> None:
        """Take in what the host sent, in the midst of a shard."""
        self._channel.hear()
        while (record := self._channel.take()) is not None:
            self._take(record)

    def _take(self, record: bytes) -> None:
        if record[0] == wire.LARGE:
            record = wire.unfit(record, self._reader)
        if record[0] == wire.WORK:
            _, flags, attempt, number, launch = wire.WORK_HEAD.unpack_from(record)
            args: Encoded | None = None
            more = None
            if flags & wire.MORE:
                more = wire.more_of_work(record)
                for offset in more[2]:
                    del self._lent[offset]
            else:
                data = record[wire.WORK_HEAD.size :]
                args = data if flags & wire.PLAIN else Payload(data)
            self._works.append((launch, attempt, self._plans[number], args, more, False))
            return
        if record[0] == wire.WORKS:
            first, number, arguments = wire.works_in(record)
            place = self._plans[number]
            last = first + len(arguments) - 1
            for launch, each in enumerate(arguments, first):
                self._works.append((launch, 0, place, each, None, launch < last))
            return
        entry = pickle.loads(record)
        word: str = entry[0]
        if word == "plan":
            _, number, image, cores, mapped, report_begin, level = entry
            plan = Plan(number, self._images.use(image), cores, mapped, report_begin, level)
            self._plans.keep(number, _Place(plan, cores.index(self._core)))
        elif word == "image":
            number, name, module, data, fresh, resident, sources = entry[1:]
            self._images.use(number, Image(number, name, module, data, fresh, resident, sources))
        elif word == "notice":
            self._mesh.notice(ShardId(*entry[1]), entry[2], entry[3])
        elif word == "path":
            sys.path[:] = entry[1]

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


def _end_child(error: BaseException | None) -> NoReturn:
    """End a process that a kernel forked as a program ends: with an exit code, or its error's traceback."""
    code: Any = error.code if isinstance(error, SystemExit) else error
    if isinstance(code, BaseException):
        sys.excepthook(type(code), code, code.__traceback__)
        code = 1
    elif not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # it has closed them
    os._exit((code or 0) & 0xFF)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)
