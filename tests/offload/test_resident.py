"""Resident data: every core's own copy of a variable, from launch to launch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gates import Gate

from offload import (
    LaunchTimeout,
    OptionError,
    ResidentDataLost,
    ResidentNameError,
    WorkerDied,
    copy_from_device,
    copy_to_device,
    define_on_device,
    offload,
)
from offload.core import coreid

a = 10
grid = np.zeros(3)
log: list[int] = []
undefined = 5


@offload
def read() -> Any:
    return a


@offload
def assign() -> None:
    a = 19 + coreid()  # noqa: F841


def decorated(function: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


@offload
@decorated
def assign_decorated() -> None:
    a = 21  # noqa: F841


@offload
@functools.lru_cache
def read_cached() -> Any:
    return a


@offload
def assign_global() -> None:
    global a
    a = a + 1


@offload
def delete() -> None:
    del a  # type: ignore[name-defined]  # noqa: F821


@offload
def delete_global() -> bool:
    global a
    del a
    return "a" in globals()


@offload
def write_grid(value: float) -> float:
    grid[coreid()] = value
    return float(grid.sum())


@offload
def note(number: int) -> list[int]:
    log.append(number)
    return log


def test_a_decorated_kernel_assigns_and_reads(device: str) -> None:
    define_on_device(a)
    assign_decorated()
    assert copy_from_device("a") == [21] * 4
    assert read_cached() == [21] * 4 and a == 10


def test_tutorial_seven(device: str) -> None:
    """Define, read, assign without `global`, copy to and from the cores."""
    define_on_device(a)
    assert read() == [10] * 4
    assert assign() == [None] * 4
    assert read() == [19, 20, 21, 22]
    assert copy_from_device("a") == [19, 20, 21, 22]
    assert copy_to_device("a", 100, target=[1, 2]) is None
    assert read() == [19, 100, 100, 22]
    assert copy_from_device("a", target=2) == [100]
    assert a == 10
    assign_global()
    assert copy_from_device("a", target=[0, 1]) == [20, 101]


def test_handles_of_copies_keep_their_place_among_launches(device: str) -> None:
    define_on_device(a=0)
    handles = []
    for number in range(5):
        handles.append(copy_to_device("a", number, async_=True))
        handles.append(read(async_=True))
        handles.append(copy_from_device("a", **{"async": True}))
    assert [handle.wait() for handle in handles[1::3]] == [[number] * 4 for number in range(5)]
    assert [handle.wait() for handle in handles[2::3]] == [[number] * 4 for number in range(5)]


def test_the_forms_of_a_definition(device: str) -> None:
    value = 3
    define_on_device("a", value)
    assert read() == [3] * 4
    define_on_device(a=value + 1, undefined_before=2)
    assert read() == [4] * 4 and copy_from_device("undefined_before") == [2] * 4
    for call in (
        lambda: define_on_device(),
        lambda: define_on_device(value + 1),
        lambda: define_on_device(1, 2),
        lambda: define_on_device("a", 1, 2),
    ):
        with pytest.raises(OptionError, match="define_on_device"):
            call()
    for name in ("not a name", "class", "a.b", "3", ""):
        for call in (lambda name: define_on_device(name, 1), lambda name: define_on_device(**{name: 1})):
            with pytest.raises(OptionError, match=f"^define_on_device: '{name}' cannot be the name of a var"):
                call(name)


def test_code_without_a_module_has_no_resident_data(device: str) -> None:
    namespace: dict[str, Any] = {"define_on_device": define_on_device}
    with pytest.raises(OptionError, match=r"a namespace that has none: give .* a '__name__'"):
        exec("define_on_device(a=1)", namespace)


def test_arrays_and_lists_are_each_cores_own_to_write_to(device: str) -> None:
    define_on_device(grid)
    define_on_device(log)
    assert write_grid(1.0, target=[0, 1, 2]) == [1.0, 1.0, 1.0]
    assert [list(each) for each in copy_from_device("grid", target=[0, 1, 2])] == [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
    assert note(1, target=0) == [[1]]
    assert note(2) == [[1, 2], [2], [2], [2]]
    assert log == [] and not grid.any()
    define_on_device(log=[[np.zeros(2)]])
    copies = copy_from_device("log", target=0)
    copies[0][0][0][0] = 5.0
    assert copy_from_device("log", target=0)[0][0][0][0] == 0.0


def test_a_name_that_is_not_defined_names_those_that_are(device: str) -> None:
    define_on_device(a)
    define_on_device(grid)
    for call in (lambda: copy_from_device("undefined"), lambda: copy_to_device("undefined", 1)):
        with pytest.raises(ResidentNameError, match=r"'undefined' is not defined.*defined are a, grid"):
            call()
    with pytest.raises(OptionError, match="a string, not int"):
        copy_from_device(3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no option 'asynch'"):
        copy_from_device("a", asynch=True)
    with pytest.raises(OptionError, match="names core 9"):
        copy_to_device("a", 1, target=9)


def test_other_modules_do_not_see_it(device: str) -> None:
    define_on_device(a=1)
    kernel: dict[str, Any] = {"__name__": "another_module", "a": "its own"}
    exec("def get():\n    return a", kernel)
    assert offload(kernel["get"])(target=0) == ["its own"]


@pytest.mark.parametrize("kernel", [delete, delete_global])
def test_a_name_that_a_kernel_deletes_is_not_defined_on_its_core_any_more(device: str, kernel: Any) -> None:
    define_on_device(a=1)
    kernel(target=1)
    assert read(target=[0, 2]) == [1, 1]
    for call in (lambda: read(), lambda: assign(), lambda: kernel(), lambda: copy_from_device("a")):
        with pytest.raises(ResidentNameError, match=r"'a' .* is not defined on core 1.* deleted it"):
            call()
    copy_to_device("a", 2, target=1)
    assert read(target=1) == [2]
    define_on_device(a)
    assert read() == [10] * 4 and a == 10


def test_a_core_that_was_restarted_has_lost_its_data(local: str) -> None:
    @offload
    def die() -> None:
        os._exit(3)

    define_on_device(a)
    with pytest.raises(WorkerDied):
        die(target=1)
    assert read(target=0) == [10]
    for call in (lambda: read(), lambda: copy_from_device("a")):
        with pytest.raises(ResidentDataLost, match="core 1 was restarted"):
            call()
    define_on_device(a)
    assert read() == [10, 10]
    with pytest.raises(WorkerDied):
        die(target=0)
    copy_to_device("a", 7, target=0)
    assert read() == [7, 10]


def test_a_core_that_was_ended_has_lost_its_data(local: str, gate: Gate) -> None:
    @offload(target=1)
    def wait() -> None:
        gate.pass_through()

    define_on_device(a)
    handle = wait.launch()
    gate.wait()
    assert handle.cancel(kill=True)
    with pytest.raises(ResidentDataLost, match="core 1 was restarted"):
        read()
    define_on_device(a)
    with pytest.raises(LaunchTimeout):
        wait(timeout=0.01)
    with pytest.raises(ResidentDataLost, match="core 1 was restarted"):
        read()
    define_on_device(a)
    assert read() == [10, 10]


def test_modules_that_define_the_same_name_do_not_meet(device: str) -> None:
    other: dict[str, Any] = {"__name__": "another_module", "define_on_device": define_on_device}
    exec("def get():\n    return a\ndef define(value):\n    define_on_device(a=value)", other)
    define_on_device(a=1)
    other["define"](2)
    assert read(target=0) == [1]
    assert offload(other["get"])(target=0) == [2]
    copy_to_device("a", 3)
    assert offload(other["get"])(target=0) == [2]


@offload
def assign_in_a_loop() -> None:
    for a in range(3):  # noqa: B007
        pass


@offload
def add_to_it() -> None:
    a += 1  # noqa: F823, F841


@offload
def only_in_a_comprehension() -> list[int]:
    return [a for a in range(3)]


@offload
def an_argument(a: int) -> int:
    a += 1
    return a


def test_what_assigns_to_the_resident_copy_and_what_does_not(device: str) -> None:
    define_on_device(a)
    assign_in_a_loop()
    assert read() == [2] * 4
    add_to_it()
    assert read() == [3] * 4
    only_in_a_comprehension()
    assert an_argument(8, target=0) == [9]
    assert read() == [3] * 4
