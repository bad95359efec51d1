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


def test_a_record_of_words_is_one_like_any_other(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    assert reader.get_behind(1, 8) is None
    assert (
        writer.put_words(1, 2, b"three") and writer.put_words(1, 2, b"") and writer.put_words(5, 6, b"seven")
    )
    assert reader.kind() == 1
    assert reader.get_behind(2, 8) is None
    assert reader.get_behind(1, 16) == b"three"
    assert reader.get_behind(1, 8) == (2).to_bytes(8, "little")
    assert reader.get() == b"\5" + bytes(7) + b"\6" + bytes(7) + b"seven"
    assert reader.kind() == -1


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_writing_and_reading(pair: tuple[Ring, Ring], seed: int) -> None:
    writer, reader = pair
    random, inside = Random(seed), deque[bytes]()
    for turn in range(3000):
        if random.random() < 0.55:
            record = random.randbytes(random.choice([0, 3, 8, 40, 500, 9000]))
            first, second = (int.from_bytes(record[at : at + 8], "little") for at in (0, 8))
            words = len(record) >= 16 and random.random() < 0.5
            if (words and writer.put_words(first, second, record[16:])) or writer.put(record):
                inside.append(record)
            else:
                assert inside, turn
        elif inside and random.random() < 0.5:
            assert reader.get_behind(int.from_bytes(inside[0][:8], "little") ^ 1, 8) is None
            found = reader.get_behind(int.from_bytes(inside[0][:8], "little"), 8)
            assert found is None or (len(inside[0]) >= 8 and found == inside.popleft()[8:])
        else:
            assert reader.get() == (inside.popleft() if inside else None)
        assert reader.ready() == bool(inside)
