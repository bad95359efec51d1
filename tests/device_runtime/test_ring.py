"""Rings of shared memory, from one side to the other."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from random import Random

import pytest

from device_runtime.process.ring import AREA, SIZE, Ring, Rings, are_sound

pytestmark = pytest.mark.skipif(not are_sound(), reason="the processor may reorder stores")


@pytest.fixture
def pair() -> Iterator[tuple[Ring, Ring]]:
    """Return the two sides of a ring: who writes, and who reads."""
    memory = memoryview(mmap.mmap(-1, AREA))
    rings = [Rings(memory) for _ in range(2)]
    rings[0].clear()
    yield rings[0].down(), rings[1].down()


def test_records_come_out_as_they_went_in(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    assert not reader.ready() and reader.get() is None
    records = [b"", b"a", b"12345678", bytes(1000)]
    assert all(writer.put(record) for record in records)
    assert reader.ready() and reader.get() == b""
    assert reader.kind() == ord("a")
    assert [reader.get() for _ in range(4)] == [*records[1:], None]


def test_a_full_ring_takes_no_more_until_something_was_read(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    record, taken = bytes(1016), 0
    while writer.put(record):
        taken += 1
    assert taken == SIZE // 1024
    assert reader.get() == record
    assert writer.put(record) and not writer.put(record)


def test_the_largest_record_fits_wherever_an_empty_ring_stands(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    largest = bytes(range(256)) * 125  # 32,000 bytes
    for gap in range(0, SIZE, 1009):
        writer.put(bytes(gap % 997)), reader.get()
        assert writer.put(largest) and reader.kind() == 0 and reader.get() == largest


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_writing_and_reading(pair: tuple[Ring, Ring], seed: int) -> None:
    writer, reader = pair
    random, inside = Random(seed), deque[bytes]()
    for turn in range(3000):
        if random.random() < 0.55:
            record = random.randbytes(random.choice([0, 3, 8, 40, 500, 9000]))
            if writer.put(record):
                inside.append(record)
            else:
                assert inside, turn
        else:
            assert reader.get() == (inside.popleft() if inside else None)
        assert reader.ready() == bool(inside)
