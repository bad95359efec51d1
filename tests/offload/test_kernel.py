"""Kernels: what can be one, what a call takes and gives, and what is refused."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gates import Gate

import offload as package
from offload import (
    ArgsNotSerializable,
    Handle,
    Kernel,
    KernelTypeError,
    NestedDeadlockError,
    OptionError,
    SessionClosed,
    offload,
    offload_multiple,
    offload_single,
)
from offload.core import coreid, numcores, rank, size

scale = 10


@offload
def add(a: int, b: int = 1, *, times: int = 1) -> int:
    """Add."""
    return (a + b) * times


@offload
def where() -> tuple[int, int, int, int]:
    return coreid(), numcores(), rank(), size()


# ---- values and options --------------------------------------------------------


def test_a_call_gives_one_value_per_core_in_core_order(device: str) -> None:
    assert add(1) == [2, 2, 2, 2]
    assert add(1, 2, times=3) == [9] * 4
    assert where() == [(core, 4, core, 4) for core in range(4)]


def test_the_values_are_in_core_order_whatever_the_order_of_target(device: str) -> None:
    assert where(target=[3, 1]) == [(1, 4, 0, 2), (3, 4, 1, 2)]
    assert where(target=2) == [(2, 4, 0, 1)]
    assert len(where(auto=3)) == 3
    assert len(where.options(target=[0])(all=True)) == 4


def test_a_launch_gives_a_handle(device: str) -> None:
    for handle in (
        add.launch(1),
        add(1, async_=True),
        add(1, **{"async": True}),
        add.options(async_=True)(1),
    ):
        assert isinstance(handle, Handle)
        assert handle.wait() == [2] * 4
        assert handle.result() == [2] * 4
    assert add.options(async_=True)(1, async_=False) == [2] * 4


def test_result_is_bare_where_one_unit_was_asked_for(device: str) -> None:
    assert add.options(auto=1).launch(1).result() == 2
    assert add(1, target=3, async_=True).result() == 2
    assert add(1, target=[3], async_=True).result() == [2]
    assert add(1, target=3) == [2]


def test_single_and_multiple(device: str) -> None:
    @offload_single
    def one(x: int) -> int:
        return x

    @offload_single(timeout=50)
    def one_more(x: int) -> int:
        return x

    @offload_multiple(cores=3)
    def three(x: int) -> int:
        return x

    assert one(4).wait() == [4] and one(4).result() == 4
    assert one_more(4).wait() == [4]
    assert three(4).wait() == [4, 4, 4]
    assert three(4, auto=2).wait() == [4, 4]
    assert one(4, target=[0, 1]).wait() == [4, 4]


def test_decorators_with_and_without_arguments(device: str) -> None:
    def double(x: int) -> int:
        return 2 * x

    for kernel, cores in [
        (offload()(double), 4),
        (offload(double, target=[0, 2]), 2),
        (offload(auto=3)(double), 3),
    ]:
        assert kernel(4) == [8] * cores
    for later, cores in [
        (offload(**{"async": True})(double), 4),
        (offload_single()(double), 1),
        (offload_single(double, priority=1), 1),
        (offload_multiple(double, cores=2), 2),
    ]:
        assert later(4).wait() == [8] * cores


def test_a_bad_placement_is_refused_before_anything_is_queued(device: str) -> None:
    ran: list[int] = []
    for options, said in [
        ({"auto": 5}, "auto=5 asks for more cores than the device's 4"),
        ({"target": 4}, "names core 4"),
        ({"target": [1, 1]}, "more than once"),
        ({"target": 1, "auto": 1}, "two placements"),
        ({"auto": 0}, "at least 1"),
    ]:
        with pytest.raises(OptionError, match=said):
            add(1, **options)
    assert ran == []


# ---- signatures ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "add() missing a required argument: 'a'"),
        ((1, 2, 3), {}, "add() too many positional arguments"),
        ((1,), {"a": 2}, "add() multiple values for argument 'a'"),
        ((1,), {"c": 2}, "add() got an unexpected keyword argument 'c'"),
        ((1,), {"timout": 2}, "did you mean the option 'timeout'"),
        ((1,), {"verify": 0.1}, "verify= is for hardware kernels"),
    ],
)
def test_wrong_arguments_are_a_type_error_in_the_callers_frame(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: str, device: str
) -> None:
    for call in (add, add.launch):
        with pytest.raises(TypeError) as raised:
            call(*args, **kwargs)
        assert said in str(raised.value)


def test_a_kernel_keeps_a_parameter_named_like_an_option(device: str) -> None:
    with pytest.warns(UserWarning, match="has a parameter named 'timeout'") as warned:

        @offload
        def wait(timeout: str) -> str:
            return timeout

    assert warned[0].filename == __file__
    assert wait(timeout="soon") == ["soon"] * 4
    assert wait.options(timeout=9)("later", target=0) == ["later"]


# ---- what can be a kernel ---------------------------------------------------------


def test_a_parameter_may_have_any_name(device: str) -> None:
    """Also those that offload's own functions have."""

    @offload(auto=1)
    def named(self: int, fn: int, **kwargs: int) -> dict[str, int]:
        return {"self": self, "fn": fn, **kwargs}

    given = {"self": 1, "fn": 2, "args": 3, "kwargs": 4, "here": 5, "options": 6, "function": 7}
    assert named(**given) == named.launch(**given).wait() == [given]
    assert named.options(async_=True)(**given).result() == given
    with pytest.raises(OptionError, match="no option 'self'"):
        named.options(self=1)  # type: ignore[call-overload]


