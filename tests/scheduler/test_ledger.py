"""What was decided for a unit that has died does not reach the one in its place, or it would run twice."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count

import pytest

from device_runtime.device import Device
from device_runtime.errors import DependencyError, DeviceError
from device_runtime.interrupts import Guard
from device_runtime.launch import Ended, Event, Image, Lost, Message, Outcome, Printed, Ready, ShardId, Work
from scheduler import events
from scheduler.dispatcher import Dispatcher
from scheduler.ledger import Ledger
from scheduler.ticket import END, SUCCESS, Depends, Pool, Route, Ticket

IMAGE = Image(1, "kernel", "module", b"")


class Unit:
    """A device of one unit, that notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[ShardId] = []
        self.after: list[tuple[int, ...]] = []  # what the works that were sent come after
        self.killed: list[ShardId] = []

    def kill(self, unit: int, shard: ShardId) -> None:
        self.killed.append(shard)

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        works = [message for message in messages if isinstance(message, Work)]
        self.sent += [work.shard for work in works]
        self.after += [work.after for work in works]
        return []


class Broken(Unit):
    """One that cannot be sent anything."""

    address = "made-up:1"

    def send(self, unit: int, messages: Sequence[Message]) -> Sequence[Ended]:
        raise ValueError("its own mistake")


class Desk:
    """A ledger with one unit, and launches for it."""

    def __init__(self, launches: int, depth: int = 4) -> None:
        self.unit = Unit()
        self.ledger = Ledger(count(1).__next__)
        pool = Pool(0, "made-up:1", 1, self.unit, Guard())  # type: ignore[arg-type]
        self.ledger.pools.append(pool)
        self.ledger.step(events.PoolOpened(0, 1, depth))
        route = Route(pool, None, 1, "kernel", 1)
        self.tickets = [Ticket(route, IMAGE, b"") for _ in range(launches)]
        for ticket in self.tickets:
            self.ledger.enter(ticket)
        self.flush()

    def flush(self) -> list[ShardId]:
        """Send what was decided; return all that was sent so far."""
        self.ledger.flush()
        return self.unit.sent

    def report(self, *reports: Event) -> None:
        """Take in what the device says, all at once, as the dispatcher does."""
        for report in reports:
            if isinstance(report, Lost):
                self.ledger.lose(0, report.unit)
        for report in reports:
            self.ledger.handle(deque([(0, report)]))


def ended(launch: int, attempt: int = 0) -> Ended:
    return Ended(0, ShardId(launch, 0, attempt), Outcome(b"", begun=1.0, ended=2.0))


LOST = Lost(0, None, "it died", -9, "")


def test_what_follows_from_an_end_before_the_death() -> None:
    desk = Desk(2)
    assert desk.flush() == [(1, 0, 0)]
    desk.report(ended(1), LOST, Ready(0))
    assert desk.flush() == [(1, 0, 0), (2, 0, 1)]


def test_what_follows_between_two_deaths() -> None:
    desk = Desk(2)
    desk.report(ended(1), LOST, Ready(0), LOST, Ready(0))
    assert desk.flush() == [(1, 0, 0), (2, 0, 2)]


def test_what_is_launched_before_the_death_is_handled() -> None:
    desk = Desk(0)
    desk.ledger.lose(0, 0)
    desk.ledger.enter(Ticket(Route(desk.ledger.pools[0], (0,), 1, "kernel", 1), IMAGE, b""))
    assert desk.flush() == []
    desk.ledger.handle(deque([(0, LOST)]))
    assert desk.flush() == []
    desk.ledger.handle(deque([(0, Ready(0))]))
    assert desk.flush() == [(1, 0, 1)]


def test_what_has_begun_is_not_sent_again() -> None:
    desk = Desk(1)
    desk.report(LOST._replace(begun=ShardId(1, 0, 0)), Ready(0))
    assert desk.flush() == [(1, 0, 0)] and desk.tickets[0].done


