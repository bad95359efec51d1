"""Very many launches, more than the scheduler looks at: they keep their order, and can all that few can."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
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


# ---- launches that go to a core together ---------------------------------------------------


@offload_single
def step(number: int, odd: int, calls: str, gate: Gate | None = None, how: str = "") -> int:
    """Note the call; one of them does something out of the ordinary."""
    with open(calls, "ab", 0) as file:
        file.write(b"%d\n" % number)
    if number == odd:
        if how == "raise":
            raise LookupError(number)
        if how == "die":
            os._exit(3)
        assert gate is not None
        gate.pass_through()
    return number


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Gate, Gate]]:
    """Make two gates, and leave it to the scheduler what is sent to a core ahead."""
    gates = Gate.make(tmp_path / "first"), Gate.make(tmp_path / "second")
    yield gates
    for gate in gates:
        gate.remove()


class Steps:
    """Many launches of a kernel that was found to be short, with an odd one in their midst."""

    ODD = MANY // 2 + 5

    def __init__(self, path: Path, how: str = "", *, first: Gate, gate: Gate | None = None) -> None:
        self.calls = path / "calls"
        for number in range(-40, 0):
            step(number, self.ODD, str(self.calls)).wait()
        hold(first)  # until all the others are there
        first.wait()
        self.handles = [step(n, self.ODD, str(self.calls), gate, how) for n in range(MANY)]
        first.let_on()

    def made(self) -> list[int]:
        """Return the calls that were made."""
        return [int(line) for line in self.calls.read_text().split() if int(line) >= 0]

    def others(self) -> list[Handle[int]]:
        return [handle for number, handle in enumerate(self.handles) if number != self.ODD]


def test_each_has_its_own_value_and_is_run_once_in_order(
    one_core: str, pair: tuple[Gate, Gate], tmp_path: Path
) -> None:
    steps = Steps(tmp_path, "raise", first=pair[0])

    assert [handle.result() for handle in steps.others()] == [n for n in range(MANY) if n != steps.ODD]
    with pytest.raises(LookupError):
        steps.handles[steps.ODD].result()
    assert steps.made() == list(range(MANY))


def test_one_that_kills_its_core_takes_no_other_along(
    one_core: str, pair: tuple[Gate, Gate], tmp_path: Path
) -> None:
    steps = Steps(tmp_path, "die", first=pair[0])

    assert [handle.result() for handle in steps.others()] == [n for n in range(MANY) if n != steps.ODD]
    with pytest.raises(offload.WorkerDied):
        steps.handles[steps.ODD].result()
    assert steps.made() == list(range(MANY))


def test_one_can_be_killed_and_the_others_go_on(
    one_core: str, pair: tuple[Gate, Gate], tmp_path: Path
) -> None:
    steps = Steps(tmp_path, gate=pair[1], first=pair[0])
    pair[1].wait()

    assert steps.handles[steps.ODD].cancel(kill=True)

    assert [handle.result() for handle in steps.others()] == [n for n in range(MANY) if n != steps.ODD]
    with pytest.raises(CancelledError):
        steps.handles[steps.ODD].result()
    assert steps.made() == list(range(MANY))


def test_those_that_have_ended_are_done_while_the_next_one_waits(
    one_core: str, pair: tuple[Gate, Gate], tmp_path: Path
) -> None:
    steps = Steps(tmp_path, gate=pair[1], first=pair[0])
    pair[1].wait()

    before = steps.handles[: steps.ODD]
    assert wait_all(*before) == [[number] for number in range(steps.ODD)]
    assert steps.handles[steps.ODD].number_running() == 1
    assert not any(handle.done() for handle in steps.handles[steps.ODD :])
    pair[1].let_on()
    assert steps.handles[-1].result() == MANY - 1


def test_one_may_depend_on_one_in_their_midst(one_core: str, pair: tuple[Gate, Gate], tmp_path: Path) -> None:
    steps = Steps(tmp_path, gate=pair[1], first=pair[0])
    pair[1].wait()
    number, failed = steps.ODD + 1, at(steps.handles[steps.ODD])
    behind = at(steps.handles[number])

    steps.handles[steps.ODD].cancel(kill=True)

    assert behind.result()[0] == number
    with pytest.raises(offload.DependencyError):
        failed.result()


def test_a_shutdown_that_does_not_wait_ends_those_that_were_sent(
    pair: tuple[Gate, Gate], tmp_path: Path
) -> None:
    offload.connect("local:1")
    steps = Steps(tmp_path, gate=pair[1], first=pair[0])
    pair[1].wait()
    session().shutdown(wait=False)

    assert steps.made() == list(range(steps.ODD + 1))
    for handle in steps.handles[steps.ODD :]:
        with pytest.raises((CancelledError, SessionClosed)):
            handle.result()


def test_on_two_cores_each_has_its_own_value() -> None:
    with offload.connect("local:2"):
        for _ in range(50):
            at(0).wait()
        handles = [at(number) for number in range(4 * MANY)]

        assert [handle.result()[0] for handle in handles] == list(range(4 * MANY))


def test_what_is_scattered_over_one_core_may_go_together() -> None:
    @offload_single
    def length(piece: list[int]) -> int:
        return len(piece)

    with offload.connect("local:1"):
        for _ in range(50):
            length([]).wait()
        handles = [length(offload.scatter([number, 0])) for number in range(MANY)]

        assert [handle.result() for handle in handles] == [2] * MANY


def test_calls_of_an_executor_may_go_together() -> None:
    with offload.Executor(1) as executor:
        for _ in range(50):
            executor.submit(abs, 0).result()

        assert [future.result() for future in [executor.submit(abs, -n) for n in range(MANY)]] == [
            *range(MANY)
        ]


def test_what_stands_in_line_for_a_core_that_was_to_be_killed_is_taken_in(
    one_core: str, pair: tuple[Gate, Gate]
) -> None:
    """Though nobody waits, and no other launch is under way."""

    @offload_single
    def survives(here: Gate, there: Gate) -> None:
        asked, ask = os.pipe()  # an event would be locked where the handler strikes in its own `wait`
        signal.signal(signal.SIGTERM, lambda *_: os.write(ask, b"x"))
        here.pass_through()
        os.read(asked, 1)
        there.pass_through()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    handle = survives(*pair)
    pair[0].wait()
    pair[0].let_on()
    assert handle.cancel(kill=True)
    pair[1].wait()
    pair[1].let_on()  # its end comes before the core would be killed by force, and so it is not
    with pytest.raises(CancelledError):
        handle.wait()

    called = threading.Event()
    at(7).add_done_callback(lambda _: called.set())
    called.wait()
