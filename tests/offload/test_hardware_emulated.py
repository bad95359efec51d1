"""What hardware kernels do, and refuse, on a device that has their circuits: the emulated FPGA."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address, free_card, on_cards, written
from hardware_kernels import add, bitstream, split

import offload as of
from device_runtime.fpga.writing import pack, with_units
from offload import In, InOut, Out, offload
from offload.core import instance
from offload.testing import Fault, TimingModel, Xclbin

pytest.importorskip("pynq")
pytestmark = pytest.mark.timeout(100)  # an owner takes its time to start


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = written(tmp_path_factory.mktemp("bitstreams"), bitstream())
    with of.connect(address(f"emu:{path}?units=2")):
        yield "connected"


@offload(kernel="noop")
def noop(n: int) -> None:
    pass


def test_a_kernel_without_arrays(tmp_path: Path) -> None:
    with of.connect(address(f"emu:{Xclbin([noop]).write(tmp_path / 'noop.xclbin')}")):
        assert noop(1) == [None]
        assert give(noop.launch(1), device="local:1") == [None], "what the handle's result() is"


@offload
def give(value: Any) -> Any:
    return value


@offload(kernel="grow")
def grow(x: InOut("float32"), n: int) -> None:  # type: ignore[valid-type]
    x += n


@pytest.mark.parametrize(("ctype", "nbytes"), [("int", 8), ("long", 4), ("ap_uint<40>", 4)])
def test_registers_that_a_number_does_not_fit(tmp_path: Path, ctype: str, nbytes: int) -> None:
    """It is refused before anything is queued: an array on the device keeps what it holds."""
    given = Xclbin([grow]).bitstream
    (spec,) = given.kernels
    lying = [one._replace(ctype=ctype, nbytes=nbytes) if one.name == "n" else one for one in spec.arguments]
    path = tmp_path / "grow.xclbin"
    path.write_bytes(pack(given._replace(kernels=(spec._replace(arguments=tuple(lying)),))))
    with of.connect(address(f"emu:{path}")) as session:
        x = session.array(floats(1, 2))
        with pytest.raises(of.ArgsNotSerializable, match=r"argument n is of type .* and has registers for"):
            grow.launch(x, 4)
        assert np.asarray(x).tolist() == [1, 2]


def floats(*values: float) -> Any:
    return np.array(values, "float32")


def test_a_scalar_that_the_circuit_cannot_hold(device: str) -> None:
    with pytest.raises(
        of.ArgsNotSerializable, match="argument n is of type int: 1099511627776 is not between"
    ):
        add.launch(floats(), floats(), floats(), 1 << 40)


def scaling(kind: Any, verify: Any = None) -> Any:
    def scale(x, out, s):  # type: ignore[no-untyped-def]
        out[:] = x * s

    scale.__annotations__ = {"x": In("float64"), "out": Out("float64"), "s": kind}
    return offload(kernel="scale", verify=verify)(scale)


@pytest.mark.parametrize("kind", [np.float32, float, np.dtype("float32")])
def test_a_right_circuit_is_not_accused_of_rounding_a_number(tmp_path: Path, kind: Any) -> None:
    """Its argument is a C float, whether the function says so or leaves it open."""
    with of.connect(address(f"emu:{Xclbin([scaling(np.float32)]).write(tmp_path / 'scale.xclbin')}")):
        found = scaling(kind, 1.0)(np.ones(2), np.empty(2), 0.1)[0]
    assert found.tolist() == [float(np.float32(0.1))] * 2
    if kind is not float:
        with of.connect("inline"):
            assert scaling(kind)(np.ones(2), np.empty(2), 0.1)[0].tolist() == found.tolist()


def test_a_unit_by_name(device: str) -> None:
    out = np.empty(1, "float32")
    add(floats(1), floats(2), out, 1, target="vadd_2")
    assert out.tolist() == [3]
    with pytest.raises(
        of.OptionError, match=r"target='scale_1' is no unit of vadd; its units are vadd_1, vadd_2"
    ):
        add(floats(1), floats(2), out, 1, target=["vadd_2", "scale_1"])
    with pytest.raises(of.OptionError, match=r"no core of the device has the name 'vadd_9'.*vadd_1"):
        add(floats(1), floats(2), out, 1, target="vadd_9")


def test_a_function_that_does_not_fit(device: str) -> None:
    @offload(kernel="vadd")
    def other(a: In("float64"), x: In, out: Out, n: float):  # type: ignore[valid-type, no-untyped-def]
        pass

    @offload(kernel="vadd")
    def turned(b: In, a: In, out: Out, n: int) -> None:
        pass

    @offload(kernel="vadd")
    def typed(a: In("float64"), b: In("complex64"), out: int, n: In):  # type: ignore[valid-type, no-untyped-def]
        pass

    @offload(kernel="vadd")
    def banked(a: In(bank="HBM2"), b: In, out: Out, n: int):  # type: ignore[valid-type, no-untyped-def]
        pass

    given = floats(1), floats(1), floats(1), 1
    with pytest.raises(of.DeviceError, match=r"has an argument 'b', which.*has no argument 'x'"):
        other(*given)
    with pytest.raises(of.DeviceError, match="in another order: a, b, out, n, not b, a, out, n"):
        turned(*given)
    with pytest.raises(of.DeviceError, match=r"a is of type 'float\*', float32.*takes float64;.*out.*; n"):
        typed(*given)
    with pytest.raises(of.DeviceError, match="to be in bank HBM2, and unit vadd_1 is wired to HBM0"):
        banked(*given)


def test_arrays_of_another_type_than_the_circuits(device: str) -> None:
    """Where the function does not say which; a board would take the bits for what they are not."""
    with pytest.raises(
        TypeError, match=r"argument b has dtype float64, and the circuit takes 'float\*', float32"
    ):
        add(floats(1), np.ones(1), np.empty(1, "float32"), 1)

    @offload(auto=1)
    def drive() -> None:
        instance().vadd(np.ones(1), np.ones(1), np.ones(1), 1)

    with pytest.raises(TypeError, match="argument a has dtype float64, and the circuit takes"):
        drive()


def test_scalars_of_another_width_than_the_circuits(device: str) -> None:
    @offload(kernel="vadd")
    def vadd(a: In, b: In, out: Out, n: np.int16) -> None:
        pass

    with pytest.raises(of.DeviceError, match="n is of type 'int', and the function takes int16"):
        vadd(floats(1), floats(1), floats(1), 1)


def test_a_bitstream_that_is_not_the_kernels(device: str, tmp_path: Path) -> None:
    other = Xclbin([noop]).write(tmp_path / "other.xclbin")

    @offload(kernel="vadd", xclbin=other)
    def vadd(a: In, b: In, out: Out, n: int) -> None:
        pass

    with pytest.raises(of.DeviceError, match=r"is for .*other.xclbin .*has another bitstream loaded"):
        vadd(floats(1), floats(1), floats(1), 1)


def test_kernels_that_name_a_bitstream_are_held_to_it_where_a_device_opens(tmp_path: Path) -> None:
    """All that is wrong is told, of each; one of another bitstream, or that is gone, is not looked at."""
    path, elsewhere = written(tmp_path, bitstream()), Xclbin([noop]).write(tmp_path / "noop.xclbin")
    where = address(f"emu:{path}")

    @offload(kernel="vmul", xclbin=elsewhere)
    def foreign(n: int) -> None:
        pass

    @offload(kernel="vmul", xclbin=tmp_path / "gone.xclbin")
    def lost(n: int) -> None:
        pass

    def told() -> list[str]:
        @offload(kernel="vadd", xclbin=path)
        def swapped(b: In("float32"), a: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
            pass

        @offload(kernel="vmul", xclbin=path)
        def absent(n: int) -> None:
            pass

        with pytest.raises(of.DeviceError) as caught:
            of.connect(where)
        return str(caught.value).splitlines()

    first, second = sorted(told(), reverse=True)
    assert "swapped does not fit kernel vadd" in first and "in another order: a, b, out, n" in first
    assert "absent: the bitstream of" in second and "has no kernel 'vmul'" in second
    gc.collect()  # those two are gone
    with of.connect(where):
        assert add(floats(1), floats(2), floats(0), 1)[0].tolist() == [3]
    del foreign, lost


def of_kind(kind: Any, xclbin: Path, name: str) -> Any:
    """Make a kernel whose argument n is of a type."""

    def vadd(a, b, out, n):  # type: ignore[no-untyped-def]
        out[:] = a + b

    vadd.__annotations__ = {"a": In("float32"), "b": In("float32"), "out": Out("float32"), "n": kind}
    vadd.__qualname__ = name
    return offload(kernel="vadd", xclbin=xclbin)(vadd)


def test_a_kernel_that_was_written_anew_is_held_to_nothing_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, where the old one may live on: in an error that was shown, or in a handle."""
    path = written(tmp_path, bitstream())
    where, here = address(f"emu:{path}"), sys.modules[__name__]
    old = of_kind(np.int16, path, "vadd")
    monkeypatch.setattr(here, "vadd", old, raising=False)
    with pytest.raises(of.DeviceError, match="and the function takes int16"):
        of.connect(where)
    new = of_kind(int, path, "vadd")
    monkeypatch.setattr(here, "vadd", new)
    with of.connect(where):
        assert new(floats(1), floats(2), floats(0), 1)[0].tolist() == [3]
    del old


