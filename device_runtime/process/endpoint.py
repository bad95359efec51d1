"""A core's end of the way to the host: what it was told, what it is to run, and what it says."""

from __future__ import annotations

import logging
import os
import pickle
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.errors import DeviceMemoryError, SerializationError
from device_runtime.launch import Buffer, Encoded, Image, Outcome, Payload, Plan, ShardId, Work, make
from device_runtime.process import wire
from device_runtime.process.arena import Arena, Block
from device_runtime.process.channel import LARGEST, Channel
from device_runtime.process.patience import Patience
from device_runtime.process.reader import Reader
from device_runtime.runner import Kept, Remembered


class Place(NamedTuple):
    """A plan, and this core's place in it."""

    plan: Plan
    rank: int


class Endpoint:
    """Take what the host sends to a core, and say what is to be said.

    `works` are those that wait: launch, attempt, place, arguments if they are
    all there is to tell, else what more the record told, and whether another
    work follows that came with it.

    `notice` is called for a shard that waits for a core in vain.
    """

    def __init__(
        self,
        core: int,
        channel: Channel,
        host_arena: int,
        arena: int,
        notice: Callable[[ShardId, int, str], None],
    ) -> None:
        self.channel = channel
        self.works: deque[tuple[int, int, Place, Encoded | None, Any, bool]] = deque()
        self.arena = Arena(arena)
        self._core = core
        self._reader = Reader(host_arena, writable=False)
        self._notice = notice
        self._out: deque[tuple[bytes, bool]] = deque()  # records to be sent
        self._sending = threading.Lock()
        self._lent: dict[int, Block] = {}  # by offset: blocks that the host looks at
        self._images = Remembered()
        self._plans = Kept()
        self.running = False  # a shard

    def take(self, record: bytes) -> None:
        """Take in a record."""
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
            self.works.append((launch, attempt, self._plans[number], args, more, False))
            return
        if record[0] == wire.WORKS:
            first, number, arguments = wire.works_in(record)
            place = self._plans[number]
            last = first + len(arguments) - 1
            for launch, each in enumerate(arguments, first):
                self.works.append((launch, 0, place, each, None, launch < last))
            return
        entry = pickle.loads(record)
        word: str = entry[0]
        if word == "plan":
            _, number, known, cores, mapped, report_begin, level = entry
            plan = Plan(number, self._images.use(known), cores, mapped, report_begin, level)
            self._plans.keep(number, Place(plan, cores.index(self._core)))
        elif word == "image":
            image = Image(*entry[1:])
            self._images.use(image.number, image)
        elif word == "notice":
            self._notice(ShardId(*entry[1]), entry[2], entry[3])
        elif word == "path":
            sys.path[:] = entry[1]

    def sleep(self, patience: Patience) -> None:
        """Sleep until there is a record, or no host any more, and give back memory of results meanwhile."""
        channel = self.channel
        begun = time.monotonic_ns()
        while channel.arm():
            pause = self.arena.trim()
            if pause is not None and not select.select([channel], [], [], pause)[0]:
                continue
            channel.sleep()
            if channel.ended:
                return  # what it said before is still to be taken
        patience.learn(time.monotonic_ns() - begun)

    def work(self, shard: ShardId, plan: Plan, args: Encoded | None, more: Any) -> Work | Outcome:
        """Put a work together from what a record told; return how it ended where memory is short."""
        if args is not None:
            return make(Work, (shard, plan, args, (), ()))
        try:
            needs = tuple([wire.dependency_in(need, self._reader) for need in more[1]])
            return Work(shard, plan, wire.payload_in(more[0], self._reader), needs, more[3])
        except DeviceMemoryError as error:
            return Outcome(codec.encode_error(error, bytes), True)

    def end(self, outcome: Outcome, followed: bool = False) -> None:
        """Say how a work has ended, and what of the host's memory is not looked at any more."""
        payload, failed, _, begun, ended, costs = outcome
        if type(payload) is bytes and not (failed or costs or self._reader.returned):
            self.post(wire.ENDED_HEAD.pack(wire.ENDED, wire.PLAIN, begun, ended) + payload, followed)
            return
        returned: list[int] = []
        while self._reader.returned:
            returned.append(self._reader.returned.popleft())
        self.post(wire.outcome_out(outcome, self._lend, returned), followed)

    def post(self, record: bytes, followed: bool = False) -> None:
        """Send a record to the host. Any thread may, and a signal handler in the midst of it."""
        if len(record) > LARGEST:
            record, block = wire.fit(record, self.arena)
            assert block is not None
            self._lend(block)
        out, sending = self._out, self._sending
        out.append((record, followed))
        while out and sending.acquire(False):  # else who holds it sends this one, too
            try:
                self._send()
            finally:
                sending.release()

    def say(self, record: bytes) -> None:
        """Send a record that may come when no shard runs; the host does not look for what idle cores say."""
        self.post(record)
        if not self.running:
            self.channel.wake()

    def close(self) -> None:
        """Leave the way to the core, in a process that a kernel forked."""
        self.channel.close()
        self.arena.abandon()

    def _send(self) -> None:
        channel, out = self.channel, self._out
        while out:
            channel.post(*out.popleft())
        while channel.backlog and not channel.flush():
            channel.wake()  # whatever it has looked for
            channel.wait_for_room()
        if channel.ended:
            os._exit(0)  # the host is gone

    def _lend(self, buffer: Buffer) -> Buffer:
        if isinstance(buffer, Block):
            self._lent[buffer.offset] = buffer
        return buffer


class LogForwarder(logging.Handler):
    """Send log records to the host, where the logger of the same name takes them up."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__(level=1)
        self._post = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._post(wire.pack(("log", self._fields(record))))
        except Exception:  # a sloppy call is told of, as by any handler, and is no fault of the kernel's
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = dict(record.__dict__)
        # The message is put together here: its arguments may mean nothing on the host.
        fields["msg"], fields["args"] = record.getMessage(), None
        if record.exc_info:
            fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
            fields["exc_info"] = None
        return {name: _travelling(value) for name, value in fields.items()}


def _travelling(value: Any) -> Any:
    """Return a scalar as it is, anything else encoded; what does not pickle as its text."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    try:
        encoded = codec.encode(value, bytes, error=SerializationError)
        return encoded if isinstance(encoded, Payload) else Payload(encoded)
    except SerializationError:
        return repr(value)
