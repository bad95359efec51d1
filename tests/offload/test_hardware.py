"""Hardware kernels: the same calls on an emulated FPGA and, as their reference, on all other devices."""

from __future__ import annotations

import gc
import importlib.util
import os
import pickle
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import cloudpickle
import numpy as np
import pytest
from bitstreams import address, on_cards, written
from hardware_kernels import add, bitstream, scale, split

import offload as of
from offload import In, Out, offload, offload_single, scatter

EMULATED = pytest.param(
    "emu:test.xclbin?units=2",
    marks=[
        pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq"),
        pytest.mark.timeout(100),  # an owner takes its time to start
    ],
)

MASKED = np.ma.MaskedArray(np.zeros(2, "float32"), [True, False])


@pytest.fixture(autouse=True, scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have bitstreams in the current directory."""
    folder = tmp_path_factory.mktemp("bitstreams")
    written(folder, bitstream())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module", params=["local:2", "inline:2", EMULATED])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with of.connect(address(request.param)):
        yield request.param


def runs_functions(device: str) -> None:
    """Skip a test on cards: their circuits are what they are, whatever a function does."""
    if device.startswith("emu:") and on_cards():
        pytest.skip("it is about functions")


def floats(*values: float) -> Any:
    return np.array(values, "float32")


def test_a_call_fills_the_callers_array_and_gives_it(device: str) -> None:
    out = np.empty(3, "float32")
    (given,) = add(floats(1, 2, 3), floats(4, 5, 6), out, 3)
    assert given is out and out.tolist() == [5, 7, 9]


@pytest.mark.parametrize(("said", "attempts"), [("", 3), ("0", 1), ("1", 2)])
def test_what_the_user_sets_goes_before_how_often_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, attempts: int
) -> None:
    monkeypatch.setenv("OFFLOAD_RETRIES", said)
    runs = tmp_path / "runs"
    runs.touch()

    @offload(kernel="dies")
    def dies(x: In) -> None:
        with runs.open("a") as file:
            file.write("x")
        os._exit(4)

    with of.connect("local:1"), pytest.raises(of.WorkerDied):
        dies(floats(1))
    assert len(runs.read_text()) == attempts


def test_an_executor_takes_no_hardware_kernel() -> None:
    with of.Executor(device="inline") as executor:
        told = r"add is a hardware kernel, .* kernel.launch\(...\).future\(\)"
        with pytest.raises(TypeError, match=told):
            executor.submit(add, floats(1), floats(1), np.empty(1, "float32"), 1)
        with pytest.raises(TypeError, match=told):
            executor.map(add, [floats(1)], [floats(1)], [np.empty(1, "float32")], [1], chunksize=2)


def test_arguments_by_name(device: str) -> None:
    out = np.empty(2, "float32")
    add(b=floats(1, 2), n=2, a=floats(3, 4), out=out)
    assert out.tolist() == [4, 6]


def test_an_argument_may_have_any_name() -> None:
    @offload(kernel="add", device="inline:1")
    def named(self: In, args: In, out: Out, kwargs: int) -> None:
        out[:] = self + args

    out, later = np.empty(2, "float32"), np.empty(2, "float32")
    named(self=floats(1, 2), args=floats(3, 4), out=out, kwargs=2)
    named.launch(self=floats(1, 2), args=floats(3, 4), out=later, kwargs=2).wait()
    assert out.tolist() == later.tolist() == [4, 6]


def test_a_handle_fills_it_when_its_value_is_taken(device: str) -> None:
    out = np.full(3, 9, "float32")
    handle = add.launch(floats(1, 2, 3), floats(1, 1, 1), out, 3)
    assert handle.result() is out and out.tolist() == [2, 3, 4]


def test_arguments_are_snapshots(device: str) -> None:
    a, out = floats(1, 2), np.empty(2, "float32")
    handle = add.launch(a, a, out, 2)
    a[:] = 7
    assert handle.result().tolist() == [2, 4]


def test_what_goes_in_and_out_is_changed(device: str) -> None:
    x = np.arange(4.0)
    assert scale(x, 2.5)[0] is x
    assert x.tolist() == [0, 2.5, 5, 7.5]


def test_several_arrays_come_out_in_order(device: str) -> None:
    low, high = np.empty(2, "int32"), np.empty(3, "int32")
    assert split.launch(np.arange(5, dtype="int32"), low, high).result() == (low, high)
    assert (low.tolist(), high.tolist()) == ([0, 1], [2, 3, 4])


def test_arrays_of_any_layout(device: str) -> None:
    a = np.arange(12, dtype="float32").reshape(3, 4)
    out = np.zeros((4, 6), "float32")
    add(a[:, 1], a[:, 2], out[0, ::2], 3)
    assert out[0].tolist() == [3, 0, 11, 0, 19, 0] and not out[1:].any()


def test_slices_on_several_units(device: str) -> None:
    out = np.zeros(5, "float32")
    ones = np.ones(5, "float32")
    given = add(scatter(ones), scatter(ones), scatter(out), scatter([3, 2]), auto=2)
    assert out.tolist() == [2] * 5
    assert [len(each) for each in given] == [3, 2]


def test_a_handle_as_an_argument(device: str) -> None:
    first = add.launch(floats(1, 2), floats(1, 1), np.empty(2, "float32"), 2)
    assert add.launch(first, floats(1, 1), np.empty(2, "float32"), 2).result().tolist() == [3, 4]


def test_a_handle_that_gives_something_else(device: str) -> None:
    @offload_single
    def zeros() -> Any:
        return np.zeros(2)

    wide = zeros()
    with pytest.raises(TypeError, match="argument a has dtype float64, and the kernel takes float32"):
        add.launch(wide, floats(1, 2), np.empty(2, "float32"), 2).result()
    words = offload_single(lambda: "word")()
    with pytest.raises(TypeError, match="argument b takes an array, not str"):
        add.launch(floats(1), words, np.empty(1, "float32"), 1).result()
    masked = offload_single(lambda: np.ma.MaskedArray(np.zeros(1, "float32"), [True]))()
    with pytest.raises(TypeError, match="argument b is a masked array, and its mask would be lost"):
        add.launch(floats(1), masked, np.empty(1, "float32"), 1).result()
    with pytest.raises(TypeError, match="this handle gives a list: launch that on one unit"):
        add.launch(floats(1), zeros.options(target=[0]).launch(), np.empty(1, "float32"), 1)


def test_inside_another_kernel_it_is_itself(device: str) -> None:
    @offload(auto=1)
    def outer() -> Any:
        out = np.zeros(2, "float32")
        add(floats(1, 2), floats(3, 4), out, 2)
        return out

    assert outer()[0].tolist() == [4, 6]
    again = pickle.loads(cloudpickle.dumps(split))
    low, high = np.empty(1, "int32"), np.empty(1, "int32")
    again(np.arange(2, dtype="int32"), low, high)
    assert (low.tolist(), high.tolist()) == ([0], [1])


def test_map_gives_the_callers_arrays_in_order(device: str) -> None:
    outs = [np.empty(2, "float32") for _ in range(9)]
    ones = [floats(i, i) for i in range(9)]
    given = list(add.map(ones, ones, outs, [2] * 9))
    assert [a is b for a, b in zip(given, outs, strict=True)] == [True] * 9
    assert [out.tolist() for out in outs] == [[2 * i, 2 * i] for i in range(9)]


def test_a_map_whose_source_fails_gives_what_came_before(device: str) -> None:
    def rows() -> Iterator[Any]:
        yield from (floats(1), floats(2), floats(3))
        raise OSError("the source")

    seen = []
    with pytest.raises(OSError, match="the source"):
        for out in add.map(rows(), [floats(1)] * 9, [np.empty(1, "float32") for _ in range(9)], [1] * 9):
            seen.append(out.tolist())
    assert seen == [[2], [3], [4]]


def test_a_map_with_a_wrong_element_gives_what_came_before(device: str) -> None:
    seen = []
    with pytest.raises(TypeError, match="argument a has dtype float64"):
        for out in add.map(
            [floats(1), floats(2), np.ones(1), floats(4)],
            [floats(1)] * 4,
            [np.empty(1, "float32") for _ in range(4)],
            [1] * 4,
        ):
            seen.append(out.tolist())
    assert seen == [[2], [3]]


def test_a_map_does_not_wait_for_a_slow_source(device: str) -> None:
    handed_over, taken = threading.Event(), []

    def rows() -> Iterator[Any]:
        for number in range(4):
            if number:
                handed_over.wait(0.5)  # nobody says so while the window is being filled
                taken.append(handed_over.is_set())
            yield floats(number)

    outs = [np.empty(1, "float32") for _ in range(4)]
    for _ in add.map(rows(), [floats(1)] * 4, outs, [1] * 4, window=4):
        handed_over.set()
    assert taken[-1], "the first was delivered before the last was there"


def test_a_map_that_cannot_be_meant_is_refused_at_once(device: str) -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing a required argument: 'n'"):
        add.map([], [], [])
    with pytest.raises(TypeError, match="too many positional arguments"):
        scale.map([], [], [])
    for window in (1.5, 0, True, "2"):
        with pytest.raises(of.OptionError, match=f"map: window={window!r} must be an integer of at least 1"):
            scale.map([], [], window=window)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"a": np.zeros(3)}, TypeError, "argument a has dtype float64, and must have float32"),
        ({"a": [1.0]}, TypeError, r"argument a is a NumPy array \(In\), not list"),
        ({"b": np.array([None])}, TypeError, "argument b has dtype object"),
        ({"a": MASKED}, TypeError, "argument a is a masked array, and its mask would be lost"),
        ({"b": scatter(MASKED)}, TypeError, "argument b is a masked array"),
        ({"out": MASKED}, TypeError, "argument out is a masked array"),
        ({"n": scatter([2], [1])}, of.OptionError, "argument n: of numbers each unit gets one: scatter"),
        ({"n": 2.5}, TypeError, "argument n must be a whole number, not 2.5"),
        ({"n": "2"}, TypeError, "argument n must be a whole number, not '2'"),
        ({"out": floats().view()}, None, ""),
    ],
)
def test_bad_arguments_are_refused_at_the_call(
    device: str, change: dict[str, Any], error: type[Exception] | None, told: str
) -> None:
    given = {"a": floats(), "b": floats(), "out": np.empty(0, "float32"), "n": 0, **change}
    if error is None:
        add(**given)
        return
    with pytest.raises(error, match=told):
        add.launch(**given)


@pytest.mark.parametrize(
    ("number", "error", "told"),
    [
        (10**400, ValueError, "argument factor: it is larger than the largest double"),
        ("0.5", TypeError, "argument factor must be a real number, not '0.5'"),
        (2 + 5j, TypeError, "argument factor must be a real number"),
        (np.complex64(2 + 5j), TypeError, "argument factor must be a real number"),
        (np.array("0.5"), TypeError, "argument factor must be a real number"),
    ],
)
def test_a_number_that_is_no_float_is_refused_at_the_call(
    device: str, number: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        scale.launch(np.ones(2), number)


@pytest.mark.parametrize(
    ("kind", "most", "too_much"),
    [
        pytest.param(np.dtype("float64"), 1e308, 10**400, id="dtype"),
        (np.float16, 65504.0, 65520.0),
        (np.float32, 3e38, 1e39),
        (np.int16, 32767, 32768),
        (np.uint64, (1 << 64) - 1, -1),
        (np.bool_, np.True_, 2),
    ],
)
def test_a_number_that_its_type_cannot_hold_is_refused_at_the_call(
    kind: Any, most: Any, too_much: Any
) -> None:
    def function(x, n):  # type: ignore[no-untyped-def]
        x[:] = n

    function.__annotations__ = {"x": Out, "n": kind}
    typed = offload(kernel="typed", device="inline:1")(function)
    assert typed(np.empty(1), most)[0][0] == (np.float32(most) if kind is np.float32 else most)
    for number in (too_much, 10**5000):  # that is too long to be written down
        with pytest.raises(ValueError, match=r"function: argument n: .* is (not between|larger)"):
            typed.launch(np.empty(1), number)


def test_a_number_of_a_handle_is_looked_at_where_it_runs(device: str) -> None:
    half = offload_single(lambda: 0.5)()
    assert scale.launch(np.ones(2), half).result().tolist() == [0.5, 0.5]
    refused = (TypeError, of.ArgsNotSerializable)
    with pytest.raises(refused, match=r"argument n.* 0\.5"):
        add.launch(floats(1), floats(1), np.empty(1, "float32"), half).result()
    word = offload_single(lambda: "0.5")()
    with pytest.raises(refused, match=r"argument factor.* '0\.5'"):
        scale.launch(np.ones(2), word).result()


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        (np.float32, 0.1, float(np.float32(0.1))),
        (np.float32, np.float64(0.1), float(np.float32(0.1))),
        (np.float16, 0.1, float(np.float16(0.1))),
        (float, 0.1, 0.1),
        (float, 2, 2.0),
        (np.uint8, np.int64(7), 7),
        (int, True, 1),
        (bool, np.True_, True),
    ],
)
def test_a_number_reaches_the_function_as_its_type_holds_it(kind: Any, given: Any, held: Any) -> None:
    """As Python's number, whether it is given or comes by a handle."""

    def function(x, n):  # type: ignore[no-untyped-def]
        x[:] = n, type(n) is type(held)

    function.__annotations__ = {"x": Out, "n": kind}
    with of.connect("inline"):
        typed = offload(kernel="typed")(function)
        handle = offload_single(lambda: given)()
        for number in (given, handle):
            assert typed.launch(np.empty(2), number).result().tolist() == [held, True]


def test_arrays_of_another_byte_order(device: str) -> None:
    swapped = floats(1).astype(">f4")
    told = r"argument %s has dtype >f4, of another byte order .*: give x.astype\('float32'\)"
    with pytest.raises(TypeError, match=told % "a"):
        add(swapped, floats(1), np.empty(1, "float32"), 1)
    with pytest.raises(TypeError, match=told % "b"):  # which may be of any dtype
        add(floats(1), swapped, np.empty(1, "float32"), 1)


@pytest.mark.parametrize("direction", [In, Out])
def test_a_dtype_of_another_byte_order_is_refused_where_it_is_said(direction: Any) -> None:
    with pytest.raises(
        of.OptionError, match=f"{direction.name}: dtype='>f4' is of another byte order.*: float32"
    ):
        direction(">f4")
    assert direction("=f4").dtype == direction("<f4").dtype == "<f4"


def test_an_array_that_comes_out_must_be_writable(device: str) -> None:
    out = np.empty(2, "float32")
    out.flags.writeable = False
    with pytest.raises(ValueError, match="argument out comes out of the kernel"):
        add(out, out, out, 2)


def test_arrays_that_come_out_do_not_overlap(device: str) -> None:
    x = np.zeros(6, "int32")
    with pytest.raises(ValueError, match="two arrays that come out of it share memory"):
        split(np.arange(4, dtype="int32"), x[:3], x[2:])
    split(np.arange(4, dtype="int32"), x[:2], x[2:4])
    assert x.tolist() == [0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize(
    ("shape", "steps"), [((4,), (0,)), ((4,), (4,)), ((3, 3), (8, 8)), ((2, 2), (-8, 8))]
)
def test_elements_of_an_array_that_comes_out_do_not_share_memory(
    device: str, shape: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    folded = np.lib.stride_tricks.as_strided(np.ones(9)[4:], shape, steps)
    with pytest.raises(
        ValueError, match=r"argument x comes out of the kernel \(InOut\), and its elements share"
    ):
        scale(folded, 2.0)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[:, ::-2],
        lambda x: x[:0],
        lambda x: x[1:2, :, 0],
        lambda x: x[None, :2, 0],
        lambda x: x.diagonal(0, 0, 2),
        lambda x: x.view("complex128").imag,
    ],
)
def test_elements_of_ordinary_views_do_not(view: Any) -> None:
    x = view(np.arange(24.0).reshape(3, 4, 2))
    x.flags.writeable = True  # a diagonal is not, at first
    before = x.copy()
    scale(x, 2.0, device="inline:1")
    assert np.array_equal(x, 2 * before)


def test_units_do_not_all_write_to_one_array(device: str) -> None:
    out = np.zeros(2, "float32")
    with pytest.raises(ValueError, match="2 shards would all write to out"):
        add(floats(1, 2), floats(1, 2), out, 2, target=[0, 1])


def test_a_kernels_own_error_is_raised(device: str) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        split(np.arange(5, dtype="int32"), np.empty(2, "int32"), np.empty(9, "int32"))


def added(function: Any) -> Any:
    """Return what a function of two arrays gives, as a kernel for the device that is connected."""
    function.__annotations__ = {"a": In("float32"), "b": In("float32"), "out": Out("float32"), "n": int}
    return offload(kernel="vadd", retries=0)(function)(floats(1, 2), floats(3, 4), np.zeros(2, "float32"), 2)[
        0
    ]


def test_what_is_around_a_kernel_is_not_kept() -> None:
    class Large:
        pass

    def copy(a, out):  # type: ignore[no-untyped-def]
        out[:] = a

    copy.__annotations__ = {"a": In("float32"), "out": Out("float32")}  # no texts
    large = Large()
    kept = weakref.ref(large)
    offload(kernel="copy")(copy)
    del large
    gc.collect()
    assert kept() is None


def test_a_function_that_returns_its_value_is_told_to_write_it(device: str) -> None:
    runs_functions(device)
    told = r"kernel vadd: the function returns a value .*ndarray.*, .* write to the arrays that come out"
    with pytest.raises(TypeError, match=told):
        added(lambda a, b, out, n: a + b)
    with pytest.raises(TypeError, match=told):
        added(lambda a, b, out, n: (out, a + b))


def test_a_function_may_return_what_it_has_written_to(device: str) -> None:
    """As functions of NumPy's do."""
    runs_functions(device)
    assert added(lambda a, b, out, n: np.add(a, b, out=out)).tolist() == [4, 6]
    assert added(lambda a, b, out, n: (np.add(a, b, out=out), out)).tolist() == [4, 6]
    assert added(lambda a, b, out, n: np.add(a[:n], b[:n], out=out[:n])).tolist() == [4, 6]
    assert added(lambda a, b, out, n: np.divmod(a, b, out=(np.empty_like(a), out))[1:]).tolist() == [1, 2]


def test_what_a_function_leaves_unwritten_shows(device: str) -> None:
    runs_functions(device)

    @offload(kernel="vadd")
    def rebinds(a: In("float32"), b: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
        out = a + b  # noqa: F841

    assert np.isnan(rebinds(floats(1), floats(2), np.zeros(1, "float32"), 1)[0]).all()
    assert np.isnan(add(floats(1, 2), floats(3, 4), np.zeros(2, "float32"), 1)[0]).tolist() == [False, True]


def test_a_single_kernel(device: str) -> None:
    @offload_single(kernel="vadd")
    def vadd(a: In, b: In, out: Out, n: int) -> None:
        out[:n] = a[:n] + b[:n]

    handle = vadd(floats(1), floats(2), np.empty(1, "float32"), 1)
    assert handle.result().tolist() == [3]


def test_a_fixed_shape(device: str) -> None:
    @offload(kernel="vadd")
    def vadd(a: In(shape=2), b: In(shape=2), out: Out(shape=(2,)), n: int):  # type: ignore[valid-type, no-untyped-def]
        out[:n] = a[:n] + b[:n]

    with pytest.raises(ValueError, match=r"argument b has shape \(3,\), and must have \(2,\)"):
        vadd(floats(1, 2), floats(1, 2, 3), np.empty(2, "float32"), 2)


number = np.int32


def typed(number: Any, dtype: str) -> Any:
    @offload(kernel="typed", device="inline:1")
    def kernel(out: Out(dtype), n: number) -> None:  # type: ignore[valid-type]
        out[:] = n

    return kernel


def test_annotations_name_what_is_local_where_the_kernel_is_made() -> None:
    """Those of this file are texts, which Python does not look up among locals by itself."""
    given = typed(np.float64, "float64")
    assert given(np.zeros(1), 0.1)[0].tolist() == [0.1]
    assert given._body.interface.parameters[1].dtype == "float64", "and not the type that is global"

    class Mine:
        dtype = "float32"

        @offload(kernel="typed", device="inline:1")
        def kernel(out: Out(dtype), n: number) -> None:  # type: ignore[valid-type, misc, name-defined]
            out[:] = n

    assert [one.dtype for one in Mine.kernel._body.interface.parameters] == ["<f4", "int32"]  # type: ignore[attr-defined]


def test_annotations_name_what_a_function_around_the_kernel_has() -> None:
    def made(kind: Any) -> Any:
        def function(x: Out("float64"), n: kind) -> None:  # type: ignore[valid-type]
            x[:] = n + kind(0)

        return function

    def lost(kind: Any) -> Any:
        def function(x: Out("float64"), n: kind) -> None:  # type: ignore[valid-type]
            x[:] = n

        return function

    def around(kind: Any) -> Any:
        def within() -> Any:
            @offload(kernel="typed")
            def kernel(n: kind) -> None:  # type: ignore[valid-type]
                pass

            return kernel

        return within()

    assert offload(kernel="typed")(made(np.int8))._body.interface.parameters[1].dtype == "int8"
    assert around(np.int8)._body.interface.parameters[0].dtype == "int8"
    told = "name 'kind' is not defined.*: name what is known in the kernel's module, or where it is decorated"
    with pytest.raises(of.KernelTypeError, match=told):
        offload(kernel="typed")(lost(np.int8))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda a: None, "argument a has no annotation"),
        (lambda *a: None, "a circuit's arguments are given by place"),
    ],
)
def test_what_cannot_be_a_hardware_kernel(function: Any, told: str) -> None:
    with pytest.raises(of.KernelTypeError, match=told):
        offload(kernel="k")(function)


def test_an_argument_goes_one_way() -> None:
    def both(a: Annotated[Any, In("int32"), Out]) -> None:
        pass

    told = "argument a is annotated with In and Out; an array that goes both ways is InOut"
    with pytest.raises(of.KernelTypeError, match=told):
        offload(kernel="k")(both)


def test_names_that_cannot_be_meant() -> None:
    with pytest.raises(of.OptionError, match="kernel=3 must be a name"):
        offload(kernel=3)  # type: ignore[call-overload]


def test_no_instance_elsewhere() -> None:
    from offload.core import instance

    with of.connect("inline"), pytest.raises(of.NotOnDevice, match="is for kernels on an FPGA"):
        offload(instance)()
