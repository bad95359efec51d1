"""The device that runs kernels in the calling thread: `inline`, for debugging.

It keeps to everything that other devices do: copies, read-only arrays, order,
errors. What it cannot do is outlive a kernel: `os._exit` ends the host, and
no timeout can end a kernel.

Only one kernel runs at a time. One that waits for a message lets others run
meanwhile, in threads of their own which take turns; so kernels that talk to
each other work, and always in the same order.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from types import TracebackType
from typing import Any, TextIO

from device_runtime import codec
from device_runtime.context import Context, current, enter_thread
from device_runtime.device import ImmediateDevice
from device_runtime.errors import DeviceUnavailable, PeerEnded, SerializationError
from device_runtime.interrupts import Window, uninterrupted
from device_runtime.launch import Encoded, Ended, Event, Message, Outcome, Ready, ShardId, Work
from device_runtime.output import end_line, write_marked
from device_runtime.registry import unit_count
from device_runtime.runner import Runner


class _Turns:
    """A thread that takes turns with others; it is `ready` once what it waits for is there."""

    def __init__(self) -> None:
        self.ready: Callable[[], bool] = lambda: False
        self.turn = threading.Lock()
        self.turn.acquire()


class _Strand(_Turns):
    """A shard that is under way: it has the turn, or waits for it or for a message."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


class InlineDevice(ImmediateDevice):
    """Virtual cores that take turns in the thread that makes the launch."""

    def __init__(self, units: int) -> None:
        self.address = f"inline:{units}"
        self._units = units
        self._sent: dict[int, list[tuple[int, Work]]] = {}  # by launch, for `run`
        self._works: deque[tuple[int, Work]] = deque()  # of the launch that runs, not begun
        self._events: deque[Event] = deque()  # appended to by whoever runs, taken out by whoever receives
        self._waiting: list[_Turns] = []
        self._marked: dict[str, _MarkedStream] = {}  # kept, since an interrupt is lost in their finalizers
        self.interrupt: KeyboardInterrupt | None = None  # it struck in a kernel, and is the host's, too
        self._ended: dict[int, set[int]] = {}  # by launch under way: the cores whose shards have ended

    def open(self) -> int:
        self.outer = current()  # the kernel whose launches it runs, None on the host
        self._depth = 0 if self.outer is None else self.outer.depth + 1
        try:
            self._bell: tuple[int, ...] = os.pipe()
        except OSError as error:
            raise DeviceUnavailable(f"{self.address} could not be opened: {error}") from error
        for end in self._bell:
            os.set_blocking(end, False)
        self._meshes = [_InlineMesh(self, core) for core in range(self._units)]
        self._runners = [
            Runner(core, self._units, mesh, bytes, partial(_Entered, self), _begin, self._depth)
            for core, mesh in enumerate(self._meshes)
        ]
        return self._units

    def send(self, unit: int, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, Work):
                self._sent.setdefault(message.shard.launch, []).append((unit, message))

    def fileno(self) -> int:
        return self._bell[0]

    def receive(self) -> list[Event]:
        try:
            os.read(self._bell[0], 4096)
        except BlockingIOError:
            pass
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def kill(self, unit: int, shard: ShardId) -> None:
        """Report the unit as ready: what runs here cannot be ended, and goes on to its end."""
        self._tell(Ready(unit))

    def close(self) -> None:
        bell, self._bell = self._bell, ()
        for end in bell:
            os.close(end)

    def pending(self, launch: int) -> int:
        return len(self._sent.get(launch, ()))

    def run(self, launch: int) -> None:
        self._works.extend(self._sent.pop(launch))
        saved = self._mark_streams()
        try:
            while self._works or self._waiting:
                if self.interrupt is not None and self._works:
                    self._cancel(*self._works.popleft())
                elif self._works:
                    self._run(*self._works.popleft())
                else:
                    self._wait_for_the_rest()
        finally:
            sys.stdout, sys.stderr = saved
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            raise interrupt

    def drop(self, launch: int) -> None:
        for unit, work in self._sent.pop(launch, ()):
            self._cancel(unit, work)

    def _mark_streams(self) -> tuple[TextIO, TextIO]:
        """Put marked streams in the place of the host's, and return those."""
        saved = sys.stdout, sys.stderr
        for name, out in zip(("stdout", "stderr"), saved, strict=True):
            if out is not None and not isinstance(out, _MarkedStream):
                if name not in self._marked or self._marked[name].out is not out:
                    self._marked[name] = _MarkedStream(name, out)
                setattr(sys, name, self._marked[name])
        return saved

    def _wait_for_the_rest(self) -> None:
        """Give the turn to the shards that wait, until all of them have ended."""
        host = _Turns()  # it is never ready, so its turn comes last
        self._waiting.append(host)
        self._pass_turn()
        host.turn.acquire()

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        if self._bell:  # else the device was closed meanwhile
            try:
                os.write(self._bell[1], b"\0")
            except BlockingIOError:
                pass  # it has not been heard yet, so it will be

    def _run(self, unit: int, work: Work) -> None:
        mesh = self._meshes[unit]
        mesh.begin(_Strand(work))
        outcome = self._runners[unit].run(work)
        end_line(unit)
        mesh.end()
        self._end(unit, work, outcome)

    def _cancel(self, unit: int, work: Work) -> None:
        told = f"the launch of {work.plan.image.name} was given up before core {unit} had begun it"
        self._end(unit, work, Outcome(error=CancelledError(told)))

    def _end(self, unit: int, work: Work, outcome: Outcome) -> None:
        ended = self._ended.setdefault(work.shard.launch, set())
        ended.add(unit)
        if len(ended) == len(work.plan.cores):
            del self._ended[work.shard.launch]
        self._tell(Ended(unit, work.shard, outcome))

    def wait(self, strand: _Strand, ready: Callable[[], bool], vain: Callable[[], str]) -> None:
        """Let other shards run until `ready()`; raise PeerEnded once it never will be."""
        strand.ready = ready
        while not ready():
            if not self._switch(strand):
                raise PeerEnded(vain())

    def give_way(self, strand: _Strand) -> None:
        """Let another shard run for a while, if one can."""
        strand.ready = lambda: True
        self._switch(strand)

    def _switch(self, strand: _Strand) -> bool:
        """Give the turn to another shard, until it is this one's again; return False if none can run."""
        if self._works:
            self._waiting.append(strand)
            threading.Thread(target=self._run_apart, args=self._works.popleft(), daemon=True).start()
        else:
            other = next((s for s in self._waiting if s.ready()), None)
            if other is None:
                return False
            self._waiting.remove(other)
            self._waiting.append(strand)
            other.turn.release()
        strand.turn.acquire()
        return True

    def _run_apart(self, unit: int, work: Work) -> None:
        """Run a shard in this thread, then give the turn to another thread."""
        self._run(unit, work)
        self._pass_turn()

    def _pass_turn(self) -> None:
        """Give the turn to a thread that can use it, else to one that can be told it never will."""
        following = next((s for s in self._waiting if s.ready()), self._waiting[0])
        self._waiting.remove(following)
        following.turn.release()


