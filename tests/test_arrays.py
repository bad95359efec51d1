"""Large arrays on their way to process cores and back: snapshots, a bounded arena, values that last."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gates import Gate, gated

import offload as of
from offload import offload, offload_single

MB = 1 << 20


@offload_single
def total(array: Any) -> float:
    return float(array.sum())


@offload_single
def ones(nbytes: int) -> Any:
    import numpy as np

    return np.ones(nbytes, np.uint8)


def array(nbytes: int, value: int = 1) -> Any:
    return np.full(nbytes, value, np.uint8)


@pytest.fixture
def two() -> Iterator[None]:
    """Make two process cores the default device."""
    with of.connect("local:2"):
        yield


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make two process cores the default device, whose host may have 10 MB on the way."""
    monkeypatch.setenv("OFFLOAD_ARENA", "10M")
    with of.connect("local:2"):
        yield


def in_memory(session: of.Session) -> int:
    """Return how many bytes of memory host and cores share."""
    device: Any = session.pool().device
    files = [device._arena_descriptor, *(core._arena_descriptor for core in device._cores)]
    return sum(os.fstat(file).st_blocks * 512 for file in files)


def of_files() -> int:
    """Return how many bytes are in files in memory that this process has open."""
    files = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(file.stat().st_blocks * 512 for file in files if "memfd:" in os.path.realpath(file))


def test_a_session_that_is_closed_keeps_no_memory_of_results() -> None:
    """Those that somebody still has stay until they go; nothing waits for a collection of garbage."""
    before = of_files()
    with of.connect("local:1") as session:
        kept = offload(lambda: array(20 * MB))()
        offload(lambda: array(20 * MB))()
    janitor = next(one for one in threading.enumerate() if one.name == "offload-janitor")
    assert of_files() - before > 19 * MB and kept[0].sum() == 20 * MB
    del kept
    janitor.join(20)
    assert of_files() - before < MB
    del session


def test_arguments_are_a_snapshot_whatever_the_arena_is_like() -> None:
    with of.connect("local:2"):
        data = array(20 * MB)
        for value in range(4):  # in new memory, then in memory that was used
            data[:] = value
            handle = total.launch(data)
            data[:] = 100
            assert handle.result() == value * data.size


@pytest.mark.parametrize("nbytes", [16_383, 16_384, 16_385, MB + 1])
def test_arrays_of_all_sizes_come_and_go(two: None, nbytes: int) -> None:
    data = np.arange(nbytes, dtype=np.uint8)
    back = offload_single(lambda *arrays, **named: (arrays, named))(data, data[::-1], again=data).result()
    assert (
        (back[0][0] == data).all() and (back[0][1] == data[::-1]).all() and (back[1]["again"] == data).all()
    )


def test_an_array_given_twice_arrives_as_one(two: None) -> None:
    for nbytes in (100, 100_000):
        data = array(nbytes)
        assert offload_single(lambda a, b, c: (a is b, a is c))(data, data, data.copy()).result() == (
            True,
            False,
        )


def test_a_full_arena_makes_the_caller_wait(bounded: None, gate: Gate) -> None:
    first = offload_single(gated).launch(gate, array(7 * MB))
    gate.wait()
    second: list[Any] = []
    thread = threading.Thread(target=lambda: second.append(total(array(6 * MB)).result()))
    thread.start()
    assert total(array(2 * MB)).result() == 2 * MB  # there is room for that
    assert not second
    gate.let_on()
    assert len(first.result()) == 7 * MB
    thread.join()
    assert second == [6 * MB]


def test_many_launches_share_little_memory(bounded: None) -> None:
    handles = [total.launch(array(3 * MB, value)) for value in range(20)]
    assert [handle.result() for handle in handles] == [3 * MB * value for value in range(20)]
    with of.Executor() as executor:
        assert sum(executor.map(np.sum, [array(3 * MB)] * 20)) == 60 * MB


def test_many_threads_share_little_memory(bounded: None) -> None:
    sums: list[float] = []

    def use(value: int) -> None:
        for _ in range(5):
            sums.append(total(array(4 * MB, value)).result() / value)

    threads = [threading.Thread(target=use, args=(value,)) for value in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [4 * MB] * 40


def test_what_will_not_fit_is_refused(bounded: None) -> None:
    with pytest.raises(of.DeviceMemoryError, match=r"11,534,336 bytes are more .* OFFLOAD_ARENA"):
        total(array(11 * MB))
    with pytest.raises(of.DeviceMemoryError, match="no launch is under way"):
        offload_single(max)(array(6 * MB), array(6 * MB))
    assert total(array(9 * MB)).result() == 9 * MB


def test_memory_that_a_kernel_holds_for_ever_is_not_waited_for(bounded: None) -> None:
    def keep(data: Any) -> None:
        import builtins

        builtins.kept = data  # type: ignore[attr-defined]

    offload(keep, target=0)(array(7 * MB))
    with pytest.raises(of.DeviceMemoryError, match="take 7,340,032 bytes, and may take 10,485,760"):
        total(array(6 * MB))
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(1)
    assert total(array(6 * MB)).result() == 6 * MB


def test_a_value_is_passed_on_though_the_arena_is_full(bounded: None, gate: Gate) -> None:
    value = ones.launch(8 * MB)
    value.wait()
    first = offload_single(gated).launch(gate, array(7 * MB))
    gate.wait()
    assert total(value).result() == 8 * MB
    gate.let_on()
    first.wait()


def test_values_last_whatever_becomes_of_the_core() -> None:
    with of.connect("local:1") as session:
        values = [ones(MB + number).result() for number in range(3)]
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(1)
        values += [ones(MB + number).result() for number in range(3, 6)]
        del session
    gc.collect()
    for number, value in enumerate(values):
        assert value.size == MB + number and (value == 1).all()
        value[:] = number  # it is the caller's own
    assert [value[-1] for value in values] == list(range(6))


def test_memory_is_given_back_when_nothing_is_under_way() -> None:
    """As the janitor and the idle core do it, but not a second later."""
    with of.connect("local:2") as session:
        device: Any = session.pool().device
        for handle in [total.launch(array(20 * MB)) for _ in range(4)]:
            handle.result()
        values = [handle.result() for handle in [ones.launch(20 * MB) for _ in range(4)]]
        assert in_memory(session) >= 100 * MB
        del handle, values
        gc.collect()
        device._arena.trim(0.0)
        for core in device._cores:
            core._reader.trim(0.0)
        assert in_memory(session) <= 20 * MB
        assert total(array(20 * MB)).result() == ones(20 * MB).result().sum()


@pytest.mark.parametrize("bound", ["much", "-1G", "12", "10%"])
def test_a_bound_that_cannot_be_meant_is_refused_when_connecting(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFLOAD_ARENA", bound)
    with pytest.raises(of.OptionError, match=f"^OFFLOAD_ARENA={bound!r}: .* as '500M'"):
        of.connect("local:2")
