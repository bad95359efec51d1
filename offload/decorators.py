"""The decorators that make kernels."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from device_runtime.errors import OptionError
from device_runtime.interrupts import Shield
from offload.body import Body
from offload.kernel import AsyncKernel, Kernel, SingleKernel, make
from offload.options import HARDWARE, LimitNames, OptionNames, check, placements

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from offload.hardware import HardwareKernel
    from offload.verifying import Verify

P = ParamSpec("P")
R = TypeVar("R")


@overload
def offload(fn: Callable[P, R], /) -> Kernel[P, R]: ...
@overload
def offload(
    fn: Callable[P, R], /, *, async_: Literal[True], **options: Unpack[OptionNames]
) -> AsyncKernel[P, R]: ...
@overload
def offload(
    fn: Callable[P, R], /, *, async_: Literal[False] = False, **options: Unpack[OptionNames]
) -> Kernel[P, R]: ...
@overload
def offload(
    *, async_: Literal[True], **options: Unpack[OptionNames]
) -> Callable[[Callable[P, R]], AsyncKernel[P, R]]: ...
@overload
def offload(
    *, async_: Literal[False] = False, **options: Unpack[OptionNames]
) -> Callable[[Callable[P, R]], Kernel[P, R]]: ...
@overload
def offload(
    *,
    xclbin: str | os.PathLike[str] = ...,
    kernel: str = ...,
    verify: float | Verify = ...,
    **options: Unpack[OptionNames],
) -> Callable[[Callable[..., Any]], HardwareKernel]: ...
def offload(*fn: Any, **options: Any) -> Any:
    """Make a function a kernel: its calls run on the cores of a device.

        @offload                          # all cores, blocking, a list in core order
        def find_pi(darts): ...

        @offload(auto=2, async_=True)
        def find_pi(darts): ...

    Options (see `offload.Options`): `async_`, one of `auto`, `target` and
    `all`, `device`, `timeout`, `retries`, `priority`. A call may override them
    by name, unless the function has a parameter of that name; then the
    function keeps it, with a warning here, and `.options(...)` sets the option.

    With `kernel` or `xclbin` it is a hardware kernel (see `HardwareKernel`):
    on an FPGA its calls run the kernel of that name of the bitstream, on all
    other devices the function. Its arguments are annotated `In`, `Out` or
    `InOut` where they are arrays, else as numbers.

    Raises KernelTypeError for what cannot be a kernel, and OptionError.
    """
    return _decorate("offload", fn, {}, options)


@overload
def offload_single(fn: Callable[P, R], /, **options: Unpack[LimitNames]) -> SingleKernel[P, R]: ...
@overload
def offload_single(
    **options: Unpack[LimitNames],
) -> Callable[[Callable[P, R]], SingleKernel[P, R]]: ...
def offload_single(*fn: Any, **options: Any) -> Any:
    """Make a function a kernel whose calls run on one core and return a handle at once.

    `offload` with `async_=True, auto=1`, and with its other options.
    Raises OptionError where another placement is given.
    """
    return _decorate("offload_single", fn, {"async_": True, "auto": 1}, options, "its own auto=1")


@overload
def offload_multiple(
    fn: Callable[P, R], /, *, cores: int, **options: Unpack[LimitNames]
) -> AsyncKernel[P, R]: ...
@overload
def offload_multiple(
    *, cores: int, **options: Unpack[LimitNames]
) -> Callable[[Callable[P, R]], AsyncKernel[P, R]]: ...
def offload_multiple(*fn: Any, **options: Any) -> Any:
    """Make a function a kernel whose calls run on `cores` cores and return a handle at once.

    `offload` with `async_=True, auto=cores`, and with its other options.
    Raises OptionError where `cores` is not given, or another placement is.
    """
    cores = options.pop("cores", None)
    if cores is None:
        raise OptionError("offload_multiple needs to know how many: @offload_multiple(cores=4)")
    return _decorate("offload_multiple", fn, {"async_": True, "auto": cores}, options, f"{cores=}")


def _decorate(
    name: str, fn: tuple[Any, ...], own: dict[str, Any], options: dict[str, Any], placed: str = ""
) -> Any:
    """Make a kernel, or what makes one; `placed` says in which words the decorator itself is a placement."""
    if len(fn) > 1:
        raise OptionError(f"@{name} takes its options by name, as in @{name}(timeout=10)")
    hardware = {one: options.pop(one) for one in HARDWARE if one in options}
    if hardware.keys() == {"verify"}:
        raise OptionError(f"@{name}: verify= is for hardware kernels, which have kernel= or xclbin=")
    for option, value in hardware.items():
        if option == "verify":
            continue
        kinds = (str, os.PathLike) if option == "xclbin" else (str,)
        if not (isinstance(value, kinds) and str(value)):
            raise OptionError(f"@{name}: {option}={value!r} must be a name")
    layer = check(options, f"@{name}")
    second = placements(layer)
    if placed and second:
        raise OptionError(f"@{name}: {placed} and {second[0]} are two placements; give one of them")
    layer = {**check(own, f"@{name}"), **layer}  # whether to wait is the user's, if both say it

    if hardware and not (placed or second):
        layer = {**check({"auto": 1}, ""), **layer}

    def decorate(function: Any) -> Any:
        body = _hardware_body(function, **hardware) if hardware else Body(function)
        for option in body.signature.hidden_options():
            warnings.warn(
                f"kernel {body.name} has a parameter named {option!r}, as an option is: in its calls "
                f"{option}= is the parameter; .options({option}=...) sets the option",
                UserWarning,
                stacklevel=_users_level(),
            )
        return make(body, layer)

    return decorate(*fn) if fn else decorate


def _hardware_body(function: Any, kernel: Any = None, xclbin: Any = None, verify: Any = None) -> Body:
    with Shield():  # Python forgets an interrupt that strikes in the midst of an import
        from offload.hardware import HardwareBody
        from offload.verifying import Verify

    if verify is not None and not isinstance(verify, Verify):
        verify = Verify(verify)
    return HardwareBody(function, kernel, None if xclbin is None else str(xclbin), verify=verify)


def _users_level() -> int:
    """Return the stack level, for a warning, of the first frame outside this module."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame, level = frame.f_back, level + 1
    return level