class _InlineMesh:
    """Messages between the virtual cores: kept as they travel elsewhere, pickled."""

    def __init__(self, device: InlineDevice, core: int) -> None:
        self._device = device
        self._core = core
        self._queues: dict[tuple[int, int, int], deque[Encoded]] = {}  # by launch, sender and tag

    def begin(self, strand: _Strand) -> None:
        self._strand = strand
        self._missed: set[int] = set()  # the cores of which nothing was found once they had ended

    def end(self) -> None:
        """Drop what was sent to the shard and not taken."""
        if self._queues:
            launch = self._strand.work.shard.launch
            self._queues = {key: queue for key, queue in self._queues.items() if key[0] != launch}

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        self._check(core)
        target = self._device._meshes[core]._queues
        key = (self._strand.work.shard.launch, self._core, tag)
        target.setdefault(key, deque()).append(codec.encode(value, bytes, error=SerializationError))

    def get(self, core: int, tag: int = 0) -> Any:
        self._check(core)
        launch = self._strand.work.shard.launch
        key = (launch, core, tag)

        vain = partial(self._vain, core)
        self._device.wait(self._strand, lambda: bool(self._queues.get(key)), vain)
        return codec.decode(self._queues[key].popleft(), writable=True, error=SerializationError)

    def probe(self, core: int, tag: int = 0) -> bool:
        self._check(core)
        key = (self._strand.work.shard.launch, core, tag)
        if not self._queues.get(key) and core != self._core:
            if core in self._missed:
                raise PeerEnded(self._vain(core))
            self._device.give_way(self._strand)
            if not self._queues.get(key) and self._has_ended(core):
                self._missed.add(core)  # as elsewhere, where that is not known at once
        return bool(self._queues.get(key))

    def _has_ended(self, core: int) -> bool:
        return core in self._device._ended.get(self._strand.work.shard.launch, ())

    def _vain(self, core: int) -> str:
        why = "its shard has ended" if self._has_ended(core) else "every core of the launch waits"
        return f"core {self._core} waits for core {core} in vain: {why}"

    def _check(self, core: int) -> None:
        if core not in self._strand.work.plan.cores:
            raise PeerEnded(
                f"core {core} is not in this launch, which runs on cores {list(self._strand.work.plan.cores)}"
            )


class _MarkedStream(io.TextIOBase):
    """Standard output or error of kernels: marks every line with the core that writes it."""

    def __init__(self, name: str, out: TextIO) -> None:
        self._name = name
        self.out = out
        self.buffer = _MarkedBytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    def reconfigure(self, **_: object) -> None:
        """Stay as it is: the stream is the host's, and what is written goes there at once."""

    def write(self, text: str) -> int:
        context = current()
        if context is None:  # a thread of the host's
            self.out.write(text)
        elif text:
            write_marked(self.out, context.core, self._name, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self.out.flush()

    def fileno(self) -> int:
        return self.out.fileno()

    def isatty(self) -> bool:
        return self.out.isatty()

    def close(self) -> None:
        """Stay open: the stream is the host's."""


class _MarkedBytes(io.RawIOBase):
    """What a kernel writes as bytes."""

    def __init__(self, stream: _MarkedStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)


# In each thread: the window through which Ctrl-C reaches the kernel that runs there.
_kernel = threading.local()


class _Entered:
    """Within the block, a shard is what this thread runs, and Ctrl-C reaches it from its begin on."""

    def __init__(self, device: InlineDevice, context: Context) -> None:
        self._device = device
        self._context = context

    def __enter__(self) -> None:
        self._context.outer = self._device.outer
        self._before = enter_thread(self._context), getattr(_kernel, "window", None)
        self._window = _kernel.window = Window()

    @uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._window.close()
        enter_thread(self._before[0])
        _kernel.window = self._before[1]
        if isinstance(error, KeyboardInterrupt) and self._window.struck:
            self._device.interrupt = error


def _begin(shard: ShardId, at: float) -> None:
    """Let Ctrl-C through to the kernel, and not to what runs it."""
    _kernel.window.__enter__()


def open_inline(rest: str) -> InlineDevice:
    """Make the device of an address: `inline` has one virtual core, `inline:4` has four."""
    return InlineDevice(unit_count("inline", rest, 1))
