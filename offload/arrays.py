"""Arrays that stay in a device's memory: made by `device.array` and `device.empty`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from device_runtime.errors import DependencyError
from device_runtime.hardware import converted
from device_runtime.launch import Kept

if TYPE_CHECKING:
    from offload.keeping import Memory, Slot


class DeviceArray(ABC):
    """An array in a bank of a device's memory, which hardware kernels take in the place of a NumPy array.

    Nothing is copied for such a launch. `numpy.asarray` fetches what it holds,
    and `write` replaces that; both in order with the launches. A slice along
    the first axis is an array in the same memory. It is freed by `free`, at the
    end of a `with` block, or with the last reference to it and its slices.

    On a device without such memory it is an array of the host's: a launch that
    writes to one has ended when the call that made it returns.
    """

    __array_ufunc__ = None  # else NumPy would fetch it for `x + array`, unasked, and not for `array + x`

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = dtype

    @property
    def bank(self) -> str | None:
        """Name of the bank; None on a device without such memory."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return int(self.size * self.dtype.itemsize)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @abstractmethod
    def write(self, value: Any) -> None:
        """Replace what it holds, once the launches that use it have ended.

        Nothing is lost of the value: an array has a dtype that NumPy casts
        safely to this one, and of plain numbers, or lists of them, each survives,
        but that floats are rounded. Raises TypeError for an array of another
        dtype, and ValueError for other values, and for another shape.
        """

    @abstractmethod
    def free(self) -> None:
        """Give the memory back, once launches that use it have ended; a slice's is that of the whole."""

    @abstractmethod
    def __getitem__(self, key: slice) -> DeviceArray: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        found = self._fetch()
        return found if dtype is None or dtype == found.dtype else found.astype(dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError("array[3:5].write(value) writes to an array on a device")

    def __iter__(self) -> NoReturn:
        raise TypeError("the elements are on the device; numpy.asarray(array) fetches them")

    def _compute(self, other: Any) -> NoReturn:
        raise TypeError(
            "kernels compute with an array on a device; numpy.asarray(array) fetches it, to compute with here"
        )

    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = _compute
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = (
        _compute
    )
    __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = __lt__ = __le__ = __gt__ = __ge__ = _compute
    __rand__ = __ror__ = __rxor__ = __rlshift__ = __rrshift__ = _compute

    def __neg__(self) -> NoReturn:
        self._compute(None)

    __pos__ = __abs__ = __invert__ = __bool__ = __neg__

    def __eq__(self, other: object) -> bool:
        # Weak references, in a WeakSet, ask this of an array and itself.
        return self is other or self._compute(other)

    def __ne__(self, other: object) -> bool:
        return not (self is other or self._compute(other))

    __hash__ = object.__hash__

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an array on a device is for hardware kernels only; numpy.asarray(array) is what it holds"
        )

    @abstractmethod
    def _fetch(self) -> Any: ...

    def _range(self, key: Any) -> range:
        if not isinstance(key, slice) or key.step not in (None, 1) or not self.shape:
            raise TypeError(
                f"array[{key!r}]: of an array on a device there are slices along the first axis, "
                "one element after another; numpy.asarray(array) fetches all of it"
            )
        return range(*key.indices(self.shape[0]))


Spans = tuple[tuple[int, int], ...]  # each from, and to where it ends


def share(start: int, stop: int, other: int, end: int) -> bool:
    """Tell whether two spans have something in common; an empty one has nothing with any."""
    return max(start, other) < min(stop, end)


def without(spans: Spans, start: int, stop: int) -> Spans:
    """Return what is left of spans apart from one."""
    parts = [part for a, b in spans for part in ((a, min(b, start)), (max(a, stop), b))]
    return tuple([(a, b) for a, b in parts if a < b])


class _Root:
    """What an array of the host's and its slices have in common."""

    def __init__(self, array: Any) -> None:
        self.array: Any = array  # None once it is freed
        # What was to be written and was not: rows, the kernel that failed, and why.
        self.failed: list[tuple[Spans, str, BaseException]] = []


