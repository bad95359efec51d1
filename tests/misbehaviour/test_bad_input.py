"""What cannot be meant is refused where it is written, with a message that says what to do."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import offload as of
from offload import offload, offload_multiple, offload_single


def plain(x: int, y: int = 0) -> int:
    return x + y


def generator() -> Any:
    yield 1


async def coroutine() -> int:
    return 1


async def async_generator() -> Any:
    yield 1


class Callable_:
    def __call__(self) -> Any:
        yield 1


NOT_KERNELS = {
    "a number": 3,
    "None": None,
    "a string": "local:4",
    "a class": int,
    "a generator function": generator,
    "an async function": coroutine,
    "an async generator": async_generator,
    "a partial of a generator": functools.partial(generator),
    "an object whose call is a generator": Callable_(),
    "a kernel": offload(plain),
}


@pytest.mark.parametrize("decorator", [offload, offload_single, offload_multiple(cores=1), offload()])
@pytest.mark.parametrize("thing", NOT_KERNELS.values(), ids=NOT_KERNELS)
def test_what_is_no_function_is_refused_at_decoration(decorator: Any, thing: Any) -> None:
    with pytest.raises(of.KernelTypeError):
        decorator(thing)


def test_an_async_function_is_told_what_to_write() -> None:
    with pytest.raises(of.KernelTypeError, match=r"(?s)async def.*await"):
        offload(coroutine)


CALLS: dict[str, Callable[[Any], Any]] = {
    "missing": lambda k: k(),
    "too many": lambda k: k(1, 2, 3),
    "twice": lambda k: k(1, x=1),
    "unknown": lambda k: k(1, z=1),
    "launch": lambda k: k.launch(),
    "launch unknown": lambda k: k.launch(1, z=1),
    "like an option": lambda k: k(1, timout=3),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_arguments_are_a_type_error_that_names_the_kernel(
    device: str, call: Callable[[Any], Any]
) -> None:
    with pytest.raises(TypeError, match=r"plain\(\)") as raised:
        call(offload(plain))
    assert not isinstance(raised.value, of.OffloadError)
    assert raised.value.__cause__ is None
    assert any("call(offload(plain))" in line for line in traceback.format_tb(raised.tb))


def test_an_unknown_option_is_told_the_nearest() -> None:
    with pytest.raises(of.OptionError, match="timeout"):
        offload(timout=3)  # type: ignore[call-overload]
    with pytest.raises(of.OptionError, match="retries"):
        offload(plain).options(retry=1)


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"auto": 0},
    {"auto": -1},
    {"auto": "2"},
    {"auto": 1.5},
    {"auto": True},
    {"target": []},
    {"target": "0"},
    {"target": -1},
    {"target": [0, 0]},
    {"target": [0, None]},
    {"target": {0: 1}},
    {"auto": 1, "target": 0},
    {"auto": 1, "all": True},
    {"all": True, "target": 0},
    {"all": "yes"},
    {"async_": 1},
    {"async": "no"},
    {"async": True, "async_": True},
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": "soon"},
    {"timeout": True},
    {"timeout": float("nan")},
    {"retries": -1},
    {"retries": 1.0},
    {"priority": "high"},
    {"device": 4},
    {"device": ""},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_refused_at_decoration_and_at_the_call(
    device: str, options: dict[str, Any]
) -> None:
    with pytest.raises(of.OptionError):
        offload(**options)
    with pytest.raises(of.OptionError):
        offload(plain).options(**options)
    with pytest.raises(of.OptionError):
        offload(plain)(1, **options)


@pytest.mark.parametrize("options", [{"auto": 3}, {"target": 2}, {"target": [0, 2]}, {"all": False}], ids=str)
def test_what_does_not_fit_the_device_is_refused_at_the_call(device: str, options: dict[str, Any]) -> None:
    kernel = offload(plain, **options)
    with pytest.raises(of.OptionError) as raised:
        kernel(1)
    assert "2" in str(raised.value) or "all=False" in str(raised.value)
    with pytest.raises(of.OptionError):
        kernel.launch(1)
    assert offload(plain)(1) == [1, 1]


def test_too_many_cores_names_both_numbers(device: str) -> None:
    with pytest.raises(of.OptionError, match=r"(?s)7.*2"):
        offload(plain)(1, auto=7)


@pytest.mark.parametrize("address", ["loca:4", "nowhere", "tcp//board", ":4", "Local:2"])
def test_an_unknown_device_lists_the_known_ones(device: str, address: str) -> None:
    for launch in (lambda: of.connect(address), lambda: offload(plain)(1, device=address)):
        with pytest.raises(of.UnknownDeviceError, match=r"(?s)inline.*local"):
            launch()
    assert offload(plain)(1) == [1, 1]


@pytest.mark.parametrize("kind", ["local", "inline"])
@pytest.mark.parametrize("rest", ["0", "-1", "1025", "two", "2.0", "2:2", " "])
def test_a_number_of_cores_that_cannot_be_meant(kind: str, rest: str) -> None:
    with pytest.raises(of.OptionError, match="cores"):
        of.connect(f"{kind}:{rest}")


def test_an_address_that_is_no_string() -> None:
    with pytest.raises(of.OptionError):
        of.connect(4)  # type: ignore[arg-type]


def test_scatter_refuses_what_it_cannot_cut(device: str) -> None:
    for wrong in (3, {1, 2}, None, (i for i in range(3))):
        with pytest.raises(of.OptionError):
            of.scatter(wrong)
    with pytest.raises(of.OptionError):
        offload(plain)(of.scatter([1, 2, 3], [1, 1]))
    with pytest.raises(of.OptionError):
        offload(plain)(of.scatter([1, 2, 3], [1, 1, 1]))
    with pytest.raises((of.OptionError, of.ArgsNotSerializable), match="scatter"):
        offload(plain)([of.scatter([1, 2])])
    assert offload(sum)(of.scatter([1, 2, 3])) == [3, 3]


@pytest.mark.parametrize(
    "call", [of.wait_all, of.wait_any, of.as_completed], ids=lambda call: str(call.__name__)
)
def test_waiting_for_what_is_no_handle(device: str, call: Callable[..., Any]) -> None:
    handle = offload(plain).launch(1)
    with pytest.raises(TypeError, match="handle"):
        call([handle])
    with pytest.raises(TypeError, match="handle"):
        call(3)
    assert handle.wait() == [1, 1]


def test_calls_that_belong_inside_a_kernel(device: str) -> None:
    from offload import core

    for call in (
        core.coreid,
        core.rank,
        core.size,
        core.sync,
        lambda: core.send(1, 0),
        lambda: core.recv(0),
        lambda: core.sendrecv(1, 0),
        lambda: core.probe(0),
        lambda: core.bcast(1, 0),
        lambda: core.reduce(1, "sum"),
    ):
        with pytest.raises(of.NotOnDevice, match="kernel"):
            call()
    assert core.ishost() and core.numcores() == 2


def test_wrong_reduction(device: str) -> None:
    from offload.core import bcast, reduce

    with pytest.raises(of.OptionError, match="prod"):
        offload(lambda: reduce(1, "median"))()
    with pytest.raises(of.OptionError, match="5"):
        offload(lambda: bcast(1, 5))()


def test_define_on_device_without_a_name(device: str) -> None:
    with pytest.raises(of.OptionError, match="name"):
        of.define_on_device(1 + 1)
    with pytest.raises(of.OptionError):
        of.define_on_device()
    with pytest.raises(of.ResidentNameError):
        of.copy_to_device("never_defined", 1)
    with pytest.raises(of.OptionError):
        of.copy_from_device(3)  # type: ignore[arg-type]