def test_copies_and_others_of_the_name_take_no_kernels_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, bitstream())
    where = address(f"emu:{path}")
    kernels = [of_kind(np.int16, path, "make.<locals>.vadd"), of_kind(int, path, "make.<locals>.vadd")]
    with pytest.raises(of.DeviceError, match="and the function takes int16"):
        of.connect(where)
    kernels = [of_kind(np.int16, path, "vadd")]
    monkeypatch.setattr(sys.modules[__name__], "vadd", kernels[0], raising=False)
    of_kind(int, path, "vadd")
    with of.connect("inline"):
        offload(lambda kernel: None)(kernels[0])
    gc.collect()  # both are gone
    with pytest.raises(of.DeviceError, match="and the function takes int16"):
        of.connect(where)


def test_a_buffer_stays_on_its_device(device: str) -> None:
    @offload(auto=1)
    def drive() -> Any:
        return instance().empty(3, "float32", bank="HBM0")

    with pytest.raises(of.ResultNotSerializable, match="a buffer stays on its device"):
        drive()


def test_a_buffer_has_a_shape_of_numpys_numbers(device: str) -> None:
    @offload(auto=1)
    def drive() -> Any:
        shapes = np.int64(4), (np.int32(2), 3), [5], np.array([2, 2])
        return [instance().empty(shape, "float32", "HBM0").shape for shape in shapes]

    assert drive() == [[(4,), (2, 3), (5,), (2, 2)]]


@pytest.mark.parametrize("shape", [True, 2.0, "2", (2, -1)])
def test_a_buffer_has_no_other_shape(device: str, shape: Any) -> None:
    @offload(auto=1)
    def drive() -> None:
        instance().empty(shape, "float32", "HBM0")

    with pytest.raises((TypeError, ValueError), match=r"empty: shape=.* must"):
        drive()


@pytest.mark.parametrize("value", [[None], ["ab"], np.zeros(2, [("x", "i4")]), np.zeros(2, ">f4")])
def test_a_buffer_holds_numbers(device: str, value: Any) -> None:
    @offload(auto=1)
    def drive(value: Any) -> None:
        instance().array(value, "HBM0")

    @offload(auto=1)
    def drive_empty(dtype: Any) -> None:
        instance().empty(2, dtype, "HBM0")

    with pytest.raises(TypeError, match=r"array: dtype .* is not one of numbers as this machine has them"):
        drive(value)
    with pytest.raises(TypeError, match=r"empty: dtype .* is not one of numbers as this machine has them"):
        drive_empty(np.asarray(value).dtype)


def test_a_buffer_keeps_what_is_written(device: str) -> None:
    @offload(auto=1)
    def drive() -> Any:
        held = instance().array(np.full(2, 7, "int32"), "HBM0")
        told = []
        for value in (np.full(2, 1.9), 1 << 40, [1, 1.9]):
            with pytest.raises((TypeError, ValueError)) as caught:
                held.write(value)
            told.append(str(caught.value))
        kept = np.asarray(held).tolist()
        held.write([1, 2.0])
        return told, kept, np.asarray(held).tolist()

    told, kept, then = drive()[0]
    assert ["float64" in told[0], "1099511627776" in told[1], "1.9" in told[2]] == [True] * 3
    assert (kept, then) == ([7, 7], [1, 2])


