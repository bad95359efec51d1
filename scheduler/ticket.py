"""A launch as the host holds it, from the submission until nobody asks for its values any more."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from device_runtime import codec
from device_runtime.device import Device, DirectDevice
from device_runtime.errors import (
    DependencyError,
    RemoteTraceback,
    ResultDecodeError,
    VerificationError,
    again,
)
from device_runtime.interrupts import Guard
from device_runtime.launch import Encoded, Image, Outcome, Plan, ShardId
from device_runtime.traces import traceback_text


@dataclass(eq=False)
class Pool:
    """An open device as the scheduler sees it.

    `down` are the units that cannot be sent anything now, and `gone` tells why
    those are that will never be. `line` holds launches
    that leave the choice of units to the scheduler, and came when many waited
    for that already: there is nothing to decide of them yet. `routes` keeps, by
    kernel, the way that its last launch went, and what asked for it.
    """

    index: int
    address: str
    units: int
    device: Device
    guard: Guard
    immediate: bool = False  # its kernels run in the thread that makes the launch
    direct: DirectDevice | None = None  # the device, where it is one
    down: set[int] = field(default_factory=set)
    gone: dict[int, str] = field(default_factory=dict)
    line: deque[Ticket] = field(default_factory=deque)  # any thread may append to it
    full: bool = False  # what stands in line need not be taken in yet: a shard will end before
    routes: dict[int, tuple[object, Route]] = field(default_factory=dict)
    _firsts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def first(self, count: int) -> tuple[int, ...]:
        """Return the first `count` units."""
        found = self._firsts.get(count)
        if found is None:
            found = self._firsts[count] = tuple(range(count))
        return found


# What a launch wants of another that it waits for: its value, or that it has ended well, or at all.
VALUE, SUCCESS, END = "value", "success", "end"


class Depends(NamedTuple):
    """The launches behind one handle among the arguments; `bare` if its result is one value.

    Or others that a launch waits for: `wants` tells if it has use for their values.
    """

    tickets: tuple[Ticket, ...]
    bare: bool
    wants: str = VALUE


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
    when_full: str = "wait"
    bare: bool = False  # it is asked for one unit


class Feed:
    """Give away the shards of launches, each once, in the order they end. Any thread may take them."""

    def __init__(self) -> None:
        self._ended: deque[tuple[Ticket, int]] = deque()
        self._given: deque[None] = deque()  # one for each shard given away: appending needs no lock
        self._total = 0

    def expect(self, tickets: Sequence[Ticket]) -> None:
        """Count on the shards of these launches; called under the guard once others know the feed."""
        self._total += sum([ticket.count for ticket in tickets])

    def follow(self, tickets: Sequence[Ticket]) -> None:
        """Give away the shards of these launches, on which it counts."""
        for ticket in tickets:
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


Finish = Callable[[int, Any], Any]  # makes of a shard's rank and value what whoever asks gets
Failure = Callable[[], BaseException]  # makes an error, another one each time


def finish_value(finish: Finish, rank: int, value: Any) -> tuple[Any, Failure | None]:
    """Return what is made of a shard's value, or what makes the error with which that fails."""
    try:
        return finish(rank, value), None
    except VerificationError as error:
        return None, partial(again, error.with_traceback(None))
    except Exception as error:  # it is the user's, and kept as one that was raised on a core
        return None, partial(codec.decode_error, codec.encode_error(error, bytes))


class Turn(Protocol):
    """The place of a launch among those that use the same things. Called under the guard."""

    def waits(self) -> bool:
        """Tell whether the launch has to wait for others, or to fail as one of them has failed."""

    def take(self, ticket: Ticket) -> Sequence[Depends]:
        """Return what the launch has to wait for, and take note of it for those that come after it."""

    def end(self, ok: bool) -> None:
        """Take note that it has ended, and if it has ended well."""


