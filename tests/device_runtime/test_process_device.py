"""The device of process cores, driven without a dispatcher: what it holds, and what it does with it."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from gates import Gate

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.errors import DeviceUnavailable
from device_runtime.launch import Begun, Ended, Event, Gone, Logged, Lost, Plan, Ready, ShardId, Work
from device_runtime.process.control import Beginning, begin_zygote
from device_runtime.process.cores import _MOST_STILLBORN, ProcessDevice
from device_runtime.process.lines import Speaker
from device_runtime.process.ring import are_sound
from device_runtime.process.status import StatusPage

PATIENCE = 30  # seconds, for what takes a fraction of one unless it is broken

Kind = TypeVar("Kind", bound=Event)


class Opened:
    """A device that is open, and the events it has reported."""

    def __init__(self, units: int) -> None:
        self.device = ProcessDevice(units)
        self.device.open()
        self._events: list[Event] = []
        self._sent = 0

    def send(
        self, unit: int, function: Callable[..., object], *args: object, report_begin: bool = False
    ) -> ShardId:
        """Send a unit a function to run."""
        self._sent += 1
        shard = ShardId(self._sent, 0)
        payload = codec.encode((args, {}), self.device.place)
        image = Capture(function).image()
        plan = Plan(self._sent, image, (unit,), report_begin=report_begin)
        self.device.send(unit, [Work(shard, plan, payload)])
        return shard

    def next(self, *kinds: type[Kind]) -> Kind:
        """Wait for the first event that is of one of these kinds, and take it out."""
        poll = select.poll()
        poll.register(self.device.fileno(), select.POLLIN)
        while True:
            for event in self._events:
                if isinstance(event, kinds):
                    self._events.remove(event)
                    return event
            assert poll.poll(PATIENCE * 1000), f"no {kinds} comes"
            self._events += self.device.receive()


@pytest.fixture
def opened() -> Iterator[Callable[[int], Opened]]:
    made = []

    def open_device(units: int) -> Opened:
        made.append(Opened(units))
        return made[-1]

    yield open_device
    while made:
        made.pop().device.close()


class HangsWhenFreed:
    """What a core cannot let go of."""

    def __del__(self) -> None:
        threading.Event().wait()


def hang_afterwards() -> None:
    """Have the core hang once the value has been told."""
    sys.stdout = HangsWhenFreed()  # type: ignore[assignment]  # a core takes its own back


def test_what_comes_first_on_a_core_that_hangs_counts_as_begun(opened: Callable[[int], Opened]) -> None:
    """From the moment in which nothing is before it; what is behind it does not."""
    used = opened(1)
    first = used.send(0, hang_afterwards)
    second = used.send(0, os.getpid, report_begin=True)
    used.send(0, os.getpid, report_begin=True)
    assert used.next(Ended, Begun).shard == first
    assert used.next(Begun).shard == second
    used.device.kill(0, second)
    assert used.next(Lost, Begun) == Lost(0, None, "signal 15, SIGTERM", -signal.SIGTERM, "")


def test_what_is_sent_to_a_core_that_is_still_being_started_does_not(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: its time is not the kernel's."""
    used = opened(1)
    used.send(0, hang_afterwards)
    used.next(Ended)
    with monkeypatch.context() as patch:
        patch.setattr(StatusPage, "arrived", lambda page, unit: False)
        used.send(0, os.getpid, report_begin=True)
        assert used.device.receive() == []
    used.send(0, os.getpid)
    assert [type(event) for event in used.device.receive()] == [Begun]


def test_closing_closes_nothing_twice(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the number of a descriptor may be somebody else's; a core that is gone was closed before."""
    monkeypatch.setattr("device_runtime.process.cores._MOST_STILLBORN", 1)
    used = opened(1)
    monkeypatch.setattr(StatusPage, "arrived", lambda page, unit: False)
    used.send(0, os._exit, 1)
    assert used.next(Gone).unit == 0
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(16)]
    used.device.close()
    others += [os.open(os.devnull, os.O_RDONLY) for _ in range(16)]
    used.device.close()
    for descriptor in others:
        os.close(descriptor)


