"""Debugging: what the device `inline` promises beyond what it shares with the others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from programs import Program

import offload as of
from offload import offload
from offload.core import coreid, ishost, numcores

Start = Callable[..., Program]

DEBUGGED = """
    from offload import offload

    @offload
    def kernel(x):
        y = x + 1
        STOP
        return y

    print(kernel(4))
"""


@pytest.fixture(scope="module")
def inline() -> Iterator[None]:
    with of.connect("inline:2"):
        yield


@pytest.mark.parametrize(("address", "cores"), [("inline", 1), ("inline:4", 4)])
def test_the_environment_alone_makes_a_script_run_inline(program: Start, address: str, cores: int) -> None:
    script = """
        import os
        from offload import offload
        from offload.core import coreid

        print(offload(coreid)(), {os.getpid(), *offload(os.getpid)()} == {os.getpid()})
    """
    ended = program("script.py", files={"script.py": script}, device=address).end()
    assert (ended.out, ended.err) == (f"{list(range(cores))} True\n", "")


def test_a_breakpoint_in_a_kernel_opens_pdb_there(program: Start) -> None:
    script = DEBUGGED.replace("STOP", "breakpoint()")
    ended = program("script.py", files={"script.py": script}, device="inline:2").end("p y\nc\np x * 10\nc\n")
    assert (ended.code, ended.err) == (0, "")
    first, _, second = ended.out.partition("[core 1]")
    assert "script.py" in first and "kernel()" in first and "(Pdb) 5\n" in first
    assert "kernel()" in second and "(Pdb) 40\n" in second and second.endswith("\n[5, 5]\n")


def test_a_script_under_pdb_stops_at_a_breakpoint_in_a_kernel(program: Start) -> None:
    script = DEBUGGED.replace("STOP", "z = y * 100")
    started = program("-m", "pdb", "script.py", files={"script.py": script}, device="inline")
    ended = started.end("b 7\nc\nn\np z\nc\nq\n")
    assert "(Pdb) 500\n" in ended.out and "[5]" in ended.out, ended.out + ended.err


def test_threads_of_a_kernel_count_as_the_host(inline: None, capsys: pytest.CaptureFixture[str]) -> None:
    """As the page on devices says; process cores differ."""

    def kernel() -> list[bool]:
        found: list[bool] = []
        thread = threading.Thread(target=lambda: (print("in a thread"), found.append(ishost())))
        thread.start()
        thread.join()
        return [*found, ishost()]

    assert offload(kernel, target=0)() == [[True, False]]
    assert capsys.readouterr().out == "in a thread\n"


def test_a_profiler_sees_what_a_kernel_calls(inline: None) -> None:
    import cProfile
    import pstats

    def part_of_a_kernel() -> None:
        pass

    kernel = offload(lambda: part_of_a_kernel(), target=0)
    kernel()
    profile = cProfile.Profile()
    profile.runcall(kernel)
    calls = {name: count for (_, _, name), (count, *_) in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    assert calls["part_of_a_kernel"] == 1


def test_kernels_run_in_the_calling_thread(inline: None) -> None:
    found: list[list[int]] = []
    thread = threading.Thread(
        target=lambda: found.append([*offload(threading.get_ident)(), thread.ident or 0])
    )
    thread.start()
    thread.join()
    assert len(set(found[0])) == 1
    assert offload(threading.get_ident)() == [threading.get_ident()] * 2


def test_a_launch_has_run_when_it_returns(inline: None, capsys: pytest.CaptureFixture[str]) -> None:
    handle = offload(lambda: print("it ran")).launch()
    assert capsys.readouterr().out == "[core 0] it ran\n[core 1] it ran\n"
    assert handle.done()


def test_no_timeout_ends_a_kernel(inline: None) -> None:
    assert offload(lambda: sum(range(10_000)), timeout=1e-9)() == [49_995_000] * 2


def test_a_kernel_that_ends_its_process_ends_the_program(program: Start) -> None:
    text = "import os; from offload import offload\noffload(lambda: os._exit(7))()"
    assert program("-c", text, device="inline:2").end().code == 7


def test_an_interrupt_in_a_kernel_is_raised_at_the_call(inline: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        offload(lambda: signal.raise_signal(signal.SIGINT))()
    assert offload(lambda: (coreid(), numcores()))() == [(0, 2), (1, 2)]
