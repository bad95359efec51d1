"""What kernels print and log arrives on the host: complete, in order, marked, and at once."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pytest
from gates import Gate
from programs import Program

from offload import offload
from offload.core import coreid


def lines_of(core: int, text: str) -> list[str]:
    """Return what one core wrote, its mark taken off."""
    mark = f"[core {core}] "
    return [line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)]


def test_every_line_is_marked_with_its_core(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload
    def kernel() -> None:
        print("hello from", coreid())
        print("two\nlines")
        print()

    kernel()
    out = capsys.readouterr().out
    for core in (0, 1):
        assert lines_of(core, out) == [f"hello from {core}", "two", "lines", ""]
    assert len(out.splitlines()) == 8


def test_a_line_without_an_end(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def kernel() -> None:
        for i in range(3):
            print(i, end=" ")
        print("done", end="")

    kernel()
    kernel()
    assert capsys.readouterr().out == "[core 0] 0 1 2 done\n" * 2


def test_two_cores_lines_are_never_run_together(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload
    def kernel() -> None:
        for i in range(200):
            print(f"{coreid()}-{i}", end="\n" if i % 2 else "-x\n")

    kernel()
    out = capsys.readouterr().out
    assert sorted(out.splitlines()) == sorted(
        f"[core {core}] {core}-{i}{'' if i % 2 else '-x'}" for core in (0, 1) for i in range(200)
    )


def test_large_output_is_complete_and_in_order(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload
    def kernel() -> None:
        print("\n".join(f"{i:0100}" for i in range(10_000)))

    kernel()
    out = capsys.readouterr().out
    for core in (0, 1):
        assert lines_of(core, out) == [f"{i:0100}" for i in range(10_000)]


def test_large_output_in_many_small_writes(local: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload
    def kernel() -> None:
        for i in range(5000):
            print(i)

    kernel()
    out = capsys.readouterr().out
    for core in (0, 1):
        assert lines_of(core, out) == [str(i) for i in range(5000)]


def test_output_is_there_when_the_launch_has_ended(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = offload(lambda i: print("launch", i), target=0)
    for i in range(50):
        kernel(i)
        assert capsys.readouterr().out == f"[core 0] launch {i}\n"


def test_output_of_many_launches_is_there_when_each_has_ended(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not pytest's capture: to read it empties it, and what another thread writes meanwhile is lost.
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", seen)
    kernel = offload(lambda i: print(f"launch {i};"), target=0)
    for i, handle in enumerate([kernel.launch(i) for i in range(1000)]):
        handle.wait()
        assert f"launch {i};" in seen.getvalue()


def test_output_is_there_before_the_launch_has_ended(program: Callable[..., Program]) -> None:
    script = """
        import os
        from offload import offload_single

        os.mkfifo("go")

        @offload_single
        def kernel(go):
            print("at once")
            open(go).read()

        handle = kernel(os.path.abspath("go"))
        input()
        open("go", "w").close()
        handle.wait()
    """
    started = program("-u", "script.py", files={"script.py": script})
    assert started.line().endswith("] at once")
    started.end("go on\n")


def test_standard_error_goes_to_standard_error(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=1)
    def kernel() -> None:
        print("to out")
        print("to err", file=sys.stderr)

    kernel()
    assert capsys.readouterr() == ("[core 1] to out\n", "[core 1] to err\n")


def test_output_of_c_code_and_of_processes(local: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def kernel() -> None:
        print("python")
        os.write(1, b"a descriptor\n")
        subprocess.run(["echo", "a process"], check=True)
        os.system("echo and an error >&2")

    kernel()
    assert capsys.readouterr() == (
        "[core 0] python\n[core 0] a descriptor\n[core 0] a process\n",
        "[core 0] and an error\n",
    )


def test_bytes(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def kernel() -> None:
        sys.stdout.buffer.write(b"bytes\n")
        sys.stdout.flush()

    kernel()
    assert capsys.readouterr().out == "[core 0] bytes\n"


def test_binary_that_is_no_text(local: str, capsys: pytest.CaptureFixture[str]) -> None:
    offload(lambda: os.write(1, bytes(range(128, 256)) + b"\0\n"), target=0)()
    out = capsys.readouterr().out
    assert out.startswith("[core 0] \\x80\\x81") and out.endswith("\0\n")


def test_binary_by_way_of_the_stream(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    offload(lambda: sys.stdout.buffer.write(b"\xff\x80\n"), target=0)()
    assert capsys.readouterr().out == "[core 0] \\xff\\x80\n"


def test_characters_cut_in_two_are_put_together(local: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def kernel() -> None:
        for byte in "grüße – 数\n".encode():
            os.write(1, bytes([byte]))

    kernel()
    assert capsys.readouterr().out == "[core 0] grüße – 数\n"


def test_surrogates_and_odd_characters(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    offload(lambda: print("\ud800 and \r and \x1b"), target=0)()
    assert capsys.readouterr().out.startswith("[core 0] ")


def test_output_under_a_capture_of_descriptors(device: str, capfd: pytest.CaptureFixture[str]) -> None:
    offload(lambda: print("seen"), target=0)()
    assert capfd.readouterr().out == "[core 0] seen\n"


def test_output_before_an_exception(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def kernel() -> None:
        print("before", end="")
        raise ValueError

    with pytest.raises(ValueError):
        kernel()
    assert capsys.readouterr().out == "[core 0] before\n"


@pytest.mark.parametrize("address", ["local:2", "inline:2"])
def test_the_prefix_can_be_turned_off(program: Callable[..., Program], address: str) -> None:
    text = "from offload import offload\noffload(lambda: print('plain'), target=1)()"
    ended = program("-c", text, device=address, OFFLOAD_PREFIX="0").end()
    assert (ended.out, ended.err) == ("plain\n", "")


@pytest.mark.parametrize("address", ["local:2", "inline:2"])
def test_a_host_without_standard_output(program: Callable[..., Program], address: str) -> None:
    script = """
        import os, sys
        from offload import offload

        out, sys.stdout = sys.stdout, None
        print(offload(lambda: print("nobody hears") or 3)(), file=out)
    """
    ended = program("script.py", files={"script.py": script}, device=address).end()
    assert (ended.code, ended.out) == (0, "[3, 3]\n"), ended.err


@pytest.mark.parametrize("address", ["local:2", "inline:2"])
def test_a_host_whose_output_is_closed_by_its_reader(program: Callable[..., Program], address: str) -> None:
    """It is no fault of the launch's, nor of those to come."""
    script = """
        import os, sys
        from offload import offload

        reader, writer = os.pipe()
        os.close(reader)
        kept, sys.stdout = sys.stdout, open(writer, "w")

        @offload
        def kernel(x):
            try:
                print("x" * 100_000)
            except BrokenPipeError:  # inline, it is the kernel that writes
                pass
            return x

        handle = kernel.launch(1)
        future = handle.future()
        assert future.result() == [1, 1]
        assert kernel(2) == [2, 2]
        sys.stdout = kept
        print(offload(abs)(-3), flush=True)
        os._exit(0)
    """
    ended = program("script.py", files={"script.py": script}, device=address).end()
    assert (ended.code, ended.out) == (0, "[3, 3]\n"), ended.err


