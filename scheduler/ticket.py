"""A launch as the host holds it, from the submission until nobody asks for its values any more."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from device_runtime import codec
from device_runtime.device import Device
from device_runtime.errors import DependencyError, ResultDecodeError
from device_runtime.interrupts import Guard
from device_runtime.launch import Image, Outcome, Payload, Plan, ShardId


@dataclass(frozen=True, eq=False)
class Pool:
    """An open device as the scheduler sees it.

    `down` are the units that cannot be sent anything now. `routes` keeps, by
    kernel, the way that its last launch went, and what asked for it.
    """

    index: int
    address: str
    units: int
    device: Device
    immediate: bool = False  # its kernels run in the thread that makes the launch
    down: set[int] = field(default_factory=set)
    routes: dict[int, tuple[object, Route]] = field(default_factory=dict)
    _firsts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def first(self, count: int) -> tuple[int, ...]:
        """Return the first `count` units."""
        found = self._firsts.get(count)
        if found is None:
            found = self._firsts[count] = tuple(range(count))
        return found


class Depends(NamedTuple):
    """The launches behind one handle among the arguments; `bare` if its result is one value."""

    tickets: tuple[Ticket, ...]
    bare: bool


@dataclass(frozen=True, eq=False)
class Route:
    """Where launches go, and how: what those of one kernel with the same options have in common.

    `units` are ascending; None leaves the choice of `count` units to the scheduler.
    """

    pool: Pool
    units: tuple[int, ...] | None
    count: int
    name: str
    kernel: int
    priority: int = 0
    retries: int = 0
    timeout: float | None = None
    bare: bool = False  # it is asked for one unit


class Request:
    """Everything that is asked for by one launch.

    `args` holds one payload for all shards or one for each. `attended`: the
    caller waits for it at once, so that no thread need be woken to look after it.
    """

    __slots__ = ("args", "attended", "depends", "image", "mapped", "route")

    def __init__(
        self,
        route: Route,
        image: Image,
        args: Sequence[Payload],
        depends: Sequence[Depends] = (),
        mapped: bool = False,
        attended: bool = False,
    ) -> None:
        self.route = route
        self.image = image
        self.args = args
        self.depends = depends
        self.mapped = mapped
        self.attended = attended


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
        "_feeds",
        "_guard",
        "_values",
        "callbacks",
        "cancelled",
        "cause",
        "count",
        "done",
        "finished",
        "listeners",
        "name",
        "number",
        "ok",
        "outcomes",
        "plan",
        "pool",
        "request",
        "submitted",
        "units",
    )

    def __init__(self, number: int, route: Route, guard: Guard, request: Request | None = None) -> None:
        self._guard = guard
        self.number = number
        self.name = route.name
        self.pool = route.pool
        self.count = route.count
        self.units = route.units
        self.outcomes: list[Outcome | None] = [None] * route.count
        self.finished: list[int] = []  # ranks, in order of completion
        self.submitted = time.monotonic()
        self.done = False
        self.ok = True
        self.cancelled = False  # somebody has cancelled it, and it has ended so, or will
        self.cause: Ticket | None = None  # the launch that failed, and because of which it did
        # The dispatcher's, until it is done:
        self.request = request
        self.plan: Plan | None = None  # once a shard was sent
        self.listeners: Sequence[tuple[int, ShardId, int]] = ()  # units, their shards, cores they wait for
        # Made when they are needed:
        self._values: dict[int, tuple[Any, BaseException | None]] | None = None
        self.callbacks: list[Callable[[Ticket], None]] | None = None
        self._feeds: list[deque[tuple[Ticket, int]]] | None = None

    def value(self, rank: int) -> Any:
        """Return the value of a shard that has ended, or raise its error."""
        value, error = self._decoded(rank)
        if error is not None:
            raise error
        return value

    def plain_values(self) -> list[Any] | None:
        """Return the values in core order, if all are plain; None if there is anything else."""
        if not self.ok:
            return None
        values = []
        for outcome in self.outcomes:
            payload = None if outcome is None else outcome.payload
            if payload is None or not payload.plain:
                return None
            values.append(pickle.loads(payload.data))  # type: ignore[arg-type]
        return values

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
                self.callbacks = [*(self.callbacks or ()), callback]
                return
        callback(self)

    def feed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Append this ticket and a rank to `queue` for each shard that has ended, and for each that will."""
        with self._guard:
            queue.extend((self, rank) for rank in self.finished)
            if not self.done:
                self._feeds = [*(self._feeds or ()), queue]

    def unfeed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Undo `feed`."""
        with self._guard:
            self._feeds = [one for one in self._feeds or () if one is not queue]

    def settle(self, rank: int, outcome: Outcome) -> bool:
        """Write down how a shard ended; return whether it was the last one."""
        self.outcomes[rank] = outcome
        self.finished.append(rank)
        self.ok = self.ok and outcome.error is None and not outcome.failed
        if self._feeds:
            for queue in self._feeds:
                queue.append((self, rank))
        if len(self.finished) == self.count:
            self._feeds = self.plan = self.request = None  # what it was sent may be freed
            self.done = True
        return self.done

    def take_callbacks(self) -> list[Callable[[Ticket], None]]:
        """Return the callbacks to be called now that the launch is done."""
        callbacks, self.callbacks = self.callbacks, None
        return callbacks or []

    def _decoded(self, rank: int) -> tuple[Any, BaseException | None]:
        if self._values is None:
            self._values = {}
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
