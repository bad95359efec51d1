"""Blocking launches that find nothing else under way, and what may come in between."""

from __future__ import annotations

import gc
import itertools
import operator
import os
import queue
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest
from resting import rest

import offload as of
from device_runtime.launch import Image
from device_runtime.process import wire
from device_runtime.process.cores import ProcessDevice
from device_runtime.process.ring import are_sound
from offload import Out, offload, offload_single
from offload.core import coreid
from offload.session import session
from scheduler.dispatcher import Dispatcher
from scheduler.plans import Plans

pytestmark = pytest.mark.skipif(not are_sound(), reason="the processor may reorder stores")


@pytest.fixture(autouse=True, scope="module")
def two_cores() -> Iterator[None]:
    """Have two cores, which look on whatever else the machine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLOAD_CHANNEL", "ring")
        patch.setenv("OFFLOAD_SPIN", "10000")
        patch.setattr("device_runtime.process.settled.available", lambda: 8)
        patch.setattr("device_runtime.process.patience._BUSY", 10**12)
        with of.connect("local:2"):
            yield


@offload
def whoami() -> int:
    return coreid()


@offload
def echo(value: Any) -> Any:
    return value


@offload_single
def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


class Between:
    """Do something, once, when a launch is under way that only its own thread knows of."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.reached = False
        self._ordinary = threading.Event()
        adopt = Dispatcher.adopt

        def adopted(*args: Any) -> Any:
            self._ordinary.set()
            return adopt(*args)

        patch.setattr(Dispatcher, "adopt", adopted)

    def begin(self, action: Callable[[], object]) -> None:
        """Begin to do this in another thread, and go on when it has got in between."""

        def begin() -> None:
            threading.Thread(target=action).start()
            assert self._ordinary.wait(30)

        self.do(begin, aside=False)

    def do(self, action: Callable[[], object], aside: bool = True) -> None:
        """Do this, in another thread or in the one that makes the launch."""
        real = ProcessDevice.look

        def look(device: ProcessDevice, plan: Any) -> bool:
            self._patch.setattr(ProcessDevice, "look", real)
            self.reached = True
            if aside:
                thread = threading.Thread(target=action)
                thread.start()
                thread.join()
            else:
                action()
            return real(device, plan)

        rest()
        self._patch.setattr(ProcessDevice, "look", look)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    made = Between(monkeypatch)
    yield made
    assert made.reached
    assert whoami() == [0, 1]


def test_nobody_comes_in_between(between: Between) -> None:
    between.do(lambda: None)
    assert whoami() == [0, 1]
    assert not session().dispatcher._launches


def test_another_thread_makes_a_launch(between: Between) -> None:
    made: list[of.Handle[Any]] = []
    between.do(lambda: made.append(echo.launch("other")))
    assert echo("own") == ["own", "own"]
    assert made[0].wait() == ["other", "other"]


def test_another_thread_waits_for_a_launch(between: Between) -> None:
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    between.begin(lambda: found.put(echo("other")))
    assert echo("own") == ["own", "own"]
    assert found.get(timeout=30) == ["other", "other"]


def test_a_call_that_was_interrupted_keeps_nothing(between: Between) -> None:
    """What it was given is free when its launch has ended."""

    @offload(kernel="fill", target=0)
    def fill(out: Out) -> None:
        out[:] = 1

    def strike() -> None:
        raise KeyboardInterrupt

    between.do(strike, aside=False)
    out = np.empty(3)
    gone = weakref.ref(out)
    with pytest.raises(KeyboardInterrupt):
        fill(out)
    del out
    echo.launch(0).wait()
    gc.collect()
    assert gone() is None


def test_what_comes_in_between_runs_after(between: Between, tmp_path: Any) -> None:
    path = str(tmp_path / "ledger")
    first = append.options(target=0, async_=False)
    between.do(lambda: append.options(target=0).launch(path, "second "))
    first(path, "first ")
    whoami()
    assert (tmp_path / "ledger").read_text() == "first second "


def test_a_signal_handler_that_makes_a_launch(between: Between) -> None:
    handles: list[of.Handle[Any]] = []
    between.do(lambda: handles.append(echo.launch("handler")), aside=False)
    assert echo("own") == ["own", "own"]
    assert handles[0].wait() == ["handler", "handler"]


