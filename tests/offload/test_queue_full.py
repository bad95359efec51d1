"""A queue that is full: launches wait for room, or are refused, and nothing else is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gates import Gate, gated

import offload as of
from offload import offload_single
from scheduler import room
from scheduler.dispatcher import Dispatcher

MOST = 16


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OFFLOAD_QUEUE", str(MOST))
    with of.connect("local:1"):
        yield


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Tell when a launch waits for room."""
    event = threading.Event()
    wait = Dispatcher._wait_for_room

    def waits(*args: Any) -> None:
        event.set()
        wait(*args)

    monkeypatch.setattr(Dispatcher, "_wait_for_room", waits)
    return event


@offload_single
def length(value: Any) -> int:
    return len(value)


at_gate = offload_single(gated)
now = length.options(when_full="raise")


def held(gate: Gate) -> of.Handle[Any]:
    """Hold the core at a gate."""
    handle = at_gate(gate)
    gate.wait()
    return handle


def while_it_waits(waiting: threading.Event, launch: Callable[[], object], act: Callable[[], object]) -> None:
    """Launch in a thread, and do something once that waits for room; return when it waits no more."""
    thread = threading.Thread(target=launch)
    thread.start()
    waiting.wait()
    act()
    thread.join()


def test_a_launch_that_must_not_wait_is_refused(gate: Gate) -> None:
    first = held(gate)
    handles = [length("ab") for _ in range(MOST - 1)]
    for _ in range(2):
        with pytest.raises(of.QueueFull, match=rf"length: the queue is full, with {MOST} launches"):
            now("ab")
    gate.let_on()
    assert [handle.result() for handle in handles] == [2] * (MOST - 1)
    first.wait()
    assert now("ab").result() == 2


def test_a_launch_waits_for_room(gate: Gate, waiting: threading.Event) -> None:
    held(gate)
    handles: list[of.Handle[int]] = []
    while_it_waits(waiting, lambda: handles.extend([length("a" * n) for n in range(3 * MOST)]), gate.let_on)
    assert [handle.result() for handle in handles] == list(range(3 * MOST))


def test_bytes_count_too(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BYTES", 20_000)
    held(gate)
    handles = [now(b"x" * 9_000), now(b"x" * 9_000), now({"key": ["x"] * 1000})]
    with pytest.raises(of.QueueFull, match="bytes of arguments"):
        now(b"")
    gate.let_on()
    assert [handle.result() for handle in handles] == [9_000, 9_000, 1]
    assert now(b"").result() == 0


def test_a_call_that_waits_for_its_value_needs_no_room(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Dispatcher.submit

    def submitted(dispatcher: Dispatcher, ticket: Any, attended: bool = False) -> None:
        submit(dispatcher, ticket, attended)
        if attended:
            gate.let_on()

    held(gate)
    handles = [length("ab") for _ in range(MOST - 1)]
    monkeypatch.setattr(Dispatcher, "submit", submitted)
    assert length.options(async_=False, when_full="raise")("abc") == [3]
    assert [handle.result() for handle in handles] == [2] * (MOST - 1)


def test_who_waits_goes_on_though_others_keep_it_full(
    gate: Gate, waiting: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.dispatcher._ROOM", 0.0)  # as if it never came to be less full
    held(gate)
    handles = [length("ab") for _ in range(MOST - 1)]
    late: list[of.Handle[int]] = []
    while_it_waits(waiting, lambda: late.append(length("late")), gate.let_on)
    assert [handle.result() for handle in handles + late] == [2] * (MOST - 1) + [4]


def test_all_devices_of_a_session_count(gate: Gate) -> None:
    held(gate)
    for _ in range(MOST - 1):
        length("ab")
    with pytest.raises(of.QueueFull):
        now("ab", device="local:2")
    gate.let_on()


def test_an_executor_that_is_shut_down_while_a_call_waits_for_room(
    gate: Gate, waiting: threading.Event
) -> None:
    executor = of.Executor(1, "local:1")
    futures = [executor.submit(gated, gate, 0)]
    gate.wait()
    futures += [executor.submit(len, "ab") for _ in range(MOST - 1)]
    refused: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit(len, "abc")
        except RuntimeError as error:
            refused.append(error)

    while_it_waits(waiting, submit, lambda: executor.shutdown(wait=False))
    assert str(refused[0]) == "cannot schedule new futures after shutdown"
    gate.let_on()
    assert [future.result() for future in futures] == [0] + [2] * (MOST - 1)


def test_shutdown_ends_the_wait(gate: Gate, waiting: threading.Event) -> None:
    held(gate)
    refused: list[BaseException] = []

    def launch() -> None:
        try:
            for _ in range(MOST):
                length("")
        except of.SessionClosed as error:
            refused.append(error)

    while_it_waits(waiting, launch, lambda: of.shutdown(wait=False))
    assert len(refused) == 1


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_bound_that_cannot_be_meant(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUE", value)
    with pytest.raises(of.OptionError, match=f"OFFLOAD_QUEUE='{value}'"):
        of.connect("inline:2")


@pytest.mark.parametrize("value", ["now", None, 1])
def test_an_option_that_cannot_be_meant(value: Any) -> None:
    with pytest.raises(of.OptionError, match="must be 'wait' or 'raise'"):
        length.options(when_full=value)
