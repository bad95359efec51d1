"""Wait for several handles at once, of any kernels, devices and sessions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from offload.deadline import Deadline
from offload.handle import Handle
from offload.shards import core_of, wait_done
from scheduler.ticket import Feed, Ticket

if TYPE_CHECKING:
    from scheduler.dispatcher import Dispatcher

R = TypeVar("R")


def wait_all(*handles: Handle[R], timeout: float | None = None) -> list[list[R]]:
    """Wait for all handles and return what `wait` of each gives, in argument order.

    When it raises a kernel's exception, that of the first handle that failed,
    all of them have ended. Raises TimeoutError after `timeout` seconds for all
    together; that cancels nothing.
    """
    _check("wait_all", handles)
    deadline = Deadline(timeout)
    for dispatcher in dict.fromkeys(handle._dispatcher for handle in handles):
        wait_done([handle for handle in handles if handle._dispatcher is dispatcher], deadline)
    return [handle.wait(deadline.left()) for handle in handles]


waitAll = wait_all  # ePython's spelling


def wait_any(*handles: Handle[R], timeout: float | None = None) -> tuple[Handle[R], dict[int, R]]:
    """Wait for the next core of any handle to finish and return `(handle, {core: value})`.

    Each core of each handle is handed out once, here or by `handle.wait_any`.
    Raises that core's exception if it failed, LookupError when all were handed
    out, and TimeoutError.
    """
    _check("wait_any", handles)
    deadline = Deadline(timeout)
    for handle in handles:
        handle._check_process()
    while True:
        for handle in handles:
            found = handle._feed().take()
            if found is not None:
                ticket, rank = found
                return handle, {core_of(ticket, rank): ticket.value(rank)}
        left = [handle for handle in handles if not handle._feed().empty()]
        if not left:
            raise LookupError("wait_any has handed out all cores of these handles")
        feeds, dispatchers = [handle._feed() for handle in left], {handle._dispatcher for handle in left}
        tickets = [ticket for handle in left for ticket in handle._tickets]
        told = _told_of(dispatchers, tickets)
        try:
            if not _wait_ready(
                lambda: any(feed.ready() or feed.empty() for feed in feeds),  # noqa: B023
                dispatchers,
                told,
                deadline,
            ):
                raise left[0]._timed_out(deadline)
        finally:
            if told is not None:
                for ticket in tickets:
                    ticket.unfeed(told)


def as_completed(*handles: Handle[R], timeout: float | None = None) -> Iterator[Handle[R]]:
    """Iterate over the handles in order of completion, each once.

    Nothing is raised for a launch that failed: its `result()` does. Raises
    TimeoutError when `timeout` seconds from the call were not enough.
    """
    _check("as_completed", handles)
    deadline = Deadline(timeout)
    launches = {handle: handle._tickets for handle in handles}
    owners: dict[Ticket, list[Handle[R]]] = {}
    for handle, tickets in launches.items():
        handle._check_process()
        for ticket in tickets:
            owners.setdefault(ticket, []).append(handle)
    dispatchers = {handle._dispatcher for handle in launches}
    feed = Feed()
    feed.expect(tuple(owners))
    feed.follow(tuple(owners))
    told = _told_of(dispatchers, owners)

    def iterate() -> Iterator[Handle[R]]:
        left = dict(launches)
        while left:
            found = feed.take()
            if found is None:
                if not _wait_ready(feed.ready, dispatchers, told, deadline):
                    raise TimeoutError(
                        f"{len(left)} of {len(launches)} launches have not ended "
                        f"after {deadline.timeout:g} s; nothing was cancelled"
                    )
                continue
            for handle in owners[found[0]]:
                if handle in left and all(ticket.done for ticket in left[handle]):
                    del left[handle]
                    yield handle

    return iterate()


def _told_of(dispatchers: set[Dispatcher], tickets: Iterable[Ticket]) -> _Told | None:
    """Return what tells of the shards of several dispatchers, None for one: its thread can wait for them."""
    if len(dispatchers) == 1:
        return None
    told = _Told()
    for ticket in tickets:
        ticket.feed(told)
    return told


def _wait_ready(
    ready: Callable[[], bool], dispatchers: set[Dispatcher], told: _Told | None, deadline: Deadline
) -> bool:
    """Wait until `ready()` holds; return whether it does."""
    if told is None:
        return next(iter(dispatchers)).wait(ready, deadline.left())
    for dispatcher in dispatchers:
        dispatcher.check_wait()
    while not ready():
        try:
            told.queue.get(timeout=deadline.left())
        except Empty:
            return ready()
    return True


class _Told(deque[tuple[Ticket, int]]):
    """Takes what a ticket is fed, and wakes the thread that waits."""

    def __init__(self) -> None:
        super().__init__(maxlen=0)
        self.queue: SimpleQueue[None] = SimpleQueue()

    def append(self, item: tuple[Ticket, int]) -> None:
        self.queue.put(None)


def _check(name: str, handles: tuple[Any, ...]) -> None:
    for handle in handles:
        if not isinstance(handle, Handle):
            hint = f"; write {name}(*handles)" if isinstance(handle, (list, tuple)) else ""
            raise TypeError(f"{name} takes handles, not {type(handle).__name__}{hint}")