def test_buffers_in_cycles_do_not_fill_a_bank(device: str) -> None:
    @offload(auto=1)
    def drive() -> None:
        for _ in range(5):
            held: list[Any] = [instance().empty(3 << 20, "float32", bank="HBM0")]
            held.append(held)
            del held

    drive()


def test_a_buffer_gives_its_memory_back(device: str) -> None:
    """By `free`, at the end of a block, and a slice's with the whole; it cannot be used then."""
    add.options(target=0)(floats(1), floats(1), floats(0), 1)

    @offload(target=0)
    def drive() -> Any:
        device = instance()
        first = device.empty(3 << 20, "float32", bank="HBM0")
        part = first[:4]
        part.free()
        with device.array(np.ones(3 << 20, "float32"), bank="HBM0") as second:
            seen = np.asarray(second)[0]
        third = device.array(np.ones(4, "float32"), bank="HBM0")
        out = device.empty(3, "float32", bank="HBM1")
        told = [repr(first), repr(third)]
        for use in (
            lambda: first.write([1]),
            lambda: np.asarray(part),
            lambda: first[:1],
            lambda: device.vadd(third, second, out, 3),
            lambda: len(second),
        ):
            with pytest.raises(ValueError, match="the buffer in bank HBM0 was freed"):
                use()
        second.free()  # once more is as well
        device.vadd(third, third, out, 3)
        return told, seen, np.asarray(out).tolist()

    told, seen, out = drive()[0]
    assert told == [
        "<buffer of 12,582,912 bytes freed, float32 (3145728,)>",
        "<buffer of 16 bytes in bank HBM0, float32 (4,)>",
    ]
    assert (seen, out) == (1, [2, 2, 2])


