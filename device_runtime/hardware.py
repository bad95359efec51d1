"""What a launch of a hardware kernel runs on a core: the circuit where there is one, else its reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from device_runtime.context import current
from device_runtime.fpga.interface import Interface, Parameter, parameter_error


class Blank(NamedTuple):
    """Stand for an array that only comes out: what it holds before does not travel."""

    shape: tuple[int, ...]
    dtype: str

    def made(self) -> Any:
        """Return an array of zeros."""
        import numpy as np

        return np.zeros(self.shape, self.dtype)


class Kept(NamedTuple):
    """Name a part of a buffer that the host keeps: that is what travels in the place of an array."""

    number: int
    start: int  # in bytes
    shape: tuple[int, ...]
    dtype: str


@lru_cache
def interface(plain: tuple[Any, ...]) -> Interface:
    """Return the interface that these tuples are. It travels as such: they are sure not to change."""
    kernel, parameters, xclbin = plain
    return Interface(kernel, tuple([Parameter(*parameter) for parameter in parameters]), xclbin)


def run(plain: tuple[Any, ...], reference: Callable[..., object], *args: Any) -> Any:
    """Run a hardware kernel; return the array that comes out of it, or a tuple of several, in their order."""
    taken = interface(plain)
    for parameter, value in zip(taken.parameters, args, strict=True):
        if parameter.direction is not None and not isinstance(value, (Blank, Kept)):
            _check(taken, parameter, value)
    context = current()
    if context is not None and context.instance is not None:
        outs = context.instance.run(taken, reference, args)
        return outs[0] if len(outs) == 1 else outs
    values, found = [], []
    for parameter, value in zip(taken.parameters, args, strict=True):
        if isinstance(value, Blank):
            value = value.made()
        elif parameter.direction == "InOut":
            value = value.copy()
        if parameter.direction in ("Out", "InOut"):
            found.append(value)
        values.append(value)
    reference(*values)
    return found[0] if len(found) == 1 else tuple(found)


def _check(taken: Interface, parameter: Parameter, value: Any) -> None:
    """Raise TypeError for what a handle has given that is not what the kernel takes."""
    if not hasattr(value, "dtype"):
        raise TypeError(
            f"kernel {taken.kernel}: argument {parameter.name} takes an array, not {type(value).__name__}"
        )
    wrong = parameter_error(parameter, value)
    if wrong:
        raise TypeError(f"kernel {taken.kernel}: argument {parameter.name} {wrong}")
