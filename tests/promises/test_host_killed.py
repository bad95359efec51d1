"""The host is killed at any moment of its life: nothing of it is left."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program

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


def named_sockets() -> set[str]:
    """Return the names of all sockets that have one."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[7] for line in lines if len(fields := line.split()) > 7}


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


@pytest.mark.parametrize(
    ("times", "limit"),  # seconds after which nothing may be left
    [(10, 30.0), pytest.param(200, 1.0, marks=[pytest.mark.promises, pytest.mark.timeout(900)])],
)
def test_the_host_is_killed_at_random_points(
    program: Callable[..., Program], times: int, limit: float
) -> None:
    draw = random.Random(times)
    before = set(os.listdir("/dev/shm")), named_sockets()
    took, at_work = [], 0
    for _ in range(times):
        script = program("script.py", files={"script.py": SCRIPT})
        late = draw.random() < 0.7
        if late:
            assert script.line() == "begun"
            at_work += 1
        time.sleep(draw.random() * LIFE)  # a random point, which no event marks
        script.signal(signal.SIGKILL)
        assert script.wait() == -signal.SIGKILL
        took.append(wait_until_gone(script))
        assert took[-1] < limit, "processes live on"
        assert not script.temporary_files()
        script.close()
    left = [name for name in os.listdir("/dev/shm") if name not in before[0] and "offload" in name]
    assert not left
    assert not [name for name in named_sockets() - before[1] if "offload" in name]
    print(
        f"\nhost killed: {times} times, {at_work} of them at work; all gone after {max(took):.2f} s at most"
    )
