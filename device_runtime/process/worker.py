"""A process core: what runs in the process that the zygote forked for it."""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import select
import signal
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from device_runtime import codec, context
from device_runtime.context import Context
from device_runtime.errors import DeviceMemoryError, NotOnDevice
from device_runtime.launch import Buffer, Image, Outcome, ShardId, Work
from device_runtime.process import wire
from device_runtime.process.arena import Arena, Block, place
from device_runtime.process.mesh import ProcessMesh
from device_runtime.process.reader import Reader
from device_runtime.process.status import StatusPage
from device_runtime.runner import Remembered, Runner


class Seat(NamedTuple):
    """What a core is born with: its number, and descriptors that it shares with host and cores."""

    core: int
    cores: int
    channel: int
    stdout: int
    stderr: int
    arena: int  # its own, for results
    host_arena: int
    status: int
    inbox: socket.socket
    outs: Sequence[socket.socket]


class KernelStream(io.TextIOWrapper):
    """Standard output or error of kernels, which they cannot close for those that come after."""

    def __init__(self, descriptor: int) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )

    def close(self) -> None:
        if not self.closed:
            self.flush()


class LogForwarder(logging.Handler):
    """Send log records to the host, where the logger of the same name takes them up."""

    def __init__(self, send: Callable[[wire.Entry], None]) -> None:
        super().__init__(level=1)
        self._post = send

    def emit(self, record: logging.LogRecord) -> None:
        fields = dict(record.__dict__)
        # The message is put together here: its arguments may mean nothing on the host.
        fields["msg"], fields["args"] = record.getMessage(), None
        if record.exc_info:
            fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
            fields["exc_info"] = None
        self._post(("log", {k: v if _is_plain(v) else repr(v) for k, v in fields.items()}))


class _Entered:
    """Within the block, a shard is what this process runs; a process that a kernel forked ends with it."""

    def __init__(self, entered: Context) -> None:
        self._context = entered
        self._process = os.getpid()

    def __enter__(self) -> None:
        context.enter_process(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._process:
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
        self._channel = socket.socket(fileno=seat.channel)
        self._reader = Reader(seat.host_arena, writable=False)
        self._arena = Arena(seat.arena)
        self._lent: dict[int, Block] = {}  # by offset: blocks that the host looks at
        self._status = StatusPage(seat.status, seat.cores)
        self._works: deque[tuple[wire.Entry, Image]] = deque()
        self._work = 0  # the number of works that have ended
        self._images = Remembered()
        self._streams = (KernelStream(seat.stdout), KernelStream(seat.stderr))
        self._mesh = ProcessMesh(
            seat.core,
            seat.inbox,
            seat.outs,
            self._status,
            seat.channel,
            self._report_waiting,
            lambda: self._receive(False),
        )
        self._runner = Runner(
            seat.core,
            seat.cores,
            self._mesh,
            lambda data: place(self._arena, data),
            self._enter,
            self._begin,
        )
        self._context: Context | None = None  # of the last shard
        self._root = logging.getLogger()
        self._forwarder = LogForwarder(self._post)
        self._root.addHandler(self._forwarder)
        os.register_at_fork(before=self._flush, after_in_child=self._let_go)

    def serve(self) -> None:
        """Run shards until the host is gone."""
        self._install_streams()
        self._status.arrive(self._core)
        while True:
            while not self._works:
                if not self._receive(True):
                    return
            self._run(*self._works.popleft())

    def _run(self, entry: wire.Entry, image: Image) -> None:
        try:
            work = wire.work_in(entry, image, self._reader)
        except DeviceMemoryError as error:
            self._end(entry[1], Outcome(codec.encode_error(error, bytes), True))
            return
        if self._root.level != work.log_level:
            self._root.setLevel(work.log_level)
        if work.report_begin:  # loading the arguments counts, too
            self._post(("begun", tuple(work.shard), time.monotonic()))
        self._mesh.begin(work.shard, work.cores)
        outcome = self._runner.run(work)
        shard = tuple(work.shard)
        del entry, work  # the host's blocks go back to it with this outcome
        self._mesh.end()
        self._install_streams()
        self._end(shard, outcome)

    def _end(self, shard: tuple[int, ...], outcome: Outcome) -> None:
        payload = None if outcome.payload is None else wire.payload_out(outcome.payload, self._lend)
        self._post(("ended", shard, outcome.failed, payload, outcome.begun, outcome.ended))
        self._status.end(self._core, self._work)
        self._work += 1

    def _enter(self, entered: Context) -> _Entered:
        self._context = entered
        return _Entered(entered)

    def _flush(self) -> None:
        for stream in self._streams:
            if not stream.closed:
                stream.flush()

    def _let_go(self) -> None:
        """Leave the core's ways to host and cores to the core; called in a process that a kernel forked.

        What it prints still arrives, as it does from any program that a kernel starts.
        """
        self._root.removeHandler(self._forwarder)
        self._channel.close()
        self._arena.abandon()
        if self._context is not None:
            self._context.mesh = _NoMesh()
            self._context.nested = None  # its own launches make a session of its own

    def _begin(self, work: Work, at: float) -> None:
        self._status.begin(self._core, self._work)
        self._mesh.open()

    def _report_waiting(self, shard: ShardId, core: int) -> None:
        self._post(("waiting", tuple(shard), core))

    def _lend(self, buffer: Buffer) -> Buffer:
        if isinstance(buffer, Block):
            self._lent[buffer.offset] = buffer
        return buffer

    def _post(self, entry: wire.Entry) -> None:
        """Send one entry to the host."""
        returned = []
        while self._reader.returned:
            returned.append(self._reader.returned.popleft())
        frame, block = wire.pack([entry], returned, self._arena)
        if block is not None:
            self._lend(block)
        try:
            self._channel.send(frame)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the host is gone

    def _receive(self, wait: bool) -> bool:
        """Take in what the host sent; return False when it is gone."""
        if wait:
            self._tidy()
        while True:
            try:
                frame = self._channel.recv(wire.RECEIVE, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not frame:
                return False
            wait = False
            entries, returned = wire.unpack(frame, self._reader)
            for offset in returned:
                del self._lent[offset]
            for entry in entries:
                self._take(entry)

    def _tidy(self) -> None:
        """Wait for the host; meanwhile give back memory of results."""
        pause = self._arena.trim()
        while pause is not None and not select.select([self._channel], [], [], pause)[0]:
            pause = self._arena.trim()

    def _take(self, entry: wire.Entry) -> None:
        word: str = entry[0]
        if word == "work":
            self._works.append((entry, self._images.use(entry[2])))
        elif word == "image":
            number, name, module, data, fresh, resident, sources = entry[1:]
            self._images.use(number, Image(number, name, module, data, fresh, resident, sources))
        elif word == "notice":
            self._mesh.notice(ShardId(*entry[1]), entry[2], entry[3])
        elif word == "forget":
            self._images = Remembered()
        elif word == "path":
            sys.path[:] = entry[1]

    def _install_streams(self) -> None:
        """Give the next kernel its streams, whatever the last one did to them."""
        self._flush()
        for number, stream in enumerate(self._streams, 1):
            try:
                os.fstat(number)
            except OSError:
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
