"""The two products that take all the time, as hardware kernels, and an inversion on units that have them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from offload import In, Out, offload
from offload.core import instance
from offload.testing import Xclbin

from . import forward
from .configuration import Configuration
from .inversion import Result, recover

_PAGE = 4096  # bytes: what a bank has a multiple of, and a buffer begins at


@offload(kernel="dotprod")
def dotprod(matrix: In("complex64"), chi: In("float32"), out: Out("complex64"), rows: int, cells: int):
    """K·χ: a pressure for each row of K, (rows, cells)."""
    out[:rows] = matrix[:rows, :cells] @ chi[:cells]


@offload(kernel="update")
def update(matrix: In("complex64"), rest: In("complex64"), out: Out("complex64"), rows: int, cells: int):
    """Kᴴ·r: for each cell what all rows say of it."""
    out[:cells] = np.conj(np.conj(rest[:rows]) @ matrix[:rows, :cells])


def room(problems: Iterable[Configuration]) -> int:
    """Return how many bytes a memory bank takes to hold K of any of these problems, or its vectors."""
    return max(8 * max(one.rows * one.cells, 2 * one.rows + 2 * one.cells + 4 * _PAGE) for one in problems)


def bitstream(path: str | Path, instances: int, size: int = 0) -> Path:
    """Write a bitstream for the emulated FPGA, with two units and two memory banks for each instance.

    A bank has 256 MiB, or `size` bytes if those are more.
    """
    wiring = {}
    for number in range(instances):
        for kernel, given in (("dotprod", "chi"), ("update", "rest")):
            unit = f"{kernel}_{number + 1}"
            wiring[f"{unit}.matrix"] = f"HBM{2 * number}"
            wiring[f"{unit}.{given}"] = wiring[f"{unit}.out"] = f"HBM{2 * number + 1}"
    each = -(-max(size, 256 << 20) // _PAGE) * _PAGE
    banks = {f"HBM{number}": each for number in range(2 * instances)}
    return Xclbin([dotprod, update], instances, banks, wiring).write(path)


class Found(NamedTuple):
    """What an instance has found in how many seconds, and how many bytes went there and came back."""

    result: Result
    seconds: float
    matrix_bytes: int  # of K
    up: int
    down: int


class Resident:
    """K and the vectors of its products, in buffers that stay on an instance."""

    def __init__(self, device: Any, asked: Configuration) -> None:
        rows, cells = asked.rows, asked.cells
        large, small = (device.dotprod.unit.banks[place][0] for place in (0, 1))
        self._device, self._size = device, (rows, cells)
        self._chi, self._rest = (
            device.empty(cells, "float32", small),
            device.empty(rows, "complex64", small),
        )
        self._pressures, self._descent = (device.empty(size, "complex64", small) for size in (rows, cells))
        self.matrix = device.array(forward.matrix(asked), bank=large)
        self.vectors = self._chi, self._rest, self._pressures, self._descent

    def dotprod(self, values: Any) -> Any:
        """K·χ."""
        self._chi.write(values.astype("float32"))
        self._device.dotprod(self.matrix, self._chi, self._pressures, *self._size)
        return np.asarray(self._pressures).copy()

    def update(self, values: Any) -> Any:
        """Kᴴ·r."""
        self._rest.write(values.astype("complex64"))
        self._device.update(self.matrix, self._rest, self._descent, *self._size)
        return np.asarray(self._descent).copy()


@offload(auto=1)
def invert(asked: Configuration, model: Any) -> Found:
    """Make the pressures of a model, (N,), and find the model from them, all on one instance.

    K is sent to the device once, and stays there; each product sends a vector and takes one back.
    """
    held = Resident(instance(), asked)
    begin = time.perf_counter()
    result = recover(asked, model, held.dotprod, held.update)
    seconds = time.perf_counter() - begin
    up, down = (sum(getattr(one, name) for one in held.vectors) for name in ("uploads", "downloads"))
    return Found(result, seconds, held.matrix.uploads, up, down)
