"""One process core, seen from the host: its channel, its output, and the memory shared with it."""

from __future__ import annotations

import codecs
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from device_runtime.errors import DeviceMemoryError
from device_runtime.launch import (
    Begun,
    Buffer,
    Ended,
    Event,
    Logged,
    Message,
    Outcome,
    PeerNotice,
    Printed,
    ShardId,
    Waiting,
    Work,
)
from device_runtime.process import wire
from device_runtime.process.arena import Arena, Block
from device_runtime.process.mapping import create
from device_runtime.process.reader import Reader, Viewed
from device_runtime.runner import Remembered

_TAIL = 2000  # characters of output kept, to be told when the core dies
_READ = 65536
_MOST = 1 << 20  # bytes of output taken in at once: printing without an end must not hold up the rest


class Core:
    """The host's side of one core, from its start to its end."""

    def __init__(self, unit: int, epoch: int, arena: Arena) -> None:
        self.unit = unit
        self.epoch = epoch
        self.stillborn = 0  # predecessors in a row that died by themselves before they could do anything
        self.doomed = False  # we have asked for its end
        self._arena = arena
        self._streams: dict[int, str] = {}
        with ExitStack() as ours, ExitStack() as theirs:
            self.channel, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(self.channel.close)
            theirs.callback(their_channel.close)
            self.channel.setblocking(False)
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
            self._ours, self._theirs = ours.pop_all(), theirs.pop_all()
        self._decoders = {d: codecs.getincrementaldecoder("utf-8")("backslashreplace") for d in self._streams}
        self._text = dict.fromkeys(self._streams, "")  # text read, not told yet
        self._reader = Reader(self._arena_descriptor, writable=True, janitor=arena.janitor)
        self._lent: dict[int, list[Block]] = {}  # by offset: blocks the core looks at, once for each look
        self._images = Remembered()
        self._path: list[str] = []
        self._backlog: deque[bytes] = deque()  # frames that the socket had no room for
        self._held: deque[ShardId] = deque()  # what it was sent and has not reported ended
        self._ended = 0
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

    @property
    def blocked(self) -> bool:
        """Tell whether frames wait for room in the socket."""
        return bool(self._backlog)

    def send(self, messages: Sequence[Message]) -> list[Ended]:
        """Send messages, in order, in one frame; return the ends of shards that memory cannot hold."""
        entries: list[wire.Entry] = []
        unsent: list[Ended] = []
        sent: list[ShardId] = []
        lent: list[Block] = []
        for message in messages:
            if isinstance(message, PeerNotice):
                entries.append(("notice", tuple(message.shard), message.core, message.why))
                continue
            reached: list[Block] = []
            try:
                work = wire.work_out(message, partial(self._reach, reached))
            except DeviceMemoryError as error:
                unsent.append(self._unsent(message.shard, error))
                continue
            self._send_image(message, entries)
            entries.append(work)
            sent.append(message.shard)
            lent += reached
        returned = []
        while self._reader.returned:
            returned.append(self._reader.returned.popleft())
        try:
            frame, block = wire.pack(entries, returned, self._arena)
        except DeviceMemoryError as error:
            unsent += [self._unsent(shard, error) for shard in sent]
            sent, lent = [], []
            self._images, self._path = Remembered(), []  # some of both was to go with this frame
            notices = [entry for entry in entries if entry[0] == "notice"]
            frame, block = wire.pack([("forget",), *notices], returned, self._arena)
        self._held.extend(sent)
        for each in lent if block is None else [*lent, block]:
            self._lent.setdefault(each.offset, []).append(each)
        self._backlog.append(frame)
        self.flush()
        return unsent

    def flush(self) -> bool:
        """Send what has been waiting for room; return whether all is sent."""
        while self._backlog:
            try:
                self.channel.send(self._backlog[0])
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._backlog.clear()  # it is dead; its end is about to be reported
                return True
            self._backlog.popleft()
        return True

    def read(self, events: list[Event]) -> bool:
        """Take in what the core said; return False when it will say no more."""
        while True:
            try:
                frame = self.channel.recv(wire.RECEIVE)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not frame:
                return False
            entries, returned = wire.unpack(frame, self._reader)
            for offset in returned:
                looks = self._lent[offset]
                looks.pop()
                if not looks:
                    del self._lent[offset]
            for entry in entries:
                events.append(self._event(entry))

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
        return self._ended + self._held.index(shard) if shard in self._held else -1

    def shard(self, work: int | None) -> ShardId | None:
        """Return the shard that is one of the core's works; None if it has ended."""
        return None if work is None or work < self._ended else self._held[work - self._ended]

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

    def _event(self, entry: wire.Entry) -> Event:
        word: str = entry[0]
        if word == "ended":
            _, shard, failed, described, begun, ended = entry
            try:
                outcome = Outcome(wire.payload_in(described, self._reader), failed, None, begun, ended)
            except DeviceMemoryError as error:
                told = DeviceMemoryError(f"the value of core {self.unit}: {error}")
                outcome = Outcome(error=told, begun=begun, ended=ended)
            self._tail = ""
            self._held.popleft()
            self._ended += 1
            return Ended(self.unit, ShardId(*shard), outcome)
        if word == "begun":
            return Begun(self.unit, ShardId(*entry[1]), entry[2])
        if word == "waiting":
            return Waiting(self.unit, ShardId(*entry[1]), entry[2])
        return Logged(self.unit, entry[1])

    def _send_image(self, work: Work, entries: list[wire.Entry]) -> None:
        if self._images.use(work.image.number) is None:
            path = search_path()
            if path != self._path:
                self._path = path
                entries.append(("path", path))
            self._images.use(work.image.number, True)
            entries.append(wire.image_out(work.image))

    def _reach(self, reached: list[Block], buffer: Buffer) -> Buffer:
        """Return a buffer whose bytes the core can read, noted in `reached` if it is to be lent."""
        if isinstance(buffer, Viewed):  # another core's result
            buffer = self._arena.store(buffer.view)
        if isinstance(buffer, Block):
            reached.append(buffer)
        return buffer

    def _unsent(self, shard: ShardId, error: DeviceMemoryError) -> Ended:
        told = f"the arguments of a launch could not be handed to core {self.unit}: {error}"
        return Ended(self.unit, shard, Outcome(error=DeviceMemoryError(told)))


def search_path() -> list[str]:
    """Return where the host looks for modules; cores look in the same places."""
    return [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
