"""How a hardware kernel says of its arguments which way they go: `In`, `Out`, `InOut`, or a number."""

from __future__ import annotations

import contextlib
import inspect
import operator
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Annotated, Any, get_args, get_origin

from device_runtime.errors import KernelTypeError, OptionError
from device_runtime.fpga.interface import IN, INOUT, OUT, Parameter


class Direction:
    """Say of an array argument of a hardware kernel which way it goes: see `In`, `Out` and `InOut`.

    `dtype` is the array's, any that fits the bitstream's if not given; `shape`
    is given where it is fixed; `bank` names a memory bank of the device where it
    is not to be the one that the argument is wired to.

        @offload(xclbin="vadd.xclbin", kernel="vadd")
        def vadd(a: In, b: In("float32"), out: Annotated[np.ndarray, Out], n: int): ...

    Raises TypeError for what is no dtype, and OptionError for what cannot be a shape.
    """

    name = ""

    def __init__(
        self, dtype: Any = None, shape: int | Sequence[int] | None = None, bank: str | None = None
    ) -> None:
        self.dtype, self.shape, self.bank = None, None, bank
        if dtype is not None:
            import numpy as np

            found = np.dtype(dtype)
            if found.kind not in "biufc":
                raise OptionError(f"{self.name}: dtype={dtype!r} is none of numbers, which a circuit takes")
            if not found.isnative:
                raise OptionError(
                    f"{self.name}: dtype={dtype!r} is of another byte order than this machine's, "
                    f"which a circuit takes: {found.name}"
                )
            self.dtype = found.str
        if shape is not None:
            try:
                full = tuple(map(operator.index, shape if isinstance(shape, Sequence) else (shape,)))
            except TypeError:
                full = (-1,)
            if min(full, default=0) < 0:
                raise OptionError(f"{self.name}: shape={shape!r} must be a tuple of sizes")
            self.shape = full
        if not isinstance(bank, str | None):
            raise OptionError(f"{self.name}: bank={bank!r} must be a name")


class In(Direction):
    """An array that the kernel reads."""

    name = IN


class Out(Direction):
    """An array that the kernel writes: it is filled when the launch's value is taken.

    What the kernel leaves unwritten holds anything then; of an array on the device, what it held before.
    """

    name = OUT


class InOut(Direction):
    """An array that the kernel reads and writes."""

    name = INOUT


def parameters(name: str, fn: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return what a function says of its arguments.

    Annotations that are texts may name what is known in its module, where it is
    decorated, and in the functions around it. Raises KernelTypeError, naming kernel
    and argument, for what no circuit can have.
    """
    try:
        signature = inspect.signature(fn, locals=_around(fn), eval_str=True)
    except Exception as error:
        raise KernelTypeError(
            f"kernel {name}: an annotation cannot be understood: {error!r}; with annotations as texts, as by "
            "`from __future__ import annotations`: name what is known in the kernel's module, or where it is "
            "decorated"
        ) from error
    found = []
    for place, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise KernelTypeError(
                f"kernel {name}: a circuit's arguments are given by place, and {parameter} cannot be"
            )
        found.append(_parameter(name, place, parameter.annotation))
    return tuple(found)


def _around(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return what is local where a function is defined: its closure, and what around it is running.

    Nothing for annotations that are no texts: to look at what runs keeps its values as long as it does.
    """
    inner = inspect.unwrap(fn.func if isinstance(fn, partial) else fn)
    if not isinstance(inner, FunctionType) or not _has_texts(inner):
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is its own name, which is yet to be set
            found[name] = cell.cell_contents
    code, frame = inner.__code__, sys._getframe().f_back
    while frame is not None:
        if any(one is code for one in frame.f_code.co_consts):
            found, code = {**frame.f_locals, **found}, frame.f_code
        frame = frame.f_back
    return found


def _has_texts(function: FunctionType) -> bool:
    return any(isinstance(one, str) for one in function.__annotations__.values())


def _is_direction(value: Any) -> bool:
    return isinstance(value, Direction) or (isinstance(value, type) and issubclass(value, Direction))


def _parameter(kernel: str, name: str, annotation: Any) -> Parameter:
    if get_origin(annotation) is Annotated:
        ways = [each for each in get_args(annotation)[1:] if _is_direction(each)]
        if len(ways) > 1:
            raise KernelTypeError(
                f"kernel {kernel}: argument {name} is annotated with "
                f"{' and '.join(each.name for each in ways)}; an array that goes both ways is InOut"
            )
        annotation = ways[0] if ways else annotation
    if isinstance(annotation, type) and issubclass(annotation, Direction):
        annotation = annotation()
    if isinstance(annotation, Direction):
        return Parameter(name, annotation.name, annotation.dtype, annotation.shape, annotation.bank)
    if annotation is inspect.Parameter.empty:
        raise KernelTypeError(
            f"kernel {kernel}: argument {name} has no annotation; an array is In, Out or InOut, "
            "a scalar int, float, bool or a type of NumPy's"
        )
    try:
        import numpy as np

        dtype = None if annotation is None else np.dtype(annotation)
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise KernelTypeError(
            f"kernel {kernel}: argument {name} is annotated {annotation!r}; an array is In, Out or InOut, "
            "a scalar int, float, bool or a type of NumPy's"
        )
    # A Python number is as wide as the circuit has it.
    plain = annotation is int or annotation is float
    return Parameter(name, None, annotation.__name__ if plain else dtype.name)
