"""Wherever and however a launch fails: it ends in one way, no other notices, and the core is back."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import offload as of
from offload import offload, offload_single
from offload.core import coreid

pytestmark = pytest.mark.usefixtures("local")

NEIGHBOURS = 10
TIMEOUT = 0.2  # seconds, for what hangs


def raise_it() -> None:
    raise ArithmeticError("wrong")


def segfault() -> None:
    ctypes.string_at(0)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_too_much() -> None:
    """Ask for more memory than this process may have."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, before[1]))
    try:
        bytearray(1 << 31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def hang() -> None:
    threading.Event().wait()


WAYS: dict[str, Callable[[], Any]] = {
    "exception": raise_it,
    "os._exit": lambda: os._exit(3),
    "segfault": segfault,
    "SIGKILL": be_killed,
    "memory limit": take_too_much,
    "hang": hang,
}


class OnLoad:
    """Fail when it is loaded on a core."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> Any:
        return act, (self.way,)


class OnDump(OnLoad):
    """Fail when it is encoded."""

    def __reduce__(self) -> Any:
        act(self.way)
        raise AssertionError("it did not fail")


class OnFree:
    """Fail when it is freed."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __del__(self) -> None:
        act(self.way)


def act(way: str) -> None:
    WAYS[way]()


def on_loading_arguments(way: str) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: 1), OnLoad(way)


def before_it_begins(way: str) -> tuple[Callable[..., Any], Any]:
    captured = OnLoad(way)
    return (lambda argument: captured), None


def in_the_kernel(way: str) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: act(argument)), way


def on_encoding_the_result(way: str) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: OnDump(argument)), way


def after_the_result(way: str) -> tuple[Callable[..., Any], Any]:
    def kernel(argument: str) -> int:
        sys.stdout = OnFree(argument)  # type: ignore[assignment]  # a core takes its own back when all is told
        return 1

    return kernel, way


UNDECODABLE, POISON, DEATH = of.ArgsDecodeError, of.PoisonedKernel, of.WorkerDied
UNENCODABLE, LATE = of.ResultNotSerializable, of.LaunchTimeout

# What a launch ends in, by place and, in the order of WAYS, by way; 1 is its value.
MATRIX: dict[Callable[[str], tuple[Callable[..., Any], Any]], tuple[Any, ...]] = {
    on_loading_arguments: (UNDECODABLE, POISON, POISON, POISON, UNDECODABLE, LATE),
    before_it_begins: (UNDECODABLE, POISON, POISON, POISON, UNDECODABLE, LATE),
    in_the_kernel: (ArithmeticError, DEATH, DEATH, DEATH, MemoryError, LATE),
    on_encoding_the_result: (UNENCODABLE, DEATH, DEATH, DEATH, UNENCODABLE, LATE),
    after_the_result: (1, 1, 1, 1, 1, 1),
}
CELLS = [
    pytest.param(place, way, expected, id=f"{place.__name__.replace('_', ' ')}: {way}")
    for place, row in MATRIX.items()
    for way, expected in zip(WAYS, row, strict=True)
    if not (place is after_the_result and way == "hang")  # see the test at the end
]


def outcome(get: Callable[[], Any]) -> Any:
    """Return a value, or the class of what is raised."""
    try:
        return get()
    except Exception as error:
        return type(error)


@offload_single
def double(number: int) -> int:
    return 2 * number


def limits(way: str) -> dict[str, Any]:
    return {"timeout": TIMEOUT} if way == "hang" else {}


