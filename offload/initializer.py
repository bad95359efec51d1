"""Run an executor's initializer in every core before its first call there.

An initializer is mostly there to set globals that later calls read. Functions
travel with the globals they see on the host, each with a set of its own; so
what the initializer set is kept on the core, lent to every function that is
called after it, and taken back when the call has ended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from device_runtime.capture import Capture, load_image
from device_runtime.context import current
from device_runtime.origin import is_user_module
from device_runtime.traces import name_of, text_of
from offload.body import refuse_coroutine

_KEPT = ("offload.initializer", "what it set")
_MISSING: Any = object()

# What initializers set: by module, names and values.
_Globals = dict[str, dict[str, Any]]


class InitializerFailed(Exception):
    """Say that the initializer raised, and so no call can be made on this core."""


def snapshot(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    """Take down an initializer and its arguments as they are now.

    Raises KernelNotSerializable, naming what does not pickle, and
    KernelTypeError for an `async def` function.
    """
    refuse_coroutine(initializer)
    return Capture(functools.partial(initializer, *initargs)).image().data


def run_initialized(initializer: bytes, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function on a core on which the initializer has run; run it if this is the first call."""
    context = current()
    assert context is not None
    kept = context.resident.get(_KEPT)
    if kept is None:
        kept = context.resident[_KEPT] = _initialize(initializer)
    if isinstance(kept, InitializerFailed):
        raise kept
    if not kept:
        return function(*args, **kwargs)
    lent = [(space, kept[module]) for module, space in _namespaces(function) if module in kept]
    for space, values in lent:
        space.update(values)
    try:
        return function(*args, **kwargs)
    finally:
        _take_back(lent)


def _initialize(data: bytes) -> _Globals | InitializerFailed:
    """Run the initializer and return what it set."""
    try:
        initializer = load_image(data)
        before = [(module, space, dict(space)) for module, space in _namespaces(initializer)]
        initializer()
    except BaseException as error:
        failed = InitializerFailed(f"the initializer raised {name_of(error)}: {text_of(error)}")
        failed.__cause__ = error
        return failed
    kept: _Globals = {}
    for module, space, old in before:
        new = {name: value for name, value in space.items() if old.get(name, _MISSING) is not value}
        if new:
            kept.setdefault(module, {}).update(new)
    return kept


def _take_back(lent: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    found = [(values, name, space[name]) for space, values in lent for name in values if name in space]
    for values, name, value in found:
        # Of several copies of a module's globals, the one that was changed counts.
        if values[name] is not value:
            values[name] = value


def _namespaces(thing: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the globals of all of the user's functions that `thing` may call, with their modules' names."""
    seen: set[int] = set()
    left = [thing]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, functools.partial):
            left += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, MethodType):
            left += [thing.__func__, type(thing.__self__)]
        elif isinstance(thing, (staticmethod, classmethod)):
            left.append(thing.__func__)
        elif isinstance(thing, ModuleType):
            if is_user_module(thing.__name__) and id(vars(thing)) not in seen:
                seen.add(id(vars(thing)))
                yield thing.__name__, vars(thing)
                left += vars(thing).values()
        elif isinstance(thing, type):
            if is_user_module(thing.__module__):
                left += vars(thing).values()
        elif isinstance(thing, FunctionType):
            if not is_user_module(thing.__module__):
                continue
            left += [cell.cell_contents for cell in thing.__closure__ or () if _is_set(cell)]
            if id(thing.__globals__) not in seen:
                seen.add(id(thing.__globals__))
                yield thing.__module__, thing.__globals__
                left += thing.__globals__.values()
        elif callable(thing):
            left.append(type(thing))


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not _MISSING
    except ValueError:
        return False
