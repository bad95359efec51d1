"""Wherever and however a launch fails: it ends in one way, no other notices, and the core is back."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from resting import rest

import offload as of
from offload import offload, offload_single
from offload.core import coreid, recv, send

pytestmark = pytest.mark.usefixtures("local")

NEIGHBOURS = 10  # launches behind the one that fails, sent to its core before it does
TIMEOUT = 1.0  # seconds, for what hangs; else it may be what a busy machine takes to begin
PATIENCE = 10  # seconds, for a core to be about to fail


def raise_it() -> None:
    raise ArithmeticError("wrong")


def segfault() -> None:
    ctypes.string_at(0)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_too_much() -> None:
    """Take memory, a little at a time, until this process may have no more."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20), resource.RLIM_INFINITY))
    pieces = []
    while True:
        pieces.append(bytearray(3000))


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


DEADLY = ("os._exit", "segfault", "SIGKILL", "hang")  # the others leave the core as it is


class Trouble(NamedTuple):
    """What goes wrong on a core, once the test has queued the neighbours behind it.

    Nobody waits at these pipes for the other side to open them: the core may come never, or again and again.
    """

    way: str
    here: str
    on: str

    def strike(self) -> None:
        """Tell the test that it is about to fail, wait for it, and fail; called on a core."""
        with open(self.here, "wb", 0) as here, open(self.on, "rb", 0) as on:
            here.write(b".")
            on.read(1)
        WAYS[self.way]()


class OnLoad:
    """Fail when it is loaded on a core."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def __reduce__(self) -> Any:
        return Trouble.strike, (self.trouble,)


class OnDump(OnLoad):
    """Fail when it is encoded."""

    def __reduce__(self) -> Any:
        self.trouble.strike()
        raise AssertionError("it did not fail")


class OnFree(OnLoad):
    """Fail when it is freed."""

    def __del__(self) -> None:
        self.trouble.strike()


def on_loading_arguments(trouble: Trouble) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: 1), OnLoad(trouble)


def before_it_begins(trouble: Trouble) -> tuple[Callable[..., Any], Any]:
    captured = OnLoad(trouble)
    return (lambda argument: captured), None


def in_the_kernel(trouble: Trouble) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: argument.strike()), trouble


def on_encoding_the_result(trouble: Trouble) -> tuple[Callable[..., Any], Any]:
    return (lambda argument: OnDump(argument)), trouble


def after_the_result(trouble: Trouble) -> tuple[Callable[..., Any], Any]:
    def kernel(argument: Trouble) -> int:
        sys.stdout = OnFree(argument)  # type: ignore[assignment]  # a core takes its own back when all is told
        return 1

    return kernel, trouble


UNDECODABLE, POISON, DEATH = of.ArgsDecodeError, of.PoisonedKernel, of.WorkerDied
UNENCODABLE, LATE = of.ResultNotSerializable, of.LaunchTimeout

# What a launch ends in, by place and, in the order of WAYS, by way; 1 is its value.
MATRIX: dict[Callable[[Trouble], tuple[Callable[..., Any], Any]], tuple[Any, ...]] = {
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


@pytest.fixture(autouse=True, scope="module")
def all_is_sent_ahead() -> Iterator[None]:
    """Send a core at once what is queued for it: no kernel is known to take any time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.placing.inf", 0.0)
        patch.setattr("scheduler.pace.Pace.learn", lambda *_: None)
        yield


class Neighbours:
    """The launches behind one that is about to fail, and what they find of the cores."""

    def __init__(self, folder: Path) -> None:
        self._pipes = [str(folder / name) for name in ("here", "on")]
        for pipe in self._pipes:
            os.mkfifo(pipe)
        self._here, self._on = (os.open(pipe, os.O_RDWR) for pipe in self._pipes)
        self._processes = processes()
        self._behind: list[of.Handle[int]] = []

    def trouble(self, way: str) -> Trouble:
        return Trouble(way, *self._pipes)

    def queue(self) -> None:
        """Wait until a core is about to fail, queue launches on both behind that, and let it go wrong."""
        select.select([self._here], [], [], PATIENCE)  # a slow core's time may be over before it says so
        self._behind = [double(n, target=n % 2) for n in range(NEIGHBOURS)]
        self.let_go_wrong()

    def let_go_wrong(self) -> None:
        os.write(self._on, bytes(100))  # also for the attempts that follow

    def replaced(self) -> list[int]:
        """Wait until all have had their values; return the cores that now are other processes."""
        assert [one.result() for one in self._behind] == [2 * n for n in range(NEIGHBOURS)]
        now = processes()
        return [core for core in range(2) if now[core] != self._processes[core]]

    def close(self) -> None:
        self._behind.clear()  # a handle keeps what its session holds
        os.close(self._here)
        os.close(self._on)


def processes() -> list[int]:
    return offload(lambda: os.getpid())()


