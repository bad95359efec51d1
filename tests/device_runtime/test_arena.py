"""Memory shared by host and cores: blocks are used again, given back, counted and bounded."""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from device_runtime.device import MemoryFull
from device_runtime.errors import DeviceMemoryError, ForkedHandleError, OptionError
from device_runtime.process import arena, mapping, memory
from device_runtime.process.arena import Arena
from device_runtime.process.janitor import Janitor
from device_runtime.process.reader import Reader

MB = 1 << 20
PAGE = 4096


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = mapping.create()
    yield descriptor
    gc.collect()
    os.close(descriptor)


def in_memory(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def some(nbytes: int, seed: int = 0) -> memoryview:
    data = np.random.default_rng(seed).bytes(min(nbytes, MB))
    return memoryview((data * (nbytes // MB + 1))[:nbytes])


@pytest.mark.parametrize("nbytes", [1, 16_384, 16_385, 100_000, MB, 5 * MB + 7, 9 * MB])
def test_bytes_arrive(file: int, nbytes: int) -> None:
    writer, reader = Arena(file), Reader(file, writable=False)
    for seed in range(3):  # into memory that is new, was written, was mapped
        data = some(nbytes, seed)
        block = writer.store(data)
        view = reader.view(block.offset, block.nbytes)
        assert view.readonly and view == data == block.view
        assert reader.copy(block.offset, block.nbytes) == data


def test_classes_waste_a_quarter_at_most() -> None:
    for nbytes in [1, 2, *(n + d for n in (1 << 14, 1 << 20, 100_000_000, 1 << 37) for d in (-1, 0, 1))]:
        size = mapping.size_of(mapping.class_of(nbytes))
        assert nbytes <= size <= max(1 << 14, nbytes * 1.25 + 1)
        offset = mapping.offset_of(mapping.class_of(nbytes), 1)
        assert mapping.kind_at(offset) == mapping.class_of(nbytes)


def test_a_block_is_used_again_the_last_one_freed_first(file: int) -> None:
    writer = Arena(file)
    first, second = writer.store(some(MB)), writer.store(some(MB))
    offsets = first.offset, second.offset
    del first
    del second
    assert [writer.store(some(MB)).offset for _ in range(2)] == [offsets[1]] * 2
    assert writer.resident == 2 * MB


def test_a_block_used_for_more_bytes_than_before_has_them_all(file: int) -> None:
    writer = Arena(file)
    writer.store(some(5 * MB - 300_000))
    data = some(5 * MB - 1, seed=1)
    assert writer.store(data).view == data
    assert writer.resident == in_memory(file) == 5 * MB
    writer.store(some(5 * MB - 200_000))
    assert writer.resident == 5 * MB


def test_memory_is_given_back_but_not_that_of_blocks_in_use(file: int) -> None:
    writer = Arena(file)
    kept, gone = writer.store(some(3 * MB)), writer.store(some(40 * MB))
    del gone
    assert writer.trim() == 1.0  # it was used a moment ago
    assert in_memory(file) == 43 * MB
    assert writer.trim(0.0) is None
    assert writer.resident == in_memory(file) == 3 * MB
    assert kept.view == some(3 * MB)
    assert writer.store(some(40 * MB, 2)).view == some(40 * MB, 2)


def test_a_little_is_kept(file: int) -> None:
    writer = Arena(file)
    writer.store(some(4 * MB))
    assert writer.trim(0.0) is None and in_memory(file) == 4 * MB


def test_a_full_arena_gives_back_what_is_free_before_it_refuses(file: int) -> None:
    writer = Arena(file, bound=10 * MB)
    writer.store(some(6 * MB))
    kept = writer.store(some(7 * MB), beyond=False)
    assert in_memory(file) == 7 * MB
    with pytest.raises(
        MemoryFull, match=r"no room for 5,242,880 bytes.* take 7,340,032 .*may take 10,485,760"
    ):
        writer.store(some(5 * MB), beyond=False)
    assert writer.store(some(5 * MB)).view == some(5 * MB)  # what cannot wait
    del kept
    assert writer.store(some(8 * MB), beyond=False).view == some(8 * MB)
    assert writer.resident == in_memory(file) <= 10 * MB


def test_what_will_never_fit_is_refused_at_once(file: int) -> None:
    with pytest.raises(
        DeviceMemoryError, match=r"11,534,336 bytes are more.*10,485,760.*OFFLOAD_ARENA"
    ) as told:
        Arena(file, bound=10 * MB).store(some(11 * MB), beyond=False)
    assert not isinstance(told.value, MemoryFull)


def test_memory_that_cannot_be_had_is_an_error(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def fails_midway(descriptor: int, data: memoryview, offset: int) -> int:
        if len(data) <= MB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:MB], offset)

    writer = Arena(file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fails_midway)
        with pytest.raises(DeviceMemoryError, match=r"3,145,728 bytes do not fit in memory: No space left"):
            writer.store(some(3 * MB))
    assert writer.resident == in_memory(file) == 0
    assert writer.store(some(3 * MB)).view == some(3 * MB)


def test_memory_the_machine_has_not_got_is_an_error(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(nbytes: int) -> None:
        if in_memory(file):
            raise DeviceMemoryError(f"no {nbytes} bytes")

    monkeypatch.setattr(memory, "check", refuse)
    writer = Arena(file)
    kept = writer.store(some(PAGE))
    with pytest.raises(DeviceMemoryError, match="no "):
        writer.store(memoryview(bytes(arena.CHECKED + 1)))
    assert writer.resident == PAGE
    del kept  # what is free is given back for it
    assert writer.store(memoryview(bytes(arena.CHECKED + 1))).nbytes == arena.CHECKED + 1


def test_a_forked_child_gets_no_blocks_and_takes_none_away(file: int) -> None:
    writer = Arena(file)
    writer.store(some(20 * MB))
    writer.abandon()
    with pytest.raises(ForkedHandleError):
        writer.store(some(MB))
    writer.trim(0.0, 0)
    assert in_memory(file) == 20 * MB


def test_threads_get_blocks_of_their_own(file: int) -> None:
    writer = Arena(file)
    wrong: list[int] = []

    def use(number: int) -> None:
        for turn in range(200):
            data = bytes([number, turn]) * (10_000 * (1 + turn % 5))
            block = writer.store(memoryview(data))
            if block.view != data:
                wrong.append(number)
            if turn % 50 == 0:
                writer.trim(0.0, 0)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.trim(0.0, 0)
    assert not wrong and writer.resident == in_memory(file) == 0


def without_thread() -> Janitor:
    """Return a janitor that does nothing by itself, so that tests say when."""
    janitor = Janitor()
    janitor.close()
    return janitor


# ---- the reading side -----------------------------------------------------------


def test_a_view_outlives_everything(file: int) -> None:
    writer, reader = Arena(file), Reader(file, writable=True)
    block = writer.store(some(MB))
    array = np.frombuffer(reader.view(block.offset, block.nbytes), np.uint8)[10:]
    reader.close()
    del writer, reader, block
    gc.collect()
    assert array.flags.writeable and array.data == some(MB)[10:]


def test_what_was_returned_and_is_not_sent_for_is_given_back(file: int) -> None:
    writer, reader = Arena(file), Reader(file, True, without_thread())
    blocks = [writer.store(some(MB, seed)) for seed in range(3)]
    views = [reader.view(block.offset, block.nbytes) for block in blocks]
    del views[0]
    assert reader.trim() == 1.0 and in_memory(file) == 3 * MB  # in use a moment ago
    assert reader.trim(0.0) is None and in_memory(file) == 2 * MB
    assert list(reader.returned) == [blocks[0].offset]
    assert views[0] == some(MB, 1) and reader.lent
    reader.returned.clear()  # sent
    blocks[0].view[:] = some(MB, 3)
    assert reader.view(blocks[0].offset, MB) == some(MB, 3)
    assert reader.trim(0.0) is None and in_memory(file) == 2 * MB


def test_when_the_writer_is_gone_all_but_views_is_given_back(file: int) -> None:
    writer, reader = Arena(file), Reader(file, True, without_thread())
    blocks = [writer.store(some(MB, seed)) for seed in range(3)]
    views = [reader.view(block.offset, block.nbytes) for block in blocks]
    del views[0]
    reader.returned.clear()  # sent for: the writer's again
    del views[0]
    reader.close()
    reader.trim(0.0)
    assert in_memory(file) == MB and views[0] == some(MB, 2)


# ---- the janitor ------------------------------------------------------------------


class Watched:
    """Wants to be looked at again a few times, and tells when it was."""

    def __init__(self, pauses: list[float | None]) -> None:
        self.pauses = pauses
        self.lent = True
        self.looked = threading.Semaphore(0)

    def trim(self, idle: float = 1.0) -> float | None:
        pause = self.pauses.pop(0) if self.pauses else None
        self.looked.release()
        return pause


@pytest.fixture
def janitor() -> Iterator[Janitor]:
    before = threading.active_count()
    made = Janitor()
    yield made
    made.close()
    for thread in threading.enumerate():
        if thread.name == "offload-janitor":
            thread.join(10)
            if thread.is_alive():
                faulthandler.dump_traceback(sys.__stderr__)
    assert threading.active_count() == before


def test_the_janitor_looks_again_as_long_as_there_is_something(janitor: Janitor) -> None:
    watched = Watched([0.0, 0.0, None])
    janitor.watch(watched)
    janitor.start()
    janitor.start()
    for _ in range(3):
        assert watched.looked.acquire(timeout=20)
    until_asleep(janitor)
    watched.pauses = [0.0]
    janitor.ring()
    for _ in range(2):
        assert watched.looked.acquire(timeout=20)
    watched.lent = False


def test_the_janitor_stays_for_what_is_still_lent(janitor: Janitor) -> None:
    watched = Watched([])
    janitor.watch(watched)
    janitor.start()
    assert watched.looked.acquire(timeout=20)
    janitor.close()
    assert watched.looked.acquire(timeout=20)
    watched.lent = False
    until_asleep(janitor)
    janitor.ring()
    assert watched.looked.acquire(timeout=20)


def test_the_janitor_ends_when_what_was_lent_is_gone_with_its_reader(janitor: Janitor) -> None:
    watched = Watched([])
    janitor.watch(watched)
    janitor.start()
    assert watched.looked.acquire(timeout=20)
    janitor.close()
    assert watched.looked.acquire(timeout=20)
    until_asleep(janitor)
    del watched
    gc.collect()  # the fixture sees that the thread ends


def test_the_janitor_forgets_what_is_gone(janitor: Janitor) -> None:
    janitor.watch(Watched([]))
    gc.collect()
    janitor.start()
    janitor.close()


def until_asleep(janitor: Janitor) -> None:
    """Ring until it hears; it goes to sleep a moment after it has looked."""
    while not janitor.asleep:
        threading.Event().wait(0.001)


# ---- how much there is --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1048576", MB), ("500M", 500 * MB), ("1.5 g", 1536 * MB), ("64MiB", 64 * MB), (" 2048K ", 2 * MB)],
)
def test_the_bound_as_it_is_set(text: str, nbytes: int) -> None:
    assert memory.bound({"OFFLOAD_ARENA": text}) == nbytes


@pytest.mark.parametrize("text", ["lots", "-1", "0", "1000", "10%", "1e9", "4X", "M"])
def test_a_bound_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(OptionError, match=f"^OFFLOAD_ARENA={text!r}"):
        memory.bound({"OFFLOAD_ARENA": text})


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], Path]:
    """Make the files that tell how much memory a machine has: 8 GB, of which 4 are free."""

    def make(files: dict[str, str]) -> Path:
        root = tmp_path_factory.mktemp("machine")
        files = {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\n", **files}
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return make


NEW = {
    "proc/self/cgroup": "0::/jobs/mine\n",
    "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
    "sys/fs/cgroup/jobs/memory.max": f"{400 * MB}\n",
    "sys/fs/cgroup/jobs/memory.current": f"{300 * MB}\n",
    "sys/fs/cgroup/jobs/memory.stat": f"anon 7\ninactive_file {50 * MB}\n",
}
OLD = {
    "proc/self/cgroup": "7:cpu:/mine\n4:memory:/mine\n0::/\n",
    "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{400 * MB}\n",
    "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{300 * MB}\n",
    "sys/fs/cgroup/memory/mine/memory.stat": f"inactive_file 9\ntotal_inactive_file {50 * MB}\n",
}


def test_the_bound_is_a_quarter_of_memory(machine: Callable[[dict[str, str]], Path]) -> None:
    assert memory.bound({}, machine({})) == 2048 * MB
    memory.check(4096 * MB, machine({}))
    with pytest.raises(DeviceMemoryError, match="4,294,967,297 bytes do not fit in memory: 4,294,967,296"):
        memory.check(4096 * MB + 1, machine({}))


@pytest.mark.parametrize("group", [NEW, OLD], ids=["v2", "v1"])
def test_a_limit_of_the_control_group_counts(
    machine: Callable[[dict[str, str]], Path], group: dict[str, str]
) -> None:
    assert memory.bound({}, machine(group)) == 100 * MB
    memory.check(150 * MB, machine(group))
    with pytest.raises(DeviceMemoryError, match="157,286,401 bytes do not fit in memory: 157,286,400"):
        memory.check(150 * MB + 1, machine(group))


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert memory.bound({}, tmp_path) > 0
    memory.check(PAGE, tmp_path)
