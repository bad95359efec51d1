"""Arrays that stay in a device's memory: made by `device.array` and `device.empty`."""

from __future__ import annotations

import operator
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from device_runtime.errors import DependencyError
from device_runtime.hardware import Blank, Kept

if TYPE_CHECKING:
    from offload.handle import Handle
    from offload.keeping import Memory, Slot

T = TypeVar("T")
# Held from when it is found out what a launch has to wait for, until those that come after it know of it.
TURN = threading.RLock()
os.register_at_fork(after_in_child=TURN._at_fork_reinit)  # type: ignore[attr-defined]  # another thread's


class DeviceArray:
    """An array in a bank of a device's memory, which hardware kernels take in the place of a NumPy array.

    Nothing is copied for such a launch. `numpy.asarray` fetches what it holds,
    and `write` replaces that; both in order with the launches. A slice along
    the first axis is an array in the same memory. It is freed by `free`, at the
    end of a `with` block, or with the last reference to it and its slices.

    On a device without such memory it is an array of the host's, with the same
    effect.
    """

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
        count = 1
        for length in self.shape:
            count *= length
        return int(count * self.dtype.itemsize)

    def write(self, value: Any) -> None:
        """Replace what it holds, once the launches that use it have ended.

        Raises ValueError for a value that does not become of its shape, and
        what the last launch that wrote to it has raised.
        """
        raise NotImplementedError

    def free(self) -> None:
        """Give the memory back, once launches that use it have ended; a slice's is that of the whole."""
        raise NotImplementedError

    def __getitem__(self, key: slice) -> DeviceArray:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        found = self._fetch()
        return found if dtype is None or dtype == found.dtype else found.astype(dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __iter__(self) -> NoReturn:
        raise TypeError("the elements are on the device; numpy.asarray(array) fetches them")

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

    def _fetch(self) -> Any:
        raise NotImplementedError

    def _range(self, key: Any) -> range:
        if not isinstance(key, slice) or key.step not in (None, 1) or not self.shape:
            raise TypeError(
                f"array[{key!r}]: of an array on a device there are slices along the first axis, "
                "one element after another; numpy.asarray(array) fetches all of it"
            )
        return range(*key.indices(self.shape[0]))


class HostArray(DeviceArray):
    """The same on a device that has no memory of its own."""

    def __init__(self, array: Any, of: HostArray | None = None) -> None:
        super().__init__(array.shape, array.dtype)
        self.array: Any = array
        self._whole: Any = array if of is None else of._whole
        self._writers: list[Handle[Any]] = [] if of is None else of._writers

    def settle(self, reads: bool = True) -> Any:
        """Return the array once what was launched to write to it has: it is filled when the value is taken.

        Whoever calls has its TURN, and keeps it while it uses the array.
        Raises DependencyError if that has failed, and it is to be read.
        """
        self._alive()
        for handle in list(self._writers):
            try:
                handle.wait()
                self._writers.remove(handle)
            except Exception as error:
                if reads:
                    raise DependencyError(
                        f"kernel {handle._name} failed, and so did not write what is to be read"
                    ) from error
        if not reads and len(self.array) == len(self._whole):
            self._writers.clear()
        return self.array

    def written_by(self, handle: Handle[Any]) -> None:
        """Take note of a launch that writes to it."""
        self._writers.append(handle)

    def write(self, value: Any) -> None:
        with TURN:
            self.settle(reads=False)[...] = value

    def free(self) -> None:
        self.array = self._whole = None

    def __getitem__(self, key: slice) -> DeviceArray:
        rows = self._range(key)
        self._alive()
        return HostArray(self.array[rows.start : max(rows.start, rows.stop)], self)

    def _fetch(self) -> Any:
        with TURN:
            return self.settle().copy()

    def _alive(self) -> None:
        if self._whole is None:
            raise ValueError("the array was freed")

    def __repr__(self) -> str:
        return f"<array of {self.nbytes:,} bytes in the host's memory, {self.dtype} {self.shape}>"


class BankArray(DeviceArray):
    """The same in a bank of a device's memory."""

    def __init__(self, memory: Memory, start: int, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(shape, dtype)
        self.memory = memory
        self.start = start
        self.stop = start + self.nbytes

    @property
    def bank(self) -> str:
        return self.memory.bank

    @property
    def kept(self) -> Kept:
        """What travels in its place.

        Raises ValueError if it was freed.
        """
        return Kept(self.slot.number, self.start, self.shape, self.dtype.str)

    @property
    def slot(self) -> Slot:
        """What keeps the buffer; a launch that uses it has to hold it until it has ended."""
        if self.memory.slot is None:
            raise ValueError(f"the array in bank {self.bank} was freed")
        return self.memory.slot

    def overlaps(self, other: BankArray) -> bool:
        """Tell whether it shares memory with another one."""
        return self.memory is other.memory and self.start < other.stop and other.start < self.stop

    def write(self, value: Any) -> None:
        import numpy as np

        found = np.broadcast_to(np.asarray(value, self.dtype), self.shape)
        self.memory.home.launch("replace", (self.kept, found), [(self, False, True)]).result()

    def free(self) -> None:
        self.memory.slot = None

    def __getitem__(self, key: slice) -> DeviceArray:
        rows = self._range(key)
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        shape = (len(rows), *self.shape[1:])
        return BankArray(self.memory, self.start + rows.start * row, shape, self.dtype)

    def _fetch(self) -> Any:
        return self.memory.home.launch("fetch", (self.kept,), [(self, True, False)]).result()

    def __repr__(self) -> str:
        where = f"in bank {self.bank}" if self.memory.slot is not None else "freed"
        return f"<array of {self.nbytes:,} bytes {where}, {self.dtype} {self.shape}>"


def checked(what: str, value: T) -> T:
    """Return an array, or what stands for one.

    Raises TypeError if it is not of numbers.
    """
    import numpy as np

    dtype = np.dtype(value.dtype)  # type: ignore[attr-defined]
    if dtype.kind not in "biufc" or not dtype.isnative:
        raise TypeError(f"{what}: dtype {dtype} is not one of numbers as this machine has them")
    return value


def blank(shape: int | tuple[int, ...], dtype: Any) -> Blank:
    """Return what stands for an array that holds nothing yet.

    Raises TypeError and ValueError for one that cannot be.
    """
    import numpy as np

    try:
        lengths = tuple(operator.index(one) for one in ((shape,) if isinstance(shape, int) else tuple(shape)))
    except TypeError:
        raise TypeError(f"empty: shape={shape!r} must be a whole number, or a tuple of them") from None
    if any(one < 0 for one in lengths):
        raise ValueError(f"empty: shape={shape!r} must not be negative")
    return checked("empty", Blank(lengths, np.dtype(dtype).str))
