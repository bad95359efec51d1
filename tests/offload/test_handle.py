"""Handles: order, timing, errors, cancelling, and every way to wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import logging.handlers
import os
import queue
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from gates import Gate

import offload as package
from offload import (
    DependencyError,
    ForkedHandleError,
    OptionError,
    RemoteTraceback,
    as_completed,
    offload,
    offload_single,
    wait_all,
    wait_any,
    waitAll,
)
from offload.core import coreid
from scheduler.ticket import Ticket


@offload(async_=True)
def where(times: int = 1) -> int:
    return coreid() * times


@offload(async_=True)
def through(gates: list[Gate]) -> int:
    """Pass the gate of one's own core."""
    gates[coreid()].pass_through()
    return coreid()


@offload_single
def one(x: Any) -> Any:
    return x


@offload_single
def through_one(gate: Gate, x: int = 0) -> int:
    gate.pass_through()
    return x


@offload(async_=True)
def fail(cores: list[int]) -> int:
    if coreid() in cores:
        raise KeyError(f"core {coreid()}")
    return coreid()


# ---- on every device ---------------------------------------------------------------


def test_wait_may_be_called_again(device: str) -> None:
    handle = where()
    assert handle.wait() == handle.wait() == handle.result() == [0, 1, 2, 3]
    assert handle.done() and handle.test() and handle.exception() is None
    assert handle.number_running() == handle.number_outstanding() == 0


def test_handles_may_be_waited_for_in_any_order(device: str) -> None:
    handles = [one(number) for number in range(10)]
    assert [handle.wait() for handle in reversed(handles)] == [[9 - number] for number in range(10)]


def test_wait_any_hands_out_each_core_once(device: str) -> None:
    handle = where(2)
    found: dict[int, int] = {}
    for _ in range(4):
        found.update(handle.wait_any())
    assert found == {0: 0, 1: 2, 2: 4, 3: 6}
    with pytest.raises(LookupError, match="handed out all 4 cores"):
        handle.wait_any()
    assert handle.wait() == [0, 2, 4, 6]


def test_as_completed_gives_every_core(device: str) -> None:
    handle = where(3, target=[1, 3])
    handle.wait_any()
    assert sorted(handle.as_completed()) == [(1, 3), (3, 9)]


def test_append_joins_launches(device: str) -> None:
    handle = one(5)
    assert handle.append(where(1)) is handle
    assert handle.append(one(6)).wait() == [5, 0, 1, 2, 3, 6]
    assert handle.result() == [5, 0, 1, 2, 3, 6]
    assert len(handle.timing) == 6
    assert sum(1 for _ in handle.as_completed()) == 6
    with pytest.raises(TypeError, match="append takes a handle"):
        handle.append(3)  # type: ignore[arg-type]


def _called_back(handle: Any) -> Any:
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handle.add_done_callback(lambda each: ended.put(each.result(0)))
    return ended.get


@pytest.mark.parametrize(
    "begin",
    [
        lambda handle: handle.future().result,
        _called_back,
        lambda handle: _in_thread(handle.wait),
        lambda handle: _in_thread(handle.result),
        lambda handle: _in_thread(lambda: (handle.exception(), handle.result(0))[1]),
        lambda handle: _in_thread(lambda: asyncio.run(_await(handle))),
        lambda handle: _in_thread(lambda: wait_all(handle)[0]),
    ],
    ids=["future", "callback", "wait", "result", "exception", "await", "wait_all"],
)
def test_whoever_waits_waits_for_what_is_appended_too(local: str, gates: list[Gate], begin: Any) -> None:
    handle = through_one(gates[0], 1, target=0)
    outcome = begin(handle)
    gates[0].wait()
    second = through_one(gates[1], 2, target=1)
    handle.append(second).append(one(3, target=0))
    gates[0].let_on()
    assert handle.wait_any() == {0: 1}
    gates[1].wait()
    gates[1].let_on()
    assert outcome() == [1, 2, 3]


def test_a_future_has_the_first_error_of_what_was_appended_too(local: str, gates: list[Gate]) -> None:
    handle = through_one(gates[0], 1, target=0)
    future = handle.future()
    handle.append(fail([1]))
    gates[0].wait()
    gates[0].let_on()
    assert isinstance(future.exception(30), KeyError)


