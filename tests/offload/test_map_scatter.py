"""`map` streams, and `scatter` cuts."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gates import Gate

from offload import ArgsNotSerializable, OptionError, broadcast, offload, offload_single, scatter
from offload.core import coreid


@offload
def double(x: Any) -> Any:
    return 2 * x


@offload
def add(a: int, b: int) -> int:
    return a + b


@offload
def inverse(x: int) -> float:
    return 1 / x


@offload
def core_of(_: Any) -> int:
    return coreid()


@offload
def give(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


# ---- map -----------------------------------------------------------------------------


def test_map_gives_the_values_in_input_order(device: str) -> None:
    assert list(double.map(range(1000))) == [2 * x for x in range(1000)]
    assert list(double.map([])) == []
    assert list(add.map(range(5), itertools.count(10))) == [10, 12, 14, 16, 18]
    assert list(double.map(iter("abc"), chunksize=2, window=1)) == ["aa", "bb", "cc"]
    assert list(double.options(async_=True, auto=2, timeout=50).map([1])) == [2]


def test_map_of_sequences(device: str) -> None:
    numbers, words = list(range(1000)), tuple(str(x) for x in range(700))
    assert list(add.map(numbers, range(900))) == [2 * x for x in range(900)]
    assert list(double.map(words)) == [word + word for word in words]
    assert list(double.map(["x" * 3_000_000] * 3)) == ["x" * 6_000_000] * 3
    assert list(add.map(["a", "b"], ["c", "d"], chunksize=1)) == ["ac", "bd"]
    assert list(double.map(())) == []


def test_map_of_a_range_that_has_no_length(device: str) -> None:
    assert list(itertools.islice(double.map(range(10**30)), 5)) == [0, 2, 4, 6, 8]


def test_map_takes_its_input_as_it_goes(device: str) -> None:
    taken = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    values = double.map(endless(), chunksize=3, window=2)
    assert taken == []
    assert list(itertools.islice(values, 4)) == [0, 2, 4, 6]
    assert len(taken) <= 12
    assert list(itertools.islice(double.map(itertools.count()), 5000)) == [2 * x for x in range(5000)]


def test_map_raises_at_the_place_of_the_element(device: str) -> None:
    for chunksize in (None, 1, 7):
        seen = []
        with pytest.raises(ZeroDivisionError) as raised:
            for value in inverse.map([4, 2, 1, 0, 5], chunksize=chunksize):
                seen.append(value)
        assert seen == [0.25, 0.5, 1.0]
        assert "return 1 / x" in str(raised.value.__cause__)

    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the source")

    seen = []
    with pytest.raises(OSError, match="the source"):
        for value in double.map(broken()):
            seen.append(value)
    assert seen == [2, 4]


def test_map_gives_what_comes_before_an_element_that_cannot_be_sent(device: str) -> None:
    seen = []
    with pytest.raises(ArgsNotSerializable):
        for value in double.map([1, 2, threading.Lock(), 4], chunksize=1, window=4):
            seen.append(value)
    assert seen == [2, 4]


def test_map_keeps_to_its_target(device: str) -> None:
    assert set(core_of.options(target=[1, 3]).map(range(40), chunksize=1)) == {1, 3}
    assert set(core_of.options(target=2).map(range(40))) == {2}


def test_map_refuses_what_cannot_be_meant(device: str) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        double.map()
    with pytest.raises(TypeError, match=r"add\(\) missing a required argument: 'b'"):
        add.map([1])
    with pytest.raises(OptionError, match="chunksize=0"):
        double.map([1], chunksize=0)
    with pytest.raises(OptionError, match=r"window=1\.5 must be an integer of at least 1"):
        double.map([1], window=1.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="chunksize='2' must be an integer"):
        double.map([1], chunksize="2")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="window=-1"):
        double.map([1], window=-1)
    with pytest.raises(OptionError, match="names core 9"):
        double.options(target=9).map([1])


def test_large_elements_travel_in_short_chunks(device: str) -> None:
    arrays = (np.full(50_000, float(number)) for number in range(60))
    for number, found in enumerate(double.map(arrays)):
        assert found[0] == found[-1] == 2.0 * number
        found += 1


def test_closing_the_iterator_cancels_what_is_queued(local: str, gates: list[Gate], tmp_path: Any) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    @offload
    def visit(number: int) -> int:
        (marks / str(number)).touch()
        return number

    @offload_single
    def hold(gate: Gate) -> None:
        gate.pass_through()

    values = visit.options(target=0).map(range(100), chunksize=1, window=10)
    assert next(values) == 0
    held = hold(gates[0], target=0)
    gates[0].wait()
    before = set(os.listdir(marks))
    assert next(values) == 1
    list(itertools.islice(values, len(before) - 2))
    values.close()  # type: ignore[attr-defined]
    gates[0].let_on()
    held.wait()
    visit.fn(1000)
    assert visit(1001, target=0) == [1001]
    assert set(os.listdir(marks)) == before | {"1000", "1001"}


# ---- scatter ----------------------------------------------------------------------------


def test_scatter_cuts_as_evenly_as_possible(device: str) -> None:
    assert give(scatter(list(range(10)))) == [
        ((part,), {}) for part in ([0, 1, 2], [3, 4, 5], [6, 7], [8, 9])
    ]
    assert [args[0] for args, _ in give(scatter("ab"))] == ["a", "b", "", ""]
    assert [args[0] for args, _ in give(scatter(range(7)), target=[0, 2])] == [range(4), range(4, 7)]
    assert [args[0] for args, _ in give(scatter((1, 2, 3)), auto=1)] == [(1, 2, 3)]


def test_scatter_as_given_and_beside_other_arguments(device: str) -> None:
    shared = np.ones(30_000)
    found = give(1, scatter([1, 2, 3], sizes=[0, 2, 0, 1]), rest=broadcast(shared), tail=scatter("abcd"))
    assert [args for args, _ in found] == [(1, []), (1, [1, 2]), (1, []), (1, [3])]
    assert [kwargs["tail"] for _, kwargs in found] == list("abcd")
    assert all(np.array_equal(kwargs["rest"], shared) for _, kwargs in found)


@pytest.mark.parametrize("order", ["C", "F"])
def test_scatter_cuts_arrays_along_their_first_axis(device: str, order: Any) -> None:
    array = np.arange(60.0).reshape(10, 6).copy(order=order)
    parts = [args[0] for args, _ in give(scatter(array))]
    assert [part.shape for part in parts] == [(3, 6), (3, 6), (2, 6), (2, 6)]
    assert np.array_equal(np.concatenate(parts), array)


def test_scatter_refuses_what_does_not_fit(device: str) -> None:
    with pytest.raises(OptionError, match="2 sizes, but the launch has 4 shards"):
        double(scatter([1, 2, 3], sizes=[1, 2]))
    with pytest.raises(OptionError, match="add up to 4, but the argument has 3"):
        double(scatter([1, 2, 3], sizes=[1, 1, 1, 1]))
    for value in (3, {1: 2}, {1, 2}, iter([1]), np.array(3)):
        with pytest.raises(OptionError, match="cannot be cut into slices"):
            scatter(value)
    with pytest.raises(OptionError, match="must not be negative"):
        scatter([1], sizes=[2, -1])
    with pytest.raises(OptionError, match="sequence of integers"):
        scatter([1], sizes=[0.5])  # type: ignore[list-item]
    with pytest.raises(ArgsNotSerializable, match="must be an argument of the call itself"):
        double([scatter([1, 2])])
