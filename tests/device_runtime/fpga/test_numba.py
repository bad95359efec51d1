"""What stands in the place of a circuit may be compiled by numba; with `nogil`, units run side by side."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offload as of
from offload import In, InOut, Out, offload
from offload.core import instance
from offload.testing import Xclbin

numba = pytest.importorskip("numba")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq"),
    pytest.mark.slow,  # numba compiles where they run
]

look_away = numba.types.ExternalFunction("sched_yield", numba.types.int32())  # or it would look once only


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def meet(mine: Any, theirs: Any) -> None:
    """Come to an end once another unit runs this as well."""
    mine[0] = 1
    while theirs[0] == 0:
        look_away()


@offload(kernel="left")
def left(mine: InOut("int32"), theirs: In("int32")) -> None:  # type: ignore[valid-type]
    raise NotImplementedError


@offload(kernel="right")
def right(mine: InOut("int32"), theirs: In("int32")) -> None:  # type: ignore[valid-type]
    raise NotImplementedError


@offload(auto=1)
def both() -> list[int]:
    device = instance()
    one, other = device.array(np.zeros(1, "int32")), device.array(np.zeros(1, "int32"))
    beside = threading.Thread(target=device.right, args=(other, one))
    beside.start()
    device.left(one, other)
    beside.join()
    return [int(np.asarray(flag)[0]) for flag in (one, other)]


def test_units_in_numba_run_side_by_side(tmp_path: Path) -> None:
    path = Xclbin([left, right], models={"left": meet, "right": meet}).write(tmp_path / "meet.xclbin")
    with of.connect(f"emu:{path}"):
        assert both() == [[1, 1]]


@offload(kernel="vmul", verify=1.0)
@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def multiply(a: In("float32"), b: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
    for place in range(n):
        out[place] = a[place] * b[place]


def test_a_kernel_whose_function_is_numbas(tmp_path: Path) -> None:
    """It is the model of its units, and the reference that `verify` compares with, and runs on cores."""
    a = np.arange(5, dtype="float32")
    path = Xclbin([multiply], units=2).write(tmp_path / "vmul.xclbin")
    for address in (f"emu:{path}", "inline"):
        with of.connect(address):
            assert multiply(a, a + 1, np.empty(5, "float32"), 5)[0].tolist() == [0, 2, 6, 12, 20]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def spoil(a: Any, b: Any, out: Any, n: Any) -> None:
    a[0] = 1


def test_a_model_of_numbas_that_changes_what_only_goes_in(tmp_path: Path) -> None:
    path = Xclbin([multiply], models={"vmul": spoil}).write(tmp_path / "spoil.xclbin")
    a = np.ones(2, "float32")
    with of.connect(f"emu:{path}"), pytest.raises(Exception, match="readonly") as caught:
        multiply(a, a, np.empty(2, "float32"), 2)
    assert type(caught.value).__name__ == "TypingError"
