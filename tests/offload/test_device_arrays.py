"""What arrays in a device's memory promise: on the emulated FPGA, and on cores, where they are the host's."""

from __future__ import annotations

import contextlib
import gc
import io
import pickle
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address, need_pynq, on_cards
from gates import Gate

import offload as of
from offload import In, InOut, Out, offload
from offload.core import instance
from offload.testing import TimingModel, Xclbin

pytestmark = pytest.mark.timeout(100)  # an owner takes its time to start
N = 1000


@offload(kernel="vadd")
def vadd(a: In("float32"), b: In("float32"), out: Out("float32"), n: int):  # type: ignore[valid-type, no-untyped-def]
    out[:n] = a[:n] + b[:n]


@offload(kernel="grow")
def grow(x: InOut("float32"), by: float):  # type: ignore[valid-type, no-untyped-def]
    if by < 0:
        raise ValueError("it does not shrink")
    x += by


@offload(kernel="loud")
def loud(x: InOut("float32"), by: float):  # type: ignore[valid-type, no-untyped-def]
    if by < 0:
        raise ValueError("it does not shrink")
    print("by", by)
    x += by


@offload(kernel="both")
def both(a: In("float32"), x: Out("float32"), y: Out("float32")):  # type: ignore[valid-type, no-untyped-def]
    x[:] = a
    y[:] = -a


def made(folder: Path, **options: Any) -> str:
    need_pynq()
    return address(f"emu:{Xclbin([vadd, grow, loud, both], **options).write(folder / 'made.xclbin')}")


def knows_lengths() -> None:
    """Skip a test on cards: their circuits are not told how long a slice is, and here no argument says it."""
    if on_cards():
        pytest.skip("a circuit is not told the length of a slice")