def test_lambdas_closures_nested_functions_partials_and_builtins(device: str) -> None:
    factor = 3

    @offload
    def nested(x: int) -> int:
        def inner(y: int) -> int:
            return y * factor

        return inner(x)

    assert nested(2, target=0) == [6]
    factor = 4
    assert nested(2, target=0) == [8]
    assert offload(lambda x: x + scale)(1, target=0) == [11]
    assert offload(functools.partial(pow, 2))(5, target=0) == [32]
    assert offload(functools.partial(add.fn, b=5))(1, target=0) == [6]
    assert offload(math.sqrt)(9.0, target=0) == [3.0]


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    @offload
    def method(self, x: int) -> int:
        """Multiply."""
        return x * self.factor

    @offload
    @staticmethod
    def static(x: int) -> int:
        return x + 1

    @staticmethod
    @offload
    def static_outside(x: int) -> int:
        return x + 2

    @offload
    @classmethod
    def of_class(cls, x: int) -> str:
        return cls.__name__ * x

    @offload
    def parallel(self, x: int) -> list[int]:
        return self.method(x, target=0)


class Child(Multiplier):
    pass


def test_methods_and_callable_objects(device: str) -> None:
    seven = Multiplier(7)
    assert seven.method(2) == [14] * 4
    assert seven.method.launch(2, target=1).wait() == [14]
    seven.factor = 8
    assert seven.method(2, target=0) == [16]
    assert Multiplier.method(seven, 2, target=0) == [16]
    assert seven.method.fn(3) == 24
    assert list(seven.method.map([1, 2])) == [8, 16]
    assert list(inspect.signature(seven.method).parameters) == ["x"]
    assert offload(seven)(2, target=0) == [16]
    assert offload(seven.__call__)(2, target=0) == [16]
    with pytest.raises(TypeError, match=r"method\(\) missing a required argument: 'x'"):
        seven.method()


class Later(Multiplier):
    @offload(target=0)
    def method(self, x: int) -> int:  # type: ignore[override]
        return super().__call__(x) + 1


def test_a_method_may_use_super(device: str) -> None:
    assert Later(5).method(3) == [16]
    assert Later(5).method.fn(3) == 16


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def test_members_of_an_enumeration_are_the_same_on_both_sides(device: str) -> None:
    @offload(target=0)
    def other(colour: Colour) -> Colour:
        return Colour.BLUE if colour is Colour.RED else Colour.RED

    assert other(Colour.RED)[0] is Colour.BLUE


def test_static_and_class_methods(device: str) -> None:
    assert Multiplier.static(1, target=0) == [2]
    assert Multiplier(3).static(1, target=0) == [2]
    assert Multiplier.static_outside(1, target=0) == [3]
    assert Multiplier.of_class(2, target=0) == ["MultiplierMultiplier"]
    assert Child.of_class.launch(1, target=0).wait() == ["Child"]