class _More:
    """What only some launches have."""

    __slots__ = ("cause", "depends", "feeds", "finish", "listeners", "mapped", "turn", "values")

    def __init__(
        self,
        depends: Sequence[Depends] = (),
        mapped: bool = False,
        finish: Finish | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.depends = depends
        self.turn = turn  # until the launch has ended
        self.finish = finish
        self.mapped = mapped
        self.listeners: Sequence[tuple[int, ShardId, int]] = ()  # units, their shards, cores they wait for
        self.cause: Ticket | None = None  # the launch that failed, and because of which it did
        self.feeds: Sequence[deque[tuple[Ticket, int]]] = ()
        self.values: dict[int, tuple[Any, Failure | None]] = {}  # as `finish_value` gives it, by rank


_NOTHING = _More()  # what all the others have; never written to
_PENDING, _FIRST = (None,), (0,)


class Ticket:
    """One launch: what is asked for, and the outcomes as they come in.

    `args` holds one encoded value for all shards or a list of one for each.

    The dispatcher writes, under its lock; anybody may read: what is written
    never changes again, and `done` comes last.
    """

    __slots__ = (
        "args",
        "callbacks",
        "cancelled",
        "done",
        "finished",
        "image",
        "more",
        "number",
        "ok",
        "outcomes",
        "plan",
        "route",
        "submitted",
        "units",
    )

    def __init__(
        self,
        route: Route,
        image: Image,
        args: Encoded | list[Encoded],
        depends: Sequence[Depends] = (),
        mapped: bool = False,
        finish: Finish | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.route = route
        self.number = 0  # until the state machine is told of it
        self.units = route.units
        self.outcomes: Sequence[Outcome | None] = _PENDING if route.count == 1 else [None] * route.count
        self.finished: Sequence[int] = ()  # ranks, in order of completion
        self.submitted = time.monotonic()
        self.done = False
        self.ok = True
        self.cancelled = False  # somebody has cancelled it, and it has ended so, or will
        # The dispatcher's, until it is done:
        self.image: Image | None = image
        self.args: Encoded | list[Encoded] | None = args
        self.plan: Plan | None = None  # once a shard was sent
        self.callbacks: list[Callable[[Ticket], None]] | None = None
        special = depends or mapped or finish or turn
        self.more = _More(depends, mapped, finish, turn) if special else _NOTHING

    @property
    def name(self) -> str:
        return self.route.name

    @property
    def count(self) -> int:
        return self.route.count

    @property
    def pool(self) -> Pool:
        return self.route.pool

    @property
    def depends(self) -> Sequence[Depends]:
        return self.more.depends

    @property
    def mapped(self) -> bool:
        return self.more.mapped

    @property
    def cause(self) -> Ticket | None:
        return self.more.cause

    @cause.setter
    def cause(self, cause: Ticket) -> None:
        self._own().cause = cause

    @property
    def listeners(self) -> Sequence[tuple[int, ShardId, int]]:
        return self.more.listeners

    @listeners.setter
    def listeners(self, listeners: Sequence[tuple[int, ShardId, int]]) -> None:
        self._own().listeners = listeners

    def value(self, rank: int) -> Any:
        """Return the value of a shard that has ended, or raise its error."""
        value, error = self._decoded(rank)
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame
        return value

    def plain_values(self) -> list[Any] | None:
        """Return the values in core order, if all are plain; None if there is anything else."""
        if not self.ok or self.more.finish is not None:
            return None
        values = []
        for outcome in self.outcomes:
            if outcome is None or type(outcome.payload) is not bytes:
                return None
            values.append(pickle.loads(outcome.payload))
        return values

    def error(self, rank: int) -> BaseException | None:
        """Return the error of a shard that has ended, None if it gave a value.

        It is another one each time: whoever raises it has it hold frames that may hold this ticket.
        """
        return self._decoded(rank)[1]

    def on_done(self, callback: Callable[[Ticket], None]) -> None:
        """Call `callback` once all shards have ended; now, if they have.

        It runs in this thread or in the one that receives the last outcome, which
        it must not hold up.
        """
        with self.route.pool.guard:
            if not self.done:
                self.callbacks = [*(self.callbacks or ()), callback]
                return
        callback(self)

    def feed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Append this ticket and a rank to `queue` for each shard that has ended, and for each that will."""
        with self.route.pool.guard:
            queue.extend((self, rank) for rank in self.finished)
            if not self.done:
                more = self._own()
                more.feeds = [*more.feeds, queue]

    def unfeed(self, queue: deque[tuple[Ticket, int]]) -> None:
        """Undo `feed`."""
        with self.route.pool.guard:
            more = self._own()
            more.feeds = [one for one in more.feeds if one is not queue]

    def settle(self, rank: int, outcome: Outcome) -> bool:
        """Write down how a shard ended; return whether it was the last one."""
        if type(outcome.payload) is not bytes:
            self._own()  # before anybody may ask for its value
        if len(self.outcomes) == 1:
            self.outcomes, self.finished = (outcome,), _FIRST
        else:
            self.outcomes[rank] = outcome  # type: ignore[index]
            if self.finished:
                self.finished.append(rank)  # type: ignore[attr-defined]
            else:
                self.finished = [rank]
        if outcome.failed or outcome.error is not None:
            self.ok = False
        feeds = self.more.feeds
        if len(self.finished) == len(self.outcomes):
            self.image = self.args = self.plan = None  # what it was sent may be freed
            if self.more is not _NOTHING:
                turn, self.more.turn = self.more.turn, None
                if turn is not None:
                    turn.end(self.ok)
                self.more.depends = self.more.feeds = ()
            self.done = True
        for queue in feeds:  # whoever takes the last shard finds it done
            queue.append((self, rank))
        return self.done

    def take_callbacks(self) -> list[Callable[[Ticket], None]]:
        """Return the callbacks to be called now that the launch is done."""
        callbacks, self.callbacks = self.callbacks, None
        return callbacks or []

    def _own(self) -> _More:
        """Return what only some launches have; from now on this one has it, too. Called under the guard."""
        if self.more is _NOTHING:
            self.more = _More()
        return self.more

    def _decoded(self, rank: int) -> tuple[Any, BaseException | None]:
        outcome = self.outcomes[rank]
        if outcome is None:
            raise RuntimeError(f"shard {rank} of launch {self.number} has not ended")
        if type(outcome.payload) is bytes and self.more.finish is None:
            return pickle.loads(outcome.payload), None
        if outcome.error is not None:
            told = again(outcome.error)
            if isinstance(told, DependencyError):
                told.__cause__ = self._first_error_of_cause()
            return None, told
        assert outcome.payload is not None
        if outcome.failed:
            return None, codec.decode_error(outcome.payload)
        values = self.more.values
        found = values.get(rank)
        if found is None:
            # Two threads may decode at once; both then use what the first one stored.
            found = values.setdefault(rank, self._decode(rank, outcome.payload))
        value, failed = found
        return value, None if failed is None else failed()

    def _decode(self, rank: int, payload: Encoded) -> tuple[Any, Failure | None]:
        try:
            value = codec.decode(payload, writable=True, error=ResultDecodeError)
        except ResultDecodeError as error:
            told = ResultDecodeError(f"kernel {self.name}: {error}")
            if error.__cause__ is not None:
                told.__cause__ = RemoteTraceback(traceback_text(error.__cause__))
            return None, partial(again, told)
        return (value, None) if self.more.finish is None else finish_value(self.more.finish, rank, value)

    def _first_error_of_cause(self) -> BaseException | None:
        if self.cause is None:
            return None
        errors = (self.cause.error(rank) for rank in range(self.cause.count))
        return next((error for error in errors if error is not None), None)
