"""What a launch of a hardware kernel runs on a core: the circuit where there is one, else its reference."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, SupportsIndex, TypeVar

from device_runtime.context import current
from device_runtime.fpga.interface import Interface, Parameter, parameter_error
from device_runtime.launch import Blank, Kept

T = TypeVar("T")


def share_memory(one: Any, other: Any) -> bool:
    """Tell whether two NumPy arrays share memory; also where it would take too long to find out."""
    import numpy as np

    try:
        return np.may_share_memory(one, other) and np.shares_memory(
            one,
            other,
            max_work=10_000,  # type: ignore[arg-type, unused-ignore]
        )
    except np.exceptions.TooHardError:
        return True


def unmasked(value: T) -> T:
    """Return a value that an array is made of. Raises TypeError for a masked array."""
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("array: the mask of a masked array would be lost: give x.filled(0) or x.data")
    return value


def checked(what: str, value: T) -> T:
    """Return an array, or what stands for one.

    Raises TypeError if it is not of numbers.
    """
    import numpy as np

    dtype = np.dtype(value.dtype)  # type: ignore[attr-defined]
    if dtype.kind not in "biufc" or not dtype.isnative:
        raise TypeError(f"{what}: dtype {dtype} is not one of numbers as this machine has them")
    return value


def blank(shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any) -> Blank:
    """Return what stands for an array that holds nothing yet.

    `shape` is a whole number, Python's or NumPy's, or a tuple of them.
    Raises TypeError and ValueError for one that cannot be.
    """
    import numpy as np

    try:
        lengths = tuple(map(_length, shape if np.iterable(shape) else (shape,)))
    except TypeError:
        raise TypeError(f"empty: shape={shape!r} must be a whole number, or a tuple of them") from None
    if any(one < 0 for one in lengths):
        raise ValueError(f"empty: shape={shape!r} must not be negative")
    return checked("empty", Blank(lengths, np.dtype(dtype).str))


def _length(value: Any) -> int:
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's was an index once
        raise TypeError
    return operator.index(value)


def converted(value: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Return what is written to an array of this dtype and shape, as a NumPy array in which nothing is lost.

    An array is of a dtype that NumPy casts safely; of numbers each has to
    survive, but for the rounding of floats. What is smaller fills the shape as
    NumPy broadcasts it. Raises TypeError for an array of another dtype, and ValueError
    for numbers that do not survive, for what is none, and for another shape.
    """
    import numpy as np

    found = _converted(unmasked(value), dtype)
    if found.shape == shape:
        return found
    try:
        return np.broadcast_to(found, shape)
    except ValueError:
        raise ValueError(
            f"write: the value has shape {found.shape}, which does not fill an array of shape {shape}"
        ) from None


def _converted(value: Any, dtype: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray) and value.dtype == dtype:
        return value
    found = np.asarray(value)
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        if not np.can_cast(found.dtype, dtype, "safe"):
            raise TypeError(
                f"write: the value has dtype {found.dtype}, and {dtype} does not hold all of that; "
                f"value.astype({dtype.name!r}) converts it"
            )
        return found.astype(dtype, copy=False)
    if dtype.kind == "u" and found.dtype.kind == "f":  # NumPy has made floats of large and small ones
        given = np.array(value, object)
        if all(type(one) is int and 0 <= one < 1 << 64 for one in given.flat):
            found = given.astype(np.uint64)
    if found.dtype.kind not in ("biufc" if dtype.kind == "c" else "biuf"):
        raise ValueError(f"write: {reprlib.repr(value)} does not become an array of {dtype}")
    with np.errstate(all="ignore"):
        made = found.astype(dtype)
    if found.dtype.kind in "biu" or dtype.kind in "biu":
        given = np.array(value, object)  # as Python has them, which compares them as they are
        lost = np.asarray(made.astype(object) != given)
    else:
        given, lost = found, np.isfinite(found) != np.isfinite(made)
    if lost.any():
        first = given[np.unravel_index(np.argmax(lost), lost.shape)]
        raise ValueError(f"write: an array of {dtype} cannot hold {first}")
    return made


@lru_cache
def interface(plain: tuple[Any, ...]) -> Interface:
    """Return the interface that these tuples are. It travels as such: they are sure not to change."""
    kernel, parameters, xclbin = plain
    return Interface(kernel, tuple([Parameter(*parameter) for parameter in parameters]), xclbin)


def run(plain: tuple[Any, ...], reference: Callable[..., object], *args: Any) -> Any:
    """Run a hardware kernel; return the array that comes out of it, or a tuple of several, in their order.

    That is None where none does. Raises what `perform` raises, and TypeError and ValueError for what a
    handle has given.
    """
    taken = interface(plain)
    reference = partial(perform, taken.kernel, reference)
    for parameter, value in zip(taken.parameters, args, strict=True):
        if parameter.direction is not None and not isinstance(value, (Blank, Kept)):
            _check(taken, parameter, value)
    context = current()
    if context is not None and context.instance is not None:
        outs = context.instance.run(taken, reference, args, alone=not context.depth)
        return _value(outs)
    values, found = [], []
    for parameter, value in zip(taken.parameters, args, strict=True):
        if isinstance(value, Blank):
            value = value.made()
        elif parameter.direction in ("Out", "InOut"):
            value = value.copy()
        elif parameter.direction is None:
            value = _number(taken, parameter, value)
        if parameter.direction in ("Out", "InOut"):
            found.append(value)
        values.append(value)
    reference(*values)
    return _value(found)


def _value(outs: Sequence[Any]) -> Any:
    return outs[0] if len(outs) == 1 else tuple(outs) or None


def perform(kernel: str, function: Callable[..., object], *args: Any) -> None:
    """Run the function of a hardware kernel, which writes to its arguments.

    Raises TypeError if it returns something else than these, or parts of them, and what it raises.
    """
    found = function(*args)
    for one in found if isinstance(found, tuple) else (found,):
        if one is not None and not any(one is arg or _is_part(one, arg) for arg in args):
            raise TypeError(
                f"kernel {kernel}: the function returns a value ({type(one).__name__}), as no circuit does: "
                "it has to write to the arrays that come out, as in out[:] = a + b"
            )


def _is_part(value: Any, array: Any) -> bool:
    import numpy as np

    both = isinstance(value, np.ndarray) and isinstance(array, np.ndarray)
    return both and np.may_share_memory(value, array)


def _number(taken: Interface, parameter: Parameter, value: Any) -> Any:
    """Return a number, which may be what a handle has given, as the argument holds it.

    Raises TypeError and ValueError.
    """
    from device_runtime.fpga.scalars import held

    try:
        return held(parameter.dtype or "int", value)
    except (TypeError, ValueError) as error:
        told = f"kernel {taken.kernel}: argument {parameter.name}: {error}"
        raise type(error)(told) from None


def _check(taken: Interface, parameter: Parameter, value: Any) -> None:
    """Raise TypeError for what a handle has given that is not what the kernel takes."""
    if not hasattr(value, "dtype"):
        raise TypeError(
            f"kernel {taken.kernel}: argument {parameter.name} takes an array, not {type(value).__name__}"
        )
    wrong = parameter_error(parameter, value)
    if hasattr(value, "mask"):
        wrong = "is a masked array, and its mask would be lost"
    if wrong:
        raise TypeError(f"kernel {taken.kernel}: argument {parameter.name} {wrong}")