def test_a_core_that_ends_before_it_waits_for_works_is_not_to_blame(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what was sent to it: it had not seen that."""
    used = opened(1)
    used.send(0, os._exit, 1)
    assert used.next(Lost).served
    monkeypatch.setattr(StatusPage, "arrived", lambda page, unit: False)
    used.send(0, os._exit, 1)
    assert not used.next(Lost).served


def test_orders_for_which_the_zygote_has_no_room_wait(opened: Callable[[int], Opened]) -> None:
    """Its socket holds some hundreds; what comes at once beyond that must not be lost."""
    used = opened(12)
    device = used.device
    device._control._end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # some, not hundreds
    zygote = device._zygote.pid
    os.kill(zygote, signal.SIGSTOP)
    os.waitpid(zygote, os.WUNTRACED)
    for unit in range(12):
        device.kill(unit, used.send(unit, signal.pause))
    assert device._control.blocked
    os.kill(zygote, signal.SIGCONT)
    assert {used.next(Lost).unit for _ in range(12)} == set(range(12))
    assert {used.next(Ready).unit for _ in range(12)} == set(range(12))


def test_a_channel_with_nothing_to_send_is_not_watched_for_room(
    opened: Callable[[int], Opened], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the pump would never rest."""
    monkeypatch.setenv("OFFLOAD_CHANNEL", "socket")
    used = opened(1)
    used.send(0, gate.pass_through)
    gate.wait()
    core = used.device._cores[0]
    sent = 1
    while not core.channel.backlog:
        used.send(0, os.getpid)
        sent += 1
    gate.let_on()
    room = select.poll()
    room.register(core.channel, select.POLLOUT)
    assert room.poll(PATIENCE * 1000)
    used.send(0, os.getpid)
    assert not core.channel.backlog
    for _ in range(sent + 1):
        used.next(Ended)
    used.device.receive()  # that there is room may be reported only now: once
    assert not select.select([used.device.fileno()], [], [], 0)[0]


def test_a_core_that_talks_without_an_end_does_not_hold_the_host(
    opened: Callable[[int], Opened], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it says something more each time that the host has heard it and is about to sleep."""
    paths, many = (str(tmp_path / "ask"), str(tmp_path / "say")), 100
    for path in paths:
        os.mkfifo(path)

    def talk() -> None:
        with open(paths[0], "rb", 0) as ask, open(paths[1], "wb", 0) as say:
            for number in range(many):
                if not ask.read(1):
                    break
                logging.getLogger("talk").warning("%d", number)
                say.write(b"x")

    used = opened(1)
    device = used.device
    used.send(0, talk)
    arm, asked = device._lines.arm, 0
    with open(paths[0], "wb", 0) as ask, open(paths[1], "rb", 0) as say:

        def arm_late(active: Iterable[Speaker], patient: bool = False) -> bool:
            nonlocal asked
            assert asked < many, "the host hears this core for ever"
            asked += 1
            device._lines.sleeps.set(False)  # it has rung before, and that was heard: it does not ring again
            ask.write(b"x")
            say.read(1)
            return arm(active, patient)

        monkeypatch.setattr(device._lines, "arm", arm_late)
        heard = device.receive()
        assert select.select([device.fileno()], [], [], 0)[0], "what the core said last is not looked for"
        heard += device.receive()
        monkeypatch.undo()
    used._events = heard
    said = [used.next(Logged).record["msg"] for _ in range(asked)]
    assert said == [str(number) for number in range(asked)]
    used.next(Ended)
    # The core may still ring for what was found without that; the host rings for itself no more.
    assert not used._events and not select.select([device._again], [], [], 0)[0]


@contextmanager
def no_descriptor_left(but: int = 0) -> Iterator[None]:
    """Use up the descriptors that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = 1 + max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + but, hard))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        for _ in range(but):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_core_is_replaced_though_no_descriptor_is_left(opened: Callable[[int], Opened]) -> None:
    used = opened(2)
    for _ in range(3):
        with no_descriptor_left():
            used.send(0, os._exit, 1)
            assert used.next(Lost).unit == 0
            assert used.next(Ready, Gone) == Ready(0)
    with no_descriptor_left():
        os.kill(used.device._zygote.pid, signal.SIGKILL)
        assert {used.next(Lost).unit for _ in range(2)} == {0, 1}
        assert {used.next(Ready, Gone) for _ in range(2)} == {Ready(0), Ready(1)}
    used.send(0, os.getpid)
    assert not used.next(Ended).outcome.failed


def test_a_core_whose_descriptors_others_have_taken_is_gone(opened: Callable[[int], Opened]) -> None:
    """Nothing may wait for it, and it says why."""
    used = opened(2)
    used.device._free_reserve()
    with no_descriptor_left():
        used.send(0, os._exit, 1)
        assert used.next(Lost).unit == 0
        gone = used.next(Ready, Gone)
        assert isinstance(gone, Gone) and "Too many open files" in gone.why


