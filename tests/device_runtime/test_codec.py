"""Values arrive as they were when they were sent, and errors say what went wrong."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import importlib.util
import pickle
import subprocess
import sys
import threading
import weakref
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
    KernelError,
    RemoteTraceback,
    ResultDecodeError,
    ResultNotSerializable,
    WorkerDied,
    add_note,
)
from device_runtime.launch import Payload


def there(value: Any, **how: Any) -> Any:
    return codec.decode(codec.encode(value, bytes), **how)


def kernel_error(function: Any, *args: Any) -> BaseException:
    """Return what the host sees of the error that a function raises."""
    with pytest.raises(BaseException) as caught:
        function(*args)
    return codec.decode_error(codec.encode_error(caught.value, bytes))


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


class Tagged(np.ndarray):  # type: ignore[type-arg]
    pass


# ---- values -------------------------------------------------------------------


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


# ---- arrays -------------------------------------------------------------------

ARRAYS = {
    "small": np.arange(6.0).reshape(2, 3),
    "large": np.arange(20_000.0).reshape(100, 200),
    "fortran": np.asfortranarray(np.arange(20_000.0).reshape(100, 200)),
    "small fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "stride": np.arange(40_000)[::3],
    "backwards": np.arange(20)[::-1],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "0-d": np.array(3.5),
    "empty": np.empty((0, 3), "f4"),
    "no bytes": np.zeros(3, "V0"),
    "bool": np.array([True, False]),
    "complex": np.ones(2000, complex),
    "big endian": np.arange(5, dtype=">i4"),
    "half": np.arange(5, dtype="f2"),
    "long double": np.arange(5, dtype=np.longdouble),
    "datetime": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "large datetime": np.arange(5000).astype("m8[s]"),
    "text": np.array(["a", "bcd"]),
    "structured": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
    "structured datetime": np.zeros(2000, [("t", "M8[ns]"), ("v", "f4")]),
    "object": np.array([1, "two", None, [3]], object),
    "structured object": np.array([(1, "x")], [("a", "i4"), ("b", object)]),
    "subclass": np.eye(2).view(Tagged),
    "records": np.rec.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "masked": np.ma.masked_array([1, 2, 3], [False, True, False]),
    "read-only": np.frombuffer(bytes(range(200)) * 100, np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_arrives_equal_and_read_only(name: str) -> None:
    array = ARRAYS[name]
    arrived = there(((array,), {}))[0][0]
    assert type(arrived) is type(array)
    assert arrived.dtype == array.dtype and arrived.shape == array.shape
    assert arrived.tolist() == array.tolist()
    assert arrived.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    assert not arrived.flags.writeable
    with pytest.raises(ValueError):
        arrived[...] = arrived


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_writable(name: str) -> None:
    array = ARRAYS[name]
    payload = codec.encode(array, bytes)
    arrived, again = codec.decode(payload, writable=True), codec.decode(payload, writable=True)
    assert arrived.tolist() == array.tolist() and type(arrived) is type(array)
    assert arrived.flags.writeable
    arrived[...] = np.zeros(arrived.shape, arrived.dtype)
    assert again.tolist() == array.tolist()


def test_arrays_deep_inside_are_read_only_too() -> None:
    arrived = there(Point(1, [{"deep": (np.zeros(3), np.array([None]))}]))  # type: ignore[list-item]
    assert not any(array.flags.writeable for array in arrived.y[0]["deep"])


def test_a_snapshot_is_taken_at_the_call() -> None:
    for size in (10, 10_000):
        array = np.zeros(size)
        payload = codec.encode(array, bytes)
        array[:] = 1
        assert not codec.decode(payload).any()


def test_large_buffers_are_placed_and_small_ones_are_not() -> None:
    placed: list[int] = []

    def place(view: memoryview) -> bytes:
        placed.append(view.nbytes)
        return bytes(view)

    codec.encode(((np.zeros(10), "small"), {}), place)
    assert placed == []
    codec.encode(((np.zeros(10_000), np.zeros(10)), {}), place)
    assert placed == [80_000]


def test_what_all_shards_get_is_placed_once() -> None:
    placed: list[int] = []

    def place(view: memoryview) -> bytes:
        placed.append(view.nbytes)
        return bytes(view)

    shared, whole, memo = np.arange(10_000), np.arange(8000), {}  # type: ignore[var-annotated]
    payloads = [
        codec.encode(((shared, whole[i * 2000 : i * 2000 + 2000]), {}), place, memo=memo) for i in range(4)
    ]
    assert placed == [80_000, 16_000, 16_000, 16_000, 16_000]
    for i, payload in enumerate(payloads):
        args, _ = codec.decode(payload)
        assert (args[0] == shared).all() and args[1][0] == 2000 * i


def test_copies_made_for_one_shard_are_not_taken_for_anothers() -> None:
    memo: Any = {}
    payloads = [codec.encode(np.full((2000, 2), i)[:, 0], bytes, memo=memo) for i in range(20)]
    assert [int(codec.decode(payload)[0]) for payload in payloads] == list(range(20))


class Block:
    """Device memory that is gone with the last reference to it."""

    def __init__(self, data: bytes) -> None:
        self._memory = bytearray(data)

    @property
    def view(self) -> memoryview:
        return memoryview(self._memory)


def test_an_array_over_device_memory_is_writable_and_keeps_the_memory() -> None:
    blocks: list[weakref.ref[Block]] = []

    def place(view: memoryview) -> Block:
        block = Block(bytes(view))
        blocks.append(weakref.ref(block))
        return block

    array = codec.decode(codec.encode(np.arange(10_000), place), writable=True)
    part = array[5:10]
    array[5] = -1
    del array
    gc.collect()
    assert blocks[0]() is not None
    assert part.tolist() == [-1, 6, 7, 8, 9]
    del part
    gc.collect()
    assert blocks[0]() is None


def test_device_memory_is_read_only_to_a_kernel() -> None:
    payload = codec.encode(np.arange(10_000), lambda view: Block(bytes(view)))
    assert not codec.decode(payload).flags.writeable


# ---- handles among the values -------------------------------------------------


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


# ---- what does not travel -----------------------------------------------------


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


# ---- exceptions ---------------------------------------------------------------


class Plain(Exception):
    pass


class OwnInit(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"failed with {code} {where}")
        self.code = code
        self.where = where


class OneArgument(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not there", path)


class OwnReduce(Exception):
    def __reduce__(self) -> Any:
        return OwnReduce, ("rebuilt",)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NoText(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class DoesNotLoad(Exception):
    def __reduce__(self) -> Any:
        return _raise, (SystemExit,)


def raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3),
        KeyError("key"),
        Plain("text"),
        OwnInit(3, "here"),
        OneArgument("/a/path"),
        FileNotFoundError(2, "gone", "/file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        SystemExit(),
        StopIteration(5),
        ImportError("no module", name="zig", path="/zag"),
        KeyboardInterrupt(),
        WorkerDied("died", -9, True, "last words"),
        np.linalg.LinAlgError("singular"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_keeps_type_arguments_and_attributes(error: BaseException) -> None:
    arrived = kernel_error(raises, error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args and str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    for name in ("errno", "filename", "code", "value", "name", "object"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


def test_an_exception_that_rebuilds_itself_is_let() -> None:
    assert kernel_error(raises, OwnReduce("first")).args == ("rebuilt",)


def test_exceptions_among_values_keep_what_they_are() -> None:
    arrived = there([OwnInit(3, "here")])[0]
    assert (type(arrived), arrived.code, str(arrived)) == (OwnInit, 3, "failed with 3 here")


def test_notes_arrive() -> None:
    error = ValueError("x")
    add_note(error, "a hint")
    assert kernel_error(raises, error).__notes__ == ["a hint"]  # type: ignore[attr-defined]


def test_the_cause_is_the_remote_traceback() -> None:
    def kernel() -> None:
        try:
            {}["missing"]  # type: ignore[index]
        except KeyError as error:
            raise ValueError("outer") from error

    cause = kernel_error(kernel).__cause__
    assert isinstance(cause, RemoteTraceback)
    for told in (
        "KeyError: 'missing'",
        "direct cause",
        "ValueError: outer",
        __file__,
        'raise ValueError("outer")',
    ):
        assert told in str(cause)


def test_frames_above_the_kernel_are_left_out() -> None:
    def user_code(view: memoryview) -> bytes:
        raise ValueError("from below")

    with pytest.raises(ValueError) as caught:
        codec.encode("x" * 10_000, user_code)
    assert caught.value.__traceback__ is not None
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    text = str(codec.decode_error(codec.encode_error(error, bytes)).__cause__)
    assert "in encode" not in text and "in user_code" in text


@pytest.mark.parametrize("error", [Unpicklable(), DoesNotLoad("x")], ids=["pickle", "load"])
def test_an_exception_that_does_not_travel_still_tells_itself(error: BaseException) -> None:
    arrived = kernel_error(raises, error)
    assert isinstance(arrived, KernelError)
    assert arrived.type_name.endswith(type(error).__name__)
    assert arrived.text == str(error)
    assert "raise error" in arrived.traceback and isinstance(arrived.__cause__, RemoteTraceback)


def test_an_exception_whose_class_is_not_here(far: Any) -> None:

    def kernel() -> None:
        import sys
        import types

        module = sys.modules["only_there"] = types.ModuleType("only_there")
        module.__spec__ = sys.__spec__
        exec("class Lost(Exception): pass", vars(module))
        raise module.Lost("far away")

    with pytest.raises(Exception, match="far away") as caught:
        far.run(Capture(kernel).image())
    assert isinstance(caught.value.__cause__, RemoteTraceback)


@pytest.mark.parametrize("error", [NoText("x")])
def test_an_exception_without_text(error: BaseException) -> None:
    arrived = kernel_error(raises, error)
    assert type(arrived) is NoText
    assert "NoText" in str(arrived.__cause__)


def test_attribute_errors_of_things_that_do_not_pickle() -> None:
    arrived = kernel_error(lambda: threading.Lock().nothing)  # type: ignore[attr-defined]
    assert type(arrived) is AttributeError and "nothing" in str(arrived)


def test_recursion_in_a_kernel() -> None:
    def kernel() -> Any:
        return kernel()

    arrived = kernel_error(kernel)
    assert type(arrived) is RecursionError and "repeated" in str(arrived.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no exception groups")
def test_exception_groups_arrive_whole() -> None:
    group = ExceptionGroup("two", [OwnInit(1, "a"), ValueError("b")])  # noqa: F821
    arrived: Any = kernel_error(raises, group)
    assert type(arrived) is type(group) and arrived.message == "two"
    assert [type(error) for error in arrived.exceptions] == [OwnInit, ValueError]
    assert arrived.exceptions[0].code == 1


def test_numpy_and_cloudpickle_are_not_loaded_for_nothing() -> None:
    code = (
        "import sys; from device_runtime import codec, capture, source\n"
        "codec.decode(codec.encode(((1, [2]), {'a': 'b'}), bytes))\n"
        "print([name for name in ('numpy', 'cloudpickle', 'ast') if name in sys.modules])"
    )
    root = str(Path(codec.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout and "cloudpickle" not in done.stdout