def test_a_unit_is_told_what_must_have_ended_well_of_what_it_was_sent_before() -> None:
    desk = Desk(1)
    desk.report(Ended(0, ShardId(1, 0, 0), Outcome(b"", begun=1.0, ended=1.0001)))  # the kernel is short
    route = Route(desk.ledger.pools[0], None, 1, "kernel", 1)
    done, first = desk.tickets[0], Ticket(route, IMAGE, b"")
    second = Ticket(route, IMAGE, b"", [Depends((done,), True, SUCCESS), Depends((first,), True, SUCCESS)])
    third = Ticket(route, IMAGE, b"", [Depends((second,), True, END)])
    for ticket in (first, second, third):
        desk.ledger.enter(ticket)

    assert desk.flush() == [(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]
    assert desk.unit.after == [(), (), (2,), ()]

    desk.report(Ended(0, ShardId(2, 0, 0), Outcome(error=ValueError())), ended(3))
    assert isinstance(second.outcomes[0].error, DependencyError)  # type: ignore[union-attr]


def test_what_needs_a_value_is_sent_when_that_is_there() -> None:
    desk = Desk(1)
    desk.report(Ended(0, ShardId(1, 0, 0), Outcome(b"", begun=1.0, ended=1.0001)))
    route = Route(desk.ledger.pools[0], None, 1, "kernel", 1)
    first = Ticket(route, IMAGE, b"")
    for ticket in (first, Ticket(route, IMAGE, b"", [Depends((first,), True)])):
        desk.ledger.enter(ticket)

    assert desk.flush() == [(1, 0, 0), (2, 0, 0)]
    desk.report(ended(2))
    assert desk.flush() == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_a_kill_does_not_strike_the_one_in_its_place() -> None:
    desk = Desk(2)
    desk.ledger.lose(0, 0)
    desk.ledger.step(events.Cancel(1, kill=True))
    assert not desk.unit.killed
    desk.ledger.handle(deque([(0, LOST._replace(begun=ShardId(1, 0, 0)))]))
    desk.ledger.handle(deque([(0, Ready(0))]))
    assert desk.tickets[0].done and desk.flush() == [(1, 0, 0), (2, 0, 0)]
    desk.ledger.step(events.Cancel(2, kill=True))
    assert desk.unit.killed == [(2, 0, 0)]


class Script(Unit, Device):
    """A device of one unit that reports what it is told to, all at once."""

    address = "made-up:1"

    def __init__(self, *reports: Event) -> None:
        super().__init__()
        self._bell = os.eventfd(1)
        self._reports = list(reports)

    def open(self) -> int:
        return 1

    def fileno(self) -> int:
        return self._bell

    def receive(self) -> list[Event]:
        os.eventfd_read(self._bell)
        return self._reports

    def close(self) -> None:
        os.close(self._bell)


def test_what_is_launched_while_a_death_waits_to_be_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream makes a launch while it is given what the dead core had printed."""
    device = Script(Printed(0, "stdout", "its last words\n"), LOST, Ready(0))
    dispatcher = Dispatcher()
    pool = dispatcher.add(device, device.open())
    before: list[int] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            dispatcher.submit(Ticket(Route(pool, (0,), 1, "kernel", 1), IMAGE, b""))
            before.append(len(device.sent))
            return len(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    assert dispatcher.wait(lambda: bool(device.sent), 30)
    assert before == [0] and device.sent == [(1, 0, 1)]
    dispatcher.close(0)


def bundled(count: int) -> Desk:
    """Return a desk that has just sent a bundle, launches 2 to `count` + 1, and may send more."""
    desk = Desk(1, depth=64)
    desk.report(Ended(0, ShardId(1, 0), Outcome(b"", begun=1.0, ended=1.0001)))
    pool = desk.ledger.pools[0]
    route = desk.tickets[0].route
    desk.tickets += [Ticket(route, IMAGE, [b""] if number % 2 else b"") for number in range(count)]
    pool.line.extend(desk.tickets[1:])
    desk.ledger.admit(pool)
    assert not pool.line and desk.ledger.state.bundled(2) == count
    assert desk.flush()[1:] == [(number, 0, 0) for number in range(2, count + 2)]
    return desk


def in_turn(*launches: int) -> list[Ended]:
    """Return the ends of launches, with values that tell them apart."""
    return [
        Ended(0, ShardId(launch, 0), Outcome(b"%d" % launch, begun=1.0, ended=1.0001)) for launch in launches
    ]


def test_launches_that_were_sent_together_have_each_its_own_value() -> None:
    desk = bundled(4)
    reports: deque[tuple[int, Event]] = deque((0, end) for end in in_turn(2, 3))
    desk.ledger.handle(reports)
    assert not reports, "both at once"
    desk.report(*in_turn(4, 5))

    assert [ticket.outcomes for ticket in desk.tickets[1:]] == [(end.outcome,) for end in in_turn(2, 3, 4, 5)]


def test_what_could_not_be_sent_ends_by_itself_in_the_midst_of_a_bundle() -> None:
    desk = bundled(4)
    other = Ticket(Route(desk.ledger.pools[0], (0,), 1, "kernel", 1), IMAGE, b"")
    desk.ledger.enter(other)
    refused = Ended(0, ShardId(6, 0), Outcome(error=MemoryError("planted")))

    reports: deque[tuple[int, Event]] = deque((0, end) for end in [*in_turn(2), refused, *in_turn(3, 4, 5)])
    while reports:
        desk.ledger.handle(reports)

    assert other.done and not other.ok
    assert [ticket.ok and ticket.done for ticket in desk.tickets] == [True] * 5
    assert not desk.ledger.launches


def test_what_of_a_bundle_could_not_be_sent_ends_by_itself() -> None:
    desk = bundled(4)
    refused = [Ended(0, ShardId(launch, 0), Outcome(error=MemoryError("planted"))) for launch in (2, 4)]

    reports: deque[tuple[int, Event]] = deque((0, end) for end in [*refused, *in_turn(3, 5)])
    while reports:
        desk.ledger.handle(reports)

    assert [ticket.ok for ticket in desk.tickets[1:]] == [False, True, False, True]
    assert not desk.ledger.launches


def test_a_unit_that_is_given_up_stays_down_when_it_is_back() -> None:
    """A call that goes the short way looks there; the state machine would send it nothing."""
    desk = Desk(0)
    (pool,) = desk.ledger.pools
    died = Lost(0, None, "it was killed", -9, "", served=True)
    for _ in range(4):
        desk.report(died, Ready(0))
        assert not pool.down
    desk.report(died, Ready(0))
    assert pool.down == {0}
    assert pool.gone == {0: "it ended again and again with nothing to run; the last time, it was killed"}


def test_a_device_that_cannot_send_keeps_nothing_from_the_others() -> None:
    ledger, whole = Ledger(count(1).__next__), Unit()
    tickets = []
    for number, device in enumerate((Broken(), whole)):
        pool = Pool(number, "made-up:1", 1, device, Guard())  # type: ignore[arg-type]
        ledger.pools.append(pool)
        ledger.step(events.PoolOpened(number, 1))
        tickets.append(Ticket(Route(pool, (0,), 1, "kernel", 1), IMAGE, b""))
        ledger.enter(tickets[-1])
    ends: deque[tuple[int, Event]] = deque(ledger.flush())
    assert whole.sent == [(2, 0, 0)]
    ledger.handle(ends)
    error = tickets[0].error(0)
    assert isinstance(error, DeviceError) and isinstance(error.__cause__, ValueError)
    assert "core 0 of made-up:1 could not be sent a launch: ValueError('its own mistake')" in str(error)