def test_what_a_driver_does_to_standard_output(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    @offload(target=0)
    def spoil() -> None:
        sys.stdout = io.StringIO()

    spoil()
    offload(lambda: print("still there"), target=0)()
    assert "still there" in capsys.readouterr().out


def test_what_a_driver_logs(device: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        offload(lambda: logging.getLogger("mine").info("from the device"), target=0)()
    assert "from the device" in caplog.text


def test_a_kernel_that_is_not_in_the_bitstream(device: str) -> None:
    @offload(kernel="vmul")
    def vmul(a: In) -> None:
        pass

    with pytest.raises(of.DeviceError, match="has no kernel 'vmul'; it has vadd, scale, split"):
        vmul(floats(1))


def test_a_bank_that_is_full(device: str) -> None:
    large = np.zeros(5 << 20, "float32")
    with pytest.raises(of.DeviceMemoryError, match="bank HBM0 has no room for 20,971,520 bytes: 16,"):
        add(large, large, large, 1)
    assert add(floats(1), floats(1), np.empty(1, "float32"), 1)[0].tolist() == [2]


def test_a_driver_kernel_has_an_instance_to_itself(device: str) -> None:
    @offload(auto=1)
    def drive(x: Any) -> Any:
        device = instance()
        held = device.array(x, bank="HBM0")
        out = device.empty(len(x), "float32", bank="HBM1")
        for _ in range(3):
            device.vadd(held, held, out, len(x))
        return np.asarray(out).copy(), held.uploads, out.downloads, device.units[0].startswith("vadd_")

    for unit in (0, 1):  # what it does is known from a launch only
        add(floats(1), floats(1), floats(0), 1, target=unit)
    drive_values = drive(floats(1, 2))[0]
    assert drive_values[0].tolist() == [2, 4]
    assert drive_values[1:] == (8, 8, True)


@offload(kernel="double")
def double(out: Out("float32"), a: In("float32"), n: int) -> None:  # type: ignore[valid-type]
    out[:n] = 2 * a[:n]


@pytest.mark.parametrize("name", ["array", "run", "check", "meter"])
def test_a_kernel_with_a_name_that_something_else_has(tmp_path: Path, name: str) -> None:
    @offload(kernel=name)
    def add(x: InOut("float32")):  # type: ignore[valid-type, no-untyped-def]
        x += 1

    @offload
    def driver() -> Any:
        x = np.ones(2, "float32")
        instance()[name](x)
        instance()[f"{name}_1"](x)
        if name != "array":  # what an instance has itself is documented
            getattr(instance(), name)(x)
        with pytest.raises(KeyError, match="no kernel or unit 'walk'"):
            instance()["walk"]
        return x

    with of.connect(address(f"emu:{Xclbin([add]).write(tmp_path / 'a.xclbin')}")):
        assert driver(target=0)[0].tolist() == [3 + (name != "array")] * 2


def test_threads_of_a_driver_have_its_instance(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A hardware kernel runs the circuit there, too, and what they print is the unit's."""

    def circuit(out: Any, a: Any, n: int) -> None:
        out[:n] = 3 * a[:n]

    @offload
    def drive() -> Any:
        from concurrent.futures import ThreadPoolExecutor

        def call(n: int) -> tuple[list[float], bool]:
            sys.stdout.write("printed in a thread\n")
            return double(np.empty(1, "float32"), floats(n), 1)[0].tolist(), instance().double is not None

        with ThreadPoolExecutor(1) as threads:
            return list(threads.map(call, range(4)))

    made = Xclbin([double], units=2, models={"double": circuit}).write(tmp_path / "a.xclbin")
    with of.connect(address(f"emu:{made}")):
        assert drive(target=1) == [[([3.0 * n], True) for n in range(4)]]
    assert capfd.readouterr().out == "[core 1] printed in a thread\n" * 4


def test_a_thread_that_outlives_its_launch_has_no_instance(doubling: of.Session) -> None:
    @offload(target=0)
    def start() -> None:
        go, told = threading.Event(), []  # type: ignore[var-annotated]

        def late() -> None:
            go.wait()
            for call in (lambda: instance().units, lambda: double(np.empty(1, "float32"), floats(1), 1)):
                try:
                    call()
                except Exception as error:
                    told.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=late)
        thread.start()
        sys.modules["outlives"] = (go, thread, told)  # type: ignore[assignment]

    @offload(target=0)
    def end() -> Any:
        go, thread, told = sys.modules.pop("outlives")  # type: ignore[misc]
        go.set()
        thread.join()
        return told

    start()
    (told,) = end()
    assert [one.split(":")[0] for one in told] == ["NotOnDevice"] * 2
    assert "the launch that this thread belongs to has ended" in told[0]


def test_a_thread_that_outlives_its_launch_works_for_others_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A pool of a module does; what it takes of a bank is no launch's."""

    @offload(target=0)
    def drive(n: int) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        pool = sys.modules.setdefault("pool", ThreadPoolExecutor(1))  # type: ignore[arg-type]
        out = np.empty(1, "float32")
        pool.submit(instance().double, out, floats(n), 1).result()  # type: ignore[attr-defined]
        return out.tolist()

    @offload(target=0)
    def take() -> None:
        sys.modules["taken"] = sys.modules["pool"].submit(instance().empty, 12_000, "uint8", "A").result()  # type: ignore[attr-defined]

    made = Xclbin([double], banks={"A": "20K"}).write(tmp_path / "a.xclbin")
    with of.connect(address(f"emu:{made}")) as session:
        assert [drive(1), drive(2)] == [[[2]], [[4]]]
        take()
        with pytest.raises(of.DeviceMemoryError):
            session.empty(12_000, "uint8", "A")
        assert drive(3) == [[6]]


def test_a_driver_gives_what_it_was_given_for_what_comes_out(doubling: of.Session) -> None:
    """It is read-only, and so what came out would be lost."""
    if on_cards():
        pytest.skip("which way an argument goes is not known there")

    @offload(target=0)
    def drive(out: Any) -> None:
        instance().double(out, floats(1), 1)

    with pytest.raises(
        ValueError, match=r"double: argument out comes out of the circuit \(Out\), and is read-only"
    ):
        drive(floats(0))


@offload(kernel="duo")
def duo(a: In("float32"), x: Out("float32"), y: Out("float32")) -> None:  # type: ignore[valid-type]
    x[:], y[:] = a + 1, a + 2


def test_what_comes_out_for_a_driver_does_not_overlap(tmp_path: Path) -> None:
    if on_cards():
        pytest.skip("which way an argument goes is not known there")

    @offload(auto=1)
    def drive(kind: str) -> Any:
        a, room = np.zeros(3, "float32"), np.empty(6, "float32")
        if kind != "arrays":
            a, room = instance().array(a), instance().empty(6, "float32")
        if kind == "in":
            instance().duo(room[2:5], room[:3], a)
        else:
            instance().duo(a, room[:3], room[2:5])

    @offload(auto=1)
    def apart() -> Any:
        a, room = np.zeros(3, "float32"), np.empty(6, "float32")
        instance().duo(a, room[::2], room[1::2])
        buffer = instance().array(room)
        instance().duo(buffer[:3], buffer[:3], buffer[3:])  # in place
        return room, np.array(buffer)

    with of.connect(address(f"emu:{Xclbin([duo]).write(tmp_path / 'duo.xclbin')}")):
        for kind, told in (("arrays", "x .Out. and y"), ("buffers", "x .Out. and y"), ("in", "a .In. and x")):
            with pytest.raises(
                ValueError, match=f"duo: arguments {told} .Out. share memory, and the circuit"
            ):
                drive(kind)
        ((arrays, buffer),) = apart()
        assert arrays.tolist() == [1, 2] * 3
        assert buffer[:3].tolist() == [2, 3, 2]


def test_all_ways_to_write_an_address_are_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened once, and not loaded again: what is on it stays."""
    monkeypatch.chdir(tmp_path)
    path = Xclbin([double]).write("double.xclbin")
    of.Manifest(path, [{"units": ["double_1"]}]).write("double.toml")
    for file in ("double.xclbin", "double.toml"):
        kind, card = ("pynq", f"device={free_card()}") if on_cards() else ("emu", "device=9")
        ways = [
            f"{kind}:{file}?{card}&timeout=100&wait=60",
            f"{kind}:{tmp_path / file}?timeout=1e2&{card}&wait=1",
        ]
        with of.connect(ways[0]) as session:
            there = session.array(floats(1, 2))
            for way in ways * 2:
                assert double(floats(0, 0), there, 2, device=way)[0].tolist() == [2, 4]
            assert np.asarray(there).tolist() == [1, 2]
            assert session.pool(f"{kind}:{file}?{card}") is not session.pool(), "with another timeout"
            with of.connect(ways[1]) as other:
                assert other is session


def test_a_folder_that_is_a_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system follows it: `link/..` is where that lies which the link leads to."""
    if on_cards():
        pytest.skip("its kernels are not those of a card")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real/deep").mkdir(parents=True)
    os.symlink("real/deep", "link")
    with of.connect(f"emu:{Xclbin([noop]).write('a.xclbin')}") as session:
        there = Xclbin([noop, double]).write("real/a.xclbin")
        for path in ("link/../a.xclbin", of.Manifest(there, [{"units": ["double_1"]}]).write("real/a.toml")):
            found = session.pool(f"emu:{path}".replace("real/", "link/../"))
            assert found.device.bitstream is not None and len(found.device.bitstream.kernels) == 2


def test_banks_of_the_same_addresses(tmp_path: Path) -> None:
    made = Xclbin([double], banks=["HP0", "HP1"], wiring={"double.out": "HP1"}).bitstream
    path = written(tmp_path, made._replace(banks=tuple(bank._replace(base=0) for bank in made.banks)))
    with of.connect(address(f"emu:{path}")):
        assert double(np.empty(2, "float32"), floats(1, 2), 2)[0].tolist() == [2, 4]


def test_a_driver_gives_one_array_for_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    @offload(auto=1)
    def drive() -> Any:
        x = np.arange(4, dtype="float32")
        instance().double(x, x, 4)
        return x

    with of.connect(address(f"emu:{Xclbin([double]).write(tmp_path / 'double.xclbin')}")):
        assert drive()[0].tolist() == [0, 2, 4, 6]


@pytest.fixture
def doubling(tmp_path: Path) -> Iterator[of.Session]:
    made = Xclbin([double], units=2, banks=["A", "B"], wiring={"double.a": ["A", "B"]})
    with of.connect(address(f"emu:{made.write(tmp_path / 'double.xclbin')}")) as session:
        yield session


def test_a_driver_is_not_told_by_launches_what_arguments_are(doubling: of.Session) -> None:
    """What a unit was used for before makes no difference."""

    @offload(kernel="double")
    def banked(out: Out, a: In(bank="B"), n: int) -> None:  # type: ignore[valid-type]
        out[:n] = 2 * a[:n]

    @offload(auto=1)
    def drive() -> Any:
        out = np.full(3, 9, "float32")
        instance().double(out, instance().array(floats(1, 1, 1), bank="A"), 2)
        return out.tolist()

    assert drive(target=0) == [[2, 2, 9]]
    banked(np.empty(3, "float32"), floats(1, 1, 1), 2, target=0)
    assert drive(target=0) == [[2, 2, 9]]


def test_a_driver_names_arguments(doubling: of.Session) -> None:
    @offload(auto=1)
    def drive(**named: Any) -> Any:
        out = np.zeros(2, "float32")
        instance().double(out, **named)
        return out.tolist()

    assert drive(n=2, a=floats(1, 2)) == [[2, 4]]
    for named, told in (
        ({"n": 2}, "kernel double: argument a is not given"),
        ({"n": 2, "a": floats(), "b": 1}, "argument b is none of out, a, n"),
        ({"n": 2, "a": floats(), "out": 1}, "argument out is given twice"),
    ):
        with pytest.raises(TypeError, match=told):
            drive(**named)


def test_threads_of_a_driver_take_turns_at_a_unit(doubling: of.Session) -> None:
    @offload(auto=1)
    def drive() -> Any:
        from concurrent.futures import ThreadPoolExecutor

        here, outs = instance(), [np.zeros(1, "float32") for _ in range(8)]

        def call(number: int) -> None:
            for _ in range(20):
                here.double(outs[number], floats(number), 1)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(8)))
        return [float(out[0]) for out in outs]

    assert drive() == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_an_instance_is_for_the_kernels_on_it(doubling: of.Session) -> None:
    @offload
    def drive() -> None:
        kept = sys.modules.setdefault("kept_instance", instance())
        kept.double(np.zeros(1, "float32"), floats(1), 1)  # type: ignore[attr-defined]

    drive(target=0)
    drive(target=0)
    with pytest.raises(of.DeviceError, match=r"unit double_1 belongs to .*double_1>, and .* on .*double_2>"):
        drive(target=1)


