"""The one place where launches, devices and threads meet.

The state machine decides; the dispatcher carries out what it decided and
tells it what happened. One guard protects all of it. Events are received by
one thread at a time, the *pump*: a thread that waits for a launch, or, while
launches are under way and nobody waits, a thread in the background.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from device_runtime.device import Device, DirectDevice, ImmediateDevice, MemoryFull, SharedDevice
from device_runtime.errors import (
    DeviceMemoryError,
    DeviceUnavailable,
    ForkedHandleError,
    QueueFull,
    SessionClosed,
)
from device_runtime.interrupts import Guard, Shield, Window, defer_interrupts
from device_runtime.launch import (
    Buffer,
    Encoded,
    Ended,
    Event,
    Gone,
    Image,
    Logged,
    Lost,
    Outcome,
    Printed,
)
from device_runtime.output import end_line, line_is_open, show
from device_runtime.registry import open_device
from scheduler import events, room
from scheduler.callbacks import Callbacks
from scheduler.direct import Direct, Lone
from scheduler.ledger import Ledger
from scheduler.pump import Pump
from scheduler.ticket import Finish, Pool, Route, Ticket, Turn

_log = logging.getLogger("offload")
_OFTEN = 64  # of so many launches, one that is queued also looks what has ended
_PATIENCE = 1.0  # seconds to wait for room in a device's memory while no launch is under way
_ROOM = 7 / 8  # of what may be queued: who waits for room goes on when there is less
_CLOSED = "the session is shut down; offload.connect() starts a new one"


class Closed(NamedTuple):
    """What closing cut off: launches cancelled in the queue, and launches ended while they ran."""

    cancelled: int
    ended: int


class Dispatcher:
    """Run launches on devices.

    Making one raises OptionError for a setting that cannot be meant, and
    DeviceUnavailable where the process can have no more descriptors.
    """

    def __init__(self) -> None:
        self._most = room.most_launches()  # that may be under way
        self._guard = Guard()
        self._numbers = itertools.count(1)
        self._ledger = Ledger(self._numbers.__next__)
        try:
            self._pump = Pump(self._guard, self)
        except OSError as error:
            raise DeviceUnavailable(f"no device can be used: {error}") from error
        self._open: dict[int, Pool] = {}  # by the descriptor that tells of its events
        self._launches = self._ledger.launches
        self._events: deque[tuple[int, Event]] = deque()  # received, not handled yet
        self._output: deque[Callable[[], None]] = deque()  # shows what was received
        self._direct = Direct(self, self._guard, self._pump, self._ledger.plans)
        self._unheard: set[int] = set()  # descriptors to be looked at even if they are not readable
        self._users = Callbacks()
        self._queued = 0  # launches, so far
        self._closed = False
        self.forked = False
        _dispatchers.add(self)

    def open(self, address: str) -> Pool:
        """Open a device and make its units available to launches.

        Raises SessionClosed, and what `registry.open_device` and `Device.open` raise.
        """
        self.check()
        defer_interrupts()
        device = open_device(address)
        return self.add(device, device.open())

    def add(self, device: Device, units: int) -> Pool:
        """Make the units of an open device available to launches; it is closed with the dispatcher.

        Raises SessionClosed, with the device closed.
        """
        with self._guard:
            if self._closed or self.forked:
                device.close()
                raise SessionClosed(_CLOSED)
            immediate = isinstance(device, ImmediateDevice)
            direct = device if isinstance(device, DirectDevice) else None
            pool = Pool(
                len(self._ledger.pools), device.address, units, device, self._guard, immediate, direct
            )
            self._ledger.pools.append(pool)
            self._open[device.fileno()] = pool
            shared = (device.card, device.loaded) if isinstance(device, SharedDevice) else ()
            self._ledger.step(events.PoolOpened(pool.index, units, device.depth, *shared))
            self._pump.watch(device.fileno())
        return pool

    def place(self, device: Device, view: memoryview) -> Buffer:
        """Copy bytes to where a device's units can read them; while it is full, wait for shards to end.

        Raises DeviceMemoryError where nothing is under way that could make room.
        """
        while True:
            seen = self._ledger.settled
            try:
                return device.place(view)
            except MemoryFull as error:
                if self._pump.is_mine():
                    raise
                told = str(error)
            # While none is under way, another thread may be about to make a launch, its arguments placed.
            more = self.wait(partial(self._has_settled, seen), None if self._launches else _PATIENCE)
            if not more and not self._launches:
                raise DeviceMemoryError(f"{told}; no launch is under way that will make room")

    def _has_settled(self, seen: int) -> bool:
        return self._ledger.settled != seen

    def submit(self, ticket: Ticket, attended: bool = False) -> None:
        """Queue a launch and return at once.

        `attended`: the caller waits for it at once, so that no thread need be
        woken to look after it.

        Raises SessionClosed, ForkedHandleError, OptionError for a dependency
        on a launch of another session, and QueueFull.
        """
        if self.forked:
            self.check()
        route = ticket.route
        pool = route.pool
        if not attended and not self._has_room():
            self._wait_for_room(route)
        if pool.immediate:
            with Shield():  # Ctrl-C must not leave a launch behind that nobody runs
                self._queue(ticket, attended)
                self._run_here(ticket)
        elif route.units is not None or route.priority or ticket.more.depends or ticket.more.turn:
            self._queue(ticket, attended)
        else:
            self._stand_in_line(ticket, attended)

    def _under_way(self) -> int:
        """Return how many launches have not ended, those in line included."""
        found = len(self._launches)
        for pool in self._ledger.pools:
            found += len(pool.line)
        return found

    def _has_room(self, share: float = 1.0) -> bool:
        """Tell whether less than a share of what may be queued is."""
        return self._under_way() < share * self._most and self._ledger.bytes < share * room.BYTES

    def _wait_for_room(self, route: Route) -> None:
        """Wait until the queue has room for some launches, or for one after some have ended.

        Raises QueueFull where the caller must not, or cannot, wait.
        """
        launches, size = self._under_way(), self._ledger.bytes
        full = f"kernel {route.name}: the queue is full, with {launches:,} launches"
        if size < room.BYTES:
            full += f" (OFFLOAD_QUEUE allows {self._most:,})"
        else:
            full += f" that have {size:,} bytes of arguments (there may be {room.BYTES:,})"
        if route.when_full == "raise":
            raise QueueFull(f"{full}; wait for some of them")
        if self._pump.is_mine():
            raise QueueFull(
                f"{full}, and this thread cannot wait: it receives what cores say; "
                "a signal handler, a log handler or a stream must leave launches to another thread"
            )
        enough = self._ledger.settled + max(1, self._most // 8)
        self.wait(
            lambda: (
                self._closed
                or self._has_room(_ROOM)
                or (self._ledger.settled >= enough and self._has_room())  # others may keep it as good as full
            )
        )

    def _stand_in_line(self, ticket: Ticket, attended: bool) -> None:
        """Queue a launch for whichever units are free first."""
        if self._closed:
            raise SessionClosed(_CLOSED)
        pool, self._queued = ticket.route.pool, self._queued + 1
        size = room.weight(ticket.args)
        if pool.full and self._queued % _OFTEN and not (size or self._closed):
            pool.line.append(ticket)
            # While it is full a shard will end, and whoever handles that takes in the line. It finds this
            # launch, which stood there before we looked again.
            if pool.full:
                return
            with self._guard:
                if self._closed and ticket in pool.line:
                    pool.line.remove(ticket)
                    raise SessionClosed(_CLOSED)
                self._settle_down(attended)
            return
        with self._guard:
            if self._closed:
                raise SessionClosed(_CLOSED)
            pool.line.append(ticket)
            self._ledger.bytes += size
            if pool.full:  # units would idle while this thread has the interpreter's lock
                self._pump.step_in()
            self._settle_down(attended)

    def call(
        self,
        route: Route,
        image: Image,
        args: Encoded,
        finish: Finish | None = None,
        turn: Turn | None = None,
    ) -> Sequence[bytes | Outcome] | Ticket | None:
        """Run a launch whose caller waits for it, without a timeout, the short way if it can go that.

        Return its outcomes, in core order, plain values as their pickles; or its ticket if it takes longer,
        or has failed and has a turn.
        Return None if it is to be submitted.

        Raises SessionClosed and ForkedHandleError.
        """
        device = route.pool.direct
        if device is None or self._closed:
            return None
        if self.forked:
            self.check()
        return self._direct.run(device, route, image, args, finish, turn)

    def settled(
        self,
        route: Route,
        image: Image,
        args: Encoded,
        outcomes: Sequence[bytes | Outcome],
        finish: Finish | None = None,
        turn: Turn | None = None,
    ) -> Ticket:
        """Return the ticket of a launch that has ended; called under the guard where it has a turn."""
        ticket = Ticket(route, image, args, finish=finish, turn=turn)
        if turn is not None:
            turn.take(ticket)
        ticket.units = route.units or route.pool.first(route.count)
        for rank, outcome in enumerate(outcomes):
            ticket.settle(rank, Outcome(outcome) if isinstance(outcome, bytes) else outcome)
        return ticket

    # ---- asked by `Direct` ---------------------------------------------------------

    def idle(self) -> bool:
        return not (self.busy() or self._output or self._closed)

    def number(self) -> int:
        return next(self._numbers)

    def adopt(self, lone: Lone) -> Ticket:
        self._unheard.add(lone.route.pool.device.fileno())
        return self._ledger.adopt(lone)

    def fail(self, lone: Lone, outcomes: Sequence[bytes | Outcome]) -> Ticket:
        return self.settled(lone.route, lone.image, lone.args, outcomes, lone.finish, lone.turn)

    def _queue(self, ticket: Ticket, attended: bool) -> None:
        with self._guard:
            if self._closed:
                raise SessionClosed(_CLOSED)
            try:
                self._ledger.enter(ticket)
            finally:  # it may have taken in others, also where it is refused
                self._settle_down(attended)

    def _settle_down(self, attended: bool) -> None:
        """Send what was decided, and see to it that somebody looks after the rest."""
        self._flush()
        if not attended:
            self._pump.attend()
        if self._ledger.callbacks:  # of others: theirs must not run in this thread
            self._pump.attend()
            self._pump.ring()

    def _run_here(self, ticket: Ticket) -> None:
        """Run a launch in this thread, once all of it was sent and no other thread runs one."""
        number, device = ticket.number, ticket.pool.device
        assert isinstance(device, ImmediateDevice)

        def turn() -> bool:
            left = ticket.count - len(ticket.finished)
            return ticket.done or (not device.running and device.pending(number) == left)

        try:
            while not ticket.done:
                self._pump.wait(turn)
                with Shield():
                    with self._guard:
                        if ticket.done or not turn():
                            continue
                        device.running = True
                    try:
                        device.run(number)
                    finally:
                        with self._guard:
                            device.running = False
                            self._pump.ring()  # it may be the turn of another
        except BaseException:
            with self._guard:
                self._ledger.step(events.Cancel(number, kill=True))
                device.drop(number)
                self._pump.attend()
                self._pump.ring()
            raise

    def cancel(self, ticket: Ticket, kill: bool = False) -> bool:
        """Cancel a launch that is queued; with `kill` also one that runs. Return whether it is cancelled."""
        self.check()
        with self._guard:
            if not ticket.number:
                self._ledger.admit_all(ticket.pool)
                self._flush()
            if ticket.cancelled or ticket.done or not (kill or self._ledger.state.can_cancel(ticket.number)):
                return ticket.cancelled
            ticket.cancelled = True
            self._ledger.step(events.Cancel(ticket.number, kill))
            self._flush()
            self._pump.attend()
            self._pump.ring()
            # Called here, so that whoever cancels a future finds it cancelled; the pump calls the others.
            calls = [call for call in self._ledger.callbacks if call[1] is ticket]
            self._ledger.callbacks = deque(call for call in self._ledger.callbacks if call[1] is not ticket)
        self._call(calls)
        return True

    def call_back(self, call: Callable[[], object]) -> None:
        """Make a call of the user's: now, or from another thread if this one receives events."""
        if self._pump.is_mine():
            self._users.put(call)
        else:
            with Window():
                call()

    def look_up(self) -> None:
        """Have those who wait look again at what they wait for."""
        with self._guard:
            self._pump.ring()

    def check_wait(self) -> None:
        """Raise RuntimeError if this thread cannot wait: it interrupted itself in a wait already."""
        self._pump.check()

    def running(self, ticket: Ticket) -> int:
        """Return how many shards of a launch are on a unit."""
        self.check()
        with self._guard:
            return 0 if ticket.done else self._ledger.state.running(ticket.number)

    def outstanding(self, ticket: Ticket) -> int:
        """Return how many shards of a launch are running or queued."""
        self.check()
        return ticket.count - len(ticket.finished)

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `ready()` holds or `timeout` seconds have passed; return whether it holds.

        `ready` is called often, and under the guard: it must be quick.
        """
        self.check()
        return self._pump.wait(ready, timeout)

    def close(self, drain: float | None = None) -> Closed:
        """Refuse new launches, let the others end, and close all devices.

        Without `drain`, every launch is waited for. With it, queued launches
        are cancelled, and running ones given that many seconds.
        """
        self.check()
        self._pump.check()
        ended = 0
        with Shield():  # a Ctrl-C ends the wait, but leaves nothing behind
            with self._guard:
                first, self._closed = not self._closed, True
                self._admit_all()
                queued = (
                    [n for n in self._launches if self._ledger.state.can_cancel(n)]
                    if drain is not None
                    else []
                )
                for number in queued:
                    if number in self._launches:  # else it went with one it depended on
                        self._ledger.step(events.Cancel(number))
                self._flush()
                self._pump.ring()
            try:
                self._run_callbacks()
                self._pump.wait(lambda: not self._launches, drain)
            finally:
                if first:
                    ended = self._close_devices()
            self._users.close(drain)
        return Closed(len(queued), ended)

    def _close_devices(self) -> int:
        """Close all devices, and return how many launches that ended."""
        said: list[Event] = []
        with self._guard:
            ended = len(self._launches) + sum(len(pool.line) for pool in self._ledger.pools)
            for pool in self._ledger.pools:
                self._ledger.step(events.PoolClosed(pool.index))
                pool.full = False
                self._ledger.admit_all(pool)  # what stands in line ends as closed, and nothing more is sent
                self._pump.forget(pool.device.fileno())
                said += pool.device.close() or ()
            self._open.clear()
        self._pump.stop()
        try:
            self.work()  # what was taken in, and nobody was left to show
            self._show_last([event for event in said if isinstance(event, (Printed, Logged))])
        finally:
            self._run_callbacks()
        return ended

    def _show_last(self, said: Sequence[Printed | Logged]) -> None:
        """Show what cores have said that no launch was left to receive, and end their lines."""
        for event in said:
            self._show(partial(show, event))
        for pool in self._ledger.pools:
            for unit in range(pool.units):
                self._show(partial(end_line, unit))

    def check(self) -> None:
        """Raise ForkedHandleError in a forked child."""
        if self.forked:
            raise ForkedHandleError(
                "this process was forked from the one that made the launch; only that one can use its handles"
            )

    # ---- driven by the pump ----------------------------------------------------

    def busy(self) -> bool:
        # Something may stand in line although no launch is known: it waits for a unit to come back.
        return bool(self._under_way() or self._events or self._ledger.callbacks)

    def next_deadline(self) -> float | None:
        return 0.0 if self._events or self._unheard else self._ledger.state.next_deadline()

    def receive(self, descriptors: set[int]) -> None:
        unheard, self._unheard = self._unheard, set()
        for descriptor in descriptors | unheard:
            pool = self._open.get(descriptor)
            if pool is None:
                continue
            self._take_in(pool, pool.device.receive())

    def receive_ends(self) -> bool:
        for pool in self._open.values():
            self._take_in(pool, pool.device.ends())
        return not self._output

    def _take_in(self, pool: Pool, received: Iterable[Event]) -> None:
        index, open_line = pool.index, line_is_open()
        for event in received:
            if isinstance(event, Ended):
                if open_line or self._output:
                    self._output.append(partial(show, event))
            elif isinstance(event, (Printed, Logged)):
                self._output.append(partial(show, event))
                continue
            elif isinstance(event, Lost):
                self._ledger.lose(index, event.unit)
                self._output.append(partial(show, event))
            elif isinstance(event, Gone):
                told = event.unit, pool.address, event.why
                self._output.append(partial(_log.warning, "core %d of %s is gone: %s", *told))
            self._events.append((index, event))

    def work(self) -> None:
        while self._output:
            try:
                call = self._output.popleft()
            except IndexError:  # another thread shows it, as when one closes the session while one waits
                break
            self._show(call)
        self._run_callbacks()

    def _show(self, call: Callable[[], None]) -> None:
        with Window():
            try:
                call()
            except Exception as error:  # a closed stream, or a log handler's: no launch's fault
                _log.warning("what a kernel wrote could not be shown: %r", error)

    def handle(self) -> None:
        while self._events:
            self._ledger.handle(self._events)
        due = self._ledger.state.next_deadline()
        if due is not None:
            now = time.monotonic()
            if now >= due:
                self._ledger.step(events.Tick(now))
        self._flush()

    def _flush(self) -> None:
        """Send what was decided."""
        for pool in self._ledger.pools:
            if pool.line or pool.full:
                self._ledger.admit(pool)
        unsent = self._ledger.flush()
        if unsent:
            self._events.extend(unsent)
            self._pump.ring()

    def _admit_all(self) -> None:
        for pool in self._ledger.pools:
            self._ledger.admit_all(pool)

    def _run_callbacks(self) -> None:
        if self._ledger.callbacks:
            with self._guard:
                calls, self._ledger.callbacks = self._ledger.callbacks, deque()
            self._call(calls)

    def _call(self, calls: Iterable[tuple[Callable[[Ticket], None], Ticket]]) -> None:
        left = deque(calls)
        with Shield():
            try:
                while left:
                    callback, ticket = left.popleft()
                    try:
                        callback(ticket)
                    except Exception:
                        _log.exception("a callback of %s failed", ticket.name)
            finally:
                if left:  # an interrupt has struck in one
                    with self._guard:
                        self._ledger.callbacks.extendleft(reversed(left))
                        self._pump.attend()
                        self._pump.ring()


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _after_fork() -> None:
    for dispatcher in _dispatchers:
        dispatcher.forked = True


os.register_at_fork(after_in_child=_after_fork)
