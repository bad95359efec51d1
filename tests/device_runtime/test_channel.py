"""Channels between two ends, through rings and through the socket."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from device_runtime.errors import OptionError
from device_runtime.process.channel import LARGEST, Channel
from device_runtime.process.lines import Lines, core_channel
from device_runtime.process.patience import Patience
from device_runtime.process.quick import Watch
from device_runtime.process.ring import are_sound
from device_runtime.process.settled import Settled, settle, spin_time
from device_runtime.process.status import StatusPage

Ends = tuple[Channel, Channel]

KINDS = ["ring", "socket"] if are_sound() else ["socket"]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Return the host's end and the core's."""
    with ExitStack() as stack:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in pair:
            stack.enter_context(end)
        pair[0].setblocking(False)
        page = os.memfd_create("page")
        stack.callback(os.close, page)
        status = StatusPage(page, 1)
        settled = Settled(request.param == "ring", 0, 2)
        status.settle(settled)
        lines = Lines(settled, status)
        room = os.eventfd(0, os.EFD_CLOEXEC)
        stack.callback(os.close, room)
        yield lines.connect(0, pair[0], room), core_channel(status, 0, pair[1], room)
        del status, lines  # they keep the file open


def receive(channel: Channel, count: int) -> list[bytes]:
    """Wait for records as a core does."""
    found: list[bytes] = []
    while len(found) < count:
        record = channel.take()
        if record is not None:
            found.append(record)
        elif channel.arm():
            channel.sleep()
            assert not channel.ended
    return found


def aside(function: Callable[[], object]) -> threading.Thread:
    """Run a function in a thread of its own."""
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_records_go_both_ways(ends: Ends) -> None:
    host, core = ends
    records = [b"a", bytes(LARGEST), b"c"]
    for record in records:
        host.put(record)
    assert host.flush()
    assert receive(core, 3) == records
    for record in records:
        core.put(record)
    assert core.flush() and [host.take() for _ in range(4)] == [*records, None]


def test_who_sleeps_is_woken(ends: Ends) -> None:
    host, core = ends
    found: list[bytes] = []
    thread = aside(lambda: found.extend(receive(core, 100)))
    for number in range(100):
        host.put(b"%d" % number)
        host.flush()
    thread.join()
    assert found == [b"%d" % number for number in range(100)]


def test_what_has_no_room_goes_when_there_is_some(ends: Ends) -> None:
    host, core = ends
    records = [bytes([number]) * 10_000 for number in range(60)]
    for record in records:
        host.put(record)
    assert not host.flush() and host.backlog
    found: list[bytes] = []
    thread = aside(lambda: found.extend(receive(core, 60)))
    while not host.flush():
        # The core tells: its bell, or room in the socket.
        poll = socket.socket(fileno=os.dup(host.fileno()))
        with poll:
            wait_for(poll, write=host.polled)
        host.hear()
    thread.join()
    assert found == records


def test_a_core_waits_for_room(ends: Ends) -> None:
    host, core = ends
    records = [bytes([number]) * 10_000 for number in range(60)]

    def send() -> None:
        for record in records:
            core.put(record)
            while not core.flush():
                core.wait_for_room()

    thread = aside(send)
    found: list[bytes] = []
    while len(found) < 60:
        while (record := host.take()) is not None:
            found.append(record)
        if len(found) < 60 and host.arm():
            with socket.socket(fileno=os.dup(host.fileno())) as bell:
                wait_for(bell, write=False)
            host.hear()
    thread.join()
    assert found == records


def wait_for(end: socket.socket, write: bool) -> None:
    """Wait until an end is readable, or can be written to."""
    poll = select.poll()
    poll.register(end, select.POLLOUT if write else select.POLLIN)
    assert poll.poll(30_000)


def test_the_end_of_the_other_side_is_seen(ends: Ends) -> None:
    host, core = ends
    host.put(b"the last")
    host.flush()
    host.close()
    assert receive(core, 1) == [b"the last"]
    assert core.arm()
    core.sleep()
    assert core.ended


def test_patience_ends_where_waits_are_long_and_comes_back_where_they_are_short() -> None:
    patience = Patience(1000)
    assert patience.pays()
    for _ in range(100):
        patience.learn(1_000_000)
    assert not patience.pays()
    patience.learn(500)
    assert patience.pays()


def test_who_never_looks_on_has_no_patience() -> None:
    patience = Patience(0)
    patience.learn(0)
    assert not patience.pays()


def test_looking_on_where_others_want_the_cpu_is_left_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    patience = Patience(10**9)
    assert patience.pays() and not patience.until(lambda: False, lambda: None)
    rests = 0
    while not patience.pays():
        rests += 1
    assert rests == 32


class Looked:
    """An epoll that counts how often it is asked in Python's way, which gives up the interpreter lock."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fileno, self.register, self.close = self._epoll.fileno, self._epoll.register, self._epoll.close
        self.polls = 0

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        self.polls += 1
        return self._epoll.poll(timeout, most)


@pytest.fixture
def looked() -> Iterator[Looked]:
    looked = Looked()
    yield looked
    looked.close()


@pytest.mark.skipif(not are_sound(), reason="the lock is given up at every look")
def test_a_look_beside_a_busy_thread_keeps_the_lock_but_now_and_then(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**12, 10**6))  # each look takes a millisecond, for the other thread's turn
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    watch, end = Watch(looked, 1), os.eventfd(0)  # type: ignore[arg-type]
    looked.register(end, select.EPOLLIN)
    assert not any(watch.stirs() for _ in range(10_000))
    assert 2 <= looked.polls <= 100
    os.eventfd_write(end, 1)
    assert all(watch.stirs() for _ in range(10_000))
    os.close(end)


def test_a_look_where_nobody_wants_the_lock_gives_it_up(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For it may be that somebody does from now on."""
    monkeypatch.setattr("time.monotonic_ns", lambda: 0)
    watch = Watch(looked, 1)  # type: ignore[arg-type]
    assert not any(watch.stirs() for _ in range(100))
    assert looked.polls == 100


@pytest.mark.skipif(not are_sound(), reason="the lock is given up at every look")
def test_another_thread_has_its_turn_when_the_lock_is_given_up_and_not_before(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    watch, ready, start = Watch(looked, 1), threading.Event(), threading.Lock()  # type: ignore[arg-type]
    start.acquire()
    had_turn = False

    def run() -> None:
        nonlocal had_turn
        ready.set()
        start.acquire()
        had_turn = True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)  # who has the lock is not asked to give it up
    try:
        thread = aside(run)
        ready.wait()
        watch.stirs()
        start.release()
        while not had_turn:
            watch.stirs()
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert looked.polls > 1


@pytest.mark.parametrize("given", ["-1", "x", "1.5", "10001"])
def test_a_wrong_spin_time_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match="whole number of microseconds"):
        spin_time({"OFFLOAD_SPIN": given})


def test_a_wrong_channel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_CHANNEL", "pigeon")
    with pytest.raises(OptionError, match="OFFLOAD_CHANNEL='pigeon' must be 'ring' or 'socket'"):
        settle()
