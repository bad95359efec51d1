"""The host is killed at any moment of its life: nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program, descriptors

SCRIPT = """
    import numpy as np

    import offload as of
    from offload import offload
    from offload.core import coreid, sendrecv, size

    table = None

    @offload
    def exchange(array):
        other = size() - 1 - coreid()
        return float(sendrecv(array + coreid(), other).sum() + table.sum())

    @offload(async_=True, auto=1)
    def made(size):
        return np.ones(size)

    print("begun", flush=True)
    of.define_on_device(table=np.ones(200_000))
    while True:
        array = np.random.rand(150_000)
        handles = [made(10_000 * n) for n in range(8)]
        exchange(array)
        of.copy_to_device("table", array)
        of.wait_all(*handles)
"""
LIFE = 1.0  # seconds of its life that are tried


def socket_names() -> dict[str, str]:
    """Return the names of all sockets that have one, by number."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[6]: fields[7] for line in lines if len(fields := line.split(maxsplit=7)) > 7}


def names(program: Program) -> set[str]:
    """Return the names of what a program's processes hold: sockets, and files in shared memory."""
    sockets, found = socket_names(), set[str]()
    for process in program.processes():
        held = list(descriptors(process).values())
        with contextlib.suppress(OSError):  # it has ended meanwhile
            held += re.findall("/dev/shm/.*", Path(f"/proc/{process}/maps").read_text())
        found |= {one for one in held if one.startswith("/dev/shm/")}
        found |= {sockets[one[8:-1]] for one in held if one.startswith("socket:") and one[8:-1] in sockets}
    return found


def left(program: Program, held: set[str]) -> list[str]:
    """Return what is still there of what a program held, and of what it has written."""
    there = set(socket_names().values())
    files = [str(path.relative_to(program.folder)) for path in program.folder.rglob("*")]
    return [name for name in held if name in there or os.path.exists(name)] + [
        name for name in files if name not in ("script.py", "tmp")
    ]


def wait_until_gone(program: Program) -> float:
    """Return how many seconds it takes until no process of a program is left."""
    began = time.monotonic()
    while family := program.family():  # what it was starting when it died may only be seen now
        for descriptor in family:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(30_000)
            os.close(descriptor)
    return time.monotonic() - began


def start(program: Callable[..., Program], script: str) -> Program:
    """Start a script whose folders for whatever it writes are its own."""
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), ".")
    return program("script.py", files={"script.py": script}, PYTHONDONTWRITEBYTECODE="1", **folders)


@pytest.mark.parametrize(
    ("times", "limit"),  # seconds after which nothing may be left
    [(10, 30.0), pytest.param(200, 1.0, marks=[pytest.mark.promises, pytest.mark.timeout(900)])],
)
def test_the_host_is_killed_at_random_points(
    program: Callable[..., Program], times: int, limit: float
) -> None:
    draw = random.Random(times)
    took, at_work = [], 0
    for _ in range(times):
        script = start(program, SCRIPT)
        late = draw.random() < 0.7
        if late:
            assert script.line() == "begun"
            at_work += 1
        time.sleep(draw.random() * LIFE)  # a random point, which no event marks
        held = names(script)
        script.signal(signal.SIGKILL)
        assert script.wait() == -signal.SIGKILL
        took.append(wait_until_gone(script))
        assert took[-1] < limit, "processes live on"
        assert not left(script, held)
        script.close()
    print(
        f"\nhost killed: {times} times, {at_work} of them at work; all gone after {max(took):.2f} s at most"
    )


def test_what_is_left_would_be_seen(program: Callable[..., Program]) -> None:
    script = start(
        program,
        """
        import mmap, os, socket
        from pathlib import Path

        memory = open(f"/dev/shm/{os.getpid()}", "xb")
        Path.home().joinpath("file").touch()
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        sockets[0].bind(f"\\0{os.getpid()}")
        sockets[1].bind(os.path.join(os.environ["TMPDIR"], "bound"))
        print("begun", flush=True)
        input()
        """,
    )
    assert script.line() == "begun"
    number = script.number
    held = names(script)
    assert held == {f"/dev/shm/{number}", f"@{number}", f"{script.folder}/tmp/bound"}
    script.signal(signal.SIGKILL)
    script.wait()
    try:
        assert sorted(left(script, held)) == sorted(
            [f"/dev/shm/{number}", f"{script.folder}/tmp/bound", "file", "tmp/bound"]
        )
    finally:
        os.unlink(f"/dev/shm/{number}")
