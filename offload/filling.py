"""What makes of what a circuit gave the value of a hardware kernel's call: the caller's own arrays."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from device_runtime.errors import OffloadError
from device_runtime.hardware import share_memory
from offload.arrays import BankArray, DeviceArray, HostArray
from offload.handle import Handle
from offload.verifying import Verifier

T = TypeVar("T")
Finish = Callable[[int, Any], Any]


class Filling:
    """Copy what came out of a shard to the caller's arrays, and return those; None if there are none.

    `outs` has for each argument that comes out its arrays by shard. `given` are the arguments
    of a launch on one unit, `changed` the names of those that go in and come out, and `reference`
    is the kernel's function.
    """

    def __init__(
        self,
        outs: Sequence[Sequence[Any]],
        reference: Callable[..., Any],
        given: Sequence[Any] | None,
        changed: Sequence[str] = (),
    ) -> None:
        self.outs = outs
        self.changed = changed
        self.reference = reference
        self.stays = any([type(piece) in (BankArray, HostArray) for pieces in outs for piece in pieces])
        # Several threads may take the value, and whoever has it may write to the arrays.
        self._lock = threading.Lock()
        self._filled: set[int] = set()
        # A handle that somebody keeps must not keep what went in.
        self._given = None if given is None else [_weak(one) for one in given]

    def __call__(self, rank: int, value: Any) -> Any:
        theirs = [pieces[rank] for pieces in self.outs]
        with self._lock:
            if rank not in self._filled:
                _fill([one for one in theirs if not isinstance(one, BankArray)], value)
                self._filled.add(rank)
        if not theirs:
            return None
        return theirs[0] if len(theirs) == 1 else tuple(theirs)

    def outs_of(self, kind: type[T]) -> list[T]:
        """Return the arrays of a kind that come out."""
        return [piece for pieces in self.outs for piece in pieces if type(piece) is kind]

    def arguments(self) -> list[Any] | str:
        """Return copies of what the launch was given, as it is now; or why there are none."""
        import numpy as np

        found = [one() if isinstance(one, weakref.ref) else one for one in self._given or ()]
        if any(isinstance(one, Handle) for one in found):
            return "an argument was a handle"
        gone = "an array of the launch is gone"
        if self._given is None or any(one is None for one in found):
            return gone
        try:
            return [np.array(one) if isinstance(one, (np.ndarray, DeviceArray)) else one for one in found]
        except (OffloadError, ValueError):
            return gone  # it was freed, or was lost


def _fill(arrays: Sequence[Any], value: Any) -> None:
    """Copy what came out to where it is to be: one array, or several."""
    for array, found in zip(arrays, [value] if len(arrays) == 1 else value or (), strict=True):
        if isinstance(array, HostArray):
            array = array.array
        array[...] = found


def _weak(value: Any) -> Any:
    import numpy as np

    kind = type(value)  # asked first: to ask for a common class takes far longer
    if kind in (int, float, bool):
        return value
    if kind is BankArray or isinstance(value, (np.ndarray, HostArray)):
        return weakref.ref(value)
    return value


class Verified:
    """Do the same, and compare what came out with what the reference gives."""

    def __init__(self, filling: Filling, verifier: Verifier, rows: Sequence[Sequence[Any]]) -> None:
        self.filling = filling
        self._verifier = verifier
        self._rows = rows

    def __call__(self, rank: int, value: Any) -> Any:
        found = self.filling(rank, value)
        outs = () if found is None else found if isinstance(found, tuple) else (found,)
        self._verifier.check(self._rows[rank if len(self._rows) > 1 else 0], outs)
        return found


def overlap(one: Any, other: Any) -> bool:
    """Tell whether two arrays share memory; also where it would take too long to find out."""
    if isinstance(one, BankArray) or isinstance(other, BankArray):
        return isinstance(one, BankArray) and isinstance(other, BankArray) and one.overlaps(other)
    one, other = (array.array if isinstance(array, HostArray) else array for array in (one, other))
    return share_memory(one, other)


def folded(array: Any) -> bool:
    """Tell whether elements of an array share memory; also of one that is no part of an ordinary array."""
    free = array.itemsize  # bytes that its elements along the axes so far take from first to last
    for step, length in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if length > 1:
            if step < free:
                return bool(array.size)
            free += step * (length - 1)
    return False