def test_wait_any_is_told_of_what_is_appended_and_has_ended(local: str, gates: list[Gate]) -> None:
    handle = through_one(gates[0], 1, target=0)
    gates[0].wait()
    ended = one(2, target=1)
    ended.wait()
    found = _in_thread(handle.wait_any)
    handle.append(ended)
    assert found(30) == {1: 2}
    gates[0].let_on()
    assert handle.wait_any() == {0: 1}


def _in_thread(call: Any) -> Any:
    """Begin a call in a thread of its own; return what waits for its value."""
    return concurrent.futures.ThreadPoolExecutor(1).submit(call).result


def test_a_kernels_exception_is_raised_with_its_traceback_as_cause(device: str) -> None:
    handle = fail([2])
    with pytest.raises(KeyError, match="core 2") as raised:
        handle.wait()
    cause = raised.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert __file__ in str(cause) and 'raise KeyError(f"core {coreid()}")' in str(cause)
    asked = handle.exception()
    assert isinstance(asked, KeyError) and asked.args == raised.value.args
    with pytest.raises(KeyError):
        handle.result()


class Held:
    pass


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "ask",
    [
        lambda handle: handle.wait(),
        lambda handle: handle.result(),
        lambda handle: handle.wait_any(),
        lambda handle: list(handle.as_completed()),
        lambda handle: wait_all(handle, one(1)),
        lambda handle: wait_any(handle),
        lambda handle: [found.result() for found in as_completed(handle)],
        lambda handle: one(handle).result(),
    ],
)
def test_an_error_that_was_caught_keeps_nothing_that_its_frames_held(device: str, ask: Any) -> None:
    def use() -> weakref.ref[Held]:
        held = Held()
        handle = fail([0], target=0)
        with contextlib.suppress(KeyError, DependencyError):
            ask(handle)
        return weakref.ref(held)

    with no_collection():
        assert use()() is None


def _refuse(why: str) -> Any:
    raise LookupError(why)


class Unloadable:
    def __reduce__(self) -> Any:
        return _refuse, ("it does not load",)


def test_a_value_that_does_not_load_tells_why_and_keeps_nothing(device: str) -> None:
    def use() -> weakref.ref[Held]:
        held = Held()
        handle = offload(lambda: Unloadable(), target=0).launch()
        for ask in (handle.wait, handle.result, handle.wait_any):
            with contextlib.suppress(package.ResultDecodeError):
                ask()
        error = handle.exception()
        assert isinstance(error, package.ResultDecodeError) and "it does not load" in str(error)
        assert "raise LookupError(why)" in str(error.__cause__)
        return weakref.ref(held)

    with no_collection():
        assert use()() is None


def test_a_source_that_fails_keeps_nothing(device: str) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    def use() -> weakref.ref[Held]:
        held = Held()
        with contextlib.suppress(KeyError):
            list(one.map(source()))
        return weakref.ref(held)

    with no_collection():
        assert use()() is None


def test_errors_of_a_launch_that_was_appended_twice_are_told_once(device: str) -> None:
    handle = fail([0, 1])
    handle.append(handle)
    failed = handle.exception()
    assert failed is not None
    assert vars(failed)["__notes__"] == ["core 1 failed too: KeyError: 'core 1'"]
    waits = where.options(target=[0, 1])(handle)
    for _ in range(2):  # both shards have the same end
        refused = waits.exception()
        assert isinstance(refused, DependencyError) and "__notes__" not in vars(refused)


def test_an_error_of_ours_shows_what_was_being_handled(local: str) -> None:
    handle = offload(os._exit, target=0).launch(3)
    for _ in range(2):
        try:
            raise ValueError("this one")
        except ValueError as handled:
            with pytest.raises(package.WorkerDied, match="code 3") as raised:
                handle.wait()
            assert raised.value.__context__ is handled and not raised.value.__suppress_context__


def test_an_error_that_was_awaited_or_called_for_keeps_nothing(device: str) -> None:
    async def awaited() -> weakref.ref[Held]:
        held = Held()
        handle = fail([0], target=0)
        with contextlib.suppress(KeyError):
            await handle
        return weakref.ref(held)

    def use(call: Any) -> weakref.ref[Held]:
        held = Held()
        with contextlib.suppress(KeyError):
            call()
        return weakref.ref(held)

    async def main() -> None:
        assert (await awaited())() is None

    with no_collection():
        asyncio.run(main())
        assert use(lambda: fail([0], target=0).future().result())() is None
        assert use(lambda: fail.options(async_=False)([0], target=0))() is None
        assert use(lambda: list(fail.options(target=0).map([[0]])))() is None


