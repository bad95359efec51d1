"""A kernel's exception arrives with its type, its words and where it happened."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from device_runtime import codec
from device_runtime.capture import Capture
from device_runtime.errors import (
    KernelError,
    RemoteTraceback,
    WorkerDied,
    add_note,
    notes_of,
)


def there(value: Any, **how: Any) -> Any:
    return codec.decode(codec.encode(value, bytes), **how)


def kernel_error(function: Any, *args: Any) -> BaseException:
    """Return what the host sees of the error that a function raises."""
    with pytest.raises(BaseException) as caught:
        function(*args)
    return codec.decode_error(codec.encode_error(caught.value, bytes))


def _raise(error: type[BaseException]) -> None:
    raise error("while it was loaded")


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


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


@dataclass(frozen=True)
class FrozenFields(Exception):
    code: int


class Evasive(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is not for you")


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


@pytest.mark.parametrize("error", [Frozen("x"), FrozenFields(3), Evasive("x")], ids=repr)
def test_an_exception_that_resists_arrives_as_itself(error: BaseException) -> None:
    arrived = kernel_error(raises, error)
    assert type(arrived) is type(error) and arrived.args == error.args
    assert vars(arrived) == vars(error)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "raise error" in str(arrived.__cause__)


@pytest.mark.parametrize("error", [Frozen("x"), Evasive("x")], ids=repr)
def test_notes_of_an_exception_that_resists_arrive(error: BaseException) -> None:
    add_note(error, "a hint")
    add_note(error, "another")
    assert notes_of(kernel_error(raises, error)) == ["a hint", "another"]


def test_what_is_no_list_of_notes_makes_way_for_one() -> None:
    error = ValueError("x")
    error.__notes__ = "none"  # type: ignore[attr-defined]
    add_note(error, "a hint")
    assert notes_of(error) == ["a hint"]


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
        codec.encode("x" * 20_000, user_code)
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
