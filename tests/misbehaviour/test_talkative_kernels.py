"""Kernels whose threads have much to say, also when nobody asks them."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gates import Gate
from programs import Program

from device_runtime.process.streams import KernelStream
from offload import connect, offload
from offload.core import coreid, recv, send

MANY = 300  # records of a kilobyte: more than host and core keep for each other


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, local: str) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING):
        yield caplog


def numbers(heard: pytest.LogCaptureFixture) -> list[int]:
    """Return which records have been heard, in order."""
    return [int(record.getMessage().split()[0]) for record in heard.records if record.name == "flood"]


def flood() -> None:
    """Log more than there is room for on the way to the host."""
    for number in range(MANY):
        logging.getLogger("flood").warning("%d %s", number, "x" * 1000)


def begin(function: Callable[[], object]) -> None:
    """Leave a thread behind, in a kernel."""
    thread = threading.Thread(target=function)
    vars(sys)["left_behind"] = thread
    thread.start()


def end() -> bool:
    """Wait for the thread that was left behind, in a kernel."""
    vars(sys)["left_behind"].join()
    return True


def test_a_thread_that_outlives_its_kernel(heard: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        offload(begin, target=0)(flood)
        assert offload(end, target=0)() == [True]
    assert numbers(heard) == [*range(MANY)] * 5


def test_a_thread_beside_a_kernel_that_waits_for_a_message(heard: pytest.LogCaptureFixture) -> None:
    def kernel() -> Any:
        if coreid() != 0:
            return send("message", 0)
        begin(flood)
        found = recv(1)
        end()
        return found

    for _ in range(3):
        assert offload(kernel)() == ["message", None]
    assert numbers(heard) == [*range(MANY)] * 3


def test_an_idle_core_is_heard(heard: pytest.LogCaptureFixture, gate: Gate) -> None:
    def later() -> None:
        gate.pass_through()
        logging.getLogger("flood").warning("1 of an idle core")
        gate.come()

    offload(begin, target=0)(later)
    gate.wait()
    offload(coreid, target=1)()
    gate.let_on()
    gate.wait()
    offload(coreid, target=1, async_=True)().wait()
    assert numbers(heard) == [1]
    offload(end, target=0)()


def test_an_idle_core_is_heard_beside_a_call(
    heard: pytest.LogCaptureFixture, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends only once that was heard."""
    other = Gate.make(tmp_path / "other")
    monkeypatch.setattr(heard.handler, "emit", lambda record: other.let_on())

    def later() -> None:
        gate.stay()
        logging.getLogger("flood").warning("1 of an idle core")

    def call() -> bool:
        gate.let_on()
        other.stay()
        return True

    offload(begin, target=0)(later)
    assert offload(call, target=1)() == [True]
    offload(end, target=0)()


def test_what_an_idle_core_says_last_is_heard_when_its_device_is_closed(
    gate: Gate, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def later() -> None:
        gate.stay()
        logging.getLogger("flood").warning("1 of an idle core")
        print("the end of it all")
        os.write(1, b"and half a line")
        os.write(2, b"an error")
        gate.come()

    with connect("local:1"):
        offload(begin, target=0)(later)
        gate.let_on()
        gate.wait()
    said = capsys.readouterr()
    assert said.out == "[core 0] the end of it all\n[core 0] and half a line\n"
    assert said.err == "[core 0] an error\n"
    assert numbers(caplog) == [1]


def test_what_a_shard_said_that_is_ended_by_force_is_heard(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    def kernel() -> None:
        os.write(1, b"said in time")
        gate.come()
        signal.pause()

    with connect("local:1") as session:
        handle = offload(kernel).launch()
        gate.wait()
        session.shutdown(wait=False)
    assert handle.exception() is not None
    assert capsys.readouterr().out == "[core 0] said in time\n"


def test_what_is_said_last_is_heard_at_the_end_of_the_program(program: Callable[..., Program]) -> None:
    script = """
        import os, threading
        from offload import offload

        for name in ("go", "said"):
            os.mkfifo(name)

        @offload(target=0)
        def kernel(go, said):
            def later():
                open(go).read()
                os.write(1, b"x" * 50_000 + b"\\n")
                open(said, "w").close()
            threading.Thread(target=later).start()

        kernel(os.path.abspath("go"), os.path.abspath("said"))
        open("go", "w").close()
        open("said").read()
    """
    ended = program("script.py", files={"script.py": script}).end()
    assert (ended.code, ended.out) == (0, f"[core 0] {'x' * 50_000}\n"), ended.err


class Meanwhile(io.TextIOWrapper):
    """A text stream in which something happens just before it writes, or when it has handed on."""

    before_write: Callable[[], object] = staticmethod(lambda: None)
    after_flush: Callable[[], object] = staticmethod(lambda: None)

    def write(self, text: str) -> int:
        action, self.before_write = self.before_write, lambda: None
        action()
        return super().write(text)

    def flush(self) -> None:
        super().flush()
        action, self.after_flush = self.after_flush, lambda: None
        action()


class Disturbed(KernelStream, Meanwhile):
    """A stream that a kernel's own thread writes to while its core hands on what was written."""


@pytest.fixture
def disturbed() -> Iterator[tuple[Disturbed, int]]:
    """Return a stream, and the descriptor that what was handed on is read from."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield Disturbed(writer), reader
    os.close(writer)
    os.close(reader)


def test_half_a_line_written_while_the_stream_is_handed_on(disturbed: tuple[Disturbed, int]) -> None:
    stream, reader = disturbed
    stream.before_write = stream.finish
    stream.write("half a line")
    stream.finish()
    assert os.read(reader, 100) == b"half a line"


def test_half_a_line_written_when_the_stream_was_just_handed_on(disturbed: tuple[Disturbed, int]) -> None:
    stream, reader = disturbed
    stream.after_flush = lambda: stream.write("line")
    stream.write("half a ")
    stream.finish()
    assert os.read(reader, 100) == b"half a "
    stream.finish()
    assert os.read(reader, 100) == b"line"


def test_half_a_line_of_a_thread_comes_with_the_next_kernel(
    local: str, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    def later() -> None:
        gate.stay()
        print("half a line", end="")

    offload(begin, target=0)(later)
    gate.let_on()
    assert offload(end, target=0)() == [True]
    assert capsys.readouterr().out == "[core 0] half a line\n"
