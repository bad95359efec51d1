"""Pickle values, by value where a core cannot import what they are made of.

Two picklers, both C picklers with a hook. `Plain` costs little and gives up
with `NotPlain` where a class or function would have to travel by value;
`by_value` is cloudpickle's, with our own idea of what can be imported. All
that depends on cloudpickle's insides is in `_by_value_pickler`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import pickle
import weakref
from collections import ChainMap
from collections.abc import Callable
from types import CellType, FunctionType, ModuleType
from typing import Any, ClassVar, Protocol

from device_runtime import remaking
from device_runtime.bytecode import visible_globals
from device_runtime.origin import is_importable
from device_runtime.reducing import LruCached, is_generic, reduce, reduce_cached, reduce_generic

_SINGLETONS = (type(None), type(...), type(NotImplemented))


class Rules(Protocol):
    """Say more of functions than whether a core can import them, and hear of the classes that it will."""

    def as_sent(self, function: FunctionType) -> FunctionType: ...
    def by_value(self, function: FunctionType) -> bool: ...
    def globals_of(self, function: FunctionType) -> dict[str, Any]: ...
    def module_of(self, function: FunctionType) -> str | None: ...
    def reached(self, kind: type) -> None: ...


class NotPlain(Exception):
    """Say that something has to travel by value."""


def dumps(
    value: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    rules: Rules | None = None,
) -> bytes:
    """Pickle a value; classes and functions that cores cannot import travel by value."""
    file = io.BytesIO()
    _by_value_pickler()(file, rules, buffer_callback).dump(value)
    return file.getvalue()


def dumps_plain(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Pickle a value of which nothing travels by value; anything else raises."""
    file = io.BytesIO()
    Plain(file, 5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def pickles(value: Any, rules: Rules) -> bool:
    """Tell whether a value pickles on its own."""
    try:
        dumps(value, rules=rules)
    except Exception:
        return False
    return True


class Plain(pickle.Pickler):
    """Pickle by reference what cores can import; refuse the rest."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, FunctionType)):
            if is_importable(value) or any(value is kind for kind in _SINGLETONS):
                return NotImplemented
            raise NotPlain
        reduced = reduce(value)
        if reduced is NotImplemented and getattr(value, "__module__", None) == "__main__":
            raise NotPlain
        return reduced


@functools.lru_cache(maxsize=1)
def _by_value_pickler() -> Any:
    """Return cloudpickle's pickler, changed in what it takes for importable, and for our own objects."""
    from cloudpickle import cloudpickle

    # Cores load functions without cloudpickle, whose import would be half of what they need to start.
    instead = {
        cloudpickle._make_function: remaking.make_function,
        cloudpickle._builtin_type: remaking.builtin_type,
        cloudpickle.subimport: remaking.imported,
    }

    def loaded_by_us(reduced: Any) -> Any:
        if type(reduced) is not tuple or reduced[0] not in instead:
            return reduced
        return instead[reduced[0]], *reduced[1:]

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
        dispatch_table: ClassVar[Any] = ChainMap(
            {
                CellType: remaking.reduce_cell,
                ModuleType: lambda module: loaded_by_us(cloudpickle._module_reduce(module)),
            },
            cloudpickle.Pickler.dispatch_table,
        )

        def __init__(
            self,
            file: io.BytesIO,
            rules: Rules | None,
            buffer_callback: Callable[[pickle.PickleBuffer], Any] | None,
        ) -> None:
            super().__init__(file, protocol=5, buffer_callback=buffer_callback)
            self._rules = rules
            self._variables: set[int] = set()  # by id, those whose values come with functions

        def reducer_override(self, value: Any) -> Any:
            kind = type(value)
            if kind is FunctionType:
                return self._reduce_function(value)
            if kind is CellType and id(value) in self._variables:
                return remaking.make_cell, ()
            if isinstance(value, type):
                reduced = super().reducer_override(value)
                if reduced is NotImplemented and not is_importable(value):
                    reduced = cloudpickle._dynamic_class_reduce(value)
                reduced = loaded_by_us(reduced)
                by_name = reduced is NotImplemented or len(reduced) < 6
                if by_name and self._rules:
                    self._rules.reached(value)
                return reduced if by_name else _reduced_class(value, reduced)
            if kind is _ModuleGlobals:
                return module_globals, (value["__name__"],)
            if kind is LruCached and self._rules and self._rules.by_value(value.__wrapped__):
                return reduce_cached(value)
            return reduce(value)

        def _reduce_function(self, function: FunctionType) -> Any:
            rules = self._rules
            if rules:
                function = rules.as_sent(function)
            if is_importable(function) and not (rules and rules.by_value(function)):
                return NotImplemented
            if is_generic(function):
                return reduce_generic(function)
            if rules and (module := rules.module_of(function)):
                self.globals_ref[id(function.__globals__)] = _ModuleGlobals(__name__=module)
            make, args, state, *_ = loaded_by_us(self._dynamic_function_reduce(function))
            # cloudpickle overlooks the globals that the body of a nested class uses.
            known = rules.globals_of(function) if rules else visible_globals(function)
            # It also gives each function variables of its own; but functions may share one. As the values of
            # variables may lead back to the function, they come when it has been made.
            closure = function.__closure__ or ()
            self._variables.update(map(id, closure))
            state[1].update(__globals__=known, __closure__=remaking.contents(closure))
            args = *args[:-1], function.__closure__
            return make, args, state, None, None, remaking.fill_function

    return ByValue


# Classes that left this process by value; those that came to it so, with the names that no state gave them.
_ours: weakref.WeakSet[type] = weakref.WeakSet()
_theirs: weakref.WeakKeyDictionary[type, set[str]] = weakref.WeakKeyDictionary()


def _reduced_class(kind: type, reduced: Any) -> Any:
    if kind not in _theirs:
        _ours.add(kind)
    make, args, state, items, pairs, set_state = reduced
    if "__slots__" in vars(kind) and isinstance(args[0], type):  # else an enum; cloudpickle leaves slots out
        args = *args[:3], {**args[3], "__slots__": vars(kind)["__slots__"]}, *args[4:]
    return make, args, (kind in _ours, set_state, state), items, pairs, set_class_state


def set_class_state(kind: type, state: tuple[bool, Callable[[type, Any], Any], Any]) -> type:
    """Fill a class that travelled by value, or bring it up to date.

    cloudpickle finds the class again where it has been before, and would then
    overwrite it: a script's class with what a core's copy of it looks like.
    Nor would it take away what the class no longer has there.
    """
    original, set_state, content = state
    if kind not in _ours and (original or kind not in _theirs):
        set_state(kind, content)
        more = vars(kind).keys() - content[0].keys()
        for name in more - _theirs.setdefault(kind, more):
            with contextlib.suppress(AttributeError):  # another thread may have been here, too
                type.__delattr__(kind, name)
    return kind


class _ModuleGlobals(dict[str, Any]):
    """Stand for the globals of a module as it is on the core."""


def module_globals(name: str) -> dict[str, Any]:
    """Return the globals of a module here."""
    return vars(importlib.import_module(name))
