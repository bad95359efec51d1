"""Read from bytecode what source need not be there for: the names that code uses."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GLOBAL_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_FREE_LOADS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_FREE_STORES = frozenset({"STORE_DEREF", "DELETE_DEREF"})
_ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_ATTRIBUTE_STORES = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL"})
_CALLS = frozenset({"CALL", "CALL_FUNCTION", "CALL_METHOD"})
_LOADS = ("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_")


class Uses(NamedTuple):
    """The names outside itself that code uses, nested functions and classes included."""

    globals: tuple[str, ...]  # loaded, assigned or deleted as globals
    stored: frozenset[str]  # globals it assigns or deletes, or attributes of theirs
    rebound: bool  # it assigns or deletes a variable of its closure, or an attribute of one
    attributes: tuple[tuple[str, ...], ...]  # (name, attribute, its attribute, …) it loads


@lru_cache(maxsize=4096)
def uses(code: CodeType) -> Uses:
    """Find the names that a function with this code uses."""
    import dis

    loaded: dict[str, None] = {}  # in order, so that one function gives one pickle
    stored: set[str] = set()
    freed: set[str] = set()
    changed = stored  # which of the two the name at the chain's beginning belongs to
    chains: dict[tuple[str, ...], None] = {}
    chain: tuple[str, ...] = ()
    for step in dis.get_instructions(code):
        name = step.opname
        if name in _SILENT:
            continue
        if name in _ATTRIBUTE_LOADS and chain:
            chain = (*chain, step.argval)
            chains[chain] = None
            continue
        if name in _ATTRIBUTE_STORES and chain:
            changed.add(chain[0])
        chain = ()
        if name in _GLOBAL_LOADS or name in _GLOBAL_STORES:
            loaded[step.argval] = None
        if name in _GLOBAL_LOADS or name in _FREE_LOADS:
            chain = (step.argval,)
            changed = stored if name in _GLOBAL_LOADS else freed
        elif name in _GLOBAL_STORES:
            stored.add(step.argval)
        elif name in _FREE_STORES:
            freed.add(step.argval)
    rebound = not freed.isdisjoint(code.co_freevars)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = uses(inner)
            loaded.update(dict.fromkeys(found.globals))
            stored |= found.stored
            chains.update(dict.fromkeys(found.attributes))
            # An inner function that rebinds a variable of ours which is itself free, not our own.
            rebound = rebound or (found.rebound and not set(inner.co_freevars).isdisjoint(code.co_freevars))
    return Uses(tuple(loaded), frozenset(stored), rebound, tuple(chains))


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Return all names of globals and attributes in code, nested functions and classes included."""
    inner = [names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset(code.co_names).union(*inner)


def visible_globals(function: FunctionType) -> dict[str, Any]:
    """Return the globals that a function uses, as they are now."""
    known = function.__globals__
    return {name: known[name] for name in uses(function.__code__).globals if name in known}


def assigned_names(code: CodeType) -> frozenset[str]:
    """Return the local variables of a function that are not arguments."""
    arguments = code.co_argcount + code.co_kwonlyargcount
    arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    return frozenset(code.co_varnames + code.co_cellvars).difference(code.co_varnames[:arguments])


def argument_name(frame: FrameType) -> str | None:
    """Return the variable that a frame's present call is given as its only, positional argument.

    None where the argument is not a plain variable. Needs no source.
    """
    import dis

    # While a call is under way, f_lasti may be the last of the caches that follow it.
    steps = [step for step in dis.get_instructions(frame.f_code) if step.offset <= frame.f_lasti]
    told = [index for index, step in enumerate(steps) if step.opname not in _SILENT]
    if len(told) < 2 or steps[told[-1]].opname not in _CALLS or steps[told[-1]].arg != 1:
        return None
    # Where jumps lead to the call, what stands before it is only one of the ways there.
    if any(step.is_jump_target for step in steps[told[-2] + 1 :]):
        return None
    before = steps[told[-2]]
    if not before.opname.startswith(_LOADS) and before.opname != "STORE_FAST_LOAD_FAST":
        return None
    name = before.argval[-1] if isinstance(before.argval, tuple) else before.argval
    return name if isinstance(name, str) and name.isidentifier() else None
