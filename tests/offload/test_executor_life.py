"""How an executor begins, breaks and ends."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from gates import Gate, gated
from programs import Program

from device_runtime.errors import OptionError, UnknownDeviceError, WorkerDied
from device_runtime.process.cpus import available
from offload.executor import Executor

INITIALIZED = "not yet"


def initialize(value: str) -> None:
    global INITIALIZED
    INITIALIZED = value


def initialized() -> str:
    return INITIALIZED


def note_process(folder: str) -> None:
    with open(os.path.join(folder, str(os.getpid())), "a") as file:
        file.write("once\n")


def fail(text: str = "on purpose") -> None:
    raise KeyError(text)


class TestShutdown:
    @pytest.mark.parametrize("device", ["local:1", "inline"])
    def test_then_submit_raises(self, device: str) -> None:
        executor = Executor(device=device)
        call = executor.submit(pow, 2, 2)
        executor.shutdown()
        executor.shutdown()
        executor.shutdown(wait=False)
        assert call.result() == 4
        for use in (lambda: executor.submit(pow, 2, 2), lambda: executor.map(abs, [1, 2], chunksize=2)):
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                use()

    def test_waits_for_what_is_pending(self, gates: list[Gate]) -> None:
        with Executor(1) as executor:
            calls = [executor.submit(gated, gates[0], n) for n in range(3)]
            opener = threading.Thread(target=lambda: [(gates[0].wait(), gates[0].let_on()) for _ in calls])
            opener.start()
        assert all(call.done() for call in calls)
        opener.join()
        assert [call.result() for call in calls] == [0, 1, 2]

    def test_without_waiting_completes_what_is_pending(self, gates: list[Gate]) -> None:
        executor = Executor(1)
        calls = [executor.submit(gated, gate, n) for n, gate in enumerate(gates)]
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError):
            executor.submit(abs, 1)
        for gate in gates:
            gate.wait()
            gate.let_on()
        assert [call.result() for call in calls] == [0, 1, 2, 3]
        executor.shutdown()

    def test_cancelling_leaves_what_runs(self, gates: list[Gate]) -> None:
        executor = Executor(1)
        calls = [executor.submit(gated, gate, n) for n, gate in enumerate(gates)]
        gates[0].wait()
        executor.shutdown(wait=False, cancel_futures=True)
        assert [call.cancelled() for call in calls] == [False, True, True, True]
        gates[0].let_on()
        assert calls[0].result() == 0
        executor.shutdown()

    def test_from_a_callback_cannot_wait(self, gate: Gate) -> None:
        executor = Executor(1)
        call = executor.submit(gated, gate)
        found: list[BaseException] = []
        told = threading.Event()

        def close(_: object) -> None:
            try:
                executor.shutdown()
            except RuntimeError as error:
                found.append(error)
            told.set()

        call.add_done_callback(close)
        gate.wait()
        gate.let_on()
        assert told.wait(30)
        assert "callback" in str(found[0])
        executor.shutdown()

    def test_dropped_executor_completes_what_is_pending(self, gate: Gate) -> None:
        executor = Executor(1)
        call = executor.submit(gated, gate, "value")
        closer = executor._submissions._closer
        del executor
        gc.collect()
        gate.wait()
        gate.let_on()
        assert call.result() == "value"
        closer.join()

    def test_completes_what_is_pending_when_the_interpreter_exits(
        self, program: Callable[..., Program]
    ) -> None:
        ended = program(
            "-c",
            "import offload.executor, time\n"
            "executor = offload.executor.Executor(1)\n"
            "def say(text): print(text, flush=True)\n"
            "calls = [executor.submit(say, f'call {n}') for n in range(5)]\n"
            "late = []\n"
            "def more(_):\n"
            "    try: executor.submit(say, 'late')\n"
            "    except RuntimeError as error: print(error)\n"
            "import threading\n"
            "threading._register_atexit(lambda: executor.submit(say, 'last').add_done_callback(more))\n",
            OFFLOAD_PREFIX="0",
        ).end()
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.splitlines()
        assert [line for line in lines if line.startswith("call")] == [f"call {n}" for n in range(5)]
        assert "last" in lines
        assert "cannot schedule new futures after" in ended.out
        assert "late" not in lines

    def test_exits_when_the_work_raised(self, program: Callable[..., Program]) -> None:
        ended = program(
            "-c",
            "from offload.executor import Executor\n"
            "executor = Executor(2)\n"
            "executor.submit(divmod, 1, 0)\n"
            "executor.submit(print, 'done')\n"
            "raise SystemExit(4)\n",
        ).end()
        assert ended.code == 4
        assert ended.out == "[core 1] done\n"


class TestInitializer:
    @pytest.mark.parametrize("device", ["local:2", "inline:2"])
    def test_what_it_sets_is_seen_by_later_calls(self, device: str) -> None:
        with Executor(device=device, initializer=initialize, initargs=("set",)) as executor:
            calls = [executor.submit(initialized) for _ in range(10)]
            assert {call.result() for call in calls} == {"set"}
            assert set(executor.map(lambda _: initialized(), range(10), chunksize=3)) == {"set"}
        assert INITIALIZED == "not yet"

    def test_runs_once_in_every_core(self, tmp_path: Path) -> None:
        with Executor(2, initializer=note_process, initargs=(str(tmp_path),)) as executor:
            used = set(executor.map(lambda _: os.getpid(), range(50)))
        assert {int(file.name) for file in tmp_path.iterdir()} == used
        assert {file.read_text() for file in tmp_path.iterdir()} == {"once\n"}

    def test_runs_again_in_a_restarted_core(self) -> None:
        with Executor(1, initializer=initialize, initargs=("set",)) as executor:
            assert executor.submit(initialized).result() == "set"
            assert isinstance(executor.submit(os._exit, 1).exception(), WorkerDied)
            assert executor.submit(initialized).result() == "set"

    def test_what_a_call_sets_stays(self) -> None:
        with Executor(1, initializer=initialize, initargs=("set",)) as executor:
            executor.submit(initialize, "set again").result()
            assert executor.submit(initialized).result() == "set again"

    @pytest.mark.parametrize("device", ["local:1", "inline:1"])
    def test_one_that_raises_breaks_the_executor(self, device: str, caplog: pytest.LogCaptureFixture) -> None:
        with Executor(device=device, initializer=fail, initargs=("not today",)) as executor:
            with pytest.raises(BrokenExecutor, match="not today"):
                executor.submit(pow, 2, 2).result()
            with pytest.raises(BrokenExecutor, match="not today") as raised:
                executor.submit(pow, 2, 2)
            assert "in fail" in str(raised.value.__cause__.__cause__)  # type: ignore[union-attr]
            with pytest.raises(BrokenExecutor):
                list(executor.map(abs, range(5), chunksize=2))
        assert [record.levelno for record in caplog.records] == [logging.CRITICAL]

    def test_one_that_raises_fails_what_is_pending(self, gate: Gate) -> None:
        def wait_and_fail() -> None:
            gate.pass_through()
            raise OSError("no licence")

        with Executor(1, initializer=wait_and_fail) as executor:
            calls = [executor.submit(pow, 2, n) for n in range(5)]
            gate.wait()
            gate.let_on()
            for call in calls:
                assert isinstance(call.exception(), BrokenExecutor)
                assert not call.cancelled()

    def test_must_be_callable(self) -> None:
        with pytest.raises(TypeError, match="callable"):
            Executor(initializer=1)  # type: ignore[arg-type]

    def test_must_not_be_async(self) -> None:
        async def initializer() -> None: ...

        with pytest.raises(TypeError, match="initializer is an `async def` function"):
            Executor(initializer=initializer)

    def test_must_pickle(self) -> None:
        with pytest.raises(TypeError, match="lock"):
            Executor(initializer=print, initargs=(threading.Lock(),))


class TestCores:
    def test_a_crash_fails_its_own_call_only(self, gates: list[Gate]) -> None:
        with Executor(2) as executor:
            other = executor.submit(gated, gates[0], "other")
            gates[0].wait()
            crash = executor.submit(os._exit, 7)
            behind = [executor.submit(pow, 2, n) for n in range(10)]
            error = crash.exception()
            assert isinstance(error, WorkerDied)
            assert error.exit_code == 7
            assert [call.result() for call in behind] == [2**n for n in range(10)]
            gates[0].let_on()
            assert other.result() == "other"

    @pytest.mark.parametrize("device", ["local:2", "inline:2"])
    def test_inside_a_kernel(self, device: str) -> None:
        def outer(base: int) -> list[int]:
            with Executor() as inner:
                return list(inner.map(pow, [base] * 3, range(3)))

        with Executor(device=device) as executor:
            assert executor.submit(outer, 5).result() == [1, 5, 25]

    def test_in_a_forked_child_it_is_refused(self, cores: Executor) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"nothing"
            try:
                with cores:
                    cores.submit(pow, 2, 2)
            except RuntimeError as error:
                said = type(error).__name__.encode()
            finally:
                os.write(write, said)
                os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read) as told:
            assert told.read() == "ForkedHandleError"
        assert cores.submit(pow, 2, 2).result() == 4


class TestHowMany:
    @pytest.mark.parametrize("number", [0, -1])
    def test_must_be_positive(self, number: int) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            Executor(number)

    @pytest.mark.parametrize("given", ["emu:vadd.xclbin", 2.0])
    def test_must_be_a_number(self, given: Any) -> None:
        told = f"max_workers must be an integer, not {given!r}; the address of a device is device="
        with pytest.raises(TypeError, match=told):
            Executor(given)

    def test_more_than_the_device_has(self) -> None:
        with pytest.raises(OptionError, match="3 is more than the 2 cores"):
            Executor(3, "inline:2")
        with pytest.raises(ValueError, match="1024"):
            Executor(5000)

    def test_unknown_device(self) -> None:
        with pytest.raises(UnknownDeviceError):
            Executor(device="nowhere:2")

    @pytest.mark.parametrize(
        ("number", "device", "expected"),
        [(2, None, 2), (3, "inline", 3), (1, "inline:2", 1), (None, "inline:2", 2)],
    )
    def test_as_asked_for(self, number: int | None, device: str | None, expected: int) -> None:
        with Executor(number, device) as executor:
            assert executor._max_workers == expected

    def test_default_is_one_per_cpu(self) -> None:
        with Executor() as executor:
            assert executor._max_workers == available()

    def test_environment_says_which_kind_the_script_how_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OFFLOAD_DEVICE", "inline:2")
        with Executor() as executor:
            assert executor._max_workers == 2
            assert executor.submit(os.getpid).result() == os.getpid()
        with Executor(3) as executor:
            assert executor._max_workers == 3