def test_a_stream_that_is_closed_in_the_midst_of_a_line_keeps_no_other_from_being_written(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closing(io.StringIO):
        def write(self, text: str) -> int:
            size = super().write(text)
            self.close()  # a flush, or the end of the line, then raises
            return size

    def kernel(text: str) -> None:
        with contextlib.suppress(ValueError):  # inline, it is the kernel that writes
            print(text, end="")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closing())
        offload(kernel, target=0)("half a line")
    offload(kernel, target=1)("a whole one\n")
    assert capsys.readouterr().out == "[core 1] a whole one\n"


@pytest.mark.parametrize("address", ["local:2", "inline:2"])
def test_a_host_whose_output_knows_few_characters(program: Callable[..., Program], address: str) -> None:
    text = "from offload import offload\noffload(lambda: print('gr\\u00fc\\u00dfe'), target=0)()"
    ended = program("-c", text, device=address, PYTHONIOENCODING="ascii").end()
    assert (ended.code, ended.out) == (0, "[core 0] gr\\xfc\\xdfe\n"), ended.err


def test_logging_arrives_at_the_hosts_logger(device: str, caplog: pytest.LogCaptureFixture) -> None:
    @offload(target=1)
    def kernel(name: str) -> None:
        log = logging.getLogger("mine.deeper")
        log.warning("from %s, %d", name, 7, extra={"colour": "red"})
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("it failed")

    kernel("afar")
    first = caplog.records[0]
    assert len(caplog.records) == 2
    assert (first.name, first.levelname, first.getMessage()) == ("mine.deeper", "WARNING", "from afar, 7")
    assert first.funcName == "kernel" and first.colour == "red"  # type: ignore[attr-defined]
    assert "ZeroDivisionError" in caplog.text and "it failed" in caplog.text


