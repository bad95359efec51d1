"""One process core, seen from the host: its channel, its output, and the memory shared with it."""

from __future__ import annotations

import codecs
import os
import pickle
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from device_runtime.errors import DeviceMemoryError
from device_runtime.launch import (
    Begun,
    Buffer,
    Encoded,
    Ended,
    Event,
    Logged,
    Message,
    Outcome,
    PeerNotice,
    Plan,
    Printed,
    ShardId,
    Waiting,
    Work,
    make,
)
from device_runtime.process import wire
from device_runtime.process.arena import Arena, Block
from device_runtime.process.channel import LARGEST, Channel
from device_runtime.process.control import search_path
from device_runtime.process.mapping import create
from device_runtime.process.reader import Reader, Viewed
from device_runtime.runner import Kept, Remembered

_TAIL = 2000  # characters of output kept, to be told when the core dies
_READ = 65536
_RETURNED = 500  # blocks that one record returns at most
_TOGETHER = 15_000  # bytes of arguments of several works that travel as one record
_MOST = 1 << 20  # bytes of output taken in at once: printing without an end must not hold up the rest


class Core:
    """The host's side of one core, from its start to its end."""

    def __init__(
        self, unit: int, epoch: int, arena: Arena, connect: Callable[[socket.socket, int], Channel]
    ) -> None:
        self.unit = unit
        self.epoch = epoch
        self.stillborn = 0  # predecessors in a row that died by themselves before they could do anything
        self.doomed = False  # we have asked for its end
        self._arena = arena
        self._streams: dict[int, str] = {}
        with ExitStack() as ours, ExitStack() as theirs:
            end, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(end.close)
            theirs.callback(their_channel.close)
            end.setblocking(False)
            self.birthright = [their_channel.fileno()]  # the descriptors the core is born with
            for name in ("stdout", "stderr"):
                our_end, their_end = os.pipe()
                ours.callback(os.close, our_end)
                theirs.callback(os.close, their_end)
                os.set_blocking(our_end, False)
                self._streams[our_end] = name
                self.birthright.append(their_end)
            self._arena_descriptor = create()
            ours.callback(os.close, self._arena_descriptor)
            self.birthright.append(self._arena_descriptor)
            room = os.eventfd(0, os.EFD_CLOEXEC)
            ours.callback(os.close, room)
            self.birthright.append(room)
            self.channel = connect(end, room)
            self._ours, self._theirs = ours.pop_all(), theirs.pop_all()
        self._decoders = {d: codecs.getincrementaldecoder("utf-8")("backslashreplace") for d in self._streams}
        self._text = dict.fromkeys(self._streams, "")  # text read, not told yet
        self._reader = Reader(self._arena_descriptor, writable=True, janitor=arena.janitor)
        self.returned = self._reader.returned  # blocks that nobody looks at any more: the core is to be told
        self._lent: dict[int, list[Block]] = {}  # by offset: blocks the core looks at, once for each look
        self._images = Remembered()
        self.plans = Kept()
        self._path: list[str] = []
        self.held: deque[ShardId] = deque()  # what it was sent and has not reported ended
        self.limited: set[ShardId] = set()  # those of them whose time is limited, and does not count yet
        self._limits = False  # it was sent such a plan
        self._ended = 0
        self._alike = 0  # works until the last that came with others as one record
        self._slow = 0  # works until the last of those that are known to take long
        self._tail = ""
        self._told_last = -1  # the descriptor whose output the tail ends with

    def descriptors(self) -> list[int]:
        """Return what is to be watched for the core's words."""
        return [*self._streams, self.channel.fileno()]

    def streams(self) -> list[int]:
        """Return what the core's output is read from."""
        return list(self._streams)

    def give_away(self) -> None:
        """Close what only the core is to have of its birthright, which it was sent."""
        self._theirs.close()

    def send(self, messages: Sequence[Message]) -> list[Ended]:
        """Send messages, in order; return the ends of shards that memory cannot hold."""
        unsent: list[Ended] = []
        alike: list[Work] = []  # plain works, to be put as one record
        arguments: list[bytes] = []  # theirs
        size = 0
        for message in messages:
            if type(message) is Work:
                args = message.args
                if (
                    type(args) is bytes
                    and message.plan.number in self.plans
                    and not (message.dependencies or message.after or self.returned)
                ):
                    size += len(args)
                    if alike and (size > _TOGETHER or not _follows(message, alike[-1])):
                        self._put_alike(alike, arguments)
                        alike, arguments, size = [], [], len(args)
                    alike.append(message)
                    arguments.append(args)
                    self.held.append(message.shard)
                    continue
            self._put_alike(alike, arguments)
            alike, arguments, size = [], [], 0
            if isinstance(message, PeerNotice):
                self.channel.put(wire.pack(("notice", tuple(message.shard), message.core, message.why)))
                continue
            try:
                self.put_work(message)
            except DeviceMemoryError as error:
                told = f"the arguments of a launch could not be handed to core {self.unit}: {error}"
                unsent.append(Ended(self.unit, message.shard, Outcome(error=DeviceMemoryError(told))))
        self._put_alike(alike, arguments)
        self.channel.flush()
        if self._limits:
            limited = {one.shard for one in messages if type(one) is Work and one.plan.report_begin}
            self.limited |= limited.difference([end.shard for end in unsent])
        return unsent

    def take_first_limited(self) -> ShardId | None:
        """Return what it is to take up next, or has taken up, if its time is to count from now on."""
        if not self.held or self.held[0] not in self.limited:
            return None
        self.limited.remove(self.held[0])
        return self.held[0]

    def _put_alike(self, works: Sequence[Work], arguments: Sequence[bytes]) -> None:
        """Put plain works of one plan, numbered in a row, into the channel."""
        if works:
            shard, plan, *_ = works[0]
            if len(works) == 1:
                self.channel.put(wire.plain_record(shard, plan.number, arguments[0]))
            else:
                self.channel.put(wire.works_record(shard.launch, plan.number, arguments))
                self._alike = self._ended + len(self.held)

    def read(self) -> list[Event]:
        """Return what the core said."""
        events: list[Event] = []
        while True:
            record = self.channel.take()
            if record is None:
                return events
            if record[0] == wire.LARGE:
                record = wire.unfit(record, self._reader)
            if record[0] == wire.ENDED:
                events.append(make(Ended, (self.unit, self.held[0], self.outcome(record))))
                continue
            entry = pickle.loads(record)
            word: str = entry[0]
            if word == "begun":
                shard = ShardId(*entry[1])
                self.limited.discard(shard)
                events.append(Begun(self.unit, shard, entry[2]))
            elif word == "waiting":
                events.append(Waiting(self.unit, ShardId(*entry[1]), entry[2]))
            else:
                events.append(Logged(self.unit, entry[1]))

    def take_plain(self) -> bytes | None:
        """Take an outcome, if that is what comes next and a plain value; return its pickle."""
        value = self.channel.take_behind(wire.PLAIN_END, wire.ENDED_HEAD.size)
        if value is not None:
            self._tail = ""
            self.held.popleft()
            self._ended += 1
        return value

    def end(self, record: bytes) -> bytes | Outcome:
        """Take note of an outcome; return the pickle of a plain value, else the outcome."""
        if record[1] != wire.PLAIN:
            return self.outcome(record)
        self._tail = ""
        self.held.popleft()
        self._ended += 1
        return record[wire.ENDED_HEAD.size :]

    def outcome(self, record: bytes) -> Outcome:
        """Take note that the first of the shards held has ended, and return how."""
        self._tail = ""
        self.held.popleft()
        self._ended += 1
        try:
            outcome, returned = wire.outcome_in(record, self._reader, self.unit)
            if returned:
                self._take_back(returned)
        except Exception as error:  # that shard's: what others said must not be lost with it
            return Outcome(error=error.with_traceback(None))
        return outcome

    @property
    def has_more(self) -> bool:
        """Whether others came with the work that it runs."""
        return self._ended + 1 < self._alike

    @property
    def is_slow(self) -> bool:
        """Whether such works were found to take long."""
        return self._ended + 1 < self._slow

    def find_slow(self) -> None:
        """Note that the works it has, as far as they came together, take long."""
        self._slow = self._alike

    def prepare(self, plan: Plan) -> None:
        """See to it that the core knows a plan.

        Raises DeviceMemoryError if its image cannot be handed over.
        """
        if plan.number in self.plans:
            return
        image = plan.image
        if self._images.use(image.number) is None:
            path = search_path()
            if path != self._path:
                self._put(wire.pack(("path", path)))
                self._path = path
            self._put(wire.pack(wire.image_out(image)))
            self._images.use(image.number, True)
        self._put(wire.pack(wire.plan_out(plan)))
        self._limits = self._limits or plan.report_begin
        self.plans.keep(plan.number, True)

    def put_work(self, work: Work) -> None:
        """Put a work, and what the core must know before it, into the channel."""
        reached: list[Block] = []
        returned = self._returned()
        try:
            self.prepare(work.plan)
            self._put(wire.work_out(work, partial(self._reach, reached), returned))
        except DeviceMemoryError:
            self.returned.extendleft(reversed(returned))
            raise
        self.held.append(work.shard)
        for block in reached:
            self._lend(block)

    def post(self, shard: ShardId, plan: Plan, args: Encoded) -> bool:
        """Send a first attempt, of a plan that it knows; tell whether it is known to have been asleep."""
        if not self.returned:
            if type(args) is bytes:
                self.held.append(shard)
                woken = self.channel.post_words(wire.PLAIN_WORK | plan.number << 32, shard.launch, args)
                if woken is not None:
                    return woken
                return self.channel.post(wire.plain_record(shard, plan.number, args))
            record = wire.short_work(plan, shard.launch, args)
            if record is not None:
                self.held.append(shard)
                return self.channel.post(record)
        self.put_work(Work(shard, plan, args))
        self.channel.flush()
        return False

    def _put(self, record: bytes) -> None:
        if len(record) > LARGEST:
            record, block = wire.fit(record, self._arena)
            assert block is not None
            self._lend(block)
        self.channel.put(record)

    def _lend(self, block: Block) -> None:
        self._lent.setdefault(block.offset, []).append(block)

    def _take_back(self, returned: Sequence[int]) -> None:
        for offset in returned:
            looks = self._lent[offset]
            looks.pop()
            if not looks:
                del self._lent[offset]

    def _returned(self) -> list[int]:
        """Take out the offsets of the core's blocks that nobody looks at any more."""
        found: list[int] = []
        while self.returned and len(found) < _RETURNED:
            found.append(self.returned.popleft())
        return found

    def read_output(self, descriptor: int, events: list[Event]) -> bool:
        """Take in what the core printed; return False when the stream is closed."""
        decoder = self._decoders[descriptor]
        data, read = b"-", 0
        while data and read < _MOST:
            try:
                data = os.read(descriptor, _READ)
            except BlockingIOError:
                break
            read += len(data)
            text = decoder.decode(data, final=not data)
            self._keep(descriptor, text)
            self._text[descriptor] += text
        # A large write arrives in pieces: its last line may be cut, and another core's must not get between.
        self._print(descriptor, events, whole_lines=bool(data) and read >= select.PIPE_BUF)
        return bool(data)

    def finish_output(self, events: list[Event]) -> None:
        """Tell also of lines that are not finished: what printed them has ended."""
        for descriptor in self._streams:
            self._print(descriptor, events, whole_lines=False)

    def _print(self, descriptor: int, events: list[Event], whole_lines: bool) -> None:
        text = self._text[descriptor]
        end = text.rfind("\n") + 1 if whole_lines and len(text) < _MOST else len(text)
        if end:
            self._text[descriptor] = text[end:]
            events.append(Printed(self.unit, self._streams[descriptor], text[:end]))

    def position(self, shard: ShardId) -> int:
        """Return which of the core's works a shard is, counted from 0; -1 if it has ended."""
        return self._ended + self.held.index(shard) if shard in self.held else -1

    def shard(self, work: int | None) -> ShardId | None:
        """Return the shard that is one of the core's works; None if it has ended."""
        return None if work is None or work < self._ended else self.held[work - self._ended]

    def _keep(self, descriptor: int, text: str) -> None:
        """Keep the end of what the core wrote, and one character more, to see whether a line begins there."""
        if text:
            if descriptor != self._told_last and self._tail and not self._tail.endswith("\n"):
                self._tail += "\n"
            self._tail, self._told_last = (self._tail + text)[-_TAIL - 1 :], descriptor

    def tail(self) -> str:
        """Return the last lines the core wrote since its last outcome; of one that is too long, its end."""
        text = self._tail.removesuffix("\n")
        if len(self._tail) > _TAIL:
            text = text[text.find("\n") + 1 :]
        return "\n".join(text.strip("\n").splitlines()[-20:])[-_TAIL:]

    def close(self) -> None:
        """Give back descriptors and blocks. Results in the core's memory stay readable."""
        self._theirs.close()
        self._ours.close()
        self._streams.clear()
        self._lent.clear()
        self._reader.close()

    def _reach(self, reached: list[Block], buffer: Buffer) -> Buffer:
        """Return a buffer whose bytes the core can read, noted in `reached` if it is to be lent."""
        if isinstance(buffer, Viewed):  # another core's result
            buffer = self._arena.store(buffer.view)
        if isinstance(buffer, Block):
            reached.append(buffer)
        return buffer


def _follows(work: Work, other: Work) -> bool:
    """Tell whether both are first attempts with one plan, numbered in a row."""
    launch, _, attempt = work.shard
    before, _, tried = other.shard
    return launch == before + 1 and not (attempt or tried) and work.plan is other.plan
