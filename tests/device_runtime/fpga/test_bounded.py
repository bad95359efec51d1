"""Arrays of the emulated device: what a slice may reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_runtime.errors import EmulationError
from device_runtime.fpga.bounded import bounded


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:4],
        np.s_[4:],
        np.s_[-4:],
        np.s_[3::-1],
        np.s_[:, :3],
        np.s_[2, 1:3],
        np.s_[np.int64(2), : np.int64(3)],
        np.s_[..., 0],
        np.s_[None, :9],  # which axis this is of, is not looked at
        np.s_[[0, 3]],
        3,
    ],
)
def test_what_stays_within(key: Any) -> None:
    plain = np.arange(12).reshape(4, 3)
    array = bounded(plain.copy(), "a")
    assert np.array_equal(array[key], plain[key])
    array[key] = 7
    plain[key] = 7
    assert np.array_equal(array, plain)


@pytest.mark.parametrize(
    ("key", "end"),
    [
        (np.s_[:5], 5),
        (np.s_[5:], 5),
        (np.s_[-5:], -5),
        (np.s_[9::-1], 9),
        (np.s_[:, :4], 4),
        (np.s_[0, : np.int64(4)], 4),
    ],
)
def test_what_reaches_past_an_end(key: Any, end: int) -> None:
    array = bounded(np.zeros((4, 3)), "argument a")
    told = f"argument a has [34] elements, and a slice of it reaches to {end}: "
    with pytest.raises(EmulationError, match=told):
        array[key]
    with pytest.raises(EmulationError, match=told):
        array[key] = 1
    assert not array.any()


def test_what_is_made_of_one_is_numpys() -> None:
    array = bounded(np.arange(4), "a")
    assert (array + 1)[:9].tolist() == [1, 2, 3, 4]
    assert array[:2][:9].tolist() == [0, 1]
    assert type(array.sum()) is type(array @ array) is np.int64
    assert type(array * 2) is np.ndarray


def test_one_that_is_changed_in_place_stays_one() -> None:
    memory = np.arange(4)
    array = bounded(memory, "a")
    array += 1
    np.multiply(array, 2, out=array)
    np.add.at(array, [0, 0], 1)
    assert memory.tolist() == [4, 4, 6, 8]
    with pytest.raises(EmulationError):
        array[:5]


def test_one_that_is_only_read() -> None:
    array = bounded(np.arange(4), "a", writable=False)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        array += 1


def test_where_a_mask_says() -> None:
    array, mask = (bounded(np.array(one), "a") for one in ([1.0, 2.0, 4.0], [True, False, True]))
    out = bounded(np.zeros(3), "out")
    assert np.add(array, 1, out=out, where=mask) is out
    assert out.tolist() == [2, 0, 5]
    assert np.sum(array, where=mask) == 5


def test_what_has_several_outputs_gives_them() -> None:
    array, one, other = (bounded(np.array(values), "a") for values in ([7, 8], [0, 0], [0, 0]))
    found = np.divmod(array, 3, out=(one, other))
    assert found[0] is one and found[1] is other
    assert (one.tolist(), other.tolist()) == ([2, 2], [1, 2])
    assert np.divmod(array, 3, out=(one, None))[1].tolist() == [1, 2]