def test_levels_of_the_host_decide(device: str, caplog: pytest.LogCaptureFixture) -> None:
    @offload(target=0)
    def kernel() -> None:
        for name in ("quiet", "chatty"):
            for level in (logging.DEBUG, logging.INFO, logging.ERROR):
                logging.getLogger(name).log(level, "%s %d", name, level)

    caplog.set_level(logging.ERROR, "quiet")
    caplog.set_level(logging.DEBUG, "chatty")
    kernel()
    assert [record.getMessage() for record in caplog.records] == [
        "quiet 40",
        "chatty 10",
        "chatty 20",
        "chatty 40",
    ]
    caplog.clear()
    caplog.set_level(logging.INFO, "chatty")
    kernel()
    assert [record.getMessage() for record in caplog.records] == ["quiet 40", "chatty 20", "chatty 40"]


def test_a_record_that_the_host_does_not_want_costs_no_message(local: str) -> None:
    @offload(target=0)
    def enabled() -> bool:
        return logging.getLogger("somebody").isEnabledFor(logging.DEBUG)

    assert enabled() == [False]


def test_a_sloppy_log_call_is_told_and_does_not_fail_the_kernel(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError("it is shown to nobody")

        def __reduce__(self) -> Any:
            raise TypeError("it goes nowhere")

    @offload(target=0)
    def kernel() -> str:
        log = logging.getLogger("sloppy")
        log.warning("took %d s", None)
        log.warning("one %s", "and", "another")
        log.warning("%r", Shy())
        log.warning("with more", extra={"shy": Shy()})
        return "went on"

    sloppy = logging.getLogger("sloppy")
    monkeypatch.setattr(sloppy, "propagate", False)  # pytest's own handlers raise what others tell of
    monkeypatch.setattr(sloppy, "handlers", [logging.StreamHandler()])
    assert kernel() == ["went on"]
    told = capsys.readouterr().err
    assert told.count("--- Logging error ---") == (3 if "inline" in device else 4)
    assert "took %d s" in told and 'log.warning("one %s", "and", "another")' in told


def test_what_a_record_carries_arrives_as_it_is(device: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = {"list": [1, "a"], "day": date(2020, 1, 2), "bytes": b"x", "array": np.arange(3), "none": None}

    @offload(target=0)
    def kernel(kept: dict[str, Any]) -> None:
        logging.getLogger("mine").warning("look", extra={**kept, "lock": threading.Lock()})

    kernel(kept)
    (record,) = caplog.records
    arrived = vars(record)
    assert np.array_equal(arrived["array"], kept.pop("array"))
    assert {name: arrived[name] for name in kept} == kept
    assert "lock" in repr(arrived["lock"])


def test_what_a_record_carries_and_does_not_load_says_why(
    local: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Fragile:
        def __setstate__(self, state: object) -> None:
            raise ValueError("broken on the way")

    @offload(target=0)
    def kernel() -> None:
        fragile = Fragile()
        fragile.part = 1  # type: ignore[attr-defined]
        logging.getLogger("mine").warning("look", extra={"fragile": fragile})

    kernel()
    (record,) = caplog.records
    assert "broken on the way" in record.fragile  # type: ignore[attr-defined]


def test_output_while_the_host_does_something_else(
    local: str, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    @offload(target=0)
    def kernel(gate: Gate) -> None:
        print("x" * 1_000_000)
        gate.pass_through()
        print("end")

    handle = kernel.launch(gate)
    gate.wait()  # the kernel would never come here if nobody took its output
    gate.let_on()
    handle.wait()
    assert len(capsys.readouterr().out) == len("[core 0] ") * 2 + 1_000_000 + 1 + len("end\n")


def test_a_process_that_outlives_its_kernel_may_go_on_writing(local: str) -> None:
    @offload(target=0)
    def kernel() -> int:
        return subprocess.Popen(["sleep", "60"]).pid

    (process,) = kernel()
    os.kill(process, 9)
    assert offload(coreid)() == [0, 1]