def test_an_instance_stays_where_it_is(doubling: of.Session) -> None:
    @offload(auto=1)
    def drive(unit: bool) -> Any:
        return instance().double if unit else instance()

    for unit in (False, True):
        with pytest.raises(of.ResultNotSerializable, match="stays on its device"):
            drive(unit)


def test_directions_that_are_not_the_circuits(doubling: of.Session) -> None:
    @offload(kernel="double")
    def turned(out: In, a: Out, n: int) -> None:
        pass

    @offload(kernel="double")
    def both(out: InOut, a: InOut, n: int) -> None:
        pass

    told = "out is Out in the circuit, and In in the function; a is In in the circuit, and Out in"
    with pytest.raises(of.DeviceError, match=told):
        turned(floats(0), floats(1), 1)
    [(out, a)] = both(floats(0), floats(1), 1)
    assert (out.tolist(), a.tolist()) == ([2], [1])


def minus(a: Any, b: Any, out: Any, n: int) -> None:
    out[:n] = a[:n] - b[:n]


@pytest.fixture
def subtracting(tmp_path: Path) -> Iterator[of.Session]:
    """Have units that do something else than the function, to tell them apart."""
    made = Xclbin([add], units=2, models={"vadd": minus}).write(tmp_path / "minus.xclbin")
    with of.connect(address(f"emu:{made}")) as session:
        yield session


def test_a_hardware_kernel_in_a_driver_runs_the_circuit(subtracting: of.Session) -> None:
    @offload(auto=1)
    def inner() -> Any:
        return add(floats(5), floats(3), np.empty(1, "float32"), 1)[0].tolist(), instance().units

    @offload(auto=1)
    def drive() -> Any:
        held = instance().array(floats(1, 1))
        out = np.empty(1, "float32")
        handle = add.launch(floats(5), floats(3), out, 1)
        found = handle.result().tolist(), inner()[0], instance().units
        instance().vadd(held, held, held, 2)
        with pytest.raises(of.DeviceError, match="no kernel 'split'"):
            split(np.arange(2, dtype="int32"), np.empty(1, "int32"), np.empty(1, "int32"))
        return *found, np.asarray(held).tolist()

    for unit, name in enumerate(("vadd_1", "vadd_2")):
        assert drive(target=unit) == [([2], ([2], [name]), [name], [0, 0])]


def test_a_process_that_a_nested_kernel_forks_has_no_instance(subtracting: of.Session) -> None:
    @offload(auto=1)
    def fork() -> int:
        import os

        child = os.fork()
        if not child:
            try:
                instance()
            except of.NotOnDevice:
                os._exit(7)
            os._exit(8)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @offload(auto=1)
    def drive() -> Any:
        return fork()[0]

    assert drive() == [7]


def test_a_function_in_the_place_of_a_circuit_calls_functions(tmp_path: Path) -> None:
    """What another hardware kernel's call in it means is that one's function, as on other devices."""

    @offload(kernel="twice")
    def twice(x: In("float32"), out: Out("float32")) -> None:  # type: ignore[valid-type]
        if len(x) > 1:
            twice(x[1:], out[1:])
        one = np.empty(1, "float32")
        add(x[:1], x[:1], one, 1)
        out[:1] = one

    def run() -> Any:
        return twice(floats(1, 2, 3), np.empty(3, "float32"))[0].tolist()

    with of.connect("inline"):
        here = run()
    with of.connect(address(f"emu:{Xclbin([twice]).write(tmp_path / 'twice.xclbin')}")):
        assert run() == offload(run)(target=0)[0] == here


def test_a_buffer_in_another_bank(device: str) -> None:
    @offload(auto=1)
    def drive() -> None:
        device = instance()
        wrong = device.empty(2, "float32", bank="HBM2")
        device.vadd(wrong, wrong, wrong, 2)

    with pytest.raises(of.DeviceMemoryError, match=r"argument a of vadd_. is in bank HBM2.*wired to HBM0"):
        drive()


