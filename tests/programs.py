"""Programs as a user runs them, and all the processes that they start."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE = 30  # seconds, for what takes a fraction of one unless it is broken


def descriptors(process: int) -> dict[str, str]:
    """Return what a process has open, but for what it closes meanwhile; nothing of one that has ended."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[entry] = os.readlink(f"/proc/{process}/fd/{entry}")
    return found


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str


class Program:
    """Start Python in a folder of its own, and know all processes that come of it.

    They are known by a variable in their environment, which every process
    hands on to those it starts.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        files: dict[str, str] | None = None,
        device: str | None = "local:2",
        **environment: str,
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        for name, text in (files or {}).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        self._mark = f"OFFLOAD_TESTS_MARK={uuid.uuid4()}"
        name, value = self._mark.split("=")
        given = {name: value, "TMPDIR": str(self._temporary), **environment}
        if device is not None:
            given["OFFLOAD_DEVICE"] = device
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **given},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def number(self) -> int:
        """The program's process number."""
        return self._process.pid

    def end(self, said: str = "") -> Ended:
        """Give it all its input, wait for its end and that of all it started, and see what is left."""
        family = self.family()
        out, err = self._process.communicate(said, PATIENCE)
        for descriptor in family:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            assert poll.poll(PATIENCE * 1000), "a process outlives the program"
            os.close(descriptor)
        assert not self.processes(), "processes are left"
        assert not self.temporary_files(), "temporary files are left"
        return Ended(self._process.returncode, out, err)

    def temporary_files(self) -> list[Path]:
        """Return what stands in its folder for temporary files."""
        return list(self._temporary.iterdir())

    def wait(self) -> int:
        """Wait for the end of the program itself, not of those it started; return its exit code."""
        return self._process.wait(PATIENCE)

    def line(self) -> str:
        """Wait for the next line of its output."""
        assert self._process.stdout is not None and self._process.stderr is not None
        line = b""
        # Byte by byte: what a buffer read ahead would be lost to `end`, which reads the pipe itself.
        while not line.endswith(b"\n"):
            byte = os.read(self._process.stdout.fileno(), 1)
            assert byte, f"the program says no more:\n{self._process.stderr.read()}"
            line += byte
        return line.decode().rstrip("\n")

    def say(self, line: str) -> None:
        """Give it a line of input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself."""
        self._process.send_signal(number)

    def processes(self) -> list[int]:
        """Return the numbers of all processes that come of it and are alive."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and self._mark.encode() in Path("/proc", entry, "environ").read_bytes():
                    found.append(int(entry))
            except OSError:
                pass  # it has ended meanwhile, or is somebody else's
        return found

    def family(self) -> list[int]:
        """Return descriptors of all its processes; each is readable once its process has ended."""
        found = []
        for process in self.processes():
            try:
                found.append(os.pidfd_open(process))
            except ProcessLookupError:
                pass
        return found

    def close(self) -> None:
        """End what a failed test has left."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def children() -> set[int]:
    """Return the numbers of this process's children, dead ones not yet waited for included."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                # The name, in brackets, may hold anything; the parent is the second field behind it.
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(entry))
        except OSError:
            pass
    return found