class Frozen(ValueError):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


class Evasive(ValueError):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is not for you")


@pytest.mark.parametrize("kind", [Frozen, Evasive])
def test_an_exception_that_resists_is_raised_like_any_other(device: str, kind: type[ValueError]) -> None:
    @offload(target=[0, 1])
    def resist() -> None:
        raise kind("it is read-only")

    handle = resist.launch()
    for _ in range(2):
        with pytest.raises(kind) as raised:
            handle.wait()
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        hint, other = vars(raised.value)["__notes__"]
        assert "x = x.copy()" in hint and other == f"core 1 failed too: {kind.__name__}: it is read-only"
    assert type(handle.exception()) is kind
    with pytest.raises(kind):
        handle.wait_any()
    assert isinstance(resist.launch().future().exception(), kind)
    with pytest.raises(DependencyError) as refused:
        where(handle).wait()
    assert isinstance(refused.value.__cause__, kind)
    with package.Executor(1, device=device) as executor:
        assert isinstance(executor.submit(resist.fn).exception(), kind)


def test_the_first_failed_core_is_raised_and_the_others_are_notes(device: str) -> None:
    handle = fail([3, 1])
    for _ in range(2):
        with pytest.raises(KeyError, match="core 1") as raised:
            handle.wait()
        assert raised.value.__notes__ == ["core 3 failed too: KeyError: 'core 3'"]  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        for _ in range(4):
            handle.wait_any()
    values = []
    with pytest.raises(KeyError):
        for core, _ in handle.as_completed():
            values.append(core)
    assert set(values) <= {0, 2}


def test_wait_any_goes_on_after_a_core_that_failed(device: str) -> None:
    handle = fail([0, 2])
    handle.exception()
    found, failed = {}, []
    for _ in range(4):
        try:
            found.update(handle.wait_any())
        except KeyError as error:
            failed.append(error.args)
    assert found == {1: 1, 3: 3} and sorted(failed) == [("core 0",), ("core 2",)]
    with pytest.raises(LookupError):
        handle.wait_any()


def test_wait_all_keeps_the_order_of_arguments(device: str) -> None:
    assert wait_all(where(30), one(-10)) == [[0, 30, 60, 90], [-10]]
    assert waitAll(one(-10), where(30)) == [[-10], [0, 30, 60, 90]]
    assert wait_all() == []
    with pytest.raises(TypeError, match=r"write wait_all\(\*handles\)"):
        wait_all([one(1)])  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="core 1"):
        wait_all(one(1), fail([1, 2]), fail([0]))


def test_wait_any_over_handles_hands_out_every_core_once(device: str) -> None:
    handles = [where(), one(7), where(2)]
    found = [wait_any(*handles) for _ in range(9)]
    cores = [(handles.index(handle), *pair) for handle, value in found for pair in value.items()]
    assert sorted(each for each in cores if each[0] != 1) == [
        *((0, core, core) for core in range(4)),
        *((2, core, 2 * core) for core in range(4)),
    ]
    assert [value for number, _, value in cores if number == 1] == [7]
    with pytest.raises(LookupError):
        wait_any(*handles)


def test_as_completed_over_handles_gives_each_once(device: str) -> None:
    handles = [one(1), fail([0]), where()]
    assert set(as_completed(*handles, handles[0])) == set(handles)


def test_handles_of_two_sessions_mix(device: str) -> None:
    with package.connect("inline:2"):
        there = where()
        here = where(device="inline:3")
    assert wait_all(there, here, where()) == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    elsewhere = where(2)
    assert {handle for handle, _ in (wait_any(there, elsewhere) for _ in range(6))} == {there, elsewhere}
    assert set(as_completed(there, elsewhere)) == {there, elsewhere}
    with pytest.raises(OptionError, match="same session"):
        there.append(elsewhere)


def test_a_handle_may_be_an_argument_on_another_device(device: str) -> None:
    @offload_single
    def ones() -> Any:
        return np.ones(100_000)

    @offload_single
    def total(array: Any) -> float:
        return float(array.sum())

    for there in ("inline:2", "local:1"):
        assert total(ones(device=there)).result() == 100_000.0
        assert total(ones(), device=there).result() == 100_000.0


def test_a_handle_as_an_argument_is_its_result(device: str) -> None:
    first = one(4)
    assert one([first, first, where()]).result() == [4, 4, [0, 1, 2, 3]]
    assert one(one(one(first))).result() == 4

    @offload
    def add(a: int, b: int = 0) -> int:
        return a + b

    assert add(first, b=one(3)) == [7] * 4