@pytest.mark.parametrize(
    "call", [whoami, lambda: whoami.launch().wait()], ids=["a call", "a launch that is waited for"]
)
def test_a_signal_handler_at_any_moment_makes_a_launch_or_is_told(call: Callable[[], list[int]]) -> None:
    """Whatever line of ours the main thread has come to."""
    handles: list[of.Handle[Any]] = []
    told: list[str] = []

    def handler() -> None:
        try:
            handles.append(echo.launch("handler"))
        except RuntimeError as error:
            told.append(str(error))

    line = 0
    while strike_at(line, handler, call):
        line += 1
    assert [handle.wait() for handle in handles] == [["handler"] * 2] * len(handles)
    assert len(handles) > 10 and len(told) > 10 and all("signal handler" in each for each in told)


def strike_at(line: int, handler: Callable[[], object], call: Callable[[], list[int]]) -> bool:
    """Make a call, with a signal handler at the line of ours of this number; tell whether it came to it."""
    left = line

    def trace(frame: FrameType, event: str, what: Any) -> Any:
        nonlocal left
        if not frame.f_globals["__name__"].startswith(("offload.", "scheduler.", "device_runtime.")):
            return None
        left -= 1
        if left == -1:
            handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = call()
    finally:
        sys.settrace(before)
    assert found == [0, 1]
    return left < 0


def test_ctrl_c(between: Between) -> None:
    between.do(lambda: os.kill(os.getpid(), signal.SIGINT), aside=False)
    with pytest.raises(KeyboardInterrupt):
        whoami()


def test_shutdown_by_another_thread() -> None:
    with pytest.MonkeyPatch.context() as patch, of.connect("local:1"):
        between, other, closed = Between(patch), session(), threading.Event()
        between.begin(lambda: (other.shutdown(), closed.set()))
        assert echo("own") == ["own"]
        assert closed.wait(30)


def test_a_core_that_dies(between: Between) -> None:
    between.do(lambda: None)
    with pytest.raises(of.WorkerDied):
        offload(lambda: os._exit(3))()


def test_a_kernel_that_raises(between: Between) -> None:
    between.do(lambda: None)
    with pytest.raises(ZeroDivisionError) as caught:
        offload(lambda: 1 // (coreid() - 1), target=[0, 1])()
    assert isinstance(caught.value.__cause__, of.RemoteTraceback)


@pytest.mark.parametrize(
    "value", [None, 1.5, "text", (1, [2, {"a": 3}]), np.arange(5), np.ones(100_000), b"x" * 100_000]
)
def test_values(between: Between, value: Any) -> None:
    between.do(lambda: None)
    found = echo(value)
    same = np.array_equal if isinstance(value, np.ndarray) else operator.eq
    assert len(found) == 2 and all(same(one, value) for one in found)


@pytest.mark.parametrize("core", [0, 1])
@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (MemoryError, of.DeviceMemoryError, "the value of core {}: it went wrong"),
        (ValueError, ValueError, "it went wrong"),
    ],
    ids=["no memory", "a fault"],
)
def test_a_value_that_cannot_be_taken_in(
    between: Between, error: type[Exception], raised: type[Exception], told: str, core: int
) -> None:
    """The others of its launch are taken in all the same, and nothing is under way afterwards."""
    between.do(lambda: None)
    taken, payload_in = itertools.count(), wire.payload_in

    def fail(*args: Any) -> Any:
        if next(taken) == core:
            raise error("it went wrong")
        return payload_in(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "payload_in", fail)
        with pytest.raises(raised, match=told.format(core)):
            echo(np.ones(100_000))
    assert next(taken) == 2 and session().dispatcher.idle()


def test_what_a_kernel_prints_comes_before_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    speak = offload(lambda i: print("line", i), target=0)
    write = offload(lambda i: os.write(1, b"line %d\n" % i) and None, target=0)
    for i in range(100):
        (write if i % 2 else speak)(i)
        assert capsys.readouterr().out == f"[core 0] line {i}\n"


def test_many_threads_lose_nothing() -> None:
    found: dict[int, list[Any]] = {}

    def run(thread: int) -> None:
        found[thread] = [echo((thread, i)) for i in range(60)]

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {t: [[(t, i)] * 2 for i in range(60)] for t in range(8)}


def test_nobody_keeps_what_a_call_gave() -> None:
    def made() -> Any:
        return np.ones(1_000_000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessDevice, "look", lambda device, plan: False)
        array = offload(made, target=0)()[0]
    kept = weakref.ref(array)
    del array
    gc.collect()
    assert kept() is None


def test_images_that_are_out_of_date_are_not_kept() -> None:
    plans = Plans()
    images = [Image(number, "", "", bytes(10 << 20)) for number in range(5)]
    for image in images:
        plans.get(image, (0,), False, False)
    assert [plan.image for plan in plans._plans.values()] == images[-1:]
