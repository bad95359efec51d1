"""Values arrive as they were when they were sent, and errors say what went wrong."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import functools
import importlib.util
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.errors import (
    ArgsDecodeError,
    ArgsNotSerializable,
    ResultDecodeError,
    ResultNotSerializable,
)
from device_runtime.launch import Payload


def there(value: Any, **how: Any) -> Any:
    return codec.decode(codec.encode(value, bytes), **how)


def main_names(source: str) -> dict[str, Any]:
    """Run source as a script's own module."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Colour(enum.Enum):
    RED = 1


# ---- values ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        ((10, 20), {}),
        ((1.5, "text", None, True, 2j, b"bytes"), {"key": 3}),
        (([1, [2]], {"a": (1,)}, {1, 2}, frozenset({3}), bytearray(b"x")), {"d": {"deep": [{}]}}),
        Point(1, [2, 3]),
        Colour.RED,
        collections.OrderedDict(a=1),
        10**400,
        "x" * 100_000,
        b"x" * 100_000,
        range(3),
        Path("/somewhere"),
        np.float64(1.5),
        np.bool_(True),
        np.longdouble(1) / 3,
        np.datetime64("2020-01-01"),
        np.str_("text"),
        ((np.float32(2.5), 3), {"key": np.uint16(9)}),
        np.dtype("f4"),
        int,
        type(None),
        len,
        collections.Counter,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_arrives_equal_and_of_its_type(value: Any) -> None:
    arrived = there(value)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_can_be_written_to_elsewhere_can_be_here(size: int) -> None:
    value = bytearray(size), array.array("b", bytes(size))
    arrived = there((value, {}))[0]
    for each, sent in zip(arrived, value):
        assert type(each) is type(sent)
        each[0] = 1
        assert (sent[0], len(each)) == (0, size)


def test_what_is_not_an_array_is_the_kernels_own_copy() -> None:
    value = [1], {"a": bytearray(b"x")}
    arrived = there((value, {}))[0]
    arrived[0].append(2)
    arrived[1]["a"] += b"y"
    assert value == ([1], {"a": bytearray(b"x")})


def test_objects_that_are_one_stay_one() -> None:
    array = np.zeros(5000)
    args, _ = there((([array], array), {}))
    assert args[0][0] is args[1]


def test_a_value_that_holds_itself() -> None:
    value: list[Any] = []
    value.append(value)
    arrived = there(value)
    assert arrived[0] is arrived


def test_functions_and_classes_of_a_script_travel_by_value(far: Any) -> None:
    names = main_names(
        "import functools\n"
        "class Base:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def twice(self): return double(self.x)\n"
        "def double(x): return 2 * x\n"
        "@functools.lru_cache\n"
        "def cached(x): return double(x)\n"
    )
    image = Capture(_call_all).image()
    thing = names["Base"](4)
    assert far.run(image, thing.twice, names["double"], lambda x: x + 1, names["cached"]) == [8, 6, 4, 6]
    back = far.run(Capture(_same).image(), thing)
    assert type(back) is names["Base"] and back.x == 4


def _call_all(bound: Any, *functions: Any) -> list[Any]:
    return [bound(), *(function(3) for function in functions)]


def _same(value: Any) -> Any:
    return value


def test_functions_that_share_a_variable_share_it_when_they_arrive(far: Any) -> None:
    names = main_names(
        "def counter():\n"
        "    n = 0\n"
        "    def count():\n        nonlocal n\n        n += 1\n"
        "    def told(): return n\n"
        "    def recursive(k): return 0 if k == 0 else 1 + recursive(k - 1)\n"
        "    return count, told, recursive\n"
    )
    back = far.run(Capture(_counted).image(), *names["counter"]())
    count, told, recursive, cell, before = back
    count()
    assert (before, told(), recursive(3), cell.cell_contents) == (2, 3, 3, 3)


def _counted(count: Any, told: Any, recursive: Any) -> Any:
    count()
    count()
    return count, told, recursive, told.__closure__[0], told()


def test_a_variable_that_comes_before_its_functions_is_theirs() -> None:
    def told() -> Any:
        return told

    assert told.__closure__ is not None
    cell = there(([told.__closure__[0]], told))[0][0]
    assert cell.cell_contents.__closure__[0] is cell and cell.cell_contents() is cell.cell_contents


