"""Kernels that do what a guest should not, and leave the core as it was."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gates import Gate

import offload as of
from offload import offload, offload_single
from offload.core import coreid, probe, recv, send, sync


@offload
def whoami() -> int:
    return coreid()


@pytest.fixture(autouse=True)
def the_device_stays_well(request: pytest.FixtureRequest) -> Any:
    """Check after every test that both cores still answer, from where they were."""
    yield
    assert whoami() == [0, 1]


@pytest.mark.parametrize("code", [0, 3, "a message", None])
def test_sys_exit_ends_the_kernel_and_not_the_core(device: str, code: Any) -> None:
    with pytest.raises(SystemExit) as raised:
        offload(lambda: sys.exit(code))()
    assert raised.value.code == code


def test_keyboard_interrupt_raised_by_a_kernel_is_its_exception(local: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt("mine")

    handle = offload(interrupt).launch()
    assert isinstance(handle.exception(), KeyboardInterrupt)


def test_a_recursion_without_end(device: str) -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1)

    with pytest.raises(RecursionError):
        offload(deeper)(0)


def test_a_recursion_with_an_end(device: str) -> None:
    @offload
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial.fn(n - 1)

    assert factorial(20) == [2432902008176640000] * 2


def test_launches_nested_a_few_deep(device: str) -> None:
    @offload(target=0)
    def deeper(n: int) -> int:
        return n if n == 0 else deeper(n - 1)[0] + 1

    assert deeper(8) == [8]


def test_threads_of_a_kernel_that_launch_at_once(local: str) -> None:
    """They have one session, which ends with the launch; each makes one before it sees the other's."""

    @offload(target=0)
    def launching() -> bool:
        from concurrent.futures import ThreadPoolExecutor

        import offload.session as sessions

        made, both = sessions.Session, threading.Barrier(2)

        def meeting(address: str) -> sessions.Session:
            both.wait()
            return made(address)

        sessions.Session = meeting  # type: ignore[assignment, misc]
        try:
            with ThreadPoolExecutor(2) as threads:
                first, second = (threads.submit(sessions.session) for _ in range(2))
                return first.result() is second.result()
        finally:
            sessions.Session = made  # type: ignore[misc]

    assert launching() == [True]


def test_launches_nested_without_end(device: str) -> None:
    @offload(target=0)
    def deeper() -> Any:
        return deeper()

    with pytest.raises(of.NestedDeadlockError, match="16"):
        deeper()


def test_all_cores_may_launch_and_wait_at_once(device: str) -> None:
    @offload
    def inner(x: int) -> int:
        return x + coreid()

    @offload
    def outer(x: int) -> list[int]:
        handles = [inner.launch(x * 10), inner.launch(x * 100)]
        return [value for values in of.wait_all(*handles) for value in values]

    assert outer(1) == [[10, 11, 100, 101]] * 2


@pytest.mark.parametrize(
    "close", [lambda: sys.stdout.close(), lambda: os.close(1)], ids=["close", "os.close"]
)
def test_a_closed_stdout_is_back_for_the_next_kernel(
    local: str, capfd: pytest.CaptureFixture[str], close: Callable[[], None]
) -> None:
    offload(lambda: close())()
    offload(lambda: print("still here", flush=True))()
    offload(lambda: os.write(1, b"and so is this\n"))()
    out = capfd.readouterr().out.splitlines()
    assert sorted(out) == sorted(
        f"[core {i}] {said}" for i in (0, 1) for said in ("still here", "and so is this")
    )


