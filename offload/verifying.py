"""Compare what a circuit gave with what its reference gives, for a share of the launches."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from device_runtime import hardware
from device_runtime.errors import OptionError, VerificationError
from device_runtime.launch import Blank
from device_runtime.origin import users_level

_RTOL = {"f2": 1e-2, "f4": 1e-4, "f8": 1e-9, "c8": 1e-4, "c16": 1e-9}  # by kind and size; others are exact


@dataclass(frozen=True)
class Verify:
    """Say how a hardware kernel is verified: `@offload(kernel="vadd", verify=Verify(0.01, rtol=1e-3))`.

    `share` of the launches, 0 to 1, evenly spread and the first one included,
    are run again by the reference, on the host, when their value is taken there;
    places that the reference leaves unwritten are not compared, and a warning says
    so where these are all of an array. `rtol` and `atol` are as in `numpy.isclose`;
    without `rtol` it follows the dtype: 1e-2 for float16, 1e-4 for single and 1e-9
    for double precision, and integers are the same. Without `atol` that is, of
    floats, a third of `rtol` times the median magnitude of what is finite, and not
    0, in the reference's array, as a sum that cancels is no more exact than its
    terms; of integers 0. With `warn` a difference is a UserWarning, else
    VerificationError.

    Not compared are launches with a handle or an array on the device among their
    arguments, and those whose value only goes to another launch.

    Raises OptionError for what these cannot be.
    """

    share: float
    rtol: float | None = None
    atol: float | None = None
    warn: bool = False

    def __post_init__(self) -> None:
        for name in ("share", "rtol", "atol"):
            value = getattr(self, name)
            if value is None and name != "share":
                continue
            most = 1 if name == "share" else float("inf")
            number = math.nan
            if isinstance(value, Real) and not isinstance(value, bool):
                with contextlib.suppress(OverflowError):
                    number = float(value)
            if not 0 <= number <= most:
                raise OptionError(f"Verify: {name}={value!r} must be a number from 0 to {most:g}")
            object.__setattr__(self, name, number)  # NumPy's may be too narrow to count launches with


class Verifier:
    """Choose launches of one kernel, and verify them."""

    def __init__(
        self, asked: Verify, name: str, plain: tuple[Any, ...], reference: Callable[..., Any]
    ) -> None:
        self._asked = asked
        self._name = name
        self._plain = plain
        self._outs = [
            one.name for one in hardware.interface(plain).parameters if one.direction in ("Out", "InOut")
        ]
        self._reference = reference
        self._launches = itertools.count()

    def is_due(self) -> bool:
        """Tell whether the launch that is being made is one of the share."""
        number, share = next(self._launches), self._asked.share
        return int(number * share) != int((number - 1) * share) if number else share > 0

    def check(self, args: Sequence[Any], found: Sequence[Any]) -> None:
        """Compare the arrays that came out with those that the reference gives for these arguments.

        Raises VerificationError, saying where they differ and by how much, or warns.
        """
        wanted = self._wanted(args, 0xFF)
        wrong = [place for place, here in enumerate(wanted) if not self._right(here, found[place]).all()]
        if not wrong:
            return
        other = self._wanted(args, 0)
        for place in wrong:
            unwritten = _holds(wanted[place], 0xFF) & _holds(other[place], 0)
            if unwritten.all():
                warnings.warn(
                    f"kernel {self._name}: nothing of {self._outs[place]} was compared: its function writes "
                    f"nothing to it, as {self._outs[place]}[:] = ... does",
                    UserWarning,
                    stacklevel=users_level(),
                )
            told = self._difference(wanted[place], found[place], ~unwritten)
            if told is None:
                continue
            told = f"kernel {self._name}: {self._outs[place]} differs from what the reference gives: {told}"
            if not self._asked.warn:
                raise VerificationError(told)
            warnings.warn(told, UserWarning, stacklevel=users_level())

    def _wanted(self, args: Sequence[Any], fresh: int) -> Sequence[Any]:
        """Return what the reference gives, where arrays that only come out are full of a byte before."""
        given = [one.made(fresh) if isinstance(one, Blank) else one for one in args]
        wanted = hardware.run(self._plain, self._reference, *given)
        return [wanted] if len(self._outs) == 1 else wanted or ()

    def _right(self, wanted: Any, found: Any) -> Any:
        """Tell where an array holds what it should."""
        from device_runtime.fpga.answers import near

        return near(found, wanted, *self._allowed(wanted))

    def _allowed(self, wanted: Any) -> tuple[float, float]:
        """Return by how much an array may be off: relative and absolute."""
        import numpy as np

        kind, rtol, atol = wanted.dtype.kind, self._asked.rtol, self._asked.atol
        if rtol is None:
            rtol = _RTOL.get(f"{kind}{wanted.dtype.itemsize}", 0.0)
        if atol is None:
            with np.errstate(all="ignore"):
                sizes = np.abs(wanted).reshape(-1) if kind in "fc" else np.zeros(1)
            sizes = np.sort(sizes[np.isfinite(sizes) & (sizes > 0)])
            atol = rtol / 3 * float(sizes[(len(sizes) - 1) // 2]) if len(sizes) else 0.0
        return rtol, atol

    def _difference(self, wanted: Any, found: Any, sure: Any) -> str | None:
        """Return in words how far an array is off where the reference has written it; None if it is not."""
        import numpy as np

        right = self._right(wanted, found) | ~sure
        if right.all():
            return None
        wrong = np.argwhere(~right)
        with np.errstate(all="ignore"):
            off = np.abs(np.subtract(found[~right], wanted[~right], dtype=np.result_type(found, np.float64)))
        worst = tuple(map(int, wrong[int(np.argmax(np.nan_to_num(off, nan=np.inf, posinf=np.inf)))]))
        rtol, atol = self._allowed(wanted)
        return (
            f"in {len(wrong):,} of {int(sure.sum()):,} places, most at {list(worst)}, "
            f"where it is {found[worst]} and should be {wanted[worst]} "
            f"(allowed are rtol={rtol:g}, atol={atol:g})"
        )


def _holds(array: Any, byte: int) -> Any:
    """Tell where an array holds nothing but a byte."""
    import numpy as np

    held = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.itemsize)
    return (held == byte).all(axis=-1)
