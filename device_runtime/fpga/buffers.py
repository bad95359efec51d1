"""Buffers in the memory of a device, as its owner has them, and those among them that the host keeps."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from device_runtime.context import current
from device_runtime.errors import DeviceMemoryError, ResidentDataLost
from device_runtime.hardware import Blank, Kept, converted
from device_runtime.launch import Costs


class Meter(threading.local):
    """What this thread has moved and run since it was last asked: bytes, and seconds."""

    to_device = from_device = 0
    transfer = compute = loading = 0.0
    predicted: float | None = None

    def take(self) -> Costs:
        """Return it, and begin anew."""
        moved = self.to_device, self.from_device, self.transfer
        found = Costs(*moved, self.compute, self.loading, self.predicted)
        self.__dict__.clear()
        return found


METER = Meter()


class _Memory:
    """What a buffer and its slices have in common."""

    def __init__(self) -> None:
        self.uploads = self.downloads = 0  # bytes moved so far
        self.behind = True  # the device's copy is newer than the host's, or neither holds anything yet


class Buffer:
    """An array in a bank of the device; host and device each have a copy.

    `numpy.asarray` gives the host's, brought up to date if need be, which is
    for reading; `write` replaces both. A slice is a buffer in the same memory.
    """

    def __init__(self, held: Any, bank: str, memory: _Memory | None = None, whole: bool = True) -> None:
        self.bank = bank
        self.shape: tuple[int, ...] = held.shape
        self.dtype: np.dtype[Any] = held.dtype
        self.nbytes = int(held.nbytes)
        self.address: int = held.device_address
        self._held = held
        self._memory = memory or _Memory()
        self.whole = whole

    @classmethod
    def allocate(cls, board: Any, bank: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Return a buffer in a bank; it is freed with the last reference to it and its slices.

        Raises DeviceMemoryError if the bank is full.
        """
        return cls(board.allocate(bank, shape, dtype), bank)

    @property
    def uploads(self) -> int:
        """Bytes that were moved to the device so far, slices' among them."""
        return self._memory.uploads

    @property
    def downloads(self) -> int:
        """Bytes that were moved from it."""
        return self._memory.downloads

    @property
    def behind(self) -> bool:
        """Tell whether the device's copy may be newer than the host's."""
        return self._memory.behind

    def write(self, value: Any) -> None:
        """Replace what it holds, and lose nothing of the value: see `converted`.

        Raises ValueError for an array of another shape.
        """
        begun = time.monotonic()
        self._held[...] = converted(value, self.dtype)
        self._held.flush()
        if self.whole:
            self._memory.behind = False
        METER.transfer += time.monotonic() - begun
        METER.to_device += self.nbytes
        self._memory.uploads += self.nbytes

    def written(self) -> None:
        """Note that a launch has changed the device's copy, or may have."""
        self._memory.behind = True

    def host(self) -> NDArray[Any]:
        """Return the host's copy, up to date; it changes with the next launch that writes to it."""
        if self._memory.behind:
            begun = time.monotonic()
            self._held.invalidate()
            METER.transfer += time.monotonic() - begun
            METER.from_device += self.nbytes
            self._memory.downloads += self.nbytes
            self._memory.behind = not self.whole
        view: NDArray[Any] = self._held.view(np.ndarray)
        return view

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Return the part of it that begins at a byte, as an array of this shape and dtype."""
        if start == 0 and (shape, dtype) == (self.shape, self.dtype):
            return self
        nbytes = dtype.itemsize * math.prod(shape)
        flat = self._held.reshape(-1).view(np.uint8)[start : start + nbytes]
        return Buffer(flat.view(dtype).reshape(shape), self.bank, self._memory, whole=False)

    def __getitem__(self, key: slice) -> Buffer:
        if not isinstance(key, slice) or key.step not in (None, 1) or not self.shape:
            raise TypeError("of a buffer there are slices along its first axis, one element after another")
        held = self._held[key]
        return Buffer(held, self.bank, self._memory, whole=self.whole and held.shape == self.shape)

    def __len__(self) -> int:
        return len(self._held)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found: NDArray[Any] = self.host().view()
        found.flags.writeable = False
        if dtype is not None and dtype != found.dtype:
            found = found.astype(dtype)
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a buffer stays on its device; numpy.asarray(buffer).copy() is what it holds")

    def __repr__(self) -> str:
        return f"<buffer of {self.nbytes:,} bytes in bank {self.bank}, {self.dtype} {self.shape}>"


class Store:
    """The buffers of a device that the host keeps, by number."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._buffers: dict[int, Buffer] = {}

    def put(self, number: int, bank: str, value: Any) -> None:
        """Make a buffer; `value` is an array, or a Blank for what is yet to be written.

        Raises DeviceMemoryError.
        """
        allocate = partial(Buffer.allocate, self._board, bank, value.shape, np.dtype(value.dtype))
        try:
            buffer = allocate()
        except DeviceMemoryError:
            gc.collect()  # buffers in cycles hold memory that the interpreter knows nothing of
            buffer = allocate()
        if not isinstance(value, Blank):
            buffer.write(value)
        self._buffers[number] = buffer

    def find(self, kept: Kept) -> Buffer:
        """Return a buffer, or the part of one.

        Raises ResidentDataLost if the device was loaded anew since it was made.
        """
        found = self._buffers.get(kept.number)
        if found is None:
            raise ResidentDataLost(
                f"the array {np.dtype(kept.dtype).name} {kept.shape} was lost when its device was restarted, "
                "or its card was given to another bitstream; make it anew"
            )
        return found.part(kept.start, kept.shape, np.dtype(kept.dtype))

    def drop(self, numbers: Iterable[int]) -> None:
        """Free buffers, those that are still there."""
        for number in numbers:
            self._buffers.pop(number, None)


# What the host launches for its arrays. Each may be run twice without harm.


def keep(number: int, bank: str, value: Any) -> None:
    """Make a buffer that the host keeps."""
    _store().put(number, bank, value)


def fetch(kept: Kept) -> NDArray[Any]:
    """Return what a part of a buffer holds."""
    return _store().find(kept).host()


def replace(kept: Kept, value: Any) -> None:
    """Replace that."""
    _store().find(kept).write(value)


def drop(numbers: tuple[int, ...]) -> None:
    """Free buffers."""
    _store().drop(numbers)


def _store() -> Store:
    context = current()
    assert context is not None and context.instance is not None
    kept: Store = context.instance.kept
    return kept
