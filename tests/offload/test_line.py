"""Very many launches, more than the scheduler looks at: they keep their order, and can all that few can."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from gates import Gate

import offload
from offload import Handle, SessionClosed, offload_single, wait_all

MANY = 500


@offload_single
def hold(gate: Gate) -> None:
    gate.pass_through()


@offload_single
def at(number: int) -> tuple[int, int]:
    """Return when it was run, too."""
    return number, time.monotonic_ns()


@pytest.fixture
def session() -> Iterator[offload.Session]:
    with offload.connect("local:1") as made:
        yield made


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


def test_many_launches_run_in_the_order_they_were_made(session: offload.Session, gates: list[Gate]) -> None:
    handles = held(gates[0])
    gates[0].let_on()

    assert order(handles) == list(range(MANY))


def test_each_of_many_can_be_cancelled(session: offload.Session, gates: list[Gate]) -> None:
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


def test_one_that_names_its_core_comes_behind_them(session: offload.Session, gates: list[Gate]) -> None:
    handles = [*held(gates[0]), at.options(target=0).launch(MANY)]
    gates[0].let_on()

    assert order(handles) == list(range(MANY + 1))


def test_one_of_higher_priority_comes_before_them(session: offload.Session, gates: list[Gate]) -> None:
    handles = [*held(gates[0]), at.options(priority=1).launch(-1)]
    gates[0].let_on()

    assert order(handles) == [-1, *range(MANY)]


def test_one_may_depend_on_the_last_of_them(session: offload.Session, gates: list[Gate]) -> None:
    handles = held(gates[0])
    behind = at(handles[-1])
    gates[0].let_on()

    number, _ = behind.result()[0]  # type: ignore[index, misc]
    assert number == MANY - 1


def test_they_are_counted_as_outstanding_and_not_as_running(
    session: offload.Session, gates: list[Gate]
) -> None:
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
    session = offload.connect("local:1")
    handles = held(gates[0])
    session.shutdown(wait=False)

    for handle in handles:
        with pytest.raises(CancelledError):
            handle.wait()
    with pytest.raises(SessionClosed):
        at(0)