def test_cores_are_gone_if_what_starts_them_cannot_be_started_again(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no process can be had")

    used = opened(2)
    used.send(0, os.getpid)
    used.next(Ended)
    zygote = used.device._zygote.pid
    monkeypatch.setattr("subprocess.Popen", refuse)
    os.kill(zygote, signal.SIGKILL)
    assert {used.next(Lost).unit for _ in range(2)} == {0, 1}
    for unit in range(2):
        gone = used.next(Ready, Gone)
        assert isinstance(gone, Gone) and gone.unit == unit and "no process can be had" in gone.why


def kill_beginning(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Have what starts cores die before it has done anything, so many times; note each that was begun."""
    begun: list[int] = []

    def begin(units: int) -> Beginning:
        beginning = begin_zygote(units)
        begun.append(beginning.process.pid)
        if len(begun) <= most:
            beginning.process.kill()
            os.waitid(os.P_PID, beginning.process.pid, os.WEXITED | os.WNOWAIT)
        return beginning

    monkeypatch.setattr("device_runtime.process.cores.begin_zygote", begin)
    return begun


def test_what_starts_cores_may_die_before_it_has_started_any(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many times as a core may; the one after that is as good as the first."""
    used = opened(2)
    for _ in range(2):  # what has started cores counts anew
        used.send(0, os.getpid)
        used.next(Ended)
        with monkeypatch.context() as patch:
            begun = kill_beginning(patch, _MOST_STILLBORN - 1)
            os.kill(used.device._zygote.pid, signal.SIGKILL)
            for _ in range(2 * _MOST_STILLBORN):
                used.next(Lost)
            assert len(begun) == _MOST_STILLBORN and begun[-1] == used.device._zygote.pid
    used.send(1, os.getppid)
    assert isinstance(used.next(Ended, Lost, Gone), Ended)


def test_what_starts_cores_is_given_up_at_last(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it always dies before a core could do anything; nothing waits for it then, and it says why."""
    begun = kill_beginning(monkeypatch, sys.maxsize)
    used = opened(2)
    for unit in range(2):
        gone = used.next(Gone)
        assert gone.unit == unit and f"{_MOST_STILLBORN} times in a row" in gone.why
    assert len(begun) == _MOST_STILLBORN


def test_opening_with_too_few_descriptors_is_refused_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is that is not to be had."""
    monkeypatch.setattr("device_runtime.process.cores.allow_descriptors", lambda more: (0, 0))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    refused = 0
    while True:
        device = ProcessDevice(1)
        with no_descriptor_left(but=refused):
            try:
                device.open()
            except DeviceUnavailable as error:
                told = str(error)
            else:
                break
        assert "Too many open files" in told
        refused += 1
        del device
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
    device.close()
    assert refused > 10


def alike(used: Opened, count: int, function: Callable[..., object], *args: object) -> list[ShardId]:
    """Send unit 0 so many works of one plan, together."""
    plan = Plan(1000, Capture(function).image(), (0,))
    payload = codec.plain_call(args, {})
    assert payload is not None
    shards = [ShardId(1000 + number, 0) for number in range(count + 1)]
    used.device.send(0, [Work(shards[0], plan, payload)])
    assert used.next(Ended).shard == shards[0]  # now the core knows the plan
    used.device.send(0, [Work(shard, plan, payload) for shard in shards[1:]])
    return shards[1:]


@pytest.mark.parametrize("size", [10, 2_000, 14_000])
@pytest.mark.parametrize("channel", ["ring", "socket"])
def test_works_that_are_alike_are_run_in_order(
    opened: Callable[[int], Opened], monkeypatch: pytest.MonkeyPatch, channel: str, size: int
) -> None:
    if channel == "ring" and not are_sound():
        pytest.skip("the processor may reorder stores")
    monkeypatch.setenv("OFFLOAD_CHANNEL", channel)
    used = opened(1)

    shards = alike(used, 50, len, "x" * size)
    last = used.send(0, os.getpid)

    ended = [used.next(Ended) for _ in range(51)]
    assert [one.shard for one in ended] == [*shards, last]
    assert all(codec.decode(one.outcome.payload) == size for one in ended[:50] if one.outcome.payload)


def test_the_end_of_a_work_is_heard_of_though_the_next_one_takes_long(
    opened: Callable[[int], Opened], tmp_path: Path
) -> None:
    """A core need not ring for each of many; then the host looks after a while."""
    used = opened(1)
    gates = [Gate.make(tmp_path / f"gate{number}") for number in range(2)]

    def wait_at_gates(calls: str, *pipes: str) -> None:
        with open(calls, "ab", 0) as file:
            file.write(b".")
            call = file.tell() - 2  # one was made before these
        if 0 <= call < 2:
            Gate(*pipes[2 * call : 2 * call + 2]).pass_through()

    first, second, third = alike(used, 3, wait_at_gates, str(tmp_path / "calls"), *gates[0], *gates[1])
    gates[0].wait()
    used.device.receive()  # now it is to be rung for the last only
    gates[0].let_on()
    gates[1].wait()

    assert used.next(Ended).shard == first
    gates[1].let_on()
    assert [used.next(Ended).shard, used.next(Ended).shard] == [second, third]


def test_a_bell_that_rang_in_vain_does_not_keep_a_launch_from_the_short_way(
    opened: Callable[[int], Opened], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core may ring while the host finds what it has said without that."""
    if not are_sound():
        pytest.skip("the processor may reorder stores")
    monkeypatch.setenv("OFFLOAD_CHANNEL", "ring")
    used = opened(2)
    device = used.device
    for unit in range(2):
        used.send(unit, os.getpid)
        used.next(Ended)
    used.send(0, os.getpid)
    assert select.select([device.fileno()], [], [], PATIENCE)[0], "it rings"
    assert [type(event) for event in device.ends()] == [Ended]

    plan = Plan(500, Capture(gate.pass_through).image(), (1,))
    payload = codec.plain_call((), {})
    assert payload is not None and device.post(plan, 500, payload)
    gate.wait()
    assert device.rest(plan)
    gate.let_on()
    while not device._cores[1].channel.ready():
        select.select([device.fileno()], [], [])
    assert device.collect(plan)
