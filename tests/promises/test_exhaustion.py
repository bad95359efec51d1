"""What runs out: descriptors, memory, the disk, the queue. An error says so, and then it goes on."""

from __future__ import annotations

import gc
import os
import resource
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gates import Gate, gated
from processes import private_memory
from programs import Program

import offload as of
from offload import offload, offload_single
from offload.core import coreid


@offload
def total(array: np.ndarray) -> float:
    return float(array.sum())


@offload_single
def length(value: bytes) -> int:
    return len(value)


at_gate = offload_single(gated)


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[], list[int]]]:
    """Give a call that takes all descriptors which this process may have; the rest is back at the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take() -> list[int]:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 60, before[1]))
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return taken

    yield take
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_descriptors(no_descriptors: Callable[[], list[int]]) -> None:
    array = np.ones(100_000)
    with of.connect("local:2") as session:
        assert total(array) == [1e5, 1e5]
        no_descriptors()
        assert total(array) == [1e5, 1e5]
        with pytest.raises(of.WorkerDied):
            offload(lambda: os._exit(1), target=0)()
        assert total(array) == [1e5, 1e5]
        with pytest.raises(of.DeviceUnavailable, match="open files"):
            offload(coreid, device="local:3")()
        assert total(array) == [1e5, 1e5]
        assert not session.closed


@pytest.mark.parametrize("address", ["local:1", "inline:1"])
def test_a_device_that_finds_a_few_descriptors_only(
    no_descriptors: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    # The limit allows for them, but the program has them: so each in turn is the one that is not to be had.
    monkeypatch.setattr("device_runtime.process.cores.allow_descriptors", lambda needed: (needed, needed))
    array = np.ones(100_000)
    with of.connect(address):
        total(array)  # all is imported
    taken = no_descriptors()
    refused, made = -1, 0
    while made < 3:
        try:
            with of.connect(address):
                assert total(array) == [1e5]
                made += 1
        except of.OffloadError as error:
            assert "Too many open files" in str(error)
            refused, made = refused + 1, 0
        gc.collect()  # an error's traceback may hold what holds the error
        os.close(taken.pop())
    assert refused >= 0


def test_the_arena(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setenv("OFFLOAD_ARENA", "4M")
    with of.connect("local:2"):
        with pytest.raises(of.DeviceMemoryError, match="OFFLOAD_ARENA"):
            length(bytes(5_000_000))
        held = at_gate(gate, target=0)
        gate.wait()
        handles: list[of.Handle[int]] = []
        thread = threading.Thread(
            target=lambda: handles.extend([length(bytes(900_000), target=0) for _ in range(20)])
        )
        thread.start()  # it waits for room as soon as four are queued
        gate.let_on()
        thread.join()
        assert [handle.result() for handle in handles] == [900_000] * 20
        held.wait()


def test_no_disk(program: Callable[..., Program]) -> None:
    """Nothing is written to files: where there is no place for any, everything works."""
    script = """
        import numpy as np
        import offload as of
        from offload import offload

        @offload
        def total(array):
            return float(array.sum())

        print(total(np.ones(200_000)))
    """
    ended = program("script.py", files={"script.py": script}, TMPDIR="/nowhere", HOME="/nowhere").end()
    assert ended == (0, "[200000.0, 200000.0]\n", "")


def test_a_full_disk(program: Callable[..., Program]) -> None:
    """What a kernel prints to a file that cannot grow is lost, with a word of it; a launch is not."""
    script = """
        import errno
        import os
        from offload import offload

        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

        @offload(target=0)
        def say(word):
            print(word)
            return word

        @offload(target=0)
        def keep(word):
            with open("/dev/full", "w") as file:
                file.write(word)

        assert say("one") == ["one"]
        try:
            keep("two")
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            raise AssertionError
        assert say.launch("three").wait() == ["three"]
    """
    lost = "what a kernel wrote could not be shown: OSError(28, 'No space left on device')\n"
    assert program("script.py", files={"script.py": script}).end() == (0, "", 2 * lost)


@pytest.mark.promises
@pytest.mark.timeout(900)
def test_a_million_launches_are_queued(gate: Gate) -> None:
    now = length.options(when_full="raise")
    with of.connect("local:1"):
        length(b"").wait()
        held = at_gate(gate)
        gate.wait()
        gc.collect()
        before = private_memory(os.getpid())
        handles = []
        with pytest.raises(of.QueueFull, match="1,000,000 launches"):
            while True:
                handles.append(now(b"x" * (len(handles) % 10)))
        gc.collect()
        grown = private_memory(os.getpid()) - before
        assert len(handles) == 999_999
        assert grown < 1 << 30
        gate.let_on()
        assert all(handle.result() == n % 10 for n, handle in enumerate(handles))
        held.wait()
        assert now(b"again").result() == 5
        print(f"\nqueue: a million launches took {grown / 1e6:.0f} MB, handles included")
