"""Buffers in the memory of a device, as its owner has them, and those among them that the host keeps."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from device_runtime.context import current
from device_runtime.errors import ResidentDataLost
from device_runtime.hardware import converted
from device_runtime.launch import Blank, Costs, Kept

if TYPE_CHECKING:
    from device_runtime.fpga.timing import Predictor


class Meter:
    """What an instance has moved and run since it was last asked: bytes, and seconds. Any thread tells it."""

    def __init__(self, predictor: Predictor | None = None) -> None:
        self.loading = 0.0
        self._predictor = predictor
        self._lock = threading.Lock()  # around single additions
        self._clear()

    def _clear(self) -> None:
        self._to_device = self._from_device = 0
        self._transfer = self._compute = 0.0
        self._predicted = 0.0

    def moved(self, seconds: float, to_device: int = 0, from_device: int = 0) -> None:
        """Take note of a transfer."""
        with self._lock:
            self._transfer += seconds
            self._to_device += to_device
            self._from_device += from_device

    def ran(self, seconds: float, predicted: float | None) -> None:
        """Take note of a run."""
        with self._lock:
            self._compute += seconds
            self._predicted += predicted or 0.0

    def take(self) -> Costs:
        """Return what there was, and begin anew."""
        with self._lock:
            up, down, transfer = self._to_device, self._from_device, self._transfer
            compute, predicted = self._compute, self._predicted
            self._clear()
        loading, self.loading = self.loading, 0.0
        if self._predictor is None:
            return Costs(up, down, transfer, compute, loading, None, None)
        return Costs(up, down, transfer, compute, loading, predicted, self._predictor.transfer(up + down))


class _Memory:
    """What a buffer and its slices have in common."""

    def __init__(self, meter: Meter, freed: Callable[[], None] | None) -> None:
        self.freed = freed  # is told when it was given back by `free`
        self._meter = meter  # of the instance that it was made on
        self.uploads = self.downloads = 0  # bytes moved so far
        self.behind = True  # the device's copy is newer than the host's, or neither holds anything yet
        self.buffers: weakref.WeakValueDictionary[int, Buffer] = weakref.WeakValueDictionary()  # in it

    def moved(self, begun: float, to_device: int = 0, from_device: int = 0) -> None:
        """Take note of a transfer."""
        here = current()
        running = None if here is None or here.instance is None else here.instance.meter
        meter = running or self._meter  # there is none in a thread that outlives its launch
        meter.moved(time.monotonic() - begun, to_device, from_device)
        self.uploads += to_device
        self.downloads += from_device


class Buffer:
    """An array in a bank of the device; host and device each have a copy.

    `numpy.asarray` gives the host's, brought up to date if need be, which is
    for reading; `write` replaces both. A slice is a buffer in the same memory.
    That is given back by `free`, at the end of a `with` block, or with the last
    reference to it and its slices; not while something that `numpy.asarray` gave is kept.
    """

    def __init__(self, held: Any, bank: str, memory: _Memory, whole: bool = True) -> None:
        self.bank = bank
        self.shape: tuple[int, ...] = held.shape
        self.dtype: np.dtype[Any] = held.dtype
        self.nbytes = int(held.nbytes)
        self._view = held  # None once it is freed
        self._memory = memory
        self.whole = whole
        memory.buffers[id(self)] = self

    @classmethod
    def allocate(
        cls,
        board: Any,
        bank: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        meter: Meter,
        freed: Callable[[], None] | None = None,
    ) -> Buffer:
        """Return a buffer in a bank; it is freed with the last reference to it and its slices.

        Raises DeviceMemoryError if the bank is full.
        """
        return cls(board.allocate(bank, shape, dtype), bank, _Memory(meter, freed))

    @property
    def held(self) -> Any:
        """What pynq has of it, which lives as long as somebody holds this.

        Raises ValueError if it was freed.
        """
        if self._view is None:
            raise ValueError(f"the buffer in bank {self.bank} was freed")
        return self._view

    @property
    def address(self) -> int:
        """Where it is in the bank; raises ValueError if it was freed."""
        found: int = self.held.device_address
        return found

    def free(self) -> None:
        """Give the memory back, once runs that use it have ended; a slice's is that of the whole."""
        for found in self._memory.buffers.valuerefs():
            one = found()
            if one is not None:
                one._view = None
        if self._memory.freed is not None:
            self._memory.freed()

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()

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
        held = self.held
        held[...] = converted(value, self.dtype, self.shape)
        held.flush()
        if self.whole:
            self._memory.behind = False
        self._memory.moved(begun, to_device=self.nbytes)

    def written(self) -> None:
        """Note that a launch has changed the device's copy, or may have."""
        self._memory.behind = True

    def host(self) -> NDArray[Any]:
        """Return the host's copy, up to date; it changes with the next launch that writes to it."""
        held = self.held
        if self._memory.behind:
            begun = time.monotonic()
            held.invalidate()
            self._memory.moved(begun, from_device=self.nbytes)
            self._memory.behind = not self.whole
        view: NDArray[Any] = held.view(np.ndarray)
        return view

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Return the part of it that begins at a byte, as an array of this shape and dtype."""
        if start == 0 and (shape, dtype) == (self.shape, self.dtype):
            return self
        nbytes = dtype.itemsize * math.prod(shape)
        flat = self.held.reshape(-1).view(np.uint8)[start : start + nbytes]
        return Buffer(flat.view(dtype).reshape(shape), self.bank, self._memory, whole=False)

    def __getitem__(self, key: slice) -> Buffer:
        if not isinstance(key, slice) or key.step not in (None, 1) or not self.shape:
            raise TypeError("of a buffer there are slices along its first axis, one element after another")
        held = self.held[key]
        return Buffer(held, self.bank, self._memory, whole=self.whole and held.shape == self.shape)

    def overlaps(self, other: Buffer) -> bool:
        """Tell whether it shares memory with another one."""
        begin, end = max(self.address, other.address), min(self._end, other._end)
        return self.bank == other.bank and begin < end

    @property
    def _end(self) -> int:
        return self.address + self.nbytes

    def __len__(self) -> int:
        return len(self.held)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found: NDArray[Any] = self.host().view()
        found.flags.writeable = False
        if dtype is not None and dtype != found.dtype:
            found = found.astype(dtype)
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a buffer stays on its device; numpy.asarray(buffer).copy() is what it holds")

    def __repr__(self) -> str:
        where = f"in bank {self.bank}" if self._view is not None else "freed"
        return f"<buffer of {self.nbytes:,} bytes {where}, {self.dtype} {self.shape}>"


class Store:
    """The buffers of a device that the host keeps, by number."""

    def __init__(self) -> None:
        self._buffers: dict[int, Buffer] = {}

    def put(self, number: int, buffer: Buffer) -> None:
        """Keep a buffer."""
        self._buffers[number] = buffer

    def held(self, bank: str) -> int:
        """Return how many bytes of a bank are kept."""
        return sum(one.nbytes for one in list(self._buffers.values()) if one.bank == bank)

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
    """Make a buffer that the host keeps; `value` is an array, or a Blank for what is yet to be written.

    Waits for hardware kernels on other units that hold some of the bank. Raises DeviceMemoryError.
    """
    instance = _instance()
    buffer = instance.allocate_in(bank, value.shape, np.dtype(value.dtype), keeps=True)
    if not isinstance(value, Blank):
        buffer.write(value)
    instance.kept.put(number, buffer)


def fetch(kept: Kept) -> NDArray[Any]:
    """Return what a part of a buffer holds."""
    found: NDArray[Any] = _instance().kept.find(kept).host()
    return found


def replace(kept: Kept, value: Any) -> None:
    """Replace that."""
    _instance().kept.find(kept).write(value)


def drop(numbers: tuple[int, ...]) -> None:
    """Free buffers."""
    _instance().drop(numbers)


def _instance() -> Any:
    context = current()
    assert context is not None and context.instance is not None
    return context.instance