class HostArray(DeviceArray):
    """The same on a device that has no memory of its own.

    A launch that writes to one has ended when the call that made it returns.
    """

    def __init__(self, root: _Root, start: int, stop: int) -> None:
        self._root = root
        self._start, self._stop = start, stop
        array = self.array
        super().__init__(array.shape, array.dtype)

    @classmethod
    def of(cls, array: Any) -> HostArray:
        """Return one that is all of a NumPy array."""
        return cls(_Root(array), 0, len(array) if array.shape else 1)

    @property
    def array(self) -> Any:
        """The NumPy array that it is.

        Raises ValueError if it was freed.
        """
        array = self._root.array
        if array is None:
            raise ValueError("the array was freed")
        return array[self._start : self._stop] if array.shape else array

    def read(self) -> Any:
        """Return the same, to be read.

        Raises DependencyError if what was to write it has failed.
        """
        for rows, kernel, error in self._root.failed:
            if any(share(self._start, self._stop, *span) for span in rows):
                raise DependencyError(
                    f"kernel {kernel} failed, and so did not write what is to be read"
                ) from error
        return self.array

    def written(self, kernel: str = "", error: BaseException | None = None) -> None:
        """Take note that it was written, or was to be written by a kernel that has failed."""
        left = [
            (without(rows, self._start, self._stop), kernel, why) for rows, kernel, why in self._root.failed
        ]
        self._root.failed = [one for one in left if one[0]]
        if error is not None:
            self._root.failed.append((((self._start, self._stop),), kernel, error))

    def write(self, value: Any) -> None:
        self.array[...] = converted(value, self.dtype, self.shape)
        self.written()

    def free(self) -> None:
        self._root.array = None

    def __getitem__(self, key: slice) -> DeviceArray:
        rows = self._range(key)
        start = self._start + rows.start
        return HostArray(self._root, start, start + len(rows))

    def _fetch(self) -> Any:
        return self.read().copy()

    def __repr__(self) -> str:
        where = "freed" if self._root.array is None else "in the host's memory"
        return f"<array of {self.nbytes:,} bytes {where}, {self.dtype} {self.shape}>"


class BankArray(DeviceArray):
    """The same in a bank of a device's memory."""

    def __init__(self, memory: Memory, start: int, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(shape, dtype)
        self.memory = memory
        self.start = start
        self.stop = start + self.nbytes
        self._kept: Kept | None = None

    @property
    def bank(self) -> str:
        return self.memory.bank

    @property
    def kept(self) -> Kept:
        """What travels in its place.

        Raises ValueError if it was freed.
        """
        slot = self.slot
        if self._kept is None:
            self._kept = Kept(slot.number, self.start, self.shape, self.dtype.str)
        return self._kept

    @property
    def slot(self) -> Slot:
        """What keeps the buffer; a launch that uses it has to hold it until it has ended."""
        if self.memory.slot is None:
            raise ValueError(f"the array in bank {self.bank} was freed")
        return self.memory.slot

    def overlaps(self, other: BankArray) -> bool:
        """Tell whether it shares memory with another one."""
        return self.memory is other.memory and share(self.start, self.stop, other.start, other.stop)

    def write(self, value: Any) -> None:
        found = converted(value, self.dtype, self.shape)
        if self.nbytes:
            self.memory.home.launch("replace", (self.kept, found), [(self, False, True)]).result()

    def free(self) -> None:
        self.memory.slot = None
        self.memory.home.bury()

    def __getitem__(self, key: slice) -> DeviceArray:
        rows = self._range(key)
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        shape = (len(rows), *self.shape[1:])
        return BankArray(self.memory, self.start + rows.start * row, shape, self.dtype)

    def _fetch(self) -> Any:
        if not self.nbytes:
            import numpy as np

            return np.empty(self.shape, self.dtype)
        return self.memory.home.launch("fetch", (self.kept,), [(self, True, False)]).result()

    def __repr__(self) -> str:
        where = f"in bank {self.bank}" if self.memory.slot is not None else "freed"
        return f"<array of {self.nbytes:,} bytes {where}, {self.dtype} {self.shape}>"
