"""Known answers: what units gave, for them to show that they still do when their device was set up anew.

Answers outlive the owner of the device in a file in memory, one record after
the other; what an owner that was ended has not written to its end is left out.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_runtime.fpga.interface import Interface

MOST = 1 << 20  # bytes of arrays that an answer may have
LONGEST = 1.0  # seconds that a run may have taken which is to be done again
_HEAD = struct.Struct("<II")  # size, checksum
# By type code: relative and absolute, far more than rounding and far less than what a fault does.
_TOLERANCE = {"e": (1e-2, 1e-3), "f": (1e-4, 1e-6), "d": (1e-8, 1e-12), "F": (1e-4, 1e-6), "D": (1e-8, 1e-12)}


class Answer(NamedTuple):
    """A run of a unit: what went in, and the arrays that came back, by their places among the arguments.

    `interface` is what a decorated function says of the kernel; None where a
    driver kernel has called the unit. `driven`: such a one has called it, now or
    before, and may have told the circuit something: so what came back need not be
    the same another time, and is not kept.
    """

    unit: str
    kernel: str
    interface: Interface | None
    args: tuple[Any, ...]
    outs: Mapping[int, NDArray[Any]]
    driven: bool = False


class Answers:
    """Those of a device's units; and which units hang.

    Threads may use it at once, each for its own unit.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._known: dict[str, Answer] = {}
        self._hangs: dict[str, int] = {}
        data, place = os.pread(descriptor, os.fstat(descriptor).st_size, 0), 0
        while len(data) - place > _HEAD.size:
            size, checksum = _HEAD.unpack_from(data, place)
            record = data[place + _HEAD.size : place + _HEAD.size + size]
            if len(record) < size or zlib.crc32(record) != checksum:
                break
            answer, hangs = pickle.loads(record)
            if answer is not None:
                self._known[answer[0]] = Answer(*answer)
            self._hangs.update(hangs)
            place += _HEAD.size + size
        os.truncate(descriptor, place)
        os.lseek(descriptor, place, os.SEEK_SET)

    def get(self, unit: str) -> Answer | None:
        """Return that of a unit, if there is one."""
        return self._known.get(unit)

    def of_another(self, kernel: str) -> Answer | None:
        """Return what some unit of a kernel gave."""
        return next((one for one in list(self._known.values()) if one.kernel == kernel), None)

    def keep(self, answer: Answer) -> None:
        """Take note of a unit's answer, instead of the one that it has."""
        self._write(tuple(answer), {})
        self._known[answer.unit] = answer

    def hangs(self, unit: str) -> int:
        """Return how many times in a row a unit has hung."""
        return self._hangs.get(unit, 0)

    def hung(self, unit: str) -> None:
        """Take note of a unit that has hung."""
        self._count(unit, self.hangs(unit) + 1)

    def ended(self, unit: str) -> None:
        """Take note of a run that has ended."""
        if self._hangs.get(unit):
            self._count(unit, 0)

    def _count(self, unit: str, hangs: int) -> None:
        self._hangs[unit] = hangs
        self._write(None, {unit: hangs})

    def _write(self, answer: tuple[Any, ...] | None, hangs: Mapping[str, int]) -> None:
        record = pickle.dumps((answer, hangs), 5)
        os.write(self._descriptor, _HEAD.pack(len(record), zlib.crc32(record)) + record)


def steady(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell where two arrays hold the same bytes.

    Where two runs that found other bytes in their memory do not, the circuit
    has not written, or gives what cannot be foretold.
    """
    size = (*first.shape, first.dtype.itemsize)
    one, other = (np.frombuffer(array.tobytes(), np.uint8).reshape(size) for array in (first, second))
    found: NDArray[np.bool_] = np.asarray((one == other).all(axis=-1))
    return found


def same(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Tell whether two arrays hold the same, but for rounding."""
    return bool(near(found, wanted, *_TOLERANCE.get(wanted.dtype.char, (0.0, 0.0))).all())


def near(found: NDArray[Any], wanted: NDArray[Any], rtol: float, atol: float) -> NDArray[np.bool_]:
    """Tell where arrays of one dtype are no further apart than `atol + rtol * abs(wanted)`; NaN is NaN.

    It is `numpy.isclose`, but for whole numbers, which that looks at as float64.
    """
    if wanted.dtype.kind not in "iu":
        with np.errstate(invalid="ignore"):  # of complex infinities it makes NaN on its way
            return np.asarray(np.isclose(found, wanted, rtol, atol, equal_nan=True))
    # The difference of two signed numbers may be twice what their type holds, and is right without a sign.
    with np.errstate(over="ignore"):
        off = np.asarray(np.maximum(found, wanted) - np.minimum(found, wanted))
    return np.asarray(off.view(f"u{off.itemsize}") <= atol + rtol * np.abs(wanted.astype(np.float64)))
