"""Compile a function anew, with some of its variables made global."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from device_runtime.bytecode import argument_name, assigned_names
from device_runtime.errors import KernelTypeError

__all__ = ["argument_name", "assigned_names", "with_globals"]


def with_globals(function: FunctionType, names: frozenset[str]) -> FunctionType:
    """Return the function as if its body began with `global` for these names.

    Closure, defaults, line numbers and file stay as they are. Raises
    KernelTypeError, asking for the statement, where the source is not to be had.
    """
    wanted = ", ".join(sorted(names))
    advice = f"write `global {wanted}` at the top of {function.__name__}(), which assigns to resident data"
    if function.__name__ == "<lambda>":
        raise KernelTypeError(f"{advice}; a lambda cannot, so make it a def")
    try:
        tree, node = _parsed(function)
    except (OSError, TypeError, SyntaxError, IndexError) as error:
        raise KernelTypeError(f"{advice}; its source, to do so for you, is not at hand ({error})") from error
    _declare(node, sorted(names))
    try:
        module = compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec")
        code = next(_codes_named(module, function.__code__.co_name))
    except (SyntaxError, StopIteration) as error:
        raise KernelTypeError(f"{advice}; it cannot be done for you ({error})") from error
    old = function.__code__
    if _arguments(code) != _arguments(old) or not set(code.co_freevars).issubset(old.co_freevars):
        raise KernelTypeError(f"{advice}; its source has changed since it was loaded")
    qualname: Any = {"co_qualname": old.co_qualname} if hasattr(old, "co_qualname") else {}  # from 3.11 on
    code = code.replace(**qualname)
    cells = dict(zip(old.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    for name in ("__kwdefaults__", "__annotations__", "__qualname__", "__module__", "__doc__"):
        setattr(new, name, getattr(function, name))
    new.__dict__.update(function.__dict__)
    return new


def _parsed(function: FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """Parse the function's source within what surrounded it; return the tree and the function in it."""
    lines, first = inspect.getsourcelines(function.__code__)
    text = "".join(lines)
    if text[:1].isspace():
        # A block of its own instead of dedenting, which would change strings of several lines.
        text, first = "if True:\n" + text, first - 1
    tree = ast.parse(text)
    found = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if found is None or found.name != function.__code__.co_name:
        raise SyntaxError("no def of this name where it should be")
    ast.increment_lineno(found, first - 1)
    found.decorator_list = []
    # Defaults and annotations are the old function's; what matters is how many there are.
    given = found.args
    given.defaults = [ast.Constant(None) for _ in given.defaults]
    given.kw_defaults = [None if default is None else ast.Constant(None) for default in given.kw_defaults]
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if argument is not None:
            argument.annotation = None
    found.returns = None
    inner: ast.stmt = found
    scopes = function.__qualname__.split(".")[:-1]
    if scopes and scopes[-1] != "<locals>":
        inner = _class(scopes[-1], found)  # for the names it mangles, and for super()
    return ast.Module([_around(inner, function.__code__.co_freevars)], []), found


def _around(inner: ast.stmt, freevars: tuple[str, ...]) -> ast.stmt:
    """Put a statement into a function that has the free variables as its own."""
    outer = ast.parse("def around(): pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    own = [name for name in freevars if name != "__class__" or not isinstance(inner, ast.ClassDef)]
    outer.body = [*ast.parse("\n".join(f"{name} = None" for name in own)).body, inner]
    return outer


def _class(name: str, inner: ast.stmt) -> ast.stmt:
    made = ast.parse(f"class {name}: pass").body[0]
    assert isinstance(made, ast.ClassDef)
    made.body = [inner]
    return made


def _declare(node: ast.FunctionDef, names: list[str]) -> None:
    """Insert `global names` at the top of a function's body, below its docstring."""
    node.body = [_Unannotated(names).visit(statement) for statement in node.body]
    line = node.body[0].lineno
    has_doc = ast.get_docstring(node, clean=False) is not None
    node.body.insert(int(has_doc), ast.Global(names, lineno=line, col_offset=0))


class _Unannotated(ast.NodeTransformer):
    """Take the annotations off assignments, since a global may have none."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name) or node.target.id not in self._names:
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def _leave(self, node: Any) -> Any:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _leave


def _arguments(code: CodeType) -> tuple[object, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_argcount, code.co_varnames[:count], code.co_flags & 0x0C  # *args, **kwargs


def _codes_named(code: CodeType, name: str) -> Iterator[CodeType]:
    """Yield the code objects of this name within `code`, outermost first."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    yield from (const for const in inner if const.co_name == name)
    for const in inner:
        yield from _codes_named(const, name)
