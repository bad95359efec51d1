"""A launch as the host holds it, from the submission until nobody asks for its values any more."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.device import Device
from device_runtime.errors import DependencyError, ResultDecodeError
from device_runtime.interrupts import Guard
from device_runtime.launch import Image, Outcome, Payload


@dataclass(frozen=True, eq=False)
class Pool:
    """An open device as the scheduler sees it."""

    index: int
    address: str
    units: int
    device: Device


class Depends(NamedTuple):
    """The launches behind one handle among the arguments; `bare` if its result is one value."""

    tickets: tuple[Ticket, ...]
    bare: bool


@dataclass(frozen=True, eq=False)
class Request:
    """Everything that is asked for by one launch.

    `args` holds one payload for all shards or one for each. `units` are
    ascending; None leaves the choice of `count` units to the scheduler.
    `attended`: the caller waits for it at once, so that no thread need be
    woken to look after it.
    """

    pool: Pool
    image: Image
    args: Sequence[Payload]
    units: tuple[int, ...] | None
    count: int
    name: str
    kernel: int
    priority: int = 0
    retries: int = 0
    timeout: float | None = None
    depends: Sequence[Depends] = ()
    mapped: bool = False
    attended: bool = False


class Feed:
    """Give away the shards of launches, each once, in the order they end. Any thread may take them."""

    def __init__(self) -> None:
        self._ended: deque[tuple[Ticket, int]] = deque()
        self._given: deque[None] = deque()  # one for each shard given away: appending needs no lock
        self._total = 0

    def add(self, ticket: Ticket) -> None:
        """Give away the shards of this launch, too."""
        self._total += ticket.count
        ticket.feed(self._ended)

    def ready(self) -> bool:
        """Tell whether a shard has ended that was not given away."""
        return bool(self._ended)

    def empty(self) -> bool:
        """Tell whether all shards were given away."""
        return len(self._given) >= self._total

    def take(self) -> tuple[Ticket, int] | None:
        """Return a launch and the rank of a shard, None if none is ready."""
        try:
            found = self._ended.popleft()
        except IndexError:
            return None
        self._given.append(None)
        return found


class Ticket:
    """Keep the outcomes of one launch as they come in.

    The dispatcher writes, under its lock; anybody may read: what is written
    never changes again, and `done` comes last.
    """

    __slots__ = (
        "_callbacks",
        "_feeds",
        "_guard",
        "_values",
        "cancelled",
        "cause",
        "count",
        "done",
        "finished",
        "name",
        "number",
        "ok",
        "outcomes",
        "pool",
        "submitted",
        "units",
    )

    def __init__(self, number: int, request: Request, guard: Guard) -> None:
        self._guard = guard
        self.number = number
        self.name = request.name
        self.pool = request.pool
        self.count = request.count
        self.units = request.units
        self.outcomes: list[Outcome | None] = [None] * request.count
        self.finished: list[int] = []  # ranks, in order of completion
        self.submitted = time.monotonic()
        self.done = False
        self.ok = True
        self.cancelled = False  # somebody has cancelled it, and it has ended so, or will
        self.cause: Ticket | None = None  # the launch that failed, and because of which it did
        self._values: dict[int, tuple[Any, BaseException | None]] = {}
        self._callbacks: list[Callable[[Ticket], None]] = []
        self._feeds: list[deque[tuple[Ticket, int]]] = []

    def value(self, rank: int) -> Any:
        """Return the value of a shard that has ended, or raise its error."""
        value, error = self._decoded(rank)
        if error is not None:
            raise error
        return value

    def error(self, rank: int) -> BaseException | None:
        """Return the error of a shard that has ended, None if it gave a value."""
        return self._decoded(rank)[1]

    def on_done(self, callback: Callable[[Ticket], None]) -> None:
        """Call `callback` once all shards have ended; now, if they have.

        It runs in this thread or in the one that receives the last outcome, which
        it must not hold up.
        """
        with self._guard:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback(self)

    def feed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Append this ticket and a rank to `queue` for each shard that has ended, and for each that will."""
        with self._guard:
            queue.extend((self, rank) for rank in self.finished)
            if not self.done:
                self._feeds.append(queue)

    def unfeed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Undo `feed`."""
        with self._guard:
            self._feeds = [one for one in self._feeds if one is not queue]

    def settle(self, rank: int, outcome: Outcome) -> bool:
        """Write down how a shard ended; return whether it was the last one."""
        self.outcomes[rank] = outcome
        self.finished.append(rank)
        self.ok = self.ok and outcome.error is None and not outcome.failed
        for queue in self._feeds:
            queue.append((self, rank))
        if len(self.finished) == self.count:
            self._feeds.clear()
            self.done = True
        return self.done

    def take_callbacks(self) -> list[Callable[[Ticket], None]]:
        """Return the callbacks to be called now that the launch is done."""
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def _decoded(self, rank: int) -> tuple[Any, BaseException | None]:
        found = self._values.get(rank)
        if found is None:
            outcome = self.outcomes[rank]
            if outcome is None:
                raise RuntimeError(f"shard {rank} of launch {self.number} has not ended")
            # Two threads may decode at once; both then use what the first one stored.
            found = self._values.setdefault(rank, self._decode(outcome))
        return found

    def _decode(self, outcome: Outcome) -> tuple[Any, BaseException | None]:
        if outcome.error is not None:
            if isinstance(outcome.error, DependencyError):
                outcome.error.__cause__ = self._first_error_of_cause()
            return None, outcome.error
        assert outcome.payload is not None
        if outcome.failed:
            return None, codec.decode_error(outcome.payload)
        try:
            return codec.decode(outcome.payload, writable=True, error=ResultDecodeError), None
        except ResultDecodeError as error:
            told = ResultDecodeError(f"kernel {self.name}: {error}")
            told.__cause__ = error.__cause__
            return None, told

    def _first_error_of_cause(self) -> BaseException | None:
        if self.cause is None:
            return None
        errors = (self.cause.error(rank) for rank in range(self.cause.count))
        return next((error for error in errors if error is not None), None)