def test_a_handle_of_several_launches_is_the_list_of_their_values(device: str) -> None:
    joined = one(1).append(one(2))
    assert one(joined).result() == [1, 2]
    assert asyncio.run(_await(joined)) == joined.future().result() == [1, 2]
    with pytest.raises(DependencyError) as raised:
        one(joined.append(fail([3]))).result()
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_failed_handle_fails_what_depends_on_it(device: str) -> None:
    failed = fail([1])
    for dependant in (one(failed), one(one(failed))):
        with pytest.raises(DependencyError) as raised:
            dependant.wait()
        cause: BaseException | None = raised.value
        while isinstance(cause, DependencyError):
            cause = cause.__cause__
        assert isinstance(cause, KeyError)


def test_a_handle_does_not_pickle_elsewhere(device: str) -> None:
    import pickle

    with pytest.raises(TypeError, match="argument of a launch"):
        pickle.dumps(one(1))


def test_done_callbacks_get_the_handle_and_their_errors_are_logged(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    seen: list[Any] = []

    def callback(handle: Any) -> None:
        seen.append(handle)
        raise ZeroDivisionError

    logger = logging.getLogger("offload")
    monkeypatch.setattr(logger, "handlers", [logging.handlers.QueueHandler(logged)])
    monkeypatch.setattr(logger, "propagate", False)  # pytest would keep the error, and it the handle
    handle = one(1)
    handle.add_done_callback(callback)
    assert "ZeroDivisionError" in logged.get(timeout=20).getMessage()
    assert seen == [handle]
    handle.add_done_callback(seen.append)
    assert seen == [handle, handle]


def test_await(device: str) -> None:
    async def main() -> list[Any]:
        first, second = await asyncio.gather(one(1), where())
        with pytest.raises(KeyError):
            await fail([0])
        return [first, second, await one(2)]

    async def gathered() -> list[Any]:
        handles = [one(number) for number in range(50)]
        return [await handle for handle in handles]

    assert asyncio.run(main()) == [1, [0, 1, 2, 3], 2]
    assert asyncio.run(gathered()) == list(range(50))


def test_future(device: str) -> None:
    futures = [one(3).future(), where().future(), fail([0]).future()]
    done, pending = concurrent.futures.wait(futures)
    assert done == set(futures) and not pending
    assert futures[0].result() == 3 and futures[1].result() == [0, 1, 2, 3]
    assert isinstance(futures[2].exception(), KeyError)
    assert not futures[0].cancel() and not futures[0].running()


def test_timing_is_in_seconds_since_the_launch(device: str) -> None:
    handle = where(target=[1, 2])
    handle.wait()
    assert [timing.core for timing in handle.timing] == [1, 2]
    for timing in handle.timing:
        assert timing.begun is not None and timing.ended is not None
        assert 0 == timing.queued <= timing.begun <= timing.ended


def test_timing_of_joined_launches_counts_from_the_first(device: str) -> None:
    handle = one(1).append(one(2)).append(where(target=[0, 1]))
    handle.wait()
    queued = [timing.queued for timing in handle.timing]
    assert len(queued) == 4 and queued[0] == 0 and queued == sorted(queued) and queued[2] == queued[3]
    for timing in handle.timing:
        assert timing.begun is not None and timing.ended is not None
        assert timing.queued <= timing.begun <= timing.ended


def test_a_handle_shows_itself(device: str) -> None:
    handle = fail([0])
    assert isinstance(handle.exception(), KeyError)
    assert "fail" in repr(handle) and "done, failed" in repr(handle)
    html = handle._repr_html_()
    assert html.count("<tr>") == 5 and "raised an exception" in html
    assert "<locals>" not in offload(lambda: 1).launch()._repr_html_()


def test_progress_waits_and_shows_a_bar(device: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert where().wait(progress=True) == [0, 1, 2, 3]
    assert "where" in "".join(capfd.readouterr())


def test_progress_names_the_extra_where_nothing_can_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with package.connect("inline:1"):
        for name in ("rich", "rich.console", "rich.progress"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"offload\[progress\]"):
            where().wait(progress=True)


# ---- launches that are under way, on process cores -------------------------------------


@pytest.mark.timeout(60)
def test_a_timeout_changes_nothing(local: str, gates: list[Gate]) -> None:
    handle = through(gates)
    for gate in gates[:2]:
        gate.wait()
    with pytest.raises(TimeoutError, match=r"through.*cores 0, 1; nothing was cancelled"):
        handle.wait(timeout=0)
    for wait in (handle.result, handle.exception, handle.wait_any):
        with pytest.raises(TimeoutError):
            wait(0)
    with pytest.raises(TimeoutError):
        next(handle.as_completed(timeout=0))
    with pytest.raises(TimeoutError):
        wait_all(handle, timeout=0)
    with pytest.raises(TimeoutError):
        wait_any(handle, timeout=0)
    with pytest.raises(TimeoutError, match="1 of 1 launches"):
        next(as_completed(handle, timeout=0))
    assert not handle.done() and not handle.test() and not handle.cancel()
    assert handle.number_running() == handle.number_outstanding() == 2
    assert "0 of 2 cores done" in repr(handle)
    for gate in gates[:2]:
        gate.let_on()
    assert handle.wait() == [0, 1]


def test_cores_are_handed_out_as_they_finish(local: str, gates: list[Gate]) -> None:
    handle = through(gates)
    gates[1].wait()
    gates[1].let_on()
    assert handle.wait_any() == {1: 1}
    assert not handle.test()
    assert handle.number_running() == 1
    begun = [timing.begun is not None for timing in handle.timing]
    assert begun == [False, True]
    assert wait_any(one(5))[1].popitem()[1] == 5
    completed = handle.as_completed()
    assert next(completed) == (1, 1)
    gates[0].wait()
    gates[0].let_on()
    assert list(completed) == [(0, 0)]
    assert handle.wait_any() == {0: 0}


def test_handles_are_given_as_they_complete(local: str, gates: list[Gate]) -> None:
    handles = [through_one(gates[core], core, target=core) for core in range(2)]
    completed = as_completed(*handles)
    for core in (1, 0):
        gates[core].wait()
        gates[core].let_on()
        assert wait_any(*handles) == (handles[core], {core: core})
        assert next(completed) is handles[core]
    assert list(completed) == []


def test_what_was_cancelled_never_began(local: str, gates: list[Gate]) -> None:
    unknown = offload(Gate.pass_through, async_=True)  # nothing is sent ahead behind it
    running, queued = unknown(gates[0], target=0), one(1, target=0)
    gates[0].wait()
    assert queued.cancel()
    gates[0].let_on()
    running.wait()
    assert [(timing.core, timing.begun, timing.ended) for timing in queued.timing] == [(0, None, None)]
    assert "done, cancelled>" in repr(queued) and "CancelledError" in queued._repr_html_()
    failed = fail([0])
    assert isinstance(failed.exception(), KeyError)
    assert "done, failed>" in repr(failed.append(queued))


def test_a_timeout_before_a_core_was_chosen_says_so(local: str, gates: list[Gate]) -> None:
    running, queued = through(gates[:2]), one(1)
    for gate in gates[:2]:
        gate.wait()
    with pytest.raises(TimeoutError, match=r"after 0 s, waiting for a core to be chosen for it; nothing was"):
        queued.wait(timeout=0)
    for gate in gates[:2]:
        gate.let_on()
    assert running.wait() == [0, 1] and queued.result() == 1


def test_a_cancelled_handle_fails_what_depends_on_it(local: str, gates: list[Gate]) -> None:
    running = through_one(gates[0], target=0)
    gates[0].wait()
    queued = one(1, target=0)
    dependant = one(queued)
    assert queued.cancel()
    gates[0].let_on()
    running.wait()
    with pytest.raises(DependencyError) as raised:
        dependant.wait()
    assert isinstance(raised.value.__cause__, CancelledError)


def test_what_is_queued_can_be_cancelled_and_what_runs_cannot(local: str, gates: list[Gate]) -> None:
    running = through(gates[:2])
    for gate in gates[:2]:
        gate.wait()
    queued, awaited, future = where(), where(), where().future()
    assert queued.number_running() == 0 and queued.number_outstanding() == 2
    assert not running.cancel()
    assert queued.cancel() and queued.done()
    assert future.cancel() and future.cancelled() and future.done()
    assert concurrent.futures.wait([future], 0).done == {future}
    for wait in (queued.wait, queued.result, queued.exception, future.result):
        with pytest.raises(CancelledError):
            wait()
    assert awaited.cancel()
    with pytest.raises(CancelledError):
        asyncio.run(_await(awaited))
    for gate in gates[:2]:
        gate.let_on()
    assert running.wait() == [0, 1]
    assert not running.cancel()


def test_kill_ends_what_runs(local: str, gates: list[Gate]) -> None:
    handle = through_one(gates[0])
    gates[0].wait()
    assert handle.cancel(kill=True)
    with pytest.raises(CancelledError):
        handle.wait()
    assert where().wait() == [0, 1]


def test_a_dependant_waits_without_blocking_the_host(local: str, gates: list[Gate]) -> None:
    first = through_one(gates[0], 5)
    second = one(first)
    third = one(second)
    gates[0].wait()
    assert one(1).result() == 1
    assert not third.done()
    gates[0].let_on()
    assert third.result() == 5


def test_arguments_are_snapshots_even_while_queued(local: str, gates: list[Gate]) -> None:
    running = through(gates[:2])
    items = [1]
    queued = one(items)
    items.append(2)
    for gate in gates[:2]:
        gate.wait()
        gate.let_on()
    assert queued.result() == [1]
    running.wait()


def test_await_leaves_the_loop_free(local: str, gates: list[Gate]) -> None:
    async def main() -> list[str]:
        seen = []

        async def wait() -> None:
            seen.append(f"value {await through_one(gates[0], 3)}")

        waiting = asyncio.ensure_future(wait())
        await asyncio.get_running_loop().run_in_executor(None, gates[0].wait)
        seen.append("free")
        gates[0].let_on()
        await waiting
        return seen

    assert asyncio.run(main()) == ["free", "value 3"]


def test_many_threads_may_wait_for_one_handle(local: str, gates: list[Gate]) -> None:
    handle = through_one(gates[0], 9)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(handle.wait) for _ in range(8)]
        gates[0].wait()
        gates[0].let_on()
        assert [each.result(30) for each in waiting] == [[9]] * 8


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_cannot_use_the_handles_of_its_parent(local: str) -> None:
    handle = where()
    assert handle.wait() == [0, 1]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for use in (
                handle.wait,
                handle.done,
                handle.test,
                handle.cancel,
                handle.number_running,
                lambda: handle.append(handle),
                lambda: one(handle, device="inline"),
            ):
                try:
                    use()
                except ForkedHandleError:
                    continue
                os._exit(2)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _await(handle: Any) -> Any:
    return await handle


def test_a_handle_appended_twice_counts_twice() -> None:
    handle = one(3)
    handle.append(handle)
    assert handle.wait() == [3, 3]
    assert [handle.wait_any() for _ in range(2)] == [{handle.timing[0].core: 3}] * 2
    with pytest.raises(LookupError):
        handle.wait_any()


def test_a_launch_cancelled_by_force_never_gives_a_value(local: str) -> None:
    for number in range(50):
        handle = one(number)
        if handle.cancel(kill=True):
            assert handle.cancel()
            with pytest.raises(CancelledError):
                handle.wait()
            assert handle.cancel()
        else:
            assert handle.wait() == [number]


def test_a_long_chain_fails_with_its_first_error(device: str) -> None:
    handle = fail([0, 1], target=0)
    for _ in range(3000):
        handle = one.launch(handle)
    with pytest.raises(DependencyError) as failed:
        handle.wait()
    assert isinstance(failed.value.__cause__, KeyError)


def test_a_pipeline_keeps_no_values_that_nobody_can_ask_for(device: str) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(found, Ticket) for found in gc.get_objects())

    before = kept()
    handle = one(0)
    for _ in range(20):
        handle = one.launch(handle)
    handle.wait()
    assert kept() <= before + 2


@pytest.mark.parametrize("seconds", [3e6, 1e12, float("inf")])
def test_a_timeout_may_be_longer_than_the_systems_calls_take(local: str, seconds: float, gate: Gate) -> None:
    limited = offload(gate.pass_through, target=0, timeout=seconds).launch()
    gate.wait()
    threading.Thread(target=gate.let_on).start()
    assert limited.wait(timeout=seconds) == [None]


def test_thousands_of_appended_launches_cost_no_more_each() -> None:
    """Counted in steps of the interpreter, not in time."""

    def steps(launches: int) -> int:
        handle = one(0)
        for number in range(1, launches):
            handle.append(one(number))
        handle.wait()
        count = 0

        def trace(frame: object, event: str, arg: object) -> object:
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            for _ in handle.as_completed():
                pass
        finally:
            sys.settrace(None)
        return count

    package.connect("inline")
    assert steps(400) < 5 * steps(100)
