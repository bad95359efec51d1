"""Find what a function would see if it were called now."""

from __future__ import annotations

import builtins
import functools
import os
import re
import sys
from types import (
    CellType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

from device_runtime.bytecode import uses, visible_globals
from device_runtime.classes import Absent, Classes, carried
from device_runtime.origin import (
    is_importable,
    is_importable_module,
    is_reference,
    is_user_module,
    travels_by_value,
)
from device_runtime.pickling import pickles
from device_runtime.reducing import LruCached, is_generic

_ATOMS = frozenset(
    {int, float, str, bytes, bool, complex, range, type(None), type(...), type(NotImplemented), re.Pattern}
)
_MISSING: Any = object()


def plain_function(thing: Any) -> FunctionType | None:
    """Return the function behind a partial, a method, a kernel, a callable object, and all `functools.wraps`.

    None if it is built in.
    """
    found = None
    for _ in range(100):
        found = thing if isinstance(thing, FunctionType) else found
        inner = _behind(thing)
        if inner is None:
            inner = getattr(thing, "__dict__", {}).get("__wrapped__")
        if inner is None:
            break
        thing = inner
    if found is None:
        call = getattr(type(thing), "__call__", None)  # noqa: B004
        return call if isinstance(call, FunctionType) else None
    return found


def _behind(thing: Any) -> Any:
    if isinstance(thing, functools.partial):
        return thing.func
    if isinstance(thing, MethodType):
        return thing.__func__
    if type(thing) is LruCached:
        return thing.__wrapped__
    if hasattr(type(thing), "__offload_kernel__"):
        return thing.__offload_kernel__
    return None


class Walk:
    """Walk over all that a kernel captures: globals, closures, defaults, and those of what it calls.

    `frozen` says that nothing was found that could change in place, so that
    `unchanged` can tell by identity alone; `fresh` that a run could leave
    something behind that the next must not see; `resident` which of the names
    `wanted` are used by functions of the kernel's own module; `shared` what is
    used of what the core imports from user modules, as (holder, name, value):
    there, globals of the modules that the kernel reaches as modules, and data
    attributes of classes, are set to these, or deleted where `Absent`. Where `rewritten` is given, it
    stands for the function at the bottom of the kernel; `rewrote` says that
    this function was found to travel.
    """

    def __init__(
        self, kernel: Any, wanted: frozenset[str] = frozenset(), rewritten: FunctionType | None = None
    ) -> None:
        self.frozen = True
        self.fresh = False
        self.resident: set[str] = set()
        self.values: list[tuple[str, Any]] = []
        self.shared: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        self.rewrote = False
        self._rewritten = rewritten
        self._wanted = wanted
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._functions: dict[int, tuple[FunctionType, Any, Any, Any, int]] = {}
        self._modules: dict[int, str] = {}
        self._classes = Classes()
        self._root = plain_function(kernel)
        self._home = None if self._root is None else self._root.__globals__
        if self._root is not None and self._root is kernel and not travels_by_value(self._root):
            self.resident.update(wanted.intersection(uses(self._root.__code__).globals))
        self._visit("the kernel", kernel)

    def share(self) -> bool:
        """Bring `shared` up to date with what was reached so far; tell whether there was more.

        Call it again after pickling, which reaches classes that the walk does not.
        """
        before = len(self.shared)
        for kind, name, value in (*self._classes.data(), *self._classes.gone()):
            if (id(kind), name) not in self.shared and pickles(value, self):
                self._visit(f"{kind.__module__}.{kind.__qualname__}.{name}", value)
                self.shared[id(kind), name] = kind, name, value
                carried[kind, name] = None
                self.fresh = True
        for names, name, value in self._names:
            module = self._modules.get(id(names))
            if module is not None and value is _MISSING:
                self._share_absent(id(names), sys.modules[module], name)
            elif module is not None and not _same_on_cores(value):
                self.shared[id(names), name] = sys.modules[module], name, value
                carried[sys.modules[module], name] = None
                # What one kernel's image sets in a module, another's may have set again since.
                self.fresh = self.fresh or not callable(value)
        return len(self.shared) > before

    def _share_absent(self, names: int, module: ModuleType, name: str) -> None:
        if (module, name) in carried:
            self.shared[names, name] = module, name, Absent
            self.fresh = True
        elif not hasattr(builtins, name):
            self.frozen = False  # another kernel's image may carry it

    def unchanged(self) -> bool:
        """Tell whether the kernel would still see the very same objects."""
        for names, name, value in self._names:
            if names.get(name, _MISSING) is not value:
                return False
        for cell, value in self._cells:
            if _contents(cell) is not value:
                return False
        for function, code, defaults, kwdefaults, attributes in self._functions.values():
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not kwdefaults
                or len(function.__dict__) != attributes
            ):
                return False
        return self._classes.unchanged()

    def watch(self, function: FunctionType) -> None:
        """Count a change of this function as a change of what was captured."""
        self._functions[id(function)] = (
            function,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            len(function.__dict__),
        )

    def sources(self) -> dict[str, list[str]]:
        """Return the lines of code that no file holds: notebook cells, doctests, the prompt."""
        found: dict[str, list[str]] = {}
        import linecache

        for function, *_ in self._functions.values():
            file = function.__code__.co_filename
            if file not in found and not os.path.exists(file):
                found[file] = linecache.getlines(file) or _prompted(function)
        return {file: lines for file, lines in found.items() if lines}

    # What the pickler asks.

    def by_value(self, function: FunctionType) -> bool:
        """Tell whether a function travels by value."""
        return travels_by_value(function)

    def as_sent(self, function: FunctionType) -> FunctionType:
        """Return the function that travels in place of this one."""
        if self._rewritten is None or function is not self._root:
            return function
        self.rewrote = True
        return self._rewritten

    def globals_of(self, function: FunctionType) -> dict[str, Any]:
        """Return the globals that travel with a function."""
        self._classes.name(function.__code__)
        if self.module_of(function) is not None:
            return {}
        found = visible_globals(function)
        if function.__globals__ is self._home:
            # Methods, and functions in lists, were not walked to.
            self.resident.update(self._wanted.intersection(uses(function.__code__).globals))
            return {name: value for name, value in found.items() if name not in self._wanted}
        return found

    def module_of(self, function: FunctionType) -> str | None:
        """Name the module whose own globals a function shall have on the core, None for a set of its own."""
        return self._modules.get(id(function.__globals__))

    def reached(self, kind: type) -> None:
        """Take note of a class that is imported on the core, where it may have been changed here since."""
        self._classes.add(kind)

    # The walk.

    def _visit(self, label: str, value: Any) -> None:
        kind = type(value)
        if kind in _ATOMS or kind is ModuleType:
            if kind in (str, bytes):
                self.values.append((label, value))  # it may be large
            return
        if kind is FunctionType:
            if travels_by_value(value) and is_generic(value):
                self.frozen = False  # implementations may be added
                for implementation in value.registry.values():
                    self._visit(label, implementation)
            elif travels_by_value(value):
                self._function(value)
            return
        self.values.append((label, value))
        if kind is tuple or kind is frozenset:
            if not _ATOMS.issuperset(map(type, value)):
                for item in value:
                    self._visit(label, item)
        elif kind is functools.partial and not value.__dict__:
            self._visit(label, value.func)
            for item in value.args:
                self._visit(label, item)
            self._namespace(label, value.keywords)
        elif kind is MethodType:
            self._visit(label, value.__func__)
            self._visit(label, value.__self__)
        elif (inner := _behind(value)) is not None and kind is not functools.partial:
            self._visit(label, inner)
        elif not is_reference(value):
            self.frozen = False
            self.fresh = True
        elif isinstance(value, type):
            self._classes.add(value)

    def _function(self, function: FunctionType) -> None:
        if id(function) in self._functions:
            return
        self.watch(function)
        by = "" if function is self._root else f" (used by {function.__name__}())"
        function = self.as_sent(function)
        named = uses(function.__code__)
        self._classes.name(function.__code__)
        own = self._wanted if function.__globals__ is self._home else frozenset()
        self.resident.update(own.intersection(named.globals))
        self.fresh = self.fresh or named.rebound or not named.stored <= own
        for name in named.globals:
            if name not in own:
                self._name(f"global {name!r}{by}", function.__globals__, name)
        closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name, cell in closure.items():
            value = _contents(cell)
            self._cells.append((cell, value))
            if value is not _MISSING:
                self._visit(f"closure variable {name!r}{by}", value)
        for value in function.__defaults__ or ():
            self._visit(f"a default of {function.__name__}()", value)
        self._namespace(f"a default of {function.__name__}()", function.__kwdefaults__ or {})
        self._namespace(f"an attribute of {function.__name__}()", function.__dict__)
        self.fresh = self.fresh or not function.__dict__.keys() <= {"__wrapped__"}
        for first, *rest in named.attributes:
            cell_ = closure.get(first)
            self._attributes(function.__globals__.get(first) if cell_ is None else _contents(cell_), rest, by)

    def _name(self, label: str, names: dict[str, Any], name: str) -> None:
        value = names.get(name, _MISSING)
        self._names.append((names, name, value))
        if value is not _MISSING:
            self._visit(label, value)

    def _namespace(self, label: str, names: dict[str, Any]) -> None:
        for name in names:
            self._name(label, names, name)

    def _attributes(self, holder: Any, path: list[str], by: str) -> None:
        """Follow `module.attribute…` as long as it leads through user modules."""
        for name in path:
            if type(holder) is not ModuleType or not is_user_module(holder.__name__):
                return
            module = holder.__name__
            if sys.modules.get(module) is not holder or not is_importable_module(module):
                return
            value = vars(holder).get(name, _MISSING)
            if type(value) is not ModuleType:
                self._modules[id(vars(holder))] = module
            self._name(f"{module}.{name}{by}", vars(holder), name)
            holder = value


def _prompted(function: FunctionType) -> list[str]:
    """Return what was typed at the prompt, which newer Pythons keep by code, not by file."""
    try:
        import inspect

        return list(inspect.findsource(function)[0])
    except (OSError, IndexError):
        return []


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _same_on_cores(value: Any) -> bool:
    return isinstance(value, ModuleType) or (isinstance(value, type) and is_importable(value))
