"""The classes of user modules that a kernel reaches: cores import them, but they may have changed here."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from device_runtime.bytecode import names_in
from device_runtime.origin import is_importable, is_user_module

_MISSING: Any = object()


# What images have carried of modules and classes, as (holder, name), whichever kernels they were of:
# a core may have it still when the host no longer does.
carried: dict[tuple[Any, str], None] = {}


class Absent:
    """Stand for the value of what the host no longer has."""


class Classes:
    """Keep note of classes, as they are when first reached, and of the names that the kernel's code uses."""

    def __init__(self) -> None:
        self._contents: dict[type, dict[str, Any]] = {}
        self._named: set[str] = set()
        self._looked = 0  # at how much of what was carried

    def name(self, code: CodeType) -> None:
        """Take note of the attributes that code may use."""
        self._named |= names_in(code)

    def add(self, kind: type) -> None:
        """Take note of a class, its bases, and the classes in it, if cores import them from a user module."""
        for each in kind.__mro__:
            if each in self._contents or not is_user_module(each.__module__) or not is_importable(each):
                continue
            if isinstance(each, enum.EnumMeta):
                continue
            self._contents[each] = dict(vars(each))
            for value in self._contents[each].values():
                if isinstance(value, type):
                    self.add(value)
                for function in _functions(value):
                    self.name(function.__code__)

    def data(self) -> list[tuple[type, str, Any]]:
        """Return the data attributes that the kernel's code, or a method of these classes, names."""
        return [
            (kind, name, value)
            for kind, content in self._contents.items()
            for name, value in content.items()
            if name in self._named and _is_data(name, value)
        ]

    def gone(self) -> list[tuple[type, str, Any]]:
        """Return what was carried of these classes, and is named, but no longer there."""
        known = list(carried) if self._contents else []
        self._looked = len(known)
        return [
            (kind, name, Absent)
            for kind, name in known
            if kind in self._contents and name in self._named and name not in self._contents[kind]
        ]

    def unchanged(self) -> bool:
        """Tell whether the classes still have the very same attributes, and no more was carried of any."""
        return not self._contents or (
            self._looked == len(carried)
            and all(_same_items(vars(kind), content) for kind, content in self._contents.items())
        )


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return False
    return not hasattr(type(value), "__get__") and not (isinstance(value, type) and is_importable(value))


def _same_items(now: Any, before: dict[str, Any]) -> bool:
    return len(now) == len(before) and all(now.get(name, _MISSING) is before[name] for name in before)


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the functions that an attribute of a class consists of."""
    found = [value]
    if isinstance(value, (staticmethod, classmethod)):
        found = [value.__func__]
    elif isinstance(value, property):
        found = [value.fget, value.fset, value.fdel]
    elif isinstance(value, functools.cached_property):
        found = [value.func]
    for function in found:
        while isinstance(function, FunctionType):
            yield function
            function = function.__dict__.get("__wrapped__")