def test_another_stdout_is_the_kernels_own(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    def replace() -> None:
        import io

        sys.stdout = io.StringIO()
        print("into the void")

    offload(replace)()
    offload(lambda: print("seen"))()
    assert sorted(capsys.readouterr().out.splitlines()) == ["[core 0] seen", "[core 1] seen"]
    print("the host's")
    assert capsys.readouterr().out == "the host's\n"


def test_a_child_that_a_kernel_forks_and_ends(local: str) -> None:
    def fork() -> int:
        child = os.fork()
        if not child:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert offload(fork)() == [7, 7]


def test_a_forked_child_that_returns_from_the_kernel_is_not_heard(local: str, gate: Gate) -> None:
    """The child ends where the kernel returns; the value is the parent's, and there is one."""

    def fork(gate: Gate) -> str:
        child = os.fork()
        if not child:
            return "the child"
        os.waitpid(child, 0)
        return "the parent"

    assert offload(fork)(gate) == ["the parent", "the parent"]


def test_a_forked_child_that_raises_is_not_heard(local: str) -> None:
    def fork() -> str:
        child = os.fork()
        if not child:
            raise ValueError("in the child")
        os.waitpid(child, 0)
        return "the parent"

    assert offload(fork)() == ["the parent", "the parent"]


def test_a_forked_child_that_returns_late_changes_no_value(local: str, gate: Gate) -> None:
    np = pytest.importorskip("numpy")

    def fork(gate: Gate) -> tuple[int, Any]:
        child = os.fork()
        if not child:
            gate.pass_through()
            return 0, np.full(100_000, 7.0)
        return child, np.zeros(100_000)

    child, value = offload(fork, target=0)(gate)[0]
    gate.wait()
    ended = os.pidfd_open(child)
    gate.let_on()
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    assert not value.any()


def in_a_child(function: Callable[[], object]) -> int:
    """Call a function in a forked child, which then leaves the kernel by an exception of its own."""
    child = os.fork()
    if not child:
        function()
        raise SystemExit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_says_how_it_ended(local: str, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(code: object) -> int:
        print("once", end=" ")
        return in_a_child(lambda: sys.exit(code))  # type: ignore[arg-type]

    assert [offload(leave, target=0)(code) for code in (None, 5, "why")] == [[0], [5], [1]]
    told = capsys.readouterr()
    assert told.out == "[core 0] once \n" * 3
    assert told.err == "[core 0] why\n"

    assert offload(lambda: in_a_child(lambda: 1 / 0), target=0)() == [1]
    assert "[core 0] ZeroDivisionError: division by zero\n" in capsys.readouterr().err


def test_a_forked_child_is_not_the_core(local: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It can print, log and launch; messages, and the host's ear, are the core's own."""

    def child() -> None:
        for call in (lambda: send(1, 0), lambda: recv(0), lambda: probe(0), sync):
            with pytest.raises(of.NotOnDevice, match="forked"):
                call()
        logging.getLogger("child").warning("logged")
        print("printed", offload(coreid, target=1)(), flush=True)

    def kernel() -> int:
        assert offload(coreid, target=1)() == [1]
        return in_a_child(child)

    assert offload(kernel)() == [3, 3]
    told = capfd.readouterr()
    for core in (0, 1):
        assert f"[core {core}] printed [1]\n" in told.out
        assert f"[core {core}] logged\n" in told.err
    assert whoami() == [0, 1]


def test_a_forked_child_makes_none_of_the_other_calls(local: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def fork(x: int) -> int:
        with open(ledger, "a") as file:
            file.write(f"{x}\n")
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return x

    assert list(offload(fork).map(range(4), chunksize=4)) == [0, 1, 2, 3]
    with of.Executor(1) as executor:
        assert list(executor.map(fork, range(4), chunksize=4)) == [0, 1, 2, 3]
    assert ledger.read_text().split() == ["0", "1", "2", "3"] * 2


def test_a_subprocess(local: str) -> None:
    def run() -> str:
        import subprocess

        return subprocess.run(["echo", "out"], capture_output=True, text=True, check=True).stdout

    assert offload(run)() == ["out\n", "out\n"]


def test_multiprocessing_in_a_kernel(local: str) -> None:
    def run() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2])

    assert offload(run)() == [[1, 2], [1, 2]]


def test_a_thread_that_outlives_its_kernel(local: str, gate: Gate) -> None:
    def start(gate: Gate) -> None:
        threading.Thread(target=gate.pass_through).start()

    offload_single(start, device=None)(gate).wait()
    gate.wait()
    assert whoami() == [0, 1]
    gate.let_on()


def test_threads_of_a_kernel_belong_to_it(local: str) -> None:
    def run() -> list[int]:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(coreid()))
        thread.start()
        thread.join()
        return found

    assert offload(run)() == [[0], [1]]


def test_a_kernel_that_ignores_signals_and_handles_them(local: str) -> None:
    def handle() -> int:
        got: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        return len(got)

    assert offload(handle)() == [1, 1]


def test_a_kernel_that_reads_standard_input_finds_its_end(local: str) -> None:
    assert offload(lambda: sys.stdin.read() if sys.stdin else "")() == ["", ""]


def test_the_terminals_ctrl_c_does_not_reach_a_core(local: str) -> None:
    assert os.getsid(0) not in offload(lambda: os.getsid(0))()


def test_a_kernel_cannot_reach_the_arguments_of_the_next(device: str) -> None:
    np = pytest.importorskip("numpy")

    def keep(a: Any) -> None:
        builtins = __import__("builtins")
        builtins.kept = a

    def look() -> float:
        return float(__import__("builtins").kept.sum())

    offload(keep)(np.ones(100_000))
    offload(lambda a: None)(np.zeros(100_000))
    assert offload(look)() == [100_000.0, 100_000.0]


def test_every_core_has_random_numbers_of_its_own(local: str) -> None:
    np = pytest.importorskip("numpy")
    import random

    a, b = offload(lambda: (random.random(), float(np.random.random())))()
    assert a[0] != b[0] and a[1] != b[1]