def both_cores_answer() -> None:
    assert offload(lambda: coreid())() == [0, 1]


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_a_blocking_call(place: Any, way: str, expected: Any) -> None:
    function, argument = place(way)
    before = [double(n, target=n % 2) for n in range(NEIGHBOURS)]
    assert outcome(lambda: offload(function, target=1, **limits(way))(argument)[0]) == expected
    assert [one.result() for one in before] == [2 * n for n in range(NEIGHBOURS)]
    both_cores_answer()


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_an_asynchronous_launch(place: Any, way: str, expected: Any) -> None:
    function, argument = place(way)
    before = [double(n) for n in range(NEIGHBOURS // 2)]
    launch = offload_single(function, **limits(way)).launch(argument)
    behind = [double(n) for n in range(NEIGHBOURS // 2)]
    assert outcome(launch.result) == expected
    assert [one.result() for one in before + behind] == [2 * n for n in range(NEIGHBOURS // 2)] * 2
    both_cores_answer()


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_a_map(place: Any, way: str, expected: Any) -> None:
    function, argument = place(way)

    def each(number: int, argument: Any) -> Any:
        return 2 * number if number < NEIGHBOURS else function(argument)

    kernel = offload(each, **limits(way))
    if place is before_it_begins:  # no element of it can run
        assert outcome(lambda: list(kernel.map([NEIGHBOURS], [argument], chunksize=1))) == expected
    else:
        arguments = [None] * NEIGHBOURS + [argument]
        values = kernel.map(range(NEIGHBOURS + 1), arguments, chunksize=1)
        assert [next(values) for _ in range(NEIGHBOURS)] == [2 * n for n in range(NEIGHBOURS)]
        assert outcome(lambda: next(values)) == expected
    both_cores_answer()


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_one_core_of_several(place: Any, way: str, expected: Any) -> None:
    function, argument = place(way)

    def each(arguments: list[Any]) -> Any:
        return function(arguments[0]) if coreid() == 1 else 2

    before = [double(n, target=n % 2) for n in range(NEIGHBOURS)]
    launch = offload(each, **limits(way)).launch(of.scatter([None, argument]))
    found = [outcome(launch.wait_any) for _ in range(2)]
    if place is before_it_begins:  # on both of them
        assert found == [expected, expected]
    else:
        assert {0: 2} in found and ({1: expected} in found or expected in found)
    assert [one.result() for one in before] == [2 * n for n in range(NEIGHBOURS)]
    both_cores_answer()


def hang_after_the_result() -> None:
    """Have a core hang whose launch has its value."""
    function, argument = after_the_result("hang")
    assert offload(function, target=1)(argument) == [1]


def test_a_core_that_hangs_after_the_result() -> None:
    """The launch has ended; what is queued behind waits until somebody ends it, and the core is back."""
    hang_after_the_result()
    behind = double(1, target=1)
    neighbours = [double(n, target=0) for n in range(NEIGHBOURS)]
    assert [one.result() for one in neighbours] == [2 * n for n in range(NEIGHBOURS)]
    assert behind.cancel(kill=True)
    both_cores_answer()


def a_blocking_call() -> Any:
    return offload(coreid, target=1, timeout=TIMEOUT)()


def an_asynchronous_launch() -> Any:
    return offload(coreid, target=1, timeout=TIMEOUT).launch().result()


def a_map() -> Any:
    return list(offload(lambda number: 2 * number, timeout=TIMEOUT).map(range(NEIGHBOURS), chunksize=1))


def all_cores() -> Any:
    return offload(coreid, timeout=TIMEOUT)()


@pytest.mark.parametrize("launch", [a_blocking_call, an_asynchronous_launch, a_map, all_cores])
def test_what_is_sent_to_a_core_that_hangs_after_the_result(launch: Callable[[], Any]) -> None:
    """Its timeout ends it, though the core has not taken it up; the core is back for what is behind."""
    hang_after_the_result()
    assert outcome(launch) == LATE
    both_cores_answer()


def test_a_result_after_which_its_core_hangs_while_others_wait() -> None:
    """The first of them that has a timeout ends with it, and all the others run."""
    function, argument = after_the_result("hang")
    first = offload(function, target=1).launch(argument)
    late = offload(coreid, target=1, timeout=TIMEOUT).launch()
    behind = [double(n, target=1) for n in range(NEIGHBOURS)]
    assert first.result() == 1
    assert outcome(late.result) == LATE
    assert [one.result() for one in behind] == [2 * n for n in range(NEIGHBOURS)]
    both_cores_answer()
