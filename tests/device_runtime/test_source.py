"""Variables made global, and the names of arguments."""

# ruff: noqa: B007, F401, F841 - many variables here are there only to be found

from __future__ import annotations

import linecache
import subprocess
import sys
import traceback
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from device_runtime.errors import KernelTypeError
from device_runtime.source import argument_name, assigned_names, with_globals

# ---- with_globals -------------------------------------------------------------


def with_fresh_globals(function: Any, *names: str) -> tuple[FunctionType, dict[str, Any]]:
    """Return a function with these names made global, and globals that are its alone."""
    made = with_globals(function, frozenset(names))
    own = dict(function.__globals__)
    alone = FunctionType(made.__code__, own, made.__name__, made.__defaults__, made.__closure__)
    alone.__kwdefaults__ = made.__kwdefaults__
    return alone, own


def decorator(function: Any) -> Any:
    return function


@decorator
@decorator
def documented(
    x: int,
    *rest: int,
    factor: int = 3,
) -> int:
    """Say something.

    On several lines.
    """
    result = x * factor
    other = len(rest)
    return result + other


def test_names_become_global_and_the_rest_stays() -> None:
    function, names = with_fresh_globals(documented, "result")
    assert function(2, 0, 0) == 8 and function(1, factor=5) == 5
    assert names["result"] == 5 and "other" not in names
    made = with_globals(documented, frozenset({"result"}))
    assert (made.__doc__, made.__name__, made.__module__) == (
        documented.__doc__,
        "documented",
        documented.__module__,
    )
    assert made.__annotations__ == documented.__annotations__


def test_closures_are_kept() -> None:
    b, a = 1, 10

    def kernel() -> int:
        found = a - b
        return found

    function, names = with_fresh_globals(kernel, "found")
    assert function() == 9
    a = 20
    assert function() == 19 and names["found"] == 19


def test_every_way_to_assign() -> None:
    def kernel() -> Any:
        a: int = 1
        for b in range(3):
            pass
        import math as c

        with open(__file__) as d:
            pass
        try:
            raise ValueError
        except ValueError as e:
            del e
        (f := 5)
        g, *h = 1, 2, 3

        def i() -> Any:
            return a, text

        text = """
    this stays where it is
"""
        return i()

    names = (*"abcdefghi", "text")
    function, found = with_fresh_globals(kernel, *names)
    assert function() == (1, "\n    this stays where it is\n")
    assert {name for name in names if name in found} == set(names) - {"e"}
    assert found["h"] == [2, 3]


class Parent:
    def value(self) -> int:
        return 1


class Child(Parent):
    __secret = 5

    def value(self) -> int:
        a = super().value() + self.__secret
        return a


def test_methods_keep_super_and_private_names() -> None:
    function, names = with_fresh_globals(Child.value, "a")
    assert function(Child()) == 6 and names["a"] == 6


def test_tracebacks_show_the_users_lines() -> None:
    def kernel() -> None:
        a = 1
        raise ValueError(a)  # the line

    made = with_globals(kernel, frozenset({"a"}))
    with pytest.raises(ValueError) as caught:
        made()
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert frame.filename == __file__ and frame.name == "kernel"
    assert frame.line == "raise ValueError(a)  # the line"
    del made.__globals__["a"]


def test_source_that_only_linecache_has() -> None:
    source = "def kernel():\n    a = 7\n"
    linecache.cache["<cell 7>"] = (len(source), None, source.splitlines(True), "<cell 7>")
    names: dict[str, Any] = {}
    exec(compile(source, "<cell 7>", "exec"), names)
    with_globals(names["kernel"], frozenset({"a"}))()
    assert names["a"] == 7


def without_source() -> Any:
    names: dict[str, Any] = {}
    exec("def kernel():\n    a = 7\n", names)
    return names["kernel"]


def changed_since(tmp_path: Path) -> Any:
    file = tmp_path / "changed.py"
    file.write_text("def kernel(x, y):\n    a = 7\n")
    names: dict[str, Any] = {}
    exec(compile("def kernel(x):\n    a = 7\n", str(file), "exec"), names)
    return names["kernel"]


def declares_nonlocal() -> Any:
    def kernel() -> None:
        a = 1

        def inner() -> None:
            nonlocal a
            a = 2

        inner()

    return kernel


def test_what_cannot_be_done_asks_for_global(tmp_path: Path) -> None:
    lambda_ = lambda: [a := 1]  # noqa: E731
    for function in (without_source(), changed_since(tmp_path), declares_nonlocal(), lambda_):
        with pytest.raises(KernelTypeError, match="write `global a`"):
            with_globals(function, frozenset({"a"}))


def test_assigned_names_are_the_locals_that_are_no_arguments() -> None:
    def function(a: int, /, b: int, *c: int, d: int = 0, **e: int) -> Any:
        f = g = a = 1
        for h in range(3):
            f += h

        def i() -> int:
            return g

        global j
        j = b
        return f, a, i

    assert assigned_names(function.__code__) == {"f", "g", "h", "i"}


# ---- argument_name ------------------------------------------------------------


def name_of(*args: Any, **kwargs: Any) -> str | None:
    return argument_name(sys._getframe(1))


class Holder:
    name_of = staticmethod(name_of)


variable = 1


def test_a_plain_variable_is_named() -> None:
    # Not within `assert`, which pytest compiles to other code.
    local = free = 2
    here, long_list = name_of, list(range(300))

    def inner() -> Any:
        return name_of(free), name_of(variable)

    class Body:
        inside = 1
        found = (name_of(inside), name_of(local), name_of(variable))

    found = [name_of(local), here(local), Holder.name_of(local), Holder().name_of(local)]
    found += [name_of(local) for _ in range(2)]
    in_function, named, nested = inner(), name_of(long_list), (1, [name_of(local)])
    for loop in range(2):
        found_loop = name_of(loop)
    assert found == ["local"] * 6
    assert in_function == ("free", "variable")
    assert (named, nested, found_loop) == ("long_list", (1, ["local"]), "loop")
    assert Body.found == ("inside", "local", "variable")


def test_what_is_not_a_plain_variable_has_no_name() -> None:
    a, b = 1, 2
    items = [1]
    found = [
        name_of(3),
        name_of(items[0]),
        name_of(Holder.name_of),
        name_of(a + b),
        name_of(a if b else items),
        name_of(a or b),
        name_of(a and b),
        name_of(str(a)),
        name_of(a, b),
        name_of(x=a),
        name_of(*items),
        name_of(),
        name_of([a]),
        name_of(lambda: a),
        name_of(a < b),
        name_of(a < b < 3),
    ]
    assert found == [None] * 16


def test_many_names_and_constants_do_not_confuse_it() -> None:
    source = "".join(f"v{i} = {i} + 0.5\n" for i in range(600)) + "found = name_of(v599)\n"
    names: dict[str, Any] = {"name_of": name_of}
    exec(source, names)
    assert names["found"] == "v599"


def test_no_source_is_needed() -> None:
    code = (
        "import sys\nfrom device_runtime.source import argument_name\n"
        "def name_of(x): return argument_name(sys._getframe(1))\n"
        "data = 3\nprint(name_of(data))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("data\n", "")
