"""Resident names are not captured; what does not pickle, or is large, is named."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from captured import closure, run, script

from device_runtime.capture import Capture, load_image
from device_runtime.errors import KernelNotSerializable, KernelTypeError
from device_runtime.walk import plain_function

A = frozenset({"a"})


def test_resident_names_are_not_captured() -> None:
    names = script("a = 1\nb = 2\ndef helper(): return a\ndef kernel(): return helper() + b")
    image = Capture(names["kernel"]).image(A | {"unused"})
    assert image.resident == A and not image.fresh
    kernel = load_image(image.data)
    assert "a" not in kernel.__globals__
    kernel.__globals__["a"] = 10
    assert kernel() == 12


def test_resident_names_that_methods_use() -> None:
    names = script(
        "a = 1\nclass Thing:\n    def get(self): return a\n"
        "def helper(): return a\nlisted = [helper]\n"
        "def kernel(): return Thing().get()\ndef other(): return listed[0]()\n"
    )
    for name in ("kernel", "other"):
        image = Capture(names[name]).image(A)
        assert image.resident == A
        kernel = load_image(image.data)
        assert "a" not in kernel.__globals__
    kernel.__globals__["a"] = 5
    assert kernel() == 5


def test_the_names_are_those_of_the_kernels_own_module(module: Any) -> None:
    module("side_e", "a = 5\ndef helper(): return a\n")
    names = script("from side_e import helper\ndef kernel(): return helper()")
    image = Capture(names["kernel"]).image(A)
    assert image.resident == frozenset() and run(image) == 5


def test_defining_a_name_on_the_device_makes_a_new_image() -> None:
    names = script("a = 1\ndef kernel(): return a")
    capture = Capture(names["kernel"])
    before, after = capture.image(), capture.image(A)
    assert before is not after and capture.image(A) is after
    assert run(capture.image()) == 1


def test_an_assignment_with_global_is_no_reason_to_load_anew() -> None:
    names = script("def kernel():\n    global a\n    a = 19")
    image = Capture(names["kernel"]).image(A)
    assert image.resident == A and not image.fresh


def assigns() -> Any:
    a = 19
    return a


def reads() -> Any:
    return a  # type: ignore[name-defined]  # noqa: F821


def reads_argument(a: int) -> int:
    a = a + 1
    return a


def test_a_plain_assignment_changes_the_resident_copy() -> None:
    capture = Capture(assigns)
    kernel = load_image(capture.image(A).data)
    assert capture.image(A).resident == A
    assert kernel() == 19 and kernel.__globals__["a"] == 19
    assert run(capture.image()) == 19 and capture.image().resident == frozenset()
    assert capture.image(A) is not None and capture.image(A).resident == A


def test_an_argument_is_not_the_resident_name() -> None:
    image = Capture(reads_argument).image(A)
    assert image.resident == frozenset() and run(image, 1) == 2


def test_an_assignment_without_source_asks_for_global() -> None:
    names = script("def kernel():\n    a = 19")
    with pytest.raises(KernelTypeError, match="`global a`"):
        Capture(names["kernel"]).image(A)
    assert Capture(names["kernel"]).image(frozenset({"b"})).resident == frozenset()


def test_a_partial_and_a_method_that_assign() -> None:
    for callable_ in (functools.partial(assigns), functools.partial(functools.partial(assigns))):
        kernel: Any = load_image(Capture(callable_).image(A).data)
        assert kernel() == 19
    image = Capture(Assigner().method).image(A)
    kernel = load_image(image.data)
    assert kernel(3) == 3 and kernel.__func__.__globals__["a"] == 3 and image.resident == A


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        wrapper.calls += 1  # type: ignore[attr-defined]
        a = -1
        return function(*args), -a

    wrapper.calls = 0  # type: ignore[attr-defined]
    return wrapper


class Wrapping:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


@pytest.mark.parametrize("kernel", [counted(assigns), counted(counted(assigns)), Wrapping(assigns)])
def test_a_decorated_function_that_assigns(kernel: Any) -> None:
    image = Capture(kernel).image(A)
    assert image.resident == A
    loaded = load_image(image.data)
    loaded()
    plain = plain_function(loaded)
    assert plain is not None and plain.__globals__["a"] == 19
    assert assigns() == 19 and "a" not in globals()


def test_what_a_decorator_assigns_is_its_own() -> None:
    loaded = load_image(Capture(counted(reads)).image(A).data)
    plain = plain_function(loaded)
    assert plain is not None
    plain.__globals__["a"] = 5
    assert loaded() == (5, 1) and plain.__globals__["a"] == 5


def test_the_names_are_not_those_of_a_decorators_module(module: Any) -> None:
    module(
        "side_j",
        "import functools\na = 'theirs'\n"
        "def deco(function):\n"
        "    @functools.wraps(function)\n    def wrapper(): return function(), a\n    return wrapper\n",
    )
    names = script("from side_j import deco\na = 'mine'\n@deco\ndef kernel(): return a\n")
    image = Capture(names["kernel"]).image(A)
    kernel = load_image(image.data)
    plain = plain_function(kernel)
    assert image.resident == A and plain is not None
    plain.__globals__["a"] = "resident"
    assert kernel() == ("resident", "theirs")


class Calls:
    def __call__(self) -> None:
        a = 1  # noqa: F841


def test_a_function_that_assigns_and_does_not_travel_asks_for_global() -> None:
    with pytest.raises(KernelTypeError, match="write a `global` statement"):
        Capture(Calls()).image(A)


class Assigner:
    def method(self, value: int) -> int:
        a = value
        return a


# ---- what does not travel, or is large ------------------------------------


def test_a_capture_that_does_not_pickle_is_named() -> None:
    names = script(
        "import threading\nlock = threading.Lock()\ndef helper(): return lock\ndef kernel(): return helper()"
    )
    with pytest.raises(
        KernelNotSerializable, match=r"__main__\.kernel: global 'lock' \(used by helper\(\)\)"
    ):
        Capture(names["kernel"]).image()
    kernel, _ = closure(threading.Lock())
    with pytest.raises(KernelNotSerializable, match="closure variable 'value'") as caught:
        Capture(kernel).image()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Thing", r"global 'Thing', of type builtins\.type, does not pickle because of Thing\.lock: "),
        ("thing", r"global 'thing', of type __main__\.Child, does not pickle because of Thing\.lock: "),
        ("User()", r"global 'User', .* because of global 'lock' \(used by User\.get\(\)\): "),
    ],
)
def test_what_does_not_pickle_in_a_class_is_named(text: str, named: str) -> None:
    names = script(
        "import threading\nlock = threading.Lock()\n"
        "class Thing:\n    size = 3\n    def get(self): return Thing.only\n    lock = lock\n"
        "Thing.only = Thing()\n"
        "class Child(Thing):\n    def get(self): return super().get()\n"
        "thing = Child()\n"
        "class User:\n    def get(self): return lock\n"
        f"def kernel(): return {text}\n"
    )
    with pytest.raises(KernelNotSerializable, match=named):
        Capture(names["kernel"]).image()


def test_it_can_be_launched_once_the_culprit_is_gone() -> None:
    names = script("import threading\nlock = threading.Lock()\ndef kernel(): return lock")
    capture = Capture(names["kernel"])
    with pytest.raises(KernelNotSerializable):
        capture.image()
    names["lock"] = None
    assert run(capture.image()) is None


def test_a_large_capture_that_is_encoded_again_warns_once() -> None:
    names = script("def kernel(): return big[0], small")
    names.update(big=np.zeros(200_000), small=[1])
    capture = Capture(names["kernel"])
    capture.image()
    with pytest.warns(UserWarning, match=r"global 'big', 1\.6 MB.*define_on_device") as caught:
        capture.image()
    assert len(caught) == 1 and caught[0].filename == __file__
    names["small"] = [2]
    capture.image()


def test_a_large_constant_that_stays_does_not_warn() -> None:
    names = script("big = b'x' * 2_000_000\ndef kernel(): return len(big)")
    capture = Capture(names["kernel"])
    assert capture.image() is capture.image()


def test_threads_that_share_a_kernel() -> None:
    names = script("a = 0\nb = [0]\ndef kernel(): return a, b[0]")
    capture = Capture(names["kernel"])
    barrier = threading.Barrier(4)
    wrong: list[Any] = []

    def launch() -> None:
        barrier.wait(10)
        for _ in range(50):
            if run(capture.image()) != (0, 0):
                wrong.append(1)

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("text", "error"), [("eval('hidden')", NameError), ("globals()['hidden']", KeyError)]
)
def test_what_cannot_be_seen_to_be_used_does_not_travel(text: str, error: type[Exception]) -> None:
    names = script(f"hidden = 1\ndef kernel(): return {text}")
    with pytest.raises(error, match="hidden"):
        run(Capture(names["kernel"]).image())
