"""Callbacks that wait, launch, fail or never return: nobody but them is the worse for it."""

from __future__ import annotations

import asyncio
import io
import logging
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gates import Gate

import offload as of
from offload import Executor, offload, offload_single, wait_all
from offload.session import session

pytestmark = pytest.mark.usefixtures("local")


@offload_single
def one(x: int) -> int:
    return x


async def _result(handle: of.Handle[Any]) -> Any:
    return await handle


def _in_a_thread(handle: of.Handle[Any]) -> Any:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(handle.result()))
    thread.start()
    thread.join()
    return got[0]


WAYS: dict[str, Callable[[of.Handle[Any]], Any]] = {
    "result": lambda handle: handle.result(),
    "wait_all": lambda handle: wait_all(handle)[0][0],
    "as_completed": lambda handle: next(of.as_completed(handle)).result(),
    "a future": lambda handle: handle.future().result(),
    "await": lambda handle: asyncio.run(_result(handle)),
    "a thread": _in_a_thread,
}


@pytest.mark.parametrize("pumping", [True, False], ids=["main waits", "nobody waits"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_callback_may_launch_and_wait_in_any_way(way: Callable[[Any], Any], pumping: bool) -> None:
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    handle = one(1)
    handle.add_done_callback(lambda done: got.put(way(one(done.result() + 1))))
    if pumping:
        handle.wait()
    assert got.get(timeout=30) == 2


def test_many_callbacks_may_launch_and_wait() -> None:
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(300):
        one(number).add_done_callback(lambda done: got.put(one(done.result()).result()))
    assert sorted(got.get(timeout=30) for _ in range(300)) == list(range(300))


def held(gate: Gate) -> of.Handle[None]:
    """Launch a kernel that has not ended before `gate` was opened."""
    return offload(gate.pass_through, target=0).launch()


def open_(gate: Gate) -> None:
    gate.wait()
    gate.let_on()


def test_a_callback_that_does_not_return_holds_nothing_up(gate: Gate) -> None:
    going, on = threading.Event(), threading.Event()
    held(gate).add_done_callback(lambda _: (going.set(), on.wait()))
    open_(gate)
    going.wait()
    assert [one(number).result() for number in range(10)] == list(range(10))
    on.set()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_callback_raises_ends_nothing(
    error: type[BaseException], caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    got: queue.SimpleQueue[int] = queue.SimpleQueue()

    def fail(_: object) -> None:
        raise error

    with caplog.at_level(logging.ERROR, "offload"):
        handle = held(gate)
        first, second = one.launch(1, target=0), one.launch(2, target=0)
        first.add_done_callback(fail)
        second.add_done_callback(lambda done: got.put(done.result()))
        open_(gate)
        handle.wait()
        assert got.get(timeout=30) == 2
    assert error.__name__ in caplog.text


def test_a_callback_of_a_future_may_wait_for_another() -> None:
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    with Executor(1) as executor:
        other = executor.submit(abs, -7)
        executor.submit(abs, -1).add_done_callback(lambda done: got.put(done.result() + other.result()))
        assert got.get(timeout=30) == 8


def test_shutdown_lets_callbacks_end(gate: Gate) -> None:
    going, on, got = threading.Event(), threading.Event(), []

    def slow(done: of.Handle[None]) -> None:
        going.set()
        on.wait()
        got.append(done.result())

    with of.connect("local:1"):
        held(gate).add_done_callback(slow)
        open_(gate)
        going.wait()
        threading.Thread(target=on.set).start()
    assert got == [None]


def test_a_time_limit_that_another_thread_learnt_of_passes_while_nobody_waits(tmp_path: Path) -> None:
    before, within = Gate.make(tmp_path / "before"), Gate.make(tmp_path / "within")
    offload(before.pass_through, target=0, async_=True)()
    limited = offload(within.pass_through, target=0, async_=True, timeout=0.2)()
    seen = offload(within.wait, target=1, async_=True)()
    before.wait()
    begun = threading.Thread(target=before.let_on)
    ended: queue.SimpleQueue[of.Handle[Any]] = queue.SimpleQueue()
    limited.add_done_callback(ended.put)

    def ready() -> bool:
        if begun.ident is None:  # from now on it is this thread that hears of what happens
            begun.start()
        return seen.done()

    session().dispatcher.wait(ready)
    begun.join()
    error = ended.get(timeout=30).exception()
    within.remove()
    assert isinstance(error, of.LaunchTimeout)


def test_a_stream_that_ends_the_thread_that_writes_to_it_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck = []

    class Last(io.StringIO):
        def write(self, text: str) -> int:
            struck.append(threading.current_thread())
            raise SystemExit

    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # pytest's takes it for an accident
    ended: queue.SimpleQueue[of.Handle[Any]] = queue.SimpleQueue()
    one(1).wait()  # the cores are there
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Last())
        offload(lambda: print("it"), target=0, async_=True)().add_done_callback(ended.put)
        ended.get(timeout=30)
    one(2).add_done_callback(ended.put)
    assert ended.get(timeout=30).result() == 2
    for thread in set(struck):
        thread.join()


def test_a_signal_just_before_the_host_goes_to_sleep_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one(1).wait()
    dispatcher = session().dispatcher
    poll, struck = dispatcher._pump._poll, []

    class Late:
        """Python's handler has run when the thread goes to sleep."""

        def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
            if not struck:
                signal.raise_signal(signal.SIGUSR1)
            return poll.poll(timeout)

        def fileno(self) -> int:
            return poll.fileno()

    monkeypatch.setattr(dispatcher._pump, "_poll", Late())
    before = signal.signal(signal.SIGUSR1, lambda *_: struck.append(True))
    try:
        assert dispatcher.wait(lambda: bool(struck))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_that_waits_within_a_wait_is_told(gate: Gate) -> None:
    told: list[str] = []

    def handle(number: int, frame: object) -> None:
        try:
            one(1).wait()
        except RuntimeError as error:
            told.append(str(error))
        gate.let_on()

    def interrupt() -> None:
        gate.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert offload(gate.pass_through, target=0)() == [None]
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    assert "another thread" in told[0]
