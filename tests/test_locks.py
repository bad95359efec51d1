"""The host's side has one lock: the dispatcher's guard; and a signal handler never waits for it for ever."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from device_runtime import interrupts
from device_runtime.interrupts import Guard

ROOT = Path(__file__).parents[1]
LOCKS = {
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Semaphore",
    "Guard",
    "ShieldedLock",
    "allocate_lock",
}


def made(module: Path) -> list[str]:
    """Return the locks that a module makes, by their classes' names."""
    calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
    return [name for name in names if name in LOCKS]


def test_there_is_one_lock() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): made(path)
        for floor in ("offload", "scheduler", "device_runtime")
        for path in ROOT.joinpath(floor).rglob("*.py")
        if made(path)
    }
    assert found == {
        "scheduler/dispatcher.py": ["Guard"],
        "offload/filling.py": ["Lock"],  # around the copy of one launch's value; nothing is called inside
        "device_runtime/process/arena.py": ["Guard"],  # around single additions; nothing is called inside
        "device_runtime/interrupts.py": ["RLock", "Lock"],  # what a Guard and a ShieldedLock are made of
        "scheduler/pump.py": ["Lock"],  # on which one thread sleeps; it guards nothing
        "device_runtime/inline.py": ["Lock"],  # the same, for kernels that take turns
        "offload/future.py": [
            "Condition",
            "ShieldedLock",
        ],  # each future's own; the standard library locks it
        "device_runtime/fpga/emulation.py": ["Lock"],  # a bank's, around its account; nothing waits inside
        # The owner's, in a process of its own: a unit's while it runs, and inside that the banks' room.
        "device_runtime/fpga/unit.py": ["Lock"],
        "device_runtime/fpga/room.py": ["Condition"],
        "device_runtime/fpga/buffers.py": ["Lock"],  # around single additions to what an instance has moved
        "offload/keeping.py": ["Lock"],  # by which a thread waits for another one's collection of garbage
        # Fences: taken and released at once, for the order of stores in memory.
        "device_runtime/process/channel.py": ["Lock"],
        "device_runtime/process/lines.py": ["Lock"],
        "device_runtime/process/links.py": ["Lock"],
        # Around the rings' ends, nothing waits inside; and held by the one thread that waits.
        "device_runtime/process/mesh.py": ["Lock", "Lock"],
        "device_runtime/process/endpoint.py": ["Lock"],  # the core's: who has it sends, nobody waits for it
        "offload/session.py": ["Lock"],  # by which threads wait for the one that opens a device
        "offload/submissions.py": ["Event"],  # by which a thread waits for the end of another
    }


class Lone:
    """The lock of a guard that one thread uses: whoever finds it taken would wait for ever."""

    def __init__(self) -> None:
        self.taken = False

    def acquire(self) -> None:
        assert not self.taken, "a deadlock"
        self.taken = True

    def release(self) -> None:
        self.taken = False


def strike(handler: Callable[[], object], within: Callable[[], object]) -> None:
    """Call a function; at every line that a guard's methods come to in it, call a signal handler first."""
    codes = {vars(Guard)[name].__code__ for name in ("__enter__", "aside", "__exit__")}

    def trace(frame: FrameType, event: str, what: Any) -> Any:
        if frame.f_code not in codes:
            return None
        handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        within()
    finally:
        sys.settrace(before)


def test_a_signal_handler_anywhere_in_a_guard_enters_it_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard := Guard(), "_lock", Lone())
    found: list[str] = []

    def handler() -> None:
        try:
            with guard:
                found.append("entered")
        except RuntimeError as error:
            found.append(str(error)[:16])

    def within() -> None:
        with guard:
            guard.aside(lambda: None)

    strike(handler, within)
    assert set(found) == {"entered", "a signal handler"}
    assert not interrupts._depth
    with guard:
        pass


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_a_finalizer_in_a_guard_is_refused(main: bool, same: bool) -> None:
    """It runs in whichever thread collects garbage, and would wait for what that thread holds.

    So would two threads that each enter the guard that the other one holds.
    """
    guard, found = Guard(), []
    other, inner = guard if same else Guard(), Guard(inner=True)

    def finalizer() -> None:
        try:
            with other:
                found.append("entered")
        except RuntimeError as error:
            found.append(str(error)[:31])

    def within() -> None:
        with guard, inner:
            found.append(str(interrupts.is_inside()))
        with guard:
            finalizer()
            guard.aside(finalizer)
        found.append(str(interrupts.is_inside()))
        with inner:
            finalizer()

    if main:
        within()
    else:
        thread = threading.Thread(target=within)
        thread.start()
        thread.join()
    refused = "a signal handler or a finalizer"
    assert found == ["True", refused, "entered", "False", refused]


class Interrupted(Exception):
    """What a signal handler of the user's own raises."""


class Struck:
    """A lock in whose n-th call a signal comes: Python runs the handler as soon as the call has returned.

    With `before`, when the call has not done its work yet.
    """

    def __init__(self, at: int, before: bool) -> None:
        self.lock = threading.RLock()
        self._left = at
        self._before = before

    def _call(self, method: Callable[[], object]) -> None:
        self._left -= 1
        if self._left == 0 and self._before:
            raise Interrupted
        method()
        if self._left == 0:
            raise Interrupted

    def acquire(self) -> None:
        self._call(self.lock.acquire)

    def release(self) -> None:
        self._call(self.lock.release)


@pytest.mark.parametrize(
    ("at", "before"),
    (
        pytest.param(1, True, id="waiting in enter"),
        pytest.param(1, False, id="enter"),
        pytest.param(2, False, id="aside"),
        pytest.param(3, True, id="waiting to be back"),
        pytest.param(3, False, id="back"),
        pytest.param(4, False, id="exit"),
    ),
)
def test_a_handler_that_raises_in_a_guard_leaves_it_free(
    monkeypatch: pytest.MonkeyPatch, at: int, before: bool
) -> None:
    monkeypatch.setattr(guard := Guard(), "_lock", struck := Struck(at, before))
    with pytest.raises(Interrupted), guard:
        guard.aside(lambda: None)

    assert not interrupts._depth
    entered = threading.Event()

    def enter() -> None:
        with guard:
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    assert entered.wait(10)
    with guard:
        pass
    assert not interrupts._depth
    assert struck.lock.acquire(blocking=False)
