"""What a kernel runs: its function, refused here if it cannot be a kernel."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from device_runtime.errors import KernelTypeError
from offload.signature import Signature

if TYPE_CHECKING:
    from device_runtime.capture import Capture

_numbers = itertools.count(1)


class Body:
    """Hold a function and what is known of it, shared by all kernels that differ in options only.

    `kind` says what a class makes of it: "method", "class", "static", or ""
    for what no class binds.
    """

    makes: type | None = None  # the class of its kernels, where it is not one of the ordinary ones
    retries = 0  # where nobody says otherwise

    __slots__ = ("_capture", "fn", "kind", "module", "name", "number", "signature")

    def __init__(self, fn: Any) -> None:
        if isinstance(fn, (staticmethod, classmethod)):
            self.kind = "static" if isinstance(fn, staticmethod) else "class"
            fn = fn.__func__
        else:
            self.kind = "method" if isinstance(fn, FunctionType) else ""
        _refuse(fn)
        inner = _inner(fn)
        self.fn: Callable[..., Any] = fn
        self.module: str = getattr(inner, "__module__", None) or "builtins"
        qualname = getattr(inner, "__qualname__", None) or type(inner).__qualname__
        self.name = f"{self.module}.{qualname}"
        self.number = next(_numbers)
        self.signature = Signature(fn, getattr(inner, "__name__", qualname))
        self._capture: Capture | None = None

    @property
    def capture(self) -> Capture:
        """What makes the function's images; made at the first launch, as many kernels are only loaded."""
        if self._capture is None:
            from device_runtime.capture import Capture

            self._capture = Capture(self.fn)
        return self._capture


def _inner(fn: Any) -> Any:
    """Return what partial objects wrap."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _refuse(fn: Any) -> None:
    """Raise KernelTypeError, saying what to do, for what cannot be a kernel."""
    if isinstance(fn, type):
        raise KernelTypeError(
            f"class {fn.__qualname__} cannot be a kernel; decorate a function, or methods of the class"
        )
    if hasattr(type(fn), "__offload_kernel__"):
        raise KernelTypeError(f"{fn!r} is a kernel already; .options(...) gives it other options")
    if not callable(fn):
        raise KernelTypeError(
            f"offload decorates a function, not {fn!r} of type {type(fn).__name__}; "
            "options are given by name, as in @offload(device='local:4')"
        )
    refuse_coroutine(fn)
    inner, code = _coded(fn)
    if inspect.isgeneratorfunction(code):
        raise KernelTypeError(
            f"{_called(inner)} is a generator function and cannot be a kernel: its value would not be there "
            "at the end of the launch; return a list, or use kernel.map for a stream of values"
        )


def refuse_coroutine(fn: Any) -> None:
    """Raise KernelTypeError for an `async def` function: what it gives is for an event loop to run."""
    inner, code = _coded(fn)
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise KernelTypeError(
            f"{_called(inner)} is an `async def` function and cannot be a kernel, which is an ordinary "
            "function; the host can await it: `await kernel.launch(...)`"
        )


def _coded(fn: Any) -> tuple[Any, Any]:
    """Return what partial objects wrap, and what of it has the code that a call runs."""
    inner = _inner(fn)
    return inner, inner if inspect.isroutine(inner) else type(inner).__call__


def _called(inner: Any) -> str:
    return getattr(inner, "__qualname__", type(inner).__qualname__)
