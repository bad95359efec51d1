"""Arguments, values, captured variables and exceptions that do not pickle, or do not load."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import offload as of
from offload import offload, offload_single


@offload
def same(x: Any) -> Any:
    return x


class Raises:
    """An object that fails to pickle, or to load, with an error of one's choice."""

    def __init__(self, error: type[BaseException], when: str) -> None:
        self.error, self.when = error, when

    def __reduce__(self) -> Any:
        if self.when == "pickle":
            raise self.error("not now")
        return fail_to_load, (self.error,)


def fail_to_load(error: type[BaseException]) -> None:
    raise error("not now")


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


ERRORS = [ValueError, SystemExit, MemoryError, KeyError]


@pytest.fixture(autouse=True)
def the_device_stays_well(device: str) -> Any:
    """Check after every test that both cores still answer."""
    yield
    assert same(1) == [1, 1]


@pytest.mark.parametrize(
    "argument",
    [threading.Lock(), (i for i in ()), *(Raises(error, "pickle") for error in ERRORS), nested(100_000)],
    ids=["lock", "generator", "ValueError", "SystemExit", "MemoryError", "KeyError", "too deep"],
)
def test_an_argument_that_does_not_pickle_is_refused_at_the_call(argument: Any) -> None:
    for call, named in (
        (lambda: same(argument), "argument 1 "),
        (lambda: same.launch(x=argument), "argument 'x' "),
        (lambda: next(same.map([1, argument], chunksize=2)), "argument 1 "),
    ):
        with pytest.raises(
            of.ArgsNotSerializable, match=rf"^kernel {same.__module__}\.same: {named}"
        ) as raised:
            call()
        assert raised.value.__cause__ is not None


def test_a_resident_value_that_does_not_pickle_is_named() -> None:
    value = 1
    of.define_on_device(value)
    with pytest.raises(of.ArgsNotSerializable, match=r"^define_on_device: 'value' \(of type _thread.lock\)"):
        of.define_on_device(value=threading.Lock())
    with pytest.raises(of.ArgsNotSerializable, match=r"^copy_to_device: 'value' \(of type _thread.lock\)"):
        of.copy_to_device("value", threading.Lock())


def test_a_call_of_an_executor_names_its_function() -> None:
    with of.Executor(device="inline") as executor:
        error = executor.submit(abs, threading.Lock()).exception()
    assert isinstance(error, of.ArgsNotSerializable) and error.__cause__ is not None
    assert str(error).startswith("kernel builtins.abs: argument 1 (of type _thread.lock)")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_argument_that_does_not_load(error: type[BaseException]) -> None:
    with pytest.raises(of.ArgsDecodeError, match=error.__name__) as raised:
        same(Raises(error, "load"))
    assert "fail_to_load" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        lambda: (i for i in ()),
        lambda: Raises(ValueError, "pickle"),
        lambda: Raises(SystemExit, "pickle"),
        lambda: nested(100_000),
    ],
    ids=["lock", "generator", "ValueError", "SystemExit", "too deep"],
)
def test_a_value_that_does_not_pickle(make: Any) -> None:
    with pytest.raises(of.ResultNotSerializable):
        offload(lambda: make())()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_a_value_that_does_not_load(error: type[BaseException]) -> None:
    handle = offload(lambda: Raises(error, "load")).launch()
    for _ in range(2):
        with pytest.raises(of.ResultDecodeError, match=error.__name__):
            handle.wait()


def test_a_captured_value_that_does_not_pickle_is_named() -> None:
    lock = threading.Lock()

    def kernel() -> bool:
        return lock.locked()

    with pytest.raises(of.KernelNotSerializable, match="lock"):
        offload(kernel)()


@pytest.mark.parametrize("error", [*ERRORS, GeneratorExit], ids=lambda error: error.__name__)
def test_a_captured_value_that_does_not_load(error: type[BaseException]) -> None:
    broken = Raises(error, "load")
    with pytest.raises(of.ArgsDecodeError, match="did not load on core 0"):
        offload(lambda: broken)()


class HoldsALock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class NoLoad(Exception):
    def __reduce__(self) -> Any:
        return fail_to_load, (ValueError,)


@pytest.mark.parametrize(
    ("error", "said"),
    [(HoldsALock, "held"), (NoLoad, "lost")],
    ids=["does not pickle", "does not load"],
)
def test_an_exception_that_does_not_travel_tells_type_text_and_traceback(
    error: type[Exception], said: str
) -> None:
    def fail() -> None:
        raise error(said)

    with pytest.raises(of.KernelError) as raised:
        offload(fail)()
    assert raised.value.type_name.endswith(error.__name__)
    assert raised.value.text == said
    assert "raise error(said)" in raised.value.traceback
    assert "raise error(said)" in str(raised.value.__cause__)


@pytest.mark.parametrize("hurts", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("what", ["nothing else", "__cause__", "__notes__", "args"])
def test_an_exception_that_raises_where_it_is_looked_at(what: str, hurts: type[BaseException]) -> None:
    """Neither the core nor the launch is lost with it."""

    class Defends(Exception):
        def __reduce__(self) -> Any:
            raise hurts

        def __getattribute__(self, name: str) -> Any:
            if name == what:
                raise hurts
            return super().__getattribute__(name)

    def fail() -> None:
        raise Defends("said")

    before = offload(os.getpid)()
    with pytest.raises(of.KernelError) as raised:
        offload(fail)()
    assert raised.value.type_name.endswith("Defends")
    assert offload(os.getpid)() == before


def test_an_exception_whose_class_wants_other_arguments() -> None:
    def fail() -> None:
        raise TwoArguments(1, 2)

    with pytest.raises(Exception, match="1 and 2") as raised:
        offload(fail)()
    assert isinstance(raised.value, (TwoArguments, of.KernelError))
    assert "raise TwoArguments(1, 2)" in str(raised.value.__cause__)


def test_an_exception_without_a_text() -> None:
    def fail() -> None:
        raise NoText

    handle = offload(fail).launch()
    assert isinstance(handle.exception(), NoText)
    with pytest.raises(NoText):
        handle.wait()
    repr(handle), handle._repr_html_()


def test_an_exception_of_a_class_that_only_the_kernel_knows() -> None:
    def fail() -> None:
        class Hidden(Exception):
            pass

        raise Hidden("from inside")

    with pytest.raises(Exception, match="from inside"):
        offload(fail)()


def test_causes_and_attributes_survive() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            error = OSError(2, "second")
            error.filename = "somewhere"
            raise error from first

    with pytest.raises(FileNotFoundError) as raised:
        offload(fail)()
    assert (raised.value.errno, raised.value.filename) == (2, "somewhere")
    assert "KeyError: 'first'" in str(raised.value.__cause__)


def test_a_traceback_is_that_of_the_kernel_not_ours() -> None:
    def inner() -> None:
        raise ValueError("inside")

    def fail() -> None:
        inner()

    with pytest.raises(ValueError, match="inside") as raised:
        offload(fail)()
    text = str(raised.value.__cause__)
    assert __file__ in text and "in inner" in text and "in fail" in text
    assert "device_runtime" not in text


def test_one_failure_hurts_no_other_launch() -> None:
    single = offload_single(same.fn)
    handles = [single(Raises(ValueError, "load") if i % 3 == 0 else i) for i in range(12)]
    for i, handle in enumerate(handles):
        if i % 3:
            assert handle.result() == i
        else:
            assert isinstance(handle.exception(), of.ArgsDecodeError)
