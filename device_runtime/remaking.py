"""Put functions that travelled by value together again: what a core needs instead of all of cloudpickle."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any


def make_function(code: types.CodeType, variables: dict[str, Any], *others: Any) -> types.FunctionType:
    """Make a function with these globals, which `fill_function` completes."""
    variables["__builtins__"] = builtins.__dict__
    return types.FunctionType(code, variables, *others)


def fill_function(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function its attributes, and what it sees: closure and globals."""
    attributes, parts = state
    function.__dict__.update(attributes)
    function.__globals__.update(parts.pop("__globals__"))
    function.__globals__["__builtins__"] = builtins.__dict__
    parts.pop("_cloudpickle_submodules", None)  # that they were loaded is all that matters
    cells = function.__closure__ or ()
    for index, value in parts.pop("__closure__").items():
        cells[index].cell_contents = value
    for name, value in parts.items():
        setattr(function, name, value)


def make_cell(*content: Any) -> types.CellType:
    """Make a variable of a closure, without a value if none is given."""
    return types.CellType(*content)


def reduce_cell(cell: types.CellType) -> tuple[Callable[..., types.CellType], tuple[Any, ...]]:
    """Take a variable of a closure apart."""
    try:
        return make_cell, (cell.cell_contents,)
    except ValueError:
        return make_cell, ()


def contents(cells: tuple[types.CellType, ...]) -> dict[int, Any]:
    """Return the values of a closure's variables by their place, of those that have one."""
    found = {}
    for index, cell in enumerate(cells):
        try:
            found[index] = cell.cell_contents
        except ValueError:
            pass  # a variable that has no value yet
    return found


def builtin_type(name: str) -> Any:
    """Return a class that has its name in the module `types`."""
    return getattr(types, name)


def imported(name: str) -> types.ModuleType:
    """Import a module."""
    __import__(name)
    return sys.modules[name]
