"""Arrays arrive as they were: read-only in a kernel, writable on the host."""

from __future__ import annotations

import dataclasses
import enum
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from device_runtime import codec
from device_runtime.launch import Blank, Kept


def there(value: Any, **how: Any) -> Any:
    return codec.decode(codec.encode(value, bytes), **how)


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Colour(enum.Enum):
    RED = 1


class Tagged(np.ndarray):  # type: ignore[type-arg]
    pass


ARRAYS = {
    "small": np.arange(6.0).reshape(2, 3),
    "large": np.arange(20_000.0).reshape(100, 200),
    "fortran": np.asfortranarray(np.arange(20_000.0).reshape(100, 200)),
    "small fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "stride": np.arange(40_000)[::3],
    "backwards": np.arange(20)[::-1],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "0-d": np.array(3.5),
    "empty": np.empty((0, 3), "f4"),
    "no bytes": np.zeros(3, "V0"),
    "bool": np.array([True, False]),
    "complex": np.ones(2000, complex),
    "big endian": np.arange(5, dtype=">i4"),
    "half": np.arange(5, dtype="f2"),
    "long double": np.arange(5, dtype=np.longdouble),
    "datetime": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "large datetime": np.arange(5000).astype("m8[s]"),
    "text": np.array(["a", "bcd"]),
    "structured": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
    "structured datetime": np.zeros(2000, [("t", "M8[ns]"), ("v", "f4")]),
    "object": np.array([1, "two", None, [3]], object),
    "structured object": np.array([(1, "x")], [("a", "i4"), ("b", object)]),
    "subclass": np.eye(2).view(Tagged),
    "records": np.rec.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "masked": np.ma.masked_array([1, 2, 3], [False, True, False]),
    "read-only": np.frombuffer(bytes(range(200)) * 100, np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_arrives_equal_and_read_only(name: str) -> None:
    array = ARRAYS[name]
    arrived = there(((array,), {}))[0][0]
    assert type(arrived) is type(array)
    assert arrived.dtype == array.dtype and arrived.shape == array.shape
    assert arrived.tolist() == array.tolist()
    assert arrived.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    assert not arrived.flags.writeable
    with pytest.raises(ValueError):
        arrived[...] = arrived


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_writable(name: str) -> None:
    array = ARRAYS[name]
    payload = codec.encode(array, bytes)
    arrived, again = codec.decode(payload, writable=True), codec.decode(payload, writable=True)
    assert arrived.tolist() == array.tolist() and type(arrived) is type(array)
    assert arrived.flags.writeable
    arrived[...] = np.zeros(arrived.shape, arrived.dtype)
    assert again.tolist() == array.tolist()


def test_arrays_deep_inside_are_read_only_too() -> None:
    arrived = there(Point(1, [{"deep": (np.zeros(3), np.array([None]))}]))  # type: ignore[list-item]
    assert not any(array.flags.writeable for array in arrived.y[0]["deep"])


def test_a_snapshot_is_taken_at_the_call() -> None:
    for size in (10, 10_000):
        array = np.zeros(size)
        payload = codec.encode(array, bytes)
        array[:] = 1
        assert not codec.decode(payload).any()


def test_large_buffers_are_placed_and_small_ones_are_not() -> None:
    placed: list[int] = []

    def place(view: memoryview) -> bytes:
        placed.append(view.nbytes)
        return bytes(view)

    codec.encode(((np.zeros(10), "small"), {}), place)
    assert placed == []
    codec.encode(((np.zeros(10_000), np.zeros(10)), {}), place)
    assert placed == [80_000]


def test_what_all_shards_get_is_placed_once() -> None:
    placed: list[int] = []

    def place(view: memoryview) -> bytes:
        placed.append(view.nbytes)
        return bytes(view)

    shared, whole, memo = np.arange(10_000), np.arange(16_000), {}  # type: ignore[var-annotated]
    payloads = [
        codec.encode(((shared, whole[i * 4000 : i * 4000 + 4000]), {}), place, memo=memo) for i in range(4)
    ]
    assert placed == [80_000, 32_000, 32_000, 32_000, 32_000]
    for i, payload in enumerate(payloads):
        args, _ = codec.decode(payload)
        assert (args[0] == shared).all() and args[1][0] == 4000 * i


def test_copies_made_for_one_shard_are_not_taken_for_anothers() -> None:
    memo: Any = {}
    payloads = [codec.encode(np.full((2000, 2), i)[:, 0], bytes, memo=memo) for i in range(20)]
    assert [int(codec.decode(payload)[0]) for payload in payloads] == list(range(20))


class Block:
    """Device memory that is gone with the last reference to it."""

    def __init__(self, data: bytes) -> None:
        self._memory = bytearray(data)

    @property
    def view(self) -> memoryview:
        return memoryview(self._memory)


def test_an_array_over_device_memory_is_writable_and_keeps_the_memory() -> None:
    blocks: list[weakref.ref[Block]] = []

    def place(view: memoryview) -> Block:
        block = Block(bytes(view))
        blocks.append(weakref.ref(block))
        return block

    array = codec.decode(codec.encode(np.arange(10_000), place), writable=True)
    part = array[5:10]
    array[5] = -1
    del array
    gc.collect()
    assert blocks[0]() is not None
    assert part.tolist() == [-1, 6, 7, 8, 9]
    del part
    gc.collect()
    assert blocks[0]() is None


def test_device_memory_is_read_only_to_a_kernel() -> None:
    payload = codec.encode(np.arange(10_000), lambda view: Block(bytes(view)))
    assert not codec.decode(payload).flags.writeable


@pytest.mark.parametrize("value", [np.float64(1.5), np.int8(-3), np.complex64(1 + 2j), np.float16(0.5)])
def test_a_scalar_of_numpys_arrives_as_one(value: Any) -> None:
    args, kwargs = there(((value, 1), {"key": value}))
    for arrived in (there(value), args[0], kwargs["key"]):
        assert arrived == value and type(arrived) is type(value)


def test_what_stands_for_arrays_that_are_on_a_device() -> None:
    call = (Kept(7, 64, (2, 3), "<f4"), Blank((5,), "<i8"), 3), {"last": Kept(8, 0, (), "|b1")}
    found = there(call)
    assert found == call
    assert [type(one) for one in (*found[0], found[1]["last"])] == [Kept, Blank, int, Kept]