@pytest.fixture(scope="module", params=["emu", "local:2", "inline"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[of.Session]:
    where = request.param
    if where == "emu":
        where = made(tmp_path_factory.mktemp("bitstreams"), units=2)
    with of.connect(where) as session:
        yield session


@pytest.fixture
def fpga(tmp_path: Path) -> Iterator[of.Session]:
    banks = {"HBM0": "1M", "HBM1": "1M", "HBM2": "1M"}
    wiring = {"vadd_2.a": "HBM1", "vadd.out": ["HBM0", "HBM1"]}
    with of.connect(made(tmp_path, units=2, banks=banks, wiring=wiring)) as session:
        yield session


def floats(start: float = 0.0) -> Any:
    return np.arange(start, start + N, dtype="float32")


def held(array: of.DeviceArray) -> Any:
    return np.asarray(array)


# ---- on every device -------------------------------------------------------------------


def test_an_array_holds_a_copy_of_what_it_was_made_of(device: of.Session) -> None:
    value = floats()
    array = device.array(value)
    value[:] = 0

    assert np.array_equal(array, floats())
    assert (array.shape, array.dtype, array.nbytes, len(array)) == ((N,), np.float32, 4 * N, N)


def test_a_masked_array_is_none_of_numbers(device: of.Session) -> None:
    with pytest.raises(TypeError, match="the mask of a masked array would be lost"):
        device.array(np.ma.MaskedArray(floats(), True))
    with pytest.raises(TypeError, match="the mask of a masked array would be lost"):
        device.array(floats()).write(np.ma.MaskedArray(floats(), True))


def test_kernels_take_it_in_the_place_of_a_numpy_array(device: of.Session) -> None:
    a, b, out = device.array(floats()), device.array(floats(5)), device.empty(N, "float32")

    assert vadd(a, b, out, N) == [out]

    assert np.array_equal(out, floats() + floats(5))


def test_a_kept_handle_does_not_keep_what_went_in(device: of.Session) -> None:
    a, out = device.array(floats()), np.empty(N, "float32")
    handle = vadd.launch(a, a, out, N)
    handle.wait()
    gone = weakref.ref(a)
    del a

    gc.collect()

    assert gone() is None and handle.result() is out


def test_what_a_kernel_leaves_unwritten_is_what_was_there(device: of.Session) -> None:
    a, out = floats(), device.array(np.full(N, 7, "float32"))

    vadd(a, a, out, 10)

    assert held(out).tolist() == [*range(0, 20, 2), *[7] * (N - 10)]


def test_numpy_arrays_and_those_on_the_device_in_one_launch(device: of.Session) -> None:
    a, x, y = floats(), np.empty(N, "float32"), device.empty(N, "float32")

    assert both.launch(a, x, y).result() == (x, y)

    assert np.array_equal(x, a)
    assert np.array_equal(y, -a)


def test_launches_that_share_an_array_come_one_after_the_other(device: of.Session) -> None:
    x = device.array(np.zeros(N, "float32"))
    ones = device.array(np.ones(N, "float32"))

    y = device.empty(N, "float32")
    for _ in range(10):
        vadd.launch(x, ones, y, N)
        grow.launch(y, 1.0)
        x, y = y, x

    assert np.array_equal(x, np.full(N, 20, "float32"))


def test_what_is_read_is_not_written_before_that(device: of.Session) -> None:
    x, copy = device.array(floats()), device.empty(N, "float32")
    zeros = device.array(np.zeros(N, "float32"))

    vadd.launch(x, zeros, copy, N)
    grow.launch(x, 7.0)

    assert np.array_equal(copy, floats())
    assert np.array_equal(x, floats(7))


def test_a_handle_stands_for_the_array_that_comes_out(device: of.Session) -> None:
    a, out = device.array(floats()), device.empty(N, "float32")

    handle = vadd.launch(a, a, out, N)
    assert np.array_equal(vadd.launch(handle, a, device.empty(N, "float32"), N).result(), 3 * floats())


def test_write_replaces_what_it_holds(device: of.Session) -> None:
    x = device.array(floats())
    launched = grow.launch(x, 1.0)
    x.write(floats(9))

    assert launched.done()
    assert np.array_equal(x, floats(9))
    x.write(3)
    assert held(x).tolist() == [3.0] * N
    for wrong in ((N + 1,), (1, N), (N, 1)):
        told = re.escape(f"the value has shape {wrong}, which does not fill an array of shape ({N},)")
        with pytest.raises(ValueError, match=told):
            x.write(np.zeros(wrong, "float32"))
    assert held(x).tolist() == [3.0] * N


def test_a_slice_is_an_array_in_the_same_memory(device: of.Session) -> None:
    knows_lengths()
    x = device.array(floats())
    low, high = x[:400], x[400:]

    grow.launch(low, 1.0)
    grow.launch(high[100:], 2.0)
    low[:10].write(-1)

    wanted = floats()
    wanted[:400] += 1
    wanted[500:] += 2
    wanted[:10] = -1
    assert np.array_equal(x, wanted)
    assert np.array_equal(high, wanted[400:])
    assert x[300:200].shape == (0,)


def test_axes_of_a_slice(device: of.Session) -> None:
    x = device.array(np.arange(24, dtype="float32").reshape(4, 6))

    assert np.array_equal(x[1:3], np.arange(6, 18, dtype="float32").reshape(2, 6))


def test_slices_may_be_scattered(device: of.Session) -> None:
    a, out = device.array(floats()), device.empty(N, "float32")

    units = [0] if device.device == "inline" else [0, 1]
    vadd(of.scatter(a), of.scatter(a), of.scatter(out), N // len(units), target=units)

    assert np.array_equal(out, 2 * floats())


def test_what_reads_what_a_failed_launch_was_to_write_is_not_run(
    fpga: of.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where its unit has it already, as it does where the kernel is known to be short."""
    x, y = fpga.array(floats(), bank="HBM0"), fpga.array(floats(), bank="HBM0")
    for _ in range(5):
        loud(x, 1.0)
    failed, *others, last = [
        loud.launch(array, by, target=0) for array, by in ((x, -1.0), (x, 1.0), (x, 1.0), (y, 1.0))
    ]
    for other in others:
        with pytest.raises(of.DependencyError, match="loud was not run"):
            other.result()
    last.wait()
    assert isinstance(failed.exception(), ValueError)
    assert np.array_equal(y, floats(1))
    assert capsys.readouterr().out.count("by 1") == 6


def test_launches_on_an_array_come_one_after_the_other(fpga: of.Session) -> None:
    x, y = fpga.array(floats(), bank="HBM0"), fpga.empty(N, "float32", bank="HBM0")
    handles: list[of.Handle[Any]] = []
    for by in range(1, 31):
        handles += [grow.launch(x, by), vadd.launch(x, x, y, N, target=0), grow.launch(y, by)]
    of.wait_all(*handles)
    assert np.array_equal(x, floats(465))
    assert np.array_equal(y, 2 * floats(465) + 30)


def test_what_a_failed_launch_was_to_write_is_not_read(device: of.Session) -> None:
    x, other = device.array(floats()), device.empty(N, "float32")
    failed = grow.options(retries=0).launch(x, -1.0)

    with pytest.raises(of.DependencyError, match="grow failed, and so did not write") as caught:
        vadd.launch(x, x, other, N).result()
    with pytest.raises(of.DependencyError):
        held(x)
    assert isinstance(failed.exception(), ValueError)
    assert caught.value.__cause__ is not None
    x.write(floats(1))
    assert np.array_equal(x, floats(1))


def test_what_only_reads_may_fail(device: of.Session) -> None:
    bad = device.array(np.zeros(3, "float32"))
    x = device.array(floats())
    failed = vadd.options(retries=0).launch(x, bad, device.empty(N, "float32"), N)

    grow.launch(x, 1.0)

    assert np.array_equal(x, floats(1))
    assert failed.exception() is not None


def test_it_is_freed_at_the_end_of_a_block(device: of.Session) -> None:
    with device.empty(N, "float32") as out:
        vadd(floats(), floats(), out, N)
    with pytest.raises(ValueError, match="was freed"):
        held(out)
    with pytest.raises(ValueError, match="was freed"):
        vadd(floats(), floats(), out, N)


def test_what_an_array_cannot_be(device: of.Session) -> None:
    with pytest.raises(TypeError, match="dtype object is not one of numbers"):
        device.array(np.array([None]))
    with pytest.raises(TypeError, match="shape='x' must be a whole number"):
        device.empty("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape=\(2, -1\) must not be negative"):
        device.empty((2, -1))
    with pytest.raises(TypeError, match="shape=True must be a whole number"):
        device.empty(True)
    x = device.array(floats())
    with pytest.raises(TypeError, match="slices along the first axis"):
        x[3]  # type: ignore[index]
    with pytest.raises(TypeError, match="slices along the first axis"):
        x[::2]
    with pytest.raises(TypeError, match="fetches them"):
        list(x)
    with pytest.raises(TypeError, match="for hardware kernels only"):
        pickle.dumps(x)
    with pytest.raises(TypeError, match="argument out has dtype float64"):
        vadd(floats(), floats(), device.empty(N), N)


def test_a_shape_of_numpys_numbers(device: of.Session) -> None:
    with (
        device.empty(np.int64(4)) as one,
        device.empty((np.uint8(2), 3)) as two,
        device.empty(np.arange(3)) as three,
    ):  # type: ignore[arg-type]
        assert (one.shape, two.shape, three.shape) == ((4,), (2, 3), (0, 1, 2))


@pytest.mark.parametrize(
    ("dtype", "value", "kept"),
    [
        ("float32", 0.1, np.float32(0.1)),
        ("float32", [1, 2.5], [1, 2.5]),
        ("float32", np.arange(2, dtype="int16"), [0, 1]),
        ("float32", np.float64(0.1), np.float32(0.1)),
        ("float32", [np.inf, np.nan], [np.inf, np.nan]),
        ("int32", np.int64(5), 5),
        ("int32", [True, 2.0], [1, 2]),
        ("int32", np.arange(2, dtype=">i4"), [0, 1]),
        ("uint64", (1 << 64) - 1, (1 << 64) - 1),
        ("complex64", [1, 2j], [1, 2j]),
    ],
)
def test_what_is_written_is_kept(device: of.Session, dtype: str, value: Any, kept: Any) -> None:
    with device.array(np.zeros(2, dtype)) as array:
        array.write(value)
        assert np.array_equal(array, np.full(2, kept, dtype), equal_nan=dtype == "float32")


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("int32", np.full(2, 1.9), r"has dtype float64, and int32 does not .*value.astype\('int32'\)"),
        ("float32", np.ones(2), "has dtype float64, and float32 does not"),
        ("float32", np.ones(2, "complex64"), "has dtype complex64, and float32 does not"),
        ("int32", 1 << 40, "an array of int32 cannot hold 1099511627776"),
        ("int32", [1, 1.9], "an array of int32 cannot hold 1.9"),
        ("int32", np.nan, "an array of int32 cannot hold nan"),
        ("uint64", -1, "an array of uint64 cannot hold -1"),
        ("int64", [2.0**63, 0], "an array of int64 cannot hold 9.22337203685477"),
        ("int64", [(1 << 53) + 1, 1.0], "an array of int64 cannot hold 9007199254740993"),
        ("float32", (1 << 24) + 1, "an array of float32 cannot hold 16777217"),
        ("float32", 1e39, r"an array of float32 cannot hold 1e\+39"),
        ("float32", 2 + 5j, r"\(2\+5j\) does not become an array of float32"),
        ("float32", "0.5", "'0.5' does not become an array of float32"),
        ("float32", None, "None does not become an array of float32"),
        ("int64", 1 << 70, "does not become an array of int64"),
    ],
)
def test_what_would_not_be_kept_is_not_written(device: of.Session, dtype: str, value: Any, told: str) -> None:
    with device.array(np.full(2, 7, dtype)) as array:
        with pytest.raises(TypeError if isinstance(value, np.ndarray) else ValueError, match=told):
            array.write(value)
        assert np.array_equal(array, np.full(2, 7, dtype))


def test_it_is_not_computed_with_on_the_host(device: of.Session) -> None:
    with device.array(np.ones(3)) as array:
        other = array[:]
        for compute in (
            lambda: array + 1,
            lambda: 1 - array,
            lambda: np.ones(3) + array,
            lambda: np.ones(3) @ array,
            lambda: np.ones(3) == array,
            lambda: array @ array,
            lambda: array > 0,
            lambda: array == 0,
            lambda: array != other,
            lambda: array == other,
            lambda: bool(array),
            lambda: array and other,
        ):
            with pytest.raises(TypeError, match=r"numpy.asarray\(array\) fetches it"):
                compute()
        with pytest.raises(TypeError, match="kernels compute"):
            _ = -array
        with pytest.raises(TypeError, match="kernels compute"):
            array += 1
        with pytest.raises(TypeError, match="does not support ufuncs"):
            np.add(np.ones(3), array)
        assert np.array_equal(array, np.ones(3)), "what asks for an array fetches it"


def test_arrays_are_kept_in_sets_and_by_weak_references(device: of.Session) -> None:
    one, two = device.array(np.ones(3)), device.array(np.ones(3))
    names = {one: "one", two: "two"}
    assert (names[one], names[two]) == ("one", "two")
    assert {one, two, one} == {two, one} and one in [one, two]
    weak = weakref.WeakSet([one])
    assert one in weak and two not in weak
    weak.add(one)
    assert len(weak) == 1 and weakref.ref(one)() is one
    del one, names
    gc.collect()
    assert not weak


def test_arrays_of_which_one_is_written_share_no_memory(device: of.Session) -> None:
    x, other = device.array(floats()), device.array(floats())
    with pytest.raises(ValueError, match="arguments a and out share memory on the device"):
        vadd(x[:10], other, x[5:], 5)
    with pytest.raises(ValueError, match="arguments b and out share memory"):
        vadd(of.scatter(other), x, of.scatter(x), 5, target=[0])
    vadd(x[:10], x[:10], x[10:], 10)
    assert np.array_equal(held(x)[10:20], 2 * floats()[:10])


def test_part_of_an_array_may_be_lost(device: of.Session) -> None:
    x = device.array(floats())
    grow.options(retries=0).launch(x[:10], -1.0).exception()

    assert np.array_equal(x[10:], floats()[10:])
    with pytest.raises(of.DependencyError):
        held(x[5:15])
    x[:10].write(0)
    assert held(x).tolist() == [0.0] * 10 + floats()[10:].tolist()


def test_what_was_lost_is_there_again_as_far_as_it_was_written(device: of.Session) -> None:
    """Whether by one launch or by many, and whatever else was lost since."""
    chance = random.Random(1)
    x, lost = device.array(floats()), np.zeros(N, bool)
    for _ in range(80):
        start, stop = sorted(chance.sample(range(0, N + 1, 100), 2))
        what = chance.choice(["write", "launch", "fail", "read", "read"])
        part = slice(start, stop)
        if what == "fail":
            vadd.options(retries=0).launch(floats()[:3], floats()[:4], x[part], 9).exception()
        elif what == "write":
            x[part].write(floats()[part])
        elif what == "launch":
            one = floats()[: stop - start]
            vadd.launch(one, one, x[part], stop - start)
        if what != "read":
            lost[part] = what == "fail"
        elif lost[part].any():
            with pytest.raises(of.DependencyError):
                held(x[part])
        else:
            held(x[part])
    x.write(floats())
    assert np.array_equal(x, floats())


def test_a_call_that_is_refused_cures_nothing(device: of.Session) -> None:
    x = device.array(floats())
    grow.options(retries=0).launch(x, -1.0).exception()
    with pytest.raises(TypeError):
        vadd(floats(), floats(), x, "n")
    with pytest.raises(of.DependencyError):
        held(x)


def test_a_handle_stands_for_the_array_as_it_is(device: of.Session) -> None:
    x, out = device.empty(N, "float32"), device.empty(N, "float32")
    first = vadd.launch(floats(), floats(), x, N)
    vadd.launch(floats(1), floats(1), x, N)
    vadd(first, first, out, N)
    assert np.array_equal(out, 4 * floats(1))


def test_a_value_outlives_the_block_of_its_array(device: of.Session) -> None:
    with device.empty(N, "float32") as out:
        handle = vadd.launch(floats(), floats(), out, N)
    assert handle.result() is out


def test_a_future_of_a_launch(device: of.Session) -> None:
    x = device.array(floats())
    futures = [grow.launch(x, 1.0).future() for _ in range(5)]
    assert np.array_equal(x, floats(5))
    assert all(future.result(30) is x for future in futures)


def test_nothing_at_all(device: of.Session) -> None:
    nothing = device.empty((3, 0), "float32")
    nothing.write(1)
    assert held(nothing).shape == (3, 0)
    assert (nothing.ndim, nothing.size) == (2, 0)


# ---- on an FPGA ------------------------------------------------------------------------


def test_many_threads_use_one_array(fpga: of.Session) -> None:
    x = fpga.array(np.zeros(N, "float32"), "HBM0")
    threads = [
        threading.Thread(target=lambda: [grow.launch(x, 1.0).result() for _ in range(5)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert np.array_equal(x, np.full(N, 20, "float32"))


def test_a_writer_that_never_ran_hides_nobody(fpga: of.Session, gate: Gate) -> None:
    @offload(target=0)
    def busy() -> None:
        gate.stay()

    x, out = fpga.array(floats(), "HBM0"), fpga.empty(N, "float32", "HBM0")
    zeros = fpga.array(np.zeros(N, "float32"), "HBM0")
    waits = busy.launch()
    reader = vadd.launch(x, zeros, out, N, target="vadd_1")
    assert grow.launch(x, 1.0).cancel()
    written = threading.Thread(target=x.write, args=(7.0,))
    written.start()
    gate.let_on()
    written.join()
    waits.wait()

    assert np.array_equal(reader.result(), floats())
    assert held(x).tolist() == [7.0] * N


def test_nothing_is_moved_but_what_has_to_be(fpga: of.Session) -> None:
    a, out = fpga.array(floats(), "HBM0"), fpga.empty(N, "float32", "HBM0")

    there = vadd.launch(a, a, out, N, target="vadd_1")
    there.wait()
    plain = vadd.launch(floats(), floats(), np.empty(N, "float32"), N)
    plain.wait()

    (resident,), (copied,) = there.timing, plain.timing
    assert (resident.to_device, resident.from_device) == (0, 0)
    assert (copied.to_device, copied.from_device) == (8 * N, 4 * N)
    assert resident.compute is not None
    assert copied.transfer is not None
    assert resident.compute > 0
    assert copied.transfer > 0


def test_cores_have_no_such_costs() -> None:
    with of.connect("inline"):
        handle = vadd.launch(floats(), floats(), np.empty(N, "float32"), N)
        handle.wait()
    assert handle.timing[0].compute is handle.timing[0].to_device is None


def test_the_bank_is_one_that_the_unit_reaches(fpga: of.Session) -> None:
    with pytest.raises(ValueError, match=r"which bank\? .* wired to HBM0, HBM1; say bank="):
        fpga.empty(N)
    with pytest.raises(ValueError, match="bank='HBM2': no unit of the device is wired to it"):
        fpga.empty(N, bank="HBM2")
    a, zeros = fpga.array(floats(), "HBM1"), np.zeros(N, "float32")
    assert a.bank == "HBM1"
    with pytest.raises(
        of.DeviceMemoryError, match=r"a is in bank HBM1, and .* vadd_1 .*HBM0; target=.* vadd_2"
    ):
        vadd(a, zeros, zeros.copy(), N)

    assert np.array_equal(vadd.launch(a, zeros, zeros.copy(), N, target="vadd_2").result(), floats())


def test_the_bank_is_the_one_that_the_kernel_names(tmp_path: Path) -> None:
    """A launch that could only fail would take what it was to write with it."""
    need_pynq()

    @offload(kernel="vadd")
    def add(a: In("float32", bank="B1"), b: In("float32"), out: Out("float32"), n: int):  # type: ignore[valid-type, no-untyped-def]
        out[:n] = a[:n] + b[:n]

    wired = Xclbin(
        [add], banks=["B0", "B1"], wiring={"vadd.a": ["B0", "B1"], "vadd.b": "B0", "vadd.out": "B0"}
    )
    with of.connect(address(f"emu:{wired.write(tmp_path / 'wired.xclbin')}")) as session:
        b, out = session.array(floats(), "B0"), session.array(floats(), "B0")
        told = r"argument a is in bank B0, and the kernel's annotation says bank='B1': make the array there"
        with pytest.raises(of.DeviceMemoryError, match=told):
            add(session.array(floats(), "B0"), b, out, N)
        assert np.array_equal(out, floats())
        add(session.array(floats(), "B1"), b, out, N)
        assert np.array_equal(out, 2 * floats())


def test_one_of_another_device(fpga: of.Session) -> None:
    a = fpga.array(floats(), "HBM0")
    with (
        of.connect("inline"),
        pytest.raises(ValueError, match=r"a is on (emu|pynq):.*, and the launch goes to"),
    ):
        vadd(a, floats(), np.empty(N, "float32"), N)


def test_two_that_come_out_may_not_overlap(fpga: of.Session) -> None:
    knows_lengths()
    x = fpga.array(floats(), "HBM0")
    with pytest.raises(ValueError, match="two arrays that come out of it share memory"):
        both(floats()[:600], x[:600], x[400:])
    both(floats()[:500], x[:500], x[500:])
    assert np.array_equal(x, np.concatenate([floats()[:500], -floats()[:500]]))


def test_a_full_bank_says_so_and_takes_what_is_freed(fpga: of.Session) -> None:
    arrays = [fpga.empty(1 << 18, "uint8", "HBM0") for _ in range(4)]
    with pytest.raises(of.DeviceMemoryError, match="HBM0"):
        fpga.empty(1, "uint8", "HBM0")

    for _ in range(3):
        arrays.pop()
        gc.collect()
        arrays.append(fpga.empty(1 << 18, "uint8", "HBM0"))
    arrays.pop()
    with pytest.raises(of.DeviceMemoryError, match="HBM0"):  # and what was given back is not enough
        fpga.empty(1 << 19, "uint8", "HBM0")
    arrays.append(fpga.empty(1 << 18, "uint8", "HBM0"))
    arrays[0].free()
    assert vadd.launch(floats(), floats(), np.empty(N, "float32"), N, target="vadd_1").result()[1] == 2


@pytest.mark.parametrize("leave", (lambda array: array.free(), lambda _: None), ids=("freed", "dropped"))
def test_a_full_bank_is_waited_for_where_launches_are_about_to_leave_it(
    fpga: of.Session, gate: Gate, monkeypatch: pytest.MonkeyPatch, leave: Callable[[of.DeviceArray], None]
) -> None:
    knows_lengths()

    @offload(target=0)
    def busy() -> None:
        gate.pass_through()

    waits = busy.launch()
    gate.wait()
    large = fpga.empty(200_000, "float32", "HBM0")
    both.launch(floats(), large[:N], large[N : 2 * N], target=0)
    leave(large)
    del large
    monkeypatch.setattr("offload.keeping._collect", gate.let_on)  # once it was found that the bank is full
    assert fpga.empty(200_000, "float32", "HBM0").nbytes == 800_000
    waits.wait()


def test_a_full_bank_is_waited_for_where_a_launch_of_other_arrays_is_about_to_leave_it(
    tmp_path: Path, gate: Gate
) -> None:
    need_pynq()

    @offload(kernel="slow")
    def slow(x: InOut("uint8")) -> None:  # type: ignore[valid-type]
        gate.pass_through()

    made = Xclbin([slow], units=2, banks={"A": "1M"}).write(tmp_path / "slow.xclbin")
    with of.connect(address(f"emu:{made}")) as session:
        waits = slow.launch(np.zeros(600_000, "uint8"), target=0)
        gate.wait()
        made_then: list[Any] = []
        thread = threading.Thread(target=lambda: made_then.append(session.empty(600_000, "uint8")))
        thread.start()
        gate.let_on()
        thread.join()
        waits.wait()
        assert made_then[0].nbytes == 600_000


def test_an_array_waits_for_no_driver_kernel(fpga: of.Session, gate: Gate) -> None:
    """That may wait for what the host does next."""

    @offload(target=0)
    def busy() -> None:
        held = instance().empty(200_000, "float32", "HBM0")
        gate.pass_through()
        del held

    waits = busy.launch()
    gate.wait()
    with pytest.raises(of.DeviceMemoryError, match="HBM0"):
        fpga.empty(200_000, "float32", "HBM0")
    gate.let_on()
    waits.wait()


def test_an_array_of_nothing_is_read(fpga: of.Session) -> None:
    nothing, out = fpga.empty(0, "float32", "HBM0"), np.zeros(N, "float32")
    vadd(nothing, nothing, out, 0, target="vadd_1")
    assert held(nothing).tolist() == []


def test_who_waits_for_room_in_the_queue_holds_up_nobody_else(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    @offload(target=0)
    def busy() -> None:
        gate.pass_through()

    monkeypatch.setenv("OFFLOAD_QUEUE", "8")
    with of.connect(made(tmp_path, units=1)) as session:
        x = session.array(np.zeros(N, "float32"))
        waits = busy.launch()
        gate.wait()
        launches = threading.Thread(target=lambda: [grow.launch(x, 1.0) for _ in range(20)])
        launches.start()
        with pytest.raises(of.QueueFull):
            while True:
                grow.launch(x, 1.0, when_full="raise")
        gate.let_on()
        launches.join()
        waits.wait()
        assert 20 <= held(x)[0] < 28


def test_launches_keep_what_they_use(fpga: of.Session) -> None:
    a = fpga.array(floats(), "HBM0")
    handles = []
    for _ in range(50):
        out = fpga.empty(N, "float32", "HBM0")
        handles.append(vadd.launch(a, a, out, N, target="vadd_1"))
        del out
    a.free()
    assert all(np.array_equal(handle.result(), 2 * floats()) for handle in handles)


def test_finalizers_of_what_is_in_a_cycle_find_its_arrays(
    fpga: of.Session, request: pytest.FixtureRequest
) -> None:
    """Also those of objects that are kept then."""
    found, kept = [], []
    gc.disable()  # a collection in the midst of a launch would have them refused
    request.addfinalizer(gc.enable)

    class Model:
        def __init__(self) -> None:
            self.array, self.me = fpga.array(floats(), "HBM0"), self

        def __del__(self) -> None:
            found.append(np.array_equal(held(self.array), floats()))
            kept.append(self)

    for _ in range(3):
        Model()
    gc.collect()
    assert found == [True] * 3
    assert all(np.array_equal(one.array, floats()) for one in kept)
    kept.clear()
    gc.collect()
    whole = fpga.empty(1 << 20, "uint8", "HBM0")
    whole.free()


def test_a_finalizer_frees_arrays_whatever_its_thread_is_about(fpga: of.Session) -> None:
    """It may have interrupted offload itself: then they are free with the next launch."""
    with of.connect("inline") as other:
        other.pool()
        for session in (fpga, other):
            x = fpga.array(np.zeros(1 << 20, "uint8"), "HBM0")
            with session.dispatcher._guard:
                x.free()
            y = fpga.empty(1 << 20, "uint8", "HBM0")
            y.free()


def test_what_is_gone_with_its_session_is_freed_in_silence(tmp_path: Path) -> None:
    with of.connect(made(tmp_path)) as session:
        array = session.array(floats())
    array.free()
    with array:
        pass


def test_a_part_of_nothing_is_nothing(device: of.Session) -> None:
    """It is not what is lost where it was to be written, nor in the way of what is around it."""
    x, some = device.array(floats()), floats()
    vadd.options(retries=0).launch(some[:3], some[:4], x[500:500], 9).exception()
    assert np.array_equal(x, some)


def test_memory_is_given_back_while_handles_are_kept(fpga: of.Session) -> None:
    handles = []
    for _ in range(6):
        x = fpga.array(np.zeros(100_000, "float32"), "HBM0")
        handles.append(grow.launch(x, 1.0))
        handles[-1].wait()
        x.free()


def test_a_handle_that_is_kept_keeps_no_array_that_only_went_in(fpga: of.Session) -> None:
    handles = []
    for _ in range(6):
        a = fpga.array(np.ones(100_000, "float32"), "HBM0")
        handles.append(vadd.launch(a, a, np.empty(N, "float32"), N, target="vadd_1"))
        handles[-1].wait()
        del a
    assert all(handle.result()[0] == 2 for handle in handles)


def test_what_other_threads_leave_in_cycles_is_taken(fpga: of.Session) -> None:
    """Each has one array at a time, and there is room for five of them."""
    failed = []

    def work(number: int) -> None:
        try:
            for turn in range(15):
                x = fpga.array(np.full(50_000, 100 * number + turn, "float32"), "HBM0")
                cycle: list[Any] = [x]
                cycle.append(cycle)
                del cycle, x
        except of.DeviceMemoryError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_collection_of_another_threads_is_waited_for(
    fpga: of.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python does nothing about garbage then."""
    begun, tried, collect = threading.Event(), threading.Event(), gc.collect

    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            begun.set()
            tried.wait(10)

    def work() -> None:
        Slow()
        collect()

    def collect_too() -> int:
        found = collect()
        tried.set()
        return found

    cycle: list[Any] = [fpga.empty(200_000, "float32", "HBM0")]
    cycle.append(cycle)
    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    del cycle
    monkeypatch.setattr(gc, "collect", collect_too)
    assert fpga.empty(200_000, "float32", "HBM0").nbytes == 800_000
    thread.join()


def test_memory_of_a_failed_launch_is_given_back(fpga: of.Session) -> None:
    for _ in range(6):
        x = fpga.array(np.zeros(100_000, "float32"), "HBM0")
        grow.options(retries=0).launch(x, -1.0).exception()
        del x


def test_what_is_freed_is_there_for_all(fpga: of.Session) -> None:
    @offload(target=0)
    def take() -> int:
        return instance().empty(250_000, "float32", "HBM0").nbytes

    fpga.array(np.zeros(250_000, "float32"), "HBM0").free()
    assert take() == [1_000_000]


def test_arrays_are_lost_with_the_device(fpga: of.Session) -> None:
    @offload(auto=1)
    def die() -> None:
        import os

        os._exit(3)

    x = fpga.array(floats(), "HBM0")
    with pytest.raises(of.WorkerDied):
        die()
    with pytest.raises(of.ResidentDataLost, match=r"array float32 \(1000,\) was lost.*make it anew"):
        held(x)
    assert np.array_equal(fpga.array(floats(), "HBM0"), floats())


def test_ordinary_kernels_do_not_take_what_stays_on_the_device(fpga: of.Session) -> None:
    @offload(auto=1)
    def total(x: Any) -> float:
        return float(x.sum())

    handle = grow.launch(fpga.array(floats(), "HBM0"), 1.0)
    with pytest.raises(of.ArgsNotSerializable, match=r"give numpy.asarray\(handle.result\(\)\)"):
        total(handle)
    assert total(held(handle.result())) == [float((floats() + 1).sum())]
    handle = both.launch(floats(), fpga.empty(N, "float32", "HBM0"), fpga.empty(N, "float32", "HBM0"))
    with pytest.raises(of.ArgsNotSerializable, match=r"give numpy.asarray\(handle.result\(\)\[0\]\)"):
        total(handle)


def test_a_handle_of_an_array_of_the_hosts_does_not_come_out_again(device: of.Session) -> None:
    handle = grow.launch(floats(), 1.0)
    told = r"argument x is a NumPy array \(InOut\), not SingleHandle; a handle stands for an In array: give "
    with pytest.raises(TypeError, match=told):
        grow.launch(handle, 1.0)
    assert np.array_equal(grow(handle.result(), 1.0)[0], floats() + 2)


def test_a_caught_error_leaves_no_array_on_the_device(fpga: of.Session) -> None:
    half = 100_000  # of a bank, or nearly

    def fail() -> None:
        array = fpga.array(np.zeros(half, "float32"), "HBM0")
        with contextlib.suppress(of.EmulationError):
            vadd.launch(array[:N], array[:N], np.empty(N, "float32"), N + 1, target=0).result()
        with contextlib.suppress(of.EmulationError):
            np.asarray(fpga.empty(N, "float32", "HBM0"))  # never written
        with contextlib.suppress(of.DeviceMemoryError):
            fpga.empty(3 * half, "float32", "HBM0")

    gc.disable()
    try:
        for _ in range(3):
            fail()
            vadd(*np.zeros((2, half), "float32"), np.empty(half, "float32"), half, target=0)
    finally:
        gc.enable()


def test_a_handle_of_several_arrays_is_none(device: of.Session) -> None:
    x, y = device.empty(N, "float32"), device.empty(N, "float32")
    for outs in ((x, y), (np.empty(N, "float32"), np.empty(N, "float32"))):
        handle = both.launch(floats(), *outs)
        told = r"argument b is an array, and this handle gives 2: give handle.result\(\)\[0\]"
        with pytest.raises(TypeError, match=told):
            vadd.launch(floats(), handle, np.empty(N, "float32"), N)
        out = np.empty(N, "float32")
        vadd(floats(), handle.result()[0], out, N)
        assert np.array_equal(out, 2 * floats())


# ---- room ------------------------------------------------------------------------------

MOST = 200_000  # floats that a bank has room for, and not twice


@pytest.fixture
def banks(tmp_path: Path) -> Iterator[of.Session]:
    """Have two units with a bank for what goes in, and one of 1 MB for what comes out."""
    with of.connect(
        made(tmp_path, units=2, banks={"IN": "4M", "OUT": "1M"}, wiring={"vadd.out": "OUT"})
    ) as session:
        yield session


@offload(auto=1)
def need(count: int) -> int:
    """Need so many floats of a bank, in a driver."""
    return len(instance().empty(count, "float32", "OUT"))


@pytest.mark.parametrize("way", ["dropped", "freed", "at the end of a block"])
def test_a_driver_has_the_memory_of_arrays_that_are_gone(banks: of.Session, way: str) -> None:
    for start in (need, need.launch) * 5:
        array = banks.empty(MOST, "float32", "OUT")
        if way == "freed":
            array.free()
        elif way == "dropped":
            del array
        else:
            with array:
                pass
        found = start(MOST)
        assert (found if isinstance(found, list) else found.wait()) == [MOST]


def test_what_a_driver_gives_back_is_for_who_waits_for_it(banks: of.Session, tmp_path: Path) -> None:
    before, after = (Gate.make(tmp_path / name) for name in ("before", "after"))

    @offload(auto=1)
    def drive() -> None:
        held = instance().empty(MOST, "float32", "OUT")
        before.pass_through()
        held.free()
        after.pass_through()

    driver = drive.launch()
    before.wait()
    large = np.ones(MOST, "float32")
    handle = vadd.launch(large, large, np.empty_like(large), MOST)
    before.let_on()
    assert handle.result()[0] == 2  # and the driver goes on
    after.wait()
    after.let_on()
    driver.wait()


def test_what_the_host_gives_back_is_for_who_waits_for_it(tmp_path: Path) -> None:
    gate = Gate.make(tmp_path / "gate")

    @offload(auto=1)
    def drive() -> None:
        held = instance().empty(1000, "float32", "OUT")
        gate.pass_through()
        del held

    wired: Any = {"banks": {"IN": "4M", "OUT": "1M"}, "wiring": {"vadd.out": "OUT"}}
    with of.connect(made(tmp_path, units=3, **wired)) as session:
        array = session.empty(MOST, "float32", "OUT")
        driver = drive.launch()
        gate.wait()
        large = np.ones(MOST, "float32")
        handle = vadd.launch(large, large, np.empty_like(large), MOST)
        array.free()
        assert handle.result()[0] == 2  # and the driver goes on
        gate.let_on()
        driver.wait()


def test_arrays_that_may_be_in_several_banks_leave_room_for_others(tmp_path: Path) -> None:
    banks, wiring = (
        dict.fromkeys(["A", "B", "C"], "1M"),
        {"vadd.a": ["A", "B"], "vadd.b": "C", "vadd.out": "A"},
    )
    large = np.ones(MOST, "float32")
    with of.connect(made(tmp_path, banks=banks, wiring=wiring)):
        assert vadd(large, large, np.empty_like(large), MOST)[0][-1] == 2


def test_large_arrays_are_placed_before_small_ones(tmp_path: Path) -> None:
    banks, wiring = {"A": "1M", "B": "600K", "C": "1M"}, {"vadd.a": ["A", "B"], "vadd.b": ["A", "B"]}
    small, large = np.ones(100_000, "float32"), np.ones(MOST, "float32")
    with of.connect(made(tmp_path, banks=banks, wiring=wiring | {"vadd.out": "C"})):
        for a, b in ((small, large), (large, small)):
            assert vadd(a, b, np.empty_like(small), len(small))[0][-1] == 2
        with pytest.raises(of.DeviceMemoryError, match=r"bank A has no room .*; bank B has no room"):
            vadd(large, large, np.empty_like(small), len(small))
    wiring["vadd.out"] = ["A", "B"]
    with of.connect(made(tmp_path, banks=banks, wiring=wiring)):  # as given is another order to try
        small, large = np.ones(123_904, "float32"), np.ones(146_944, "float32")
        assert vadd(small, small, np.empty_like(large), 100)[0][99] == 2


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[of.DeviceArray], Gate]]:
    """Have one unit, which a kernel keeps until a gate is opened, an array there, and a short queue."""
    monkeypatch.setenv("OFFLOAD_QUEUE", "16")
    gate = Gate.make(tmp_path / "gate")
    with of.connect(made(tmp_path)) as session:
        arrays = [session.array(floats())]
        offload(lambda: gate.pass_through(), auto=1).launch()
        gate.wait()
        yield arrays, gate


def test_memory_to_be_freed_holds_up_no_launch_of_a_higher_priority(
    busy: tuple[list[of.DeviceArray], Gate],
) -> None:
    arrays, gate = busy
    quick = offload(lambda: None, auto=1)
    others = [quick.launch() for _ in range(10)]
    arrays.clear()
    first = quick.options(priority=1).launch()
    gate.let_on()
    of.wait_all(first, *others)
    assert first.timing[0].begun < others[-1].timing[0].begun


def test_memory_to_be_freed_is_no_reason_to_wait_for_room(busy: tuple[list[of.DeviceArray], Gate]) -> None:
    arrays, gate = busy
    quick = offload(lambda: None, auto=1, when_full="raise")
    others = []
    with pytest.raises(of.QueueFull):
        while True:
            others.append(quick.launch())
    arrays.clear()
    with pytest.raises(of.QueueFull, match=r"kernel .*lambda"):
        quick.launch()
    gate.let_on()
    assert quick() == [None]  # it is waited for, and so is not refused
    of.wait_all(*others)


def test_an_array_of_a_session_that_is_over(tmp_path: Path) -> None:
    where = made(tmp_path)
    with of.connect(where) as session:
        array = session.array(floats())
    told = "argument a is on .* in a session that was shut down, and the launch goes to"
    with of.connect(where), pytest.raises(ValueError, match=told):
        vadd(array, floats(), np.empty(N, "float32"), N)


@offload(kernel="vadd", xclbin="other.xclbin")
def of_another(a: In("float32"), b: In("float32"), out: Out("float32"), n: int):  # type: ignore[valid-type, no-untyped-def]
    raise NotImplementedError


def test_a_driver_calls_no_kernel_of_another_bitstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Xclbin([vadd], clock=250).write("other.xclbin")

    @offload(auto=1)
    def drive() -> Any:
        out = np.empty(N, "float32")
        of_another(floats(), floats(), out, N)

    with of.connect(made(tmp_path)), pytest.raises(of.DeviceError, match=r"is for other\.xclbin .* another"):
        drive()


def test_explain_runs_the_reference_with_what_came_out_each_time(tmp_path: Path) -> None:
    @offload(kernel="grow")
    def once(x: InOut("float32"), by: float):  # type: ignore[valid-type, no-untyped-def]
        assert x[0] == 1, "it was done twice"
        x += by

    with of.connect(made(tmp_path)):
        x = np.zeros(N, "float32")
        told = explained(once.launch(x, 1.0))
    assert any(re.match(r"  reference .* on the host, with x as it came out, ", line) for line in told)


def test_explain_takes_no_compilation_for_the_reference(tmp_path: Path) -> None:
    compiled = False

    @offload(kernel="vadd")
    def add(a: In("float32"), b: In("float32"), out: Out("float32"), n: int):  # type: ignore[valid-type, no-untyped-def]
        nonlocal compiled
        if not compiled:
            time.sleep(0.5)
            compiled = True
        np.add(a, b, out=out)

    a, out = floats(), np.empty(N, "float32")
    with of.connect(made(tmp_path)):
        told = "\n".join(explained(add.launch(a, a, out, N)))
    found = re.search(r"reference +([\d.]+) ms", told)
    assert found is not None and float(found[1]) < 500


def test_explain_tells_where_the_time_went(fpga: of.Session) -> None:
    text = io.StringIO()
    a, out = floats(), np.empty(N, "float32")
    handle = vadd.launch(a, a, out, N)
    of.explain(handle, file=text)

    told = text.getvalue()
    assert "8,000 bytes to the device, 4,000 from it" in told
    assert told.count("as predicted)") == (0 if on_cards() else 2), "transfers and circuit"
    assert "reference" in told
    assert "break-even" in told
    text = io.StringIO()
    there = fpga.array(a, "HBM0")
    handle = vadd.launch(there, there, out, N, target="vadd_1")
    handle.wait()
    there.free()
    of.explain(handle, file=text)
    assert "not measured: an array of the launch is gone" in text.getvalue()
    del out, handle, a
    gc.collect()
    text = io.StringIO()
    of.explain(vadd.launch(floats(), floats(), np.empty(N, "float32"), N), file=text)
    assert "not measured: an array of the launch is gone" in text.getvalue()


def explained(handle: Any) -> list[str]:
    text = io.StringIO()
    of.explain(handle, file=text)
    return text.getvalue().splitlines()


def test_explain_says_of_a_handle_that_it_is_one(fpga: of.Session) -> None:
    first = vadd.launch(floats(), floats(), np.empty(N, "float32"), N)
    out = np.empty(N, "float32")
    second = vadd.launch(floats(), first, out, N)
    assert explained(second)[-1].endswith("not measured: an argument was a handle")


@pytest.mark.parametrize(
    ("interval", "pause", "told"),
    [
        (
            250,
            0,
            "cannot be told: transfers and circuit take .* ms as predicted, the reference .*; of less than",
        ),
        (
            1,
            0,
            "cannot be told: transfers and circuit take .* ms as predicted, the reference .*; of less than",
        ),
        (100_000, 0, "none: transfers and circuit take .* ns a byte as predicted, and the reference"),
        (
            1000,
            0.05,
            "at about .* bytes of arguments, with transfers and circuit as predicted; this .* 12,000",
        ),
    ],
)
def test_a_break_even_is_told_where_it_can_be(tmp_path: Path, interval: int, pause: float, told: str) -> None:
    @offload(kernel="vadd")
    def add(a: In("float32"), b: In("float32"), out: Out("float32"), n: int):  # type: ignore[valid-type, no-untyped-def]
        np.add(a, b, out=out)
        if pause:
            time.sleep(pause)

    if on_cards():
        pytest.skip("a card predicts nothing")
    with of.connect(made(tmp_path, timing=TimingModel(interval=interval))):
        a, out = floats(), np.empty(N, "float32")
        b = a.copy()
        assert re.search(f"break-even +{told}", explained(add.launch(a, b, out, N))[-1])


def test_what_cannot_be_explained(fpga: of.Session) -> None:
    with pytest.raises(TypeError, match="explain takes a handle, not int"):
        of.explain(3)  # type: ignore[arg-type]
    with (
        of.connect("inline"),
        pytest.raises(of.OptionError, match="not of a hardware kernel"),
    ):
        of.explain(vadd.launch(floats(), floats(), np.empty(N, "float32"), N))