@offload(kernel="spoil")
def spoil(a: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
    if n:
        out[:n] = a[:n]
    else:
        a[:] = 0


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[None]:
    """Have a device whose bitstream says which way arguments go, and what its times are."""
    timing = TimingModel(interval=2, depth=10, bandwidth={"DDR0": 1e6}, launch=0.5, link=1e8)
    made = Xclbin([spoil], banks=["DDR0", "DDR1"], wiring={"spoil.out": "DDR1"}, timing=timing, clock=100)
    with of.connect(f"emu:{made.write(tmp_path / 'spoil.xclbin')}"):
        yield


def test_buffers_that_nobody_has_written(strict: None) -> None:
    @offload(auto=1)
    def read() -> Any:
        return np.asarray(instance().empty(3, bank="DDR0")).copy()

    @offload(auto=1)
    def run() -> None:
        device = instance()
        out = device.empty(3, "float32", bank="DDR1")
        device.spoil(device.empty(3, "float32", bank="DDR0"), out, 3)

    @offload(auto=1)
    def written() -> Any:
        device = instance()
        out = device.empty(3, "float32", bank="DDR1")
        device.spoil(floats(1, 2, 3), out, 2)
        return np.asarray(out).copy()

    with pytest.raises(of.EmulationError, match="a buffer of bank DDR0 is read that was never written"):
        read()
    with pytest.raises(of.EmulationError, match=r"argument a \(In\) points to a buffer of bank DDR0"):
        run()
    found = written()[0]
    assert found[:2].tolist() == [1, 2] and np.isnan(found[2]), "what is not written, shows"


def test_a_model_that_goes_too_far(strict: None) -> None:
    with pytest.raises(of.EmulationError, match="argument a has 2 elements, and a slice of it reaches to 3"):
        spoil(floats(1, 2), floats(0, 0), 3)
    with pytest.raises(ValueError, match="read-only"):
        spoil(floats(1, 2), floats(0, 0), 0)


def test_a_buffer_of_another_type_than_the_circuits(strict: None) -> None:
    @offload(auto=1)
    def drive() -> None:
        device = instance()
        device.spoil(device.array(np.ones(1), bank="DDR0"), np.ones(1, "float32"), 1)

    with pytest.raises(TypeError, match="argument a has dtype float64, and the circuit takes"):
        drive()


def test_predicted_times_stand_beside_those_that_were_measured(strict: None) -> None:
    @offload(auto=1)
    def drive() -> Any:
        unit = instance().spoil
        before = unit.predicted, unit.busy
        for size in (1, 1000):
            unit(np.ones(size, "float32"), np.empty(size, "float32"), 1)
        return unit.predicted - before[0], unit.busy - before[1]

    handle = drive.launch()
    predicted, busy = handle.result()
    assert predicted == pytest.approx(2 * 0.5 + 4e-6 + 4000e-6), "its bank is what it waits for"
    assert 0 < busy < 0.5
    (timing,) = handle.timing
    assert timing.predicted == pytest.approx(predicted)
    assert timing.compute == pytest.approx(busy)
    assert (timing.to_device, timing.from_device) == (8 * 1001, 8 * 1001), (
        "a driver says of none which way it goes"
    )
    assert timing.predicted_transfer == pytest.approx(16 * 1001 / 1e8)


def test_what_is_predicted_is_of_one_launch(strict: None) -> None:
    for size in (100, 1):
        handle = spoil.launch(np.ones(size, "float32"), np.empty(size, "float32"), 1)
        handle.wait()
        assert handle.timing[0].predicted == pytest.approx(0.5 + size * 4e-6)
        assert handle.timing[0].predicted_transfer == pytest.approx(8 * size / 1e8)


def test_what_a_drivers_own_threads_do_is_counted(strict: None) -> None:
    @offload(auto=1)
    def drive() -> Any:
        here, unit = instance(), instance().spoil
        before = unit.busy

        def work() -> None:
            held = here.array(np.ones(100, "float32"), bank="DDR0")
            out = here.empty(100, "float32", bank="DDR1")
            unit(held, out, 100)
            np.asarray(out)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return unit.busy - before

    handle = drive.launch()
    busy = handle.result()
    (timing,) = handle.timing
    assert (timing.to_device, timing.from_device) == (1600, 1600)
    assert timing.compute == pytest.approx(busy) and timing.transfer is not None and timing.transfer > 0
    assert timing.predicted == pytest.approx(4 * (0.5 + 400e-6))
    assert timing.predicted_transfer == pytest.approx(3200 / 1e8)


def splitting(verify: Any) -> Any:
    @offload(kernel="split", verify=verify)
    def split(x: In("int32"), low: Out("int32"), high: Out("int32")) -> None:  # type: ignore[valid-type]
        low[:], high[:] = x[: len(low)], x[len(low) :]

    return split


def split_once(kernel: Any) -> None:
    kernel(np.arange(5, dtype="int32"), np.empty(2, "int32"), np.empty(3, "int32"))


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[None]:
    """Have a unit that gets the last bit of its third run, and of all that follow, wrong."""
    made = Xclbin([splitting(None)], faults={"split_1": Fault("flip", after=2)})
    with of.connect(address(f"emu:{made.write(tmp_path / 'split.xclbin')}")):
        yield


def test_every_launch_is_verified(faulty: None) -> None:
    kernel = splitting(1)
    split_once(kernel)
    split_once(kernel)
    told = r"high differs from what the reference gives: in 1 of 3 places, .* it is 3 and should be 2"
    with pytest.raises(of.VerificationError, match=told):
        split_once(kernel)


def test_a_share_of_launches_is_verified(faulty: None) -> None:
    kernel = splitting(0.25)
    for _ in range(4):
        split_once(kernel)  # the first is compared, and right
    with pytest.raises(of.VerificationError):
        split_once(kernel)


def test_a_difference_that_is_allowed_or_warned_of(faulty: None) -> None:
    kernel = splitting(of.Verify(1, atol=1))
    for _ in range(4):
        split_once(kernel)
    with pytest.warns(UserWarning, match="high differs") as warned:
        split_once(splitting(of.Verify(1, warn=True)))
    assert warned[0].filename == __file__
    handle = splitting(of.Verify(1, warn=True)).launch(
        np.arange(5, dtype="int32"), np.empty(2, "int32"), np.empty(3, "int32")
    )
    with pytest.warns(UserWarning, match="high differs") as warned:
        handle.wait()
    assert warned[0].filename == __file__


def test_the_reference_itself_is_not_verified() -> None:
    with of.connect("inline"):
        split_once(splitting(1))


def test_whole_numbers_are_compared_to_the_last_bit(tmp_path: Path) -> None:
    @offload(kernel="high", verify=1)
    def high(x: In("uint64"), y: Out("uint64")) -> None:  # type: ignore[valid-type]
        y[:] = x + np.uint64(2**60)

    made = Xclbin([high], faults={"high_1": Fault("flip", after=1)}).write(tmp_path / "high.xclbin")
    with of.connect(address(f"emu:{made}")):
        zeros = np.zeros(3, "uint64")
        high(zeros, np.empty(3, "uint64"))
        with pytest.raises(of.VerificationError, match="it is 1152921504606846977 and should be"):
            high(zeros, np.empty(3, "uint64"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(
    "values", [[1, 1, 1], [0, 0, 0], [1e4, 1e4, 1e4], [0, 1e4, 2e4], [np.nan, 0, -3e4], [np.nan] * 3]
)
def test_a_bit_that_flips_is_seen(tmp_path: Path, dtype: str, values: list[float]) -> None:
    @offload(kernel="copy", verify=1)
    def copy(x: In, y: Out) -> None:
        y[:] = x

    made = Xclbin([copy], faults={"copy_1": Fault("flip", after=1)}).write(tmp_path / "copy.xclbin")
    with of.connect(address(f"emu:{made}")):
        given = np.array(values, dtype)
        copy(given, np.empty(3, dtype))
        with pytest.raises(of.VerificationError, match="in 1 of 3 places"):
            copy(given, np.empty(3, dtype))


def test_what_a_function_leaves_unwritten_is_not_compared(tmp_path: Path) -> None:
    @offload(kernel="heads", verify=1)
    def heads(x: In("float32"), f: Out("float32"), i: Out("int32"), n: int) -> None:  # type: ignore[valid-type]
        f[:n], i[:n] = x[:n], x[:n]

    def writes_all(x: Any, f: Any, i: Any, n: int) -> None:
        f[:], i[:] = x, x

    given = np.arange(8, dtype="float32"), np.zeros(8, "float32"), np.zeros(8, "int32")
    for models in ({}, {"heads": writes_all}):
        faults = {"heads_1": Fault("flip", after=1)}  # of the first place
        made = Xclbin([heads], models=models, faults=faults).write(tmp_path / "heads.xclbin")
        with of.connect(address(f"emu:{made}")):
            heads(*given, 4)
            with pytest.raises(of.VerificationError, match=r"i differs .*: in 1 of 4 places, most at \[0\]"):
                heads(*given, 4)
            with contextlib.ExitStack() as stack:
                for name in "fi" if models else "i":  # that is where the bit flips
                    stack.enter_context(pytest.warns(UserWarning, match=f"nothing of {name} was compared"))
                heads(*given, 0)


class Unready(Exception):
    def __init__(self, *, place: int) -> None:
        super().__init__(f"place {place} is not ready")


@pytest.mark.parametrize("kind", [KeyError, Unready, of.NotOnDevice])
def test_a_function_that_fails_when_it_is_compared_tells_where(tmp_path: Path, kind: type[Exception]) -> None:
    @offload(kernel="vadd", verify=1)
    def vadd(a: In("float32"), out: Out("float32")) -> None:  # type: ignore[valid-type]
        raise Unready(place=3) if kind is Unready else kind("not ready")

    def twice(a: Any, out: Any) -> None:
        out[:] = a + a

    made = Xclbin([vadd], models={"vadd": twice}).write(tmp_path / "vadd.xclbin")
    with of.connect(address(f"emu:{made}")):
        handle = vadd.launch(np.ones(2, "float32"), np.empty(2, "float32"))
        for _ in range(2):
            with pytest.raises(kind, match="not ready") as raised:
                handle.result()
            assert "raise Unready(place=3) if" in str(raised.value.__cause__)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 on, where there are threads
def test_a_forked_child_runs_no_reference_for_a_circuit(tmp_path: Path) -> None:
    @offload(kernel="vadd")
    def vadd(a: In("float32"), out: Out("float32")) -> None:  # type: ignore[valid-type]
        out[:] = -1

    @offload(auto=1)
    def plain(x: int) -> int:
        return x

    def twice(a: Any, out: Any) -> None:
        out[:] = a + a

    def launch() -> Any:
        return vadd(np.ones(1, "float32"), np.empty(1, "float32"))[0].tolist()

    made = Xclbin([vadd], models={"vadd": twice}).write(tmp_path / "vadd.xclbin")
    told, tell = os.pipe()
    with of.connect(address(f"emu:{made}")):
        assert launch() == [2]
        child = os.fork()
        if not child:
            said = []
            for use in (launch, lambda: plain(5), lambda: of.connect("inline") and launch()):
                try:
                    said.append(str(use()))
                except BaseException as error:
                    said.append(f"{type(error).__name__}: {error}")
            os.write(tell, "\n".join(said).encode())
            os._exit(0)
        os.waitpid(child, 0)
        refused, *others = os.read(told, 10_000).decode().splitlines()
        assert re.fullmatch(
            r"DeviceUnavailable: kernel .*vadd: .* is the device of the process that this one was forked "
            r"from; offload.connect\(...\) says where .*",
            refused,
        )
        assert others == ["[5]", "[-1.0]"]
        assert launch() == [2]
    os.close(told)
    os.close(tell)


def test_a_function_that_writes_nothing_is_told_of(tmp_path: Path) -> None:
    @offload(kernel="vadd", verify=1)
    def vadd(a: In("float32"), out: Out("float32")) -> None:  # type: ignore[valid-type]
        out = a + a  # noqa: F841

    def twice(a: Any, out: Any) -> None:
        out[:] = a + a

    made = Xclbin([vadd], models={"vadd": twice}).write(tmp_path / "vadd.xclbin")
    with of.connect(address(f"emu:{made}")):
        told = r"vadd: nothing of out was compared: its function writes nothing to it, as out\[:\] = ... does"
        with pytest.warns(UserWarning, match=told) as warned:
            assert vadd(np.ones(2, "float32"), np.empty(2, "float32"))[0].tolist() == [2, 2]
        assert warned[0].filename == __file__


def test_a_sum_that_cancels_is_not_wrong(tmp_path: Path) -> None:
    @offload(kernel="product", verify=1)
    def product(a: In, b: In, out: Out) -> None:
        np.matmul(a, b, out=out)

    def in_another_order(a: Any, b: Any, out: Any) -> None:
        out[:] = 0
        for column, row in zip(np.asarray(a).T, np.asarray(b), strict=True):
            out += np.outer(column, row)

    faults = {"product_1": Fault("flip", after=4)}
    made = Xclbin([product], models={"product": in_another_order}, faults=faults)
    rng = np.random.default_rng(0)

    def launch(dtype: str) -> None:
        a, b = (rng.standard_normal((256, 256)).astype(dtype) for _ in range(2))
        product(a, b, np.empty((256, 256), dtype))

    with of.connect(address(f"emu:{made.write(tmp_path / 'product.xclbin')}")):
        for dtype in ("float32", "float64", "complex64", "complex128"):
            launch(dtype)
        with pytest.raises(of.VerificationError, match="in 1 of 65,536 places"):
            launch("float32")


@pytest.mark.parametrize(
    ("verify", "seen"), [(of.Verify(1), False), (of.Verify(1, atol=0), True), (of.Verify(1, rtol=1e-7), True)]
)
def test_what_is_small_beside_the_others_is_rounding(tmp_path: Path, verify: of.Verify, seen: bool) -> None:
    @offload(kernel="copy", verify=verify)
    def copy(x: In("float32"), y: Out("float32")) -> None:  # type: ignore[valid-type]
        y[:] = x

    def off(x: Any, y: Any) -> None:
        y[:] = x
        y[0] += 5e-6

    made = Xclbin([copy], models={"copy": off}).write(tmp_path / "copy.xclbin")
    with of.connect(address(f"emu:{made}")):
        given = np.array([1e-6, np.nan, np.inf, -1, 1, 2], "float32"), np.empty(6, "float32")
        if not seen:
            copy(*given)
            return
        with pytest.raises(of.VerificationError, match="in 1 of 6 places"):
            copy(*given)


def test_one_large_number_does_not_hide_what_is_wrong(tmp_path: Path) -> None:
    @offload(kernel="copy", verify=1)
    def copy(x: In("float32"), y: Out("float32")) -> None:  # type: ignore[valid-type]
        y[:] = x

    def off(x: Any, y: Any) -> None:
        y[:] = np.where(x < 0, x, 3 * x)

    with of.connect(address(f"emu:{Xclbin([copy], models={'copy': off}).write(tmp_path / 'copy.xclbin')}")):
        for large in (-9999, -3e38):
            with pytest.raises(of.VerificationError, match="in 2 of 3 places"):
                copy(np.array([large, 0.01, 0.02], "float32"), np.empty(3, "float32"))


@pytest.mark.parametrize("share", [np.float32(0.5), np.int64(1), Fraction(1, 4)])
def test_a_share_may_be_any_real_number(share: Any) -> None:
    assert type(of.Verify(share).share) is float and of.Verify(share).share == share
    assert splitting(share)._body.verify.rtol is None


@pytest.mark.parametrize("given", [-0.1, 2, True, "often", np.True_, 1j, float("nan")])
def test_a_share_that_cannot_be(given: Any) -> None:
    with pytest.raises(of.OptionError, match="Verify: share="):
        splitting(given)


def test_verifying_is_for_hardware_kernels() -> None:
    with pytest.raises(of.OptionError, match="verify= is for hardware kernels"):
        offload(verify=0.5)  # type: ignore[call-overload]


# ---- manifests -------------------------------------------------------------------------


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[of.Session]:
    instances = [
        {"units": ["vadd_1", "vadd_2", "scale_1"], "batch": 3},
        {"units": ["split_1"], "banks": {"split.low": "HBM2"}, "batch": 1},
    ]
    made = of.Manifest(written(tmp_path, with_units(bitstream(), 2)), instances).write(tmp_path / "made.toml")
    with of.connect(f"emu:{made}") as session:
        yield session


@offload(auto=1)
def about(name: str) -> Any:
    here = instance()
    return here.units, here.batch, getattr(here, name).unit.name


def test_instances_of_a_manifest(grouped: of.Session) -> None:
    assert grouped.batches == (3, 1)
    units = ["vadd_1", "vadd_2", "scale_1"]
    assert about("vadd", target=0) == [(units, 3, "vadd_1")]
    assert about("vadd_2", target="vadd_2") == [(units, 3, "vadd_2")]
    assert about("split", target=1) == [(["split_1"], 1, "split_1")]
    with pytest.raises(AttributeError, match=r"no kernel or unit 'vadd' .* it has split, split_1"):
        about("vadd", target=1)


def test_a_launch_goes_where_the_kernel_is(grouped: of.Session) -> None:
    out = np.zeros(1, "float32")
    add(floats(1), floats(2), out, 1, target="vadd_1")
    assert out.tolist() == [3]
    told = r"target='vadd_2' is not the first unit of vadd on instance 0: it runs on vadd_1 there"
    with pytest.raises(of.OptionError, match=told):
        add(floats(1), floats(2), out, 1, target="vadd_2")
    with pytest.raises(of.OptionError, match=told):
        next(add.options(target="vadd_2").map([floats(1)], [floats(2)], [out], [1]))
    with pytest.raises(of.OptionError, match=r"instance 1 of emu:.* no unit of vadd; target= one of vadd_1"):
        add(floats(1), floats(2), out, 1)


def test_a_bank_that_a_manifest_names(grouped: of.Session) -> None:
    low, high = np.empty(2, "int32"), np.empty(1, "int32")
    split(np.arange(3, dtype="int32"), low, high, target="split_1")
    assert low.tolist() == [0, 1]
    there = grouped.array(low, "HBM1")
    with pytest.raises(of.DeviceMemoryError, match="low is in bank HBM1, and unit split_1 is wired to HBM2"):
        split(np.arange(3, dtype="int32"), there, high, target="split_1")


def test_the_first_unit_of_a_kernel_is_the_manifests(tmp_path: Path) -> None:
    wiring = {"vadd_1.a": "HBM0", "vadd_2.a": "HBM1", "vadd.b": "HBM0", "vadd.out": "HBM0"}
    made = Xclbin([add], units=2, banks=["HBM0", "HBM1"], wiring=wiring).write(tmp_path / "two.xclbin")
    path = of.Manifest(made, [{"units": ["vadd_2", "vadd_1"]}]).write(tmp_path / "two.toml")
    with of.connect(f"emu:{path}") as session:
        out = np.empty(1, "float32")
        assert add(session.array(floats(1), "HBM1"), floats(2), out, 1)[0].tolist() == [3]
        with pytest.raises(of.DeviceMemoryError, match="a is in bank HBM0, and unit vadd_2 is wired to HBM1"):
            add(session.array(floats(1), "HBM0"), floats(2), out, 1)
