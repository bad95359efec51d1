"""Very many launches, more than the scheduler looks at: they keep their order, and can all that few can."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from gates import Gate

import offload
from offload import Handle, SessionClosed, offload_single, wait_all
from offload.session import session

MANY = 500


@offload_single
def hold(gate: Gate) -> None:
    gate.pass_through()


@offload_single
def at(number: int) -> tuple[int, int]:
    """Return when it was run, too."""
    return number, time.monotonic_ns()


@pytest.fixture
def one_core() -> Iterator[str]:
    with offload.connect("local:1"):
        yield "local:1"


def held(gate: Gate) -> list[Handle[tuple[int, int]]]:
    """Make many launches that wait for one that is held at a gate."""
    hold(gate)
    gate.wait()
    return [at(number) for number in range(MANY)]


def order(handles: list[Handle[tuple[int, int]]]) -> list[int]:
    """Return the numbers of launches in the order in which they were run."""
    return [
        number for number, _ in sorted((handle.wait()[0] for handle in handles), key=lambda pair: pair[1])
    ]


def test_many_launches_run_in_the_order_they_were_made(one_core: str, gates: list[Gate]) -> None:
    handles = held(gates[0])
    gates[0].let_on()

    assert order(handles) == list(range(MANY))


def test_each_of_many_can_be_cancelled(one_core: str, gates: list[Gate]) -> None:
    handles = held(gates[0])
    dropped = handles[3::7]

    assert all(handle.cancel() for handle in reversed(dropped))
    assert all(handle.done() for handle in dropped)
    gates[0].let_on()

    assert order([handle for handle in handles if handle not in dropped]) == [
        number for number in range(MANY) if number % 7 != 3
    ]
    for handle in dropped:
        with pytest.raises(CancelledError):
            handle.wait()


def test_one_that_names_its_core_comes_behind_them(one_core: str, gates: list[Gate]) -> None:
    handles = [*held(gates[0]), at.options(target=0).launch(MANY)]
    gates[0].let_on()

    assert order(handles) == list(range(MANY + 1))


def test_one_of_higher_priority_comes_before_them(one_core: str, gates: list[Gate]) -> None:
    handles = [*held(gates[0]), at.options(priority=1).launch(-1)]
    gates[0].let_on()

    assert order(handles) == [-1, *range(MANY)]


def test_those_of_low_priority_hold_up_none_of_ordinary_priority(one_core: str, gates: list[Gate]) -> None:
    hold(gates[0])
    gates[0].wait()
    low = [at.options(priority=-1).launch(number) for number in range(MANY)]
    ordinary = at(-1)
    gates[0].let_on()

    assert order([*low, ordinary]) == [-1, *range(MANY)]


def test_one_may_depend_on_the_last_of_them(one_core: str, gates: list[Gate]) -> None:
    handles = held(gates[0])
    behind = at(handles[-1])
    gates[0].let_on()

    number, _ = behind.result()[0]  # type: ignore[index, misc]
    assert number == MANY - 1


def test_they_are_counted_as_outstanding_and_not_as_running(one_core: str, gates: list[Gate]) -> None:
    handles = held(gates[0])

    assert sum(handle.number_outstanding() for handle in handles) == MANY
    assert sum(handle.number_running() for handle in handles) == 0
    gates[0].let_on()
    wait_all(*handles)
    assert sum(handle.number_outstanding() for handle in handles) == 0


def test_a_shutdown_waits_for_all_of_them(gates: list[Gate]) -> None:
    with offload.connect("local:1"):
        handles = held(gates[0])
        gates[0].let_on()

    assert all(handle.done() for handle in handles)
    assert order(handles) == list(range(MANY))


def test_a_shutdown_that_does_not_wait_cancels_all_of_them(gates: list[Gate]) -> None:
    offload.connect("local:1")
    handles = held(gates[0])
    session().shutdown(wait=False)

    for handle in handles:
        with pytest.raises(CancelledError):
            handle.wait()
    with pytest.raises(SessionClosed):
        at(0)


def test_a_launch_that_is_refused_in_a_signal_handler_is_not_made(one_core: str) -> None:
    at(0).wait()
    pool = session().pool()
    before = signal.signal(signal.SIGUSR1, lambda *_: at(1))
    try:
        with pytest.raises(RuntimeError, match="signal handler"), pool.guard:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert not pool.line
    assert at(2).result()[0] == 2


def test_a_launch_that_joins_the_line_of_a_closed_device_is_refused() -> None:
    made = offload.connect("local:1")
    at(0).wait()

    class Late(deque[Any]):
        def append(self, launch: Any) -> None:
            made.shutdown()
            super().append(launch)

    pool = made.pool()
    pool.line, pool.full = Late(), True
    with pytest.raises(SessionClosed):
        at(1)
    assert not pool.line


def test_an_interrupt_in_a_callback_keeps_no_other_from_being_called(
    one_core: str, gates: list[Gate]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    handle = held(gates[0])[-1]
    called = threading.Event()
    handle.add_done_callback(interrupted)
    handle.add_done_callback(lambda _: called.set())

    with pytest.raises(KeyboardInterrupt):
        handle.cancel()
    called.wait()
    gates[0].let_on()
