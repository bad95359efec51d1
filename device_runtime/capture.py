"""Make of a kernel, at every launch, the image that travels: the function with what it sees now."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable
from itertools import count
from types import FunctionType
from typing import Any, NamedTuple

from device_runtime.bytecode import assigned_names, visible_globals
from device_runtime.classes import Absent
from device_runtime.errors import KernelNotSerializable, KernelTypeError
from device_runtime.launch import Image
from device_runtime.origin import is_importable, users_level
from device_runtime.pickling import dumps, pickles
from device_runtime.reducing import loading
from device_runtime.traces import reason
from device_runtime.walk import Walk, plain_function

LARGE = 1_000_000

_numbers = count(1)
# An image that is loaded in the process that made it leaves the modules there as they are.
_process = os.urandom(8)


class _Last(NamedTuple):
    resident: frozenset[str]
    walk: Walk | None  # None where identity cannot tell whether something changed
    image: Image


class Capture:
    """Hold a kernel's function, and the image of it that was made last.

    Threads may share one: what they race for is only who makes an image first.
    """

    def __init__(self, function: Callable[..., Any], pure: bool = False) -> None:
        self.function = function
        self.pure = pure
        self.plain = plain_function(function)
        named = self.plain or function
        self.module = str(getattr(named, "__module__", None) or "__main__")
        self.name = f"{self.module}.{getattr(named, '__qualname__', type(named).__qualname__)}"
        self._last: _Last | None = None
        self._recompiled: dict[tuple[Any, frozenset[str]], FunctionType] = {}
        self._large: set[str] = set()

    def image(self, resident: frozenset[str] = frozenset()) -> Image:
        """Return the kernel as it is now; the same image as the last time if nothing has changed.

        `resident` are the names defined on the device for the kernel's module:
        they are not captured, and a plain assignment to one is to the global.

        Raises KernelNotSerializable, naming what is captured and does not
        pickle, and KernelTypeError for an assignment that needs `global`.
        """
        last = self._last
        if last is not None and last.walk is not None and last.resident == resident and last.walk.unchanged():
            return last.image
        rewritten = self._with_resident(resident)
        walk = Walk(self.function, resident, rewritten)
        if self.plain is not None:
            walk.watch(self.plain)
        data = self._encoded(walk)
        if rewritten is not None and not walk.rewrote:
            raise KernelTypeError(
                f"{rewritten.__qualname__} assigns to resident data: write a `global` statement at its top"
            )
        used = frozenset(walk.resident)
        if last is not None and (last.image.data, last.image.fresh, last.image.resident) == (
            data,
            walk.fresh,
            used,
        ):
            image = last.image
        else:
            number = next(_numbers)
            image = Image(number, self.name, self.module, data, walk.fresh, used, walk.sources(), self.pure)
        self._last = _Last(resident, walk if walk.frozen else None, image)
        if len(data) > LARGE:
            self._warn(walk)
        return image

    def _with_resident(self, resident: frozenset[str]) -> FunctionType | None:
        """Return the plain function with resident names it assigns to made global, None if it has none."""
        plain = self.plain
        names = resident & assigned_names(plain.__code__) if resident and plain is not None else frozenset()
        if not names or plain is None:
            return None
        key = plain.__code__, names
        if key not in self._recompiled:
            from device_runtime.source import with_globals

            self._recompiled[key] = with_globals(plain, names)
        new = self._recompiled[key]
        new.__defaults__, new.__kwdefaults__ = plain.__defaults__, plain.__kwdefaults__
        return new

    def _encoded(self, walk: Walk) -> bytes:
        walk.share()
        try:
            while True:
                data = dumps((_process, list(walk.shared.values()), self.function), rules=walk)
                if not walk.share():
                    return data
        except Exception as error:
            raise KernelNotSerializable(f"kernel {self.name}: {_culprit(walk)} {reason(error)}") from error

    def _warn(self, walk: Walk) -> None:
        """Name what is large, when it is encoded for the second time; once per name."""
        for label, value in walk.values:
            if label in self._large:
                continue
            seen = f"once {label}"
            if seen not in self._large:
                self._large.add(seen)
                continue
            self._large.add(label)
            size = getattr(value, "nbytes", None)
            size = size if isinstance(size, int) else len(dumps(value, rules=walk))
            if size > LARGE:
                warnings.warn(
                    f"kernel {self.name} captures {label}, {size / 1e6:.1f} MB, which is encoded anew for "
                    "every launch; define_on_device(…) puts it on the cores once, or pass it as an argument",
                    UserWarning,
                    stacklevel=users_level(),
                )


def load_image(data: bytes) -> Any:
    """Load the function of an image, on a core; arrays it captured are its own and writable.

    Attributes of user modules and their classes that the kernel uses are set to
    what they were on the host. Raises whatever the load raises; SystemExit as ImportError.
    """
    before, loading.writable = loading.writable, True
    try:
        process, shared, function = pickle.loads(data)
        if process != _process:
            for holder, name, value in shared:
                _set(holder, name, value)
    except SystemExit as error:
        raise ImportError("a module that the kernel needs ended by sys.exit() when imported") from error
    finally:
        loading.writable = before
    return function


def _set(holder: Any, name: str, value: Any) -> None:
    if value is Absent:
        _delete(holder, name)
    elif not isinstance(holder, type):
        setattr(holder, name, value)
    else:
        with contextlib.suppress(AttributeError, TypeError):  # it may refuse, as a ctypes structure does
            type.__setattr__(holder, name, value)


def _delete(holder: Any, name: str) -> None:
    delete = type.__delattr__ if isinstance(holder, type) else delattr
    with contextlib.suppress(AttributeError, TypeError):  # this core may never have been sent it
        delete(holder, name)


def _culprit(walk: Walk) -> str:
    """Name the captured value that does not pickle on its own, if there is one."""
    for label, value in walk.values:
        if not pickles(value, walk):
            kind = type(value)
            told = f"{label}, of type {kind.__module__}.{kind.__qualname__}, does not pickle"
            part = _culprit_in(value if isinstance(value, type) else kind, walk)
            return f"{told} because of {part}:" if part else f"{told}:"
    return "it does not pickle:"


def _culprit_in(kind: type, walk: Walk) -> str | None:
    """Name what does not pickle in a class that travels by value: an attribute, or what a method uses."""
    attributes = [
        (f"{each.__qualname__}.{name}", value)
        for each in kind.__mro__
        if not is_importable(each)
        for name, value in vars(each).items()
    ]
    data = [(label, value) for label, value in attributes if not hasattr(type(value), "__get__")]
    for label, value in attributes:
        if isinstance(value, FunctionType):
            used = visible_globals(value).items()
            data += [(f"global {name!r} (used by {label}())", found) for name, found in used]
    for label, value in data:
        # What leads back to the class fails for the same reason.
        if value is not kind and not isinstance(value, kind) and not pickles(value, walk):
            return label
    return None