@pytest.fixture
def neighbours(tmp_path: Path) -> Iterator[Neighbours]:
    found = Neighbours(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_a_blocking_call(neighbours: Neighbours, place: Any, way: str, expected: Any) -> None:
    function, argument = place(neighbours.trouble(way))
    kernel = offload(function, target=1, **limits(way))
    rest()  # so that it goes the short way, unless it has a timeout
    thread = threading.Thread(target=neighbours.queue)
    thread.start()
    assert outcome(lambda: kernel(argument)[0]) == expected
    thread.join()
    assert neighbours.replaced() == [1] * (way in DEADLY)


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_an_asynchronous_launch(neighbours: Neighbours, place: Any, way: str, expected: Any) -> None:
    function, argument = place(neighbours.trouble(way))
    launch = offload_single(function, **limits(way)).launch(argument)
    neighbours.queue()
    assert outcome(launch.result) == expected
    assert len(neighbours.replaced()) == (way in DEADLY)


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_a_map(neighbours: Neighbours, place: Any, way: str, expected: Any) -> None:
    function, argument = place(neighbours.trouble(way))

    def each(argument: Any, number: int) -> Any:
        return 2 * number if argument is None else function(argument)

    def elements() -> Iterator[Any]:
        # Where the kernel does not load no element of it can run.
        yield from [None] * before + [argument] + [None] * behind
        neighbours.queue()  # all have been launched

    before, behind = (0, 0) if place is before_it_begins else (NEIGHBOURS // 2, NEIGHBOURS // 2)
    kernel = offload(each, **limits(way))
    values = kernel.map(elements(), range(NEIGHBOURS + 1), chunksize=1, window=NEIGHBOURS + 2)
    assert [next(values) for _ in range(before)] == [2 * n for n in range(before)]
    assert outcome(lambda: next(values)) == expected
    if expected == 1:
        assert list(values) == [2 * n for n in range(before + 1, before + 1 + behind)]
    assert len(neighbours.replaced()) == (way in DEADLY)


@pytest.mark.parametrize(("place", "way", "expected"), CELLS)
def test_one_core_of_several(neighbours: Neighbours, place: Any, way: str, expected: Any) -> None:
    """The other core waits for a message of the one that fails: it gets it, or hears that none will come."""
    function, argument = place(neighbours.trouble(way))
    waits = way != "hang"  # else its own time would be over as well

    def each(arguments: list[Any]) -> Any:
        if coreid() == 0:
            return recv(1) if waits else 2
        found = function(arguments[0])
        send(2, 0)
        return found

    launch = offload(each, **limits(way)).launch(of.scatter([None, argument]))
    neighbours.queue()
    found = [outcome(launch.wait_any) for _ in range(2)]
    if place is before_it_begins:  # on both of them
        assert found == [expected, expected]
    else:
        sent = place in (on_encoding_the_result, after_the_result)
        assert ({0: 2} if sent or not waits else of.PeerEnded) in found
        assert {1: expected} in found or expected in found
    lost = [0, 1] if place is before_it_begins else [1]
    assert neighbours.replaced() == lost * (way in DEADLY)


def test_a_core_that_hangs_after_the_result(neighbours: Neighbours) -> None:
    """The launch has ended; what is queued behind waits until somebody ends it, and the core is back."""
    function, argument = after_the_result(neighbours.trouble("hang"))
    assert offload(function, target=1)(argument) == [1]
    first = double(1, target=1)
    neighbours.queue()
    assert first.cancel(kill=True)
    assert neighbours.replaced() == [1]


def a_blocking_call() -> Any:
    return offload(coreid, target=1, timeout=TIMEOUT)()


def an_asynchronous_launch() -> Any:
    return offload(coreid, target=1, timeout=TIMEOUT).launch().result()


def a_map() -> Any:
    return list(offload(lambda number: 2 * number, timeout=TIMEOUT).map(range(NEIGHBOURS), chunksize=1))


def all_cores() -> Any:
    return offload(coreid, timeout=TIMEOUT)()


@pytest.mark.parametrize("launch", [a_blocking_call, an_asynchronous_launch, a_map, all_cores])
def test_what_is_sent_to_a_core_that_hangs_after_the_result(
    neighbours: Neighbours, launch: Callable[[], Any]
) -> None:
    """Its timeout ends it, though the core has not taken it up; the core is back for what is behind."""
    function, argument = after_the_result(neighbours.trouble("hang"))
    assert offload(function, target=1)(argument) == [1]
    neighbours.let_go_wrong()
    assert outcome(launch) == LATE
    neighbours.queue()
    assert neighbours.replaced() == [1]


def test_a_result_after_which_its_core_hangs_while_others_wait(neighbours: Neighbours) -> None:
    """The first of them that has a timeout ends with it, and all the others run."""
    function, argument = after_the_result(neighbours.trouble("hang"))
    first = offload(function, target=1).launch(argument)
    late = offload(coreid, target=1, timeout=TIMEOUT).launch()
    neighbours.queue()
    assert first.result() == 1
    assert outcome(late.result) == LATE
    assert neighbours.replaced() == [1]
