"""What one or more launches have given so far, in core order: the ePython side of a handle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from device_runtime.errors import OptionError, add_note, notes_of
from offload.deadline import Deadline
from offload.progress import watch
from scheduler.ticket import Feed, Ticket

if TYPE_CHECKING:
    from typing_extensions import Self

    from scheduler.dispatcher import Dispatcher

R = TypeVar("R")


class Shards(Generic[R]):
    """Wait for the shards of one launch or more, and hand out their values.

    `wait`, `wait_any` and the iterations raise a kernel's own exception, with
    its remote traceback as the cause.
    """

    __slots__ = ("__weakref__", "_dispatcher", "_given", "_single", "_tickets")

    def __init__(self, dispatcher: Dispatcher, ticket: Ticket, bare: bool = False) -> None:
        self._dispatcher = dispatcher
        self._tickets: tuple[Ticket, ...] = (ticket,)
        self._single = bare  # and it stays so, whatever is appended
        self._given: Feed | None = None  # what wait_any gives away; made when it is needed

    def wait(self, timeout: float | None = None, progress: bool = False) -> list[R]:
        """Wait for all cores and return their values in core order (launch order, then core order).

        It may be called again and gives the same values. With `progress` a bar
        shows how many cores are done. Raises the exception of the first core
        that failed, and TimeoutError after `timeout` seconds; that cancels
        nothing.
        """
        deadline = Deadline(timeout)
        if progress:
            watch(self, deadline)
        tickets = self._wait_done(deadline)
        if len(tickets) == 1 and (values := tickets[0].plain_values()) is not None:
            return values
        self._check(tickets)
        return _values(tickets)

    def wait_any(self, timeout: float | None = None) -> dict[int, R]:
        """Wait for the next core to finish and return `{core: value}`; each core is handed out once.

        Raises that core's exception if it failed, LookupError when every core
        was handed out, and TimeoutError as `wait` does.
        """
        core, ticket, rank = self._take(self._feed(), Deadline(timeout))
        return {core: ticket.value(rank)}

    def as_completed(self, timeout: float | None = None) -> Iterator[tuple[int, R]]:
        """Iterate over `(core, value)` in order of completion, all cores, whatever `wait_any` handed out.

        Raises a failed core's exception at its place and then ends. `timeout`
        counts from the call to the last value.
        """
        deadline = Deadline(timeout)

        def iterate() -> Iterator[tuple[int, R]]:
            feed = self._new_feed(self._tickets)
            while not feed.empty():
                core, ticket, rank = self._take(feed, deadline)
                yield core, ticket.value(rank)

        return iterate()

    def test(self) -> bool:
        """Tell whether at least one core has finished whose value `wait_any` has not handed out.

        True also when all cores have finished: then every value is available.
        """
        self._check_process()
        return self._is_done() or self._feed().ready()

    def number_running(self) -> int:
        """Return on how many cores it is running."""
        return sum(self._dispatcher.running(ticket) for ticket in self._tickets)

    def number_outstanding(self) -> int:
        """Return on how many cores it is running or queued."""
        return sum(self._dispatcher.outstanding(ticket) for ticket in self._tickets)

    def append(self, other: Shards[R]) -> Self:
        """Add the launches of another handle to this one, which then waits for all of them.

        `wait` gives the values of the launches one after another, and `result`
        a list. The other handle stays as it is. A wait for this one that is
        under way, an `await`, a future and callbacks wait for what is appended,
        too, and its `wait_any` hands it out; `as_completed` gives what there
        was when it was called.

        Raises TypeError for what is no handle, and OptionError for a handle of another session.
        """
        if not isinstance(other, Shards):
            raise TypeError(f"append takes a handle, not {type(other).__name__}")
        self._check_process()
        if other._dispatcher is not self._dispatcher:
            raise OptionError("append takes a handle of the same session")
        with self._tickets[0].pool.guard:  # other threads may append, and wait_any, too
            more, given = other._tickets, self._given
            self._tickets = (*self._tickets, *more)
            if given is not None:
                given.expect(more)
        if given is not None:
            given.follow(more)
            self._dispatcher.look_up()  # what is appended may have ended already
        return self

    # ---- shared with Handle and the functions over several handles -----------------

    @property
    def _name(self) -> str:
        return ", ".join(dict.fromkeys(ticket.name for ticket in self._tickets))

    @property
    def _count(self) -> int:
        return sum(ticket.count for ticket in self._tickets)

    def _is_done(self) -> bool:
        return _all_done(self._tickets)

    def _check_process(self) -> None:
        """Raise ForkedHandleError in a forked child."""
        if self._dispatcher.forked:
            self._dispatcher.check()

    def _wait_done(self, deadline: Deadline) -> tuple[Ticket, ...]:
        """Wait until all launches have ended, those that are appended meanwhile too; return them.

        Whoever waited goes on with these: another thread may append more at any time.
        """
        while True:
            tickets = self._tickets
            if not self._dispatcher.forked and _all_done(tickets):
                return tickets
            wait_done([self], deadline)

    def _result(self, tickets: tuple[Ticket, ...]) -> R | list[R]:
        """Return what `result` gives, or raise what it raises, of launches that have ended."""
        self._check(tickets)
        values = _values(tickets)
        return values[0] if self._single and len(tickets) == 1 else values

    @property
    def _bare(self) -> bool:
        """Tell whether this is one launch that was asked for one unit: its result is its value."""
        return self._single and len(self._tickets) == 1

    def _timed_out(self, deadline: Deadline) -> TimeoutError:
        cores = [
            str(ticket.units[rank])
            for ticket in self._tickets
            if ticket.units is not None
            for rank in range(ticket.count)
            if ticket.outcomes[rank] is None
        ]
        left = f"core{'s' * (len(cores) > 1)} {', '.join(cores)}" if cores else "a core to be chosen for it"
        return TimeoutError(
            f"kernel {self._name} has not ended after {deadline.timeout:g} s, waiting for {left}; "
            "nothing was cancelled"
        )

    def _feed(self) -> Feed:
        """Return what gives away the cores for `wait_any`."""
        while (given := self._given) is None:
            tickets = self._tickets
            feed = self._new_feed(tickets)
            with tickets[0].pool.guard:  # another thread may make one, too, or append
                if self._given is None and self._tickets is tickets:
                    self._given = feed
        return given

    def _new_feed(self, tickets: tuple[Ticket, ...]) -> Feed:
        self._check_process()
        feed = Feed()
        feed.expect(tickets)
        feed.follow(tickets)
        return feed

    def _take(self, feed: Feed, deadline: Deadline) -> tuple[int, Ticket, int]:
        """Wait for a core that was not given away yet; return it, its launch, and its rank in that."""
        self._check_process()
        while (found := feed.take()) is None:
            if feed.empty():
                raise LookupError(
                    f"kernel {self._name}: wait_any has handed out all {self._count} cores; "
                    "wait() gives all values again"
                )
            # All handed out by another thread meanwhile is an end of waiting, too.
            if not self._dispatcher.wait(lambda: feed.ready() or feed.empty(), deadline.left()):
                raise self._timed_out(deadline)
        ticket, rank = found
        return core_of(ticket, rank), ticket, rank

    def _check(self, tickets: tuple[Ticket, ...]) -> None:
        """Raise the first error in core order."""
        error = self._error(tickets)
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame

    def _error(self, tickets: tuple[Ticket, ...]) -> BaseException | None:
        """Return the first error in core order, the others attached to it as notes; None without one."""
        failed: dict[int, tuple[int, BaseException]] = {}  # by outcome: shards may have one in common
        for ticket in tickets:
            for rank, outcome in enumerate(ticket.outcomes):
                error = ticket.error(rank)
                if error is not None:
                    failed.setdefault(id(outcome), (core_of(ticket, rank), error))
        if not failed:
            return None
        (_, first), *others = failed.values()
        known = notes_of(first)
        for core, error in others:
            note = f"core {core} failed too: {_said(error)}"
            if note not in known:
                add_note(first, note)
        return first


def wait_done(several: Sequence[Shards[Any]], deadline: Deadline) -> None:
    """Wait until all launches of some handles of one dispatcher have ended.

    Raises TimeoutError, for the first handle that had not.
    """
    for one in several:
        one._check_process()
    left = deque((one, ticket) for one in several for ticket in one._tickets if not ticket.done)

    def ended() -> bool:
        while left and left[0][1].done:
            left.popleft()
        return not left

    if left and not left[0][0]._dispatcher.wait(ended, deadline.left()) and left:
        raise left[0][0]._timed_out(deadline)


def _all_done(tickets: tuple[Ticket, ...]) -> bool:
    return tickets[0].done if len(tickets) == 1 else all(ticket.done for ticket in tickets)


def _values(tickets: tuple[Ticket, ...]) -> list[Any]:
    return [ticket.value(rank) for ticket in tickets for rank in range(ticket.count)]


def core_of(ticket: Ticket, rank: int) -> int:
    """Return a shard's core; of one that never got a core, its rank."""
    return ticket.units[rank] if ticket.units is not None else rank


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__} (its text cannot be had)"