def test_a_kernel_looks_like_its_function() -> None:
    assert add.__name__ == "add" and add.__doc__ == "Add." and add.__module__ == __name__
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 1, *, times: 'int' = 1) -> 'int'"
    assert add.__wrapped__ is add.fn  # type: ignore[attr-defined]
    assert add.fn(1) == 2
    assert "add" in repr(add) and "timeout=3" in repr(add.options(timeout=3))
    assert isinstance(add, Kernel)


def test_options_leave_the_kernel_as_it_is() -> None:
    later = add.options(async_=True, auto=2)
    assert "auto" not in repr(add) and "auto=2" in repr(later)
    assert later.options(target=1)._layer == {"async_": True, "target": (1,), "single": True}
    assert later.options(all=True)._layer.get("auto") is None


class _Iterator:
    def __call__(self) -> Any:
        yield 1


def generator() -> Any:
    yield 1


async def coroutine() -> None: ...


async def stream() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (3, "offload decorates a function, not 3"),
        ("local:4", "given by name, as in @offload"),
        (int, "class int cannot be a kernel"),
        (Multiplier, "class Multiplier cannot be a kernel"),
        (generator, "generator function"),
        (functools.partial(generator), "generator function"),
        (_Iterator(), "generator function"),
        (coroutine, "`async def` function"),
        (stream, "`async def` function"),
        (add, "is a kernel already"),
    ],
)
def test_what_cannot_be_a_kernel_says_what_to_do(thing: Any, said: str) -> None:
    for decorate in (offload, offload_single, offload(timeout=3), offload_multiple(cores=2)):
        with pytest.raises(KernelTypeError) as raised:
            decorate(thing)
        assert said in str(raised.value)
        assert isinstance(raised.value, TypeError)


# ---- arguments --------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: list[int]


def test_arguments_are_snapshots_and_the_kernels_own(device: str) -> None:
    @offload
    def change(items: list[int], point: Point) -> tuple[list[int], int]:
        items.append(9)
        point.y.append(1)
        return items, len(point.y)

    items, point = [1], Point(1, [])
    handle = change.launch(items, point=point)
    items.append(2)
    assert handle.wait() == [([1, 9], 1)] * 4
    assert items == [1, 2] and point == Point(1, [])


def test_arrays_are_read_only_views_in_a_kernel_and_writable_on_the_host(device: str) -> None:
    @offload
    def double(a: Any) -> Any:
        assert not a.flags.writeable
        return a * 2

    @offload
    def scribble(a: Any) -> None:
        a[0] = 1

    for array in (np.arange(5), np.ones((300, 300)), np.zeros((0, 3)), np.asfortranarray(np.ones((40, 50)))):
        (result,) = double(array, target=0)
        assert np.array_equal(result, array * 2) and result.dtype == array.dtype
        result[...] = 1
    with pytest.raises(ValueError, match="read-only"):
        scribble(np.ones(5))


def test_a_memoryview_arrives_as_bytes(device: str) -> None:
    for data in (b"few", bytearray(100_000)):
        kernel = offload(lambda x: (type(x).__name__, len(x)), target=0)
        assert kernel(memoryview(data)) == [("bytes", len(data))]


def test_arguments_that_do_not_pickle_are_refused_at_the_call(device: str) -> None:
    import threading

    with pytest.raises(ArgsNotSerializable, match="argument"):
        add.launch(threading.Lock())
    assert add(1) == [2] * 4


def test_a_large_captured_value_that_is_sent_again_warns_once(device: str) -> None:
    large = np.zeros(200_000)

    @offload(target=0)
    def first() -> float:
        return float(large[0])

    assert first() == [0.0]
    large[0] = 1
    with pytest.warns(UserWarning, match=r"closure variable 'large', 1\.6 MB.*define_on_device") as warned:
        assert first() == [1.0]
    assert [warning.filename for warning in warned] == [__file__]
    large[0] = 2
    assert first() == [2.0]


# ---- which goes first ----------------------------------------------------------------