def test_a_class_found_in_another_file_than_its_module_travels_by_value(tmp_path: Path) -> None:
    from device_runtime.origin import is_importable

    (tmp_path / "somewhere_else.py").write_text("class Thing: pass\n")
    spec = importlib.util.spec_from_file_location("somewhere_else", tmp_path / "somewhere_else.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["somewhere_else"] = module
    try:
        spec.loader.exec_module(module)
        assert not is_importable(module.Thing)
        assert isinstance(there(module.Thing()), module.Thing)
    finally:
        del sys.modules["somewhere_else"]
    assert is_importable(Point) and is_importable(functools.partial) and is_importable(np.ndarray)
    assert not is_importable(lambda: None)


# ---- handles among the values ------------------------------------------------


class Handle:
    def __reduce__(self) -> Any:
        return codec.depend(self)


def test_a_handle_becomes_its_value() -> None:
    one, two = Handle(), Handle()
    found: list[Any] = []
    payload = codec.encode((([one, two], one), {"k": {"deep": two}}), bytes, dependencies=found)
    assert found == [one, two]
    args, kwargs = codec.decode(payload, dependencies=["first", "second"])
    assert args == (["first", "second"], "first") and kwargs == {"k": {"deep": "second"}}


def test_a_handle_pickles_nowhere_else() -> None:
    with pytest.raises(TypeError, match="argument of a launch"):
        pickle.dumps(Handle())
    with pytest.raises(ResultNotSerializable, match="argument of a launch"):
        codec.encode(Handle(), bytes, error=ResultNotSerializable)


def test_threads_encode_handles_each_for_itself() -> None:
    barrier = threading.Barrier(4)

    class Slow:
        def __reduce__(self) -> Any:
            barrier.wait(10)
            return str, ("met",)

    def encode(handle: Handle) -> list[Any]:
        found: list[Any] = []
        codec.encode([Slow(), handle, Slow()], bytes, dependencies=found)
        return found

    handles = [Handle() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(encode, handles)) == [[handle] for handle in handles]


def test_an_encode_within_an_encode() -> None:
    inner, outer = Handle(), Handle()
    nested: list[Any] = []

    class Nests:
        def __reduce__(self) -> Any:
            codec.encode([inner], bytes, dependencies=nested)
            return str, ("x",)

    found: list[Any] = []
    codec.encode([Nests(), outer], bytes, dependencies=found)
    assert found == [outer] and inner in nested


# ---- what does not travel ----------------------------------------------------


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class Breaks:
    """Raise when it is loaded."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _raise(error: type[BaseException]) -> None:
    raise error("while it was loaded")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (((1, threading.Lock()), {}), "argument 2 .*lock"),
        (((1,), {"key": threading.Lock()}), "argument 'key' .*lock"),
        (((Refuses(ValueError("no, thanks")),), {}), r"argument 1 .*Refuses.*no, thanks"),
        (((Refuses(SystemExit(3)),), {}), "argument 1 .*SystemExit"),
        ([threading.Lock()], "list"),
    ],
)
def test_what_does_not_pickle_is_named(value: Any, named: str) -> None:
    with pytest.raises(ArgsNotSerializable, match=named) as caught:
        codec.encode(value, bytes)
    assert caught.value.__cause__ is not None


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ResultNotSerializable, match="nested too deeply"):
        codec.encode(deep, bytes, error=ResultNotSerializable)
    while deep:
        deep = deep.pop()


@pytest.mark.parametrize("error", [ValueError, SystemExit, RecursionError])
def test_what_does_not_load_is_an_error_with_its_cause(error: type[BaseException]) -> None:
    payload = codec.encode(Breaks(error), bytes)
    with pytest.raises(ArgsDecodeError, match=r"while it was loaded|too deeply") as caught:
        codec.decode(payload)
    assert type(caught.value.__cause__) is error
    with pytest.raises(ResultDecodeError):
        codec.decode(payload, error=ResultDecodeError)


def test_an_interrupt_stays_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        codec.encode(Refuses(KeyboardInterrupt()), bytes)
    payload = codec.encode(Breaks(KeyboardInterrupt), bytes)
    with pytest.raises(KeyboardInterrupt):
        codec.decode(payload)


def test_bytes_that_are_no_pickle() -> None:
    with pytest.raises(ArgsDecodeError):
        codec.decode(Payload(b"nonsense"))


def test_numpy_and_cloudpickle_are_not_loaded_for_nothing() -> None:
    code = (
        "import sys; from device_runtime import codec, capture, source\n"
        "codec.decode(codec.encode(((1, [2]), {'a': 'b'}), bytes))\n"
        "print([name for name in ('numpy', 'cloudpickle', 'ast') if name in sys.modules])"
    )
    root = str(Path(codec.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout and "cloudpickle" not in done.stdout


def test_what_looks_like_a_call_but_is_none() -> None:
    class Key:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    value = ((np.ones(3),), {Key(): 1})
    args, named = codec.decode(codec.encode(value, bytes))
    assert args[0].sum() == 3 and list(named.values()) == [1]
