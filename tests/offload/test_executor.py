"""The executor keeps the contract of `concurrent.futures`, on every device."""

from __future__ import annotations

import asyncio
import concurrent.futures as futures
import functools
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    ThreadPoolExecutor,
)
from typing import Any

import numpy as np
import pytest
from gates import Gate, gated

from device_runtime.errors import (
    ArgsNotSerializable,
    KernelTypeError,
    RemoteTraceback,
)
from offload.executor import Executor


def fail(text: str = "on purpose") -> None:
    raise KeyError(text)


class Falls(Exception):
    """An exception whose class does not load from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_falls() -> None:
    raise Falls(1, 2)


class Adder:
    def __init__(self, base: int) -> None:
        self.base = base

    def add(self, value: int) -> int:
        return self.base + value

    def __call__(self, value: int) -> int:
        return self.base + value


@pytest.fixture(scope="module", params=["local:2", "inline:2"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(device=request.param) as made:
        yield made


class TestSubmit:
    def test_gives_what_the_call_gives(self, executor: Executor) -> None:
        assert executor.submit(pow, 2, 8).result() == 256

    def test_any_name_can_be_a_keyword(self, executor: Executor) -> None:
        def capture(*args: object, **kwargs: object) -> object:
            return args, kwargs

        called = executor.submit(capture, 1, self=2, fn=3, function=4, initializer=5)
        assert called.result() == ((1,), {"self": 2, "fn": 3, "function": 4, "initializer": 5})

    @pytest.mark.parametrize("call", [lambda: 3, Adder(1).add, Adder(2)], ids=["lambda", "method", "object"])
    def test_takes_what_can_be_called(self, executor: Executor, call: Callable[..., Any]) -> None:
        args = () if call.__class__.__name__ == "function" else (40,)
        assert executor.submit(call, *args).result() == call(*args)

    def test_takes_classes_and_built_in_methods(self, executor: Executor) -> None:
        assert executor.submit(int, "12").result() == 12
        assert executor.submit("a,b".split, ",").result() == ["a", "b"]
        assert executor.submit(Adder, 3).result().base == 3

    def test_sees_closures_as_they_are_at_the_call(self, executor: Executor) -> None:
        value = 1

        def read() -> int:
            return value

        first = executor.submit(read)
        value = 2
        assert (first.result(), executor.submit(read).result()) == (1, 2)

    def test_snapshots_arguments(self, executor: Executor) -> None:
        data, array = [1, 2], np.arange(5000.0)
        called = executor.submit(lambda a, b: (a, float(b.sum())), data, array)
        data.append(3)
        array[:] = 0
        assert called.result() == ([1, 2], 4999 * 5000 / 2)

    def test_exception_has_the_remote_traceback_as_cause(self, executor: Executor) -> None:
        failed = executor.submit(fail)
        with pytest.raises(KeyError, match="on purpose") as raised:
            failed.result()
        assert raised.value is failed.exception()
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        assert "raise KeyError(text)" in str(raised.value.__cause__)

    def test_exceptions_with_arguments_of_their_own_arrive(self, executor: Executor) -> None:
        with pytest.raises(Falls, match="1 and 2"):
            executor.submit(raise_falls).result()

    @pytest.mark.parametrize("kind", [SystemExit, CancelledError, futures.TimeoutError])
    def test_any_exception_of_the_call_is_its_exception(
        self, executor: Executor, kind: type[BaseException]
    ) -> None:
        def leave() -> None:
            raise kind

        called = executor.submit(leave)
        assert isinstance(called.exception(), kind)
        assert not called.cancelled()

    def test_what_does_not_pickle_is_the_futures_exception(self, executor: Executor) -> None:
        lock = threading.Lock()
        assert isinstance(executor.submit(id, lock).exception(), ArgsNotSerializable)
        assert isinstance(executor.submit(lambda: lock.locked()).exception(), TypeError)
        assert executor.submit(pow, 2, 3).result() == 8

    def test_an_async_function_is_the_futures_exception(self, executor: Executor) -> None:
        async def later(number: int = 0) -> int:
            return number

        for function in (later, functools.partial(later, 1)):
            with pytest.raises(KernelTypeError, match="later is an `async def` function"):
                executor.submit(function).result()
        for chunksize in (1, 2):
            with pytest.raises(KernelTypeError, match="later is an `async def` function"):
                next(executor.map(later, range(3), chunksize=chunksize))
        gc.collect()  # a coroutine that was never awaited would warn now

    def test_many_calls(self, executor: Executor) -> None:
        calls = [executor.submit(divmod, number, 7) for number in range(500)]
        assert [call.result() for call in calls] == [divmod(number, 7) for number in range(500)]

    def test_from_many_threads(self, executor: Executor) -> None:
        def use(base: int) -> list[int]:
            return [call.result() for call in [executor.submit(pow, base, n) for n in range(20)]]

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(use, range(4))) == [[b**n for n in range(20)] for b in range(4)]

    def test_keeps_nothing_of_a_call_that_has_ended(self, executor: Executor) -> None:
        big = Adder(1)
        gone = threading.Event()
        weakref.finalize(big, gone.set)
        value = executor.submit(big.add, 1).result()
        executor.submit(functools.partial(lambda adder: adder.base, big)).result()
        del big
        gc.collect()
        # A future's last references may be let go in the thread that settled it.
        assert gone.wait(20)
        assert value == 2


class TestMap:
    def test_is_the_built_in_map(self, executor: Executor) -> None:
        assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
        assert list(executor.map(pow, range(10), itertools.repeat(2))) == [n**2 for n in range(10)]
        assert list(executor.map(pow, [], [])) == []

    @pytest.mark.parametrize("chunksize", [1, 6, 40, 41])
    def test_chunks_change_nothing(self, executor: Executor, chunksize: int) -> None:
        found = executor.map(pow, range(40), range(40), chunksize=chunksize)
        assert list(found) == [n**n for n in range(40)]

    def test_chunksize_must_be_positive(self, executor: Executor) -> None:
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(pow, [1], [1], chunksize=-1)

    @pytest.mark.parametrize("chunksize", [1, 2, 4])
    def test_exception_is_raised_in_its_place(self, executor: Executor, chunksize: int) -> None:
        found = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5], chunksize=chunksize)
        assert (next(found), next(found)) == ((0, 1), (0, 1))
        with pytest.raises(ZeroDivisionError) as raised:
            next(found)
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        with pytest.raises(StopIteration):
            next(found)

    def test_takes_its_input_at_once(self, executor: Executor) -> None:
        taken: list[int] = []

        def numbers() -> Iterator[int]:
            for number in range(4):
                taken.append(number)
                yield number

        found = executor.map(abs, numbers(), chunksize=2)
        assert taken == [0, 1, 2, 3]
        assert list(found) == taken

    @pytest.mark.parametrize("chunksize", [1, 2])
    def test_timeout(self, cores: Executor, gate: Gate, chunksize: int) -> None:
        found = cores.map(gated, [gate], timeout=0, chunksize=chunksize)
        with pytest.raises(futures.TimeoutError):
            next(found)
        gate.wait()
        gate.let_on()

    @pytest.mark.parametrize("chunksize", [1, 2])
    def test_closing_the_iterator_cancels_what_is_queued(self, gates: list[Gate], chunksize: int) -> None:
        first, second = gates[:chunksize], gates[chunksize : 2 * chunksize]
        with Executor(1) as one:
            found = one.map(gated, [*first, *second, *first], chunksize=chunksize)
            for gate in first:
                gate.wait()
                gate.let_on()
            next(found)
            second[0].wait()
            found.close()  # type: ignore[attr-defined]
            second[0].let_on()
            for gate in second[1:]:
                gate.wait()
                gate.let_on()
        # Had the third chunk run, it would still wait at the first gate.

    def test_unpicklable_function(self, executor: Executor) -> None:
        lock = threading.Lock()
        with pytest.raises(TypeError, match="lock"):
            list(executor.map(lambda _: lock, range(3), chunksize=2))


class TestFutures:
    def test_states(self, gates: list[Gate]) -> None:
        with Executor(1) as one:
            running, queued = one.submit(gated, gates[0], 1), one.submit(gated, gates[1], 2)
            gates[0].wait()
            assert (running.running(), running.done(), running.cancelled()) == (True, False, False)
            assert (queued.running(), queued.done(), queued.cancelled()) == (False, False, False)
            assert "state=running" in repr(running)
            assert "state=pending" in repr(queued)
            assert not running.cancel()
            assert queued.cancel()
            assert queued.cancel()
            assert (queued.running(), queued.done(), queued.cancelled()) == (False, True, True)
            with pytest.raises(CancelledError):
                queued.result()
            with pytest.raises(CancelledError):
                queued.exception()
            gates[0].let_on()
            assert running.result() == 1
            assert not running.cancel()
            assert (running.running(), running.done(), running.cancelled()) == (False, True, False)
            assert running.exception() is None

    def test_waiting_with_a_timeout_changes_nothing(self, cores: Executor, gate: Gate) -> None:
        called = cores.submit(gated, gate, "value")
        with pytest.raises(futures.TimeoutError):
            called.result(timeout=0)
        with pytest.raises(futures.TimeoutError):
            called.exception(timeout=0)
        gate.wait()
        gate.let_on()
        assert called.result(timeout=30) == "value"

    def test_callbacks_are_called_in_order_with_the_future(self, cores: Executor, gate: Gate) -> None:
        called = cores.submit(gated, gate)
        seen: list[tuple[int, object]] = []
        last = threading.Event()
        called.add_done_callback(lambda future: seen.append((1, future)))
        called.add_done_callback(lambda future: seen.append((2, future)))
        called.add_done_callback(lambda _: last.set())
        gate.wait()
        assert seen == []
        gate.let_on()
        assert last.wait(30)
        assert seen == [(1, called), (2, called)]

    def test_callback_on_a_done_future_is_called_at_once(self, executor: Executor) -> None:
        for call in (executor.submit(pow, 2, 2), executor.submit(fail)):
            futures.wait([call])
            seen: list[object] = []
            call.add_done_callback(seen.append)
            assert seen == [call]

    def test_callback_that_raises_is_logged_and_hurts_no_other(
        self, cores: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        called = cores.submit(gated, gate)
        reached = threading.Event()
        called.add_done_callback(lambda _: fail("in a callback"))
        called.add_done_callback(lambda _: reached.set())
        gate.wait()
        gate.let_on()
        assert reached.wait(30)
        assert "in a callback" in caplog.text

    def test_callback_is_called_on_cancellation(self, gates: list[Gate]) -> None:
        with Executor(1) as one:
            running, queued = one.submit(gated, gates[0]), one.submit(gated, gates[1])
            seen: list[object] = []
            queued.add_done_callback(seen.append)
            gates[0].wait()
            queued.cancel()
            assert seen == [queued]
            gates[0].let_on()
            running.result()

    def test_callback_may_submit(self, executor: Executor) -> None:
        ended: list[futures.Future[int]] = []
        told = threading.Event()

        def more(_: object) -> None:
            ended.append(executor.submit(pow, 3, 3))
            told.set()

        executor.submit(pow, 2, 2).add_done_callback(more)
        assert told.wait(30)
        assert ended[0].result() == 27


class TestModuleFunctions:
    """`wait` and `as_completed`, on calls of several executors at once."""

    def test_wait_for_the_first(self, cores: Executor, gate: Gate) -> None:
        slow, fast = cores.submit(gated, gate), cores.submit(pow, 2, 2)
        done, left = futures.wait([slow, fast], return_when=FIRST_COMPLETED)
        assert (done, left) == ({fast}, {slow})
        gate.wait()
        gate.let_on()
        assert futures.wait([slow, fast]) == ({slow, fast}, set())

    def test_wait_for_the_first_exception(self, cores: Executor, gate: Gate) -> None:
        slow, failing = cores.submit(gated, gate), cores.submit(fail)
        done, left = futures.wait([slow, failing], return_when=FIRST_EXCEPTION)
        assert (done, left) == ({failing}, {slow})
        gate.wait()
        gate.let_on()

    def test_wait_with_a_timeout(self, cores: Executor, gate: Gate) -> None:
        slow = cores.submit(gated, gate)
        assert futures.wait([slow], timeout=0) == (set(), {slow})
        with pytest.raises(futures.TimeoutError):
            list(futures.as_completed([slow], timeout=0))
        gate.wait()
        gate.let_on()

    def test_cancelled_ones_count_as_done(self, gates: list[Gate]) -> None:
        with Executor(1) as one:
            running, queued = one.submit(gated, gates[0]), one.submit(gated, gates[1])
            gates[0].wait()
            queued.cancel()
            assert futures.wait([running, queued], return_when=FIRST_COMPLETED).done == {queued}
            assert next(futures.as_completed([running, queued])) is queued
            gates[0].let_on()
            assert futures.wait([running, queued]).not_done == set()

    def test_mixed_with_futures_of_others(self, executor: Executor, cores: Executor) -> None:
        with ThreadPoolExecutor(1) as threads:
            calls = [each.submit(pow, 2, n) for n, each in enumerate([executor, cores, threads] * 3)]
            assert {call.result() for call in futures.as_completed(calls)} == {2**n for n in range(9)}
            assert futures.wait(calls).done == set(calls)

    def test_as_completed_gives_doubles_once(self, executor: Executor) -> None:
        call = executor.submit(pow, 2, 2)
        assert list(futures.as_completed(itertools.repeat(call, 3))) == [call]

    def test_asyncio(self, executor: Executor) -> None:
        async def run() -> list[object]:
            loop = asyncio.get_running_loop()
            calls = [loop.run_in_executor(executor, pow, 2, n) for n in range(5)]
            failed = loop.run_in_executor(executor, fail)
            return [*await asyncio.gather(*calls), *await asyncio.gather(failed, return_exceptions=True)]

        *values, error = asyncio.run(run())
        assert values == [1, 2, 4, 8, 16]
        assert isinstance(error, KeyError)