@offload(async_=True, target=0)
def note(file: Path, line: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{line}\n")


@offload_single
def hold(gate: Gate) -> None:
    gate.pass_through()


def test_priority_goes_before_launch_order_and_keeps_it_among_equals(
    local: str, gate: Gate, tmp_path: Path
) -> None:
    holding = hold(gate, target=0)
    gate.wait()
    file = tmp_path / "notes"
    handles = [
        note(file, "first"),
        note(file, "last", priority=-1),
        note(file, "second"),
        note(file, "urgent", priority=5),
        note(file, "urgent too", priority=5),
    ]
    gate.let_on()
    package.wait_all(holding, *handles)
    assert file.read_text().splitlines() == ["urgent", "urgent too", "first", "second", "last"]


def test_an_idle_core_is_taken_at_once(local: str, gate: Gate) -> None:
    holding = hold(gate, target=0)
    gate.wait()
    queued = where(target=0, async_=True)
    assert where(auto=1)[0][0] == where(target=1)[0][0] == 1
    assert not queued.done()
    gate.let_on()
    package.wait_all(holding, queued)


@pytest.mark.parametrize(
    ("options", "call", "attempts"),
    [({}, {}, 2), ({"retries": 0}, {}, 1), ({"retries": 2}, {}, 3), ({"retries": 2}, {"retries": 0}, 1)],
)
def test_what_is_nearer_to_the_call_wins(
    options: dict[str, int],
    call: dict[str, int],
    attempts: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "attempts"

    @offload(**options)
    def die() -> None:
        with file.open("a") as attempted:
            attempted.write("x")
        os._exit(1)

    monkeypatch.setenv("OFFLOAD_RETRIES", "1")
    with package.connect("local:1"):
        for kernel in (lambda: die(**call), lambda: die.options(**call)()):
            with pytest.raises(package.WorkerDied):
                kernel()
    assert file.read_text() == "x" * attempts * 2


# ---- kernels that use kernels ---------------------------------------------------------


@offload
def outer(x: int) -> list[int]:
    return add(x)


@offload
def endless(depth: int) -> Any:
    return endless(depth + 1, target=0)


@offload_single
def plain_inside(x: int) -> int:
    return add.fn(x) + 1


def test_a_kernel_may_launch_another_and_wait_for_it(device: str) -> None:
    assert outer(1) == [[2] * 4] * 4
    assert plain_inside(1).result() == 3

    @offload
    def places() -> list[Any]:
        return [where(target=[1, 2]), coreid()]

    assert places(target=3) == [[[(1, 4, 0, 2), (2, 4, 1, 2)], 3]]


def test_a_kernel_of_an_instance_sees_it_as_it_is_at_each_launch(device: str) -> None:
    instance = Multiplier(2)
    method = instance.method

    @offload(target=0)
    def call(x: int) -> Any:
        return method.fn(x), method(x, target=1)

    assert call(1) == [(2, [2])]
    instance.factor = 3
    assert call(1) == [(3, [3])]
    assert call(1) == [(3, [3])]


def test_launches_nested_without_end_are_refused(device: str) -> None:
    with pytest.raises(NestedDeadlockError, match="nested 16 deep"):
        endless(0, target=0)


def test_a_kernel_travels_as_an_argument(device: str) -> None:
    @offload
    def call(kernel: Any, x: int) -> Any:
        return kernel(x), kernel.fn(x)

    for kernel in (Multiplier.static, Multiplier(2).method, add.options(target=0)):
        found = call(kernel.options(target=1), 1, target=0)
        assert found == [(([2]), 2)]


# ---- sessions ---------------------------------------------------------------------------


def test_sessions_come_and_go(device: str) -> None:
    with package.connect("inline:2") as inner:
        assert inner.device == "inline:2"
        assert add(1) == [2, 2]
        with package.connect("inline:2") as same:
            assert same is inner
        handle = add.launch(1)
    assert handle.wait() == [2, 2]
    assert add(1) == [2] * 4
    with pytest.raises(SessionClosed, match=r"offload.connect\(\)"):
        inner.pool()


def test_another_device_for_one_kernel(device: str) -> None:
    assert add.options(device="inline:3")(1) == [2] * 3
    assert add(1, device="inline:1") == [2]
    assert add(1) == [2] * 4


def test_an_unknown_device_is_refused_and_the_session_stays(device: str) -> None:
    for address in ("lokal:4", "lokal"):
        with pytest.raises(package.UnknownDeviceError, match="'inline', 'local'"):
            package.connect(address)
        with pytest.raises(package.UnknownDeviceError):
            add(1, device=address)
    with pytest.raises(OptionError, match="1 to 1024"):
        package.connect("inline:0")
    assert add(1) == [2] * 4
