"""The device of an FPGA: how it is opened and refused, and what happens when its units go wrong."""

from __future__ import annotations

import enum
import errno
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address, on_cards, written
from gates import Gate
from hardware_kernels import add, bitstream, scale
from programs import Program

import offload as of
from device_runtime.fpga.writing import pack
from offload import In, Out, offload
from offload.core import instance
from offload.session import session
from offload.testing import Fault, Xclbin

PYNQ = importlib.util.find_spec("pynq") is not None
pytestmark = pytest.mark.timeout(100)  # an owner takes its time to start
needs_pynq = pytest.mark.skipif(not PYNQ, reason="needs pynq")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def connected(here: Path) -> Iterator[Any]:
    """Return what opens a device with a bitstream, and some of its address."""

    def connect(made: Xclbin, more: str = "") -> None:
        made.write("test.xclbin")
        of.connect(address(f"emu:test.xclbin{more}"))

    yield connect
    of.shutdown()


def added(*values: float) -> list[float]:
    """Return the sums of some values with themselves, as the circuit has them."""
    given = np.array(values, "float32")
    found: list[float] = add(given, given, np.empty_like(given), len(given))[0].tolist()
    return found


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("emu:", "behind the colon stands a bitstream, as in 'emu:vadd.xclbin'"),
        ("pynq:?device=1", "behind the colon stands a bitstream"),
        ("emu:a.xclbin?unit=2", "there is no 'unit' to be set; there is units, clock, device, timeout, wait"),
        ("pynq:a.xclbin?units=2", "there is no 'units' to be set; there is device, timeout, wait"),
        ("emu:a.xclbin?units=2&units=3", "units is set twice"),
        ("emu:a.xclbin?units=x", "units='x' must be a number from 1 to 64"),
        ("emu:a.xclbin?units=0", "units='0' must be a number"),
        ("emu:a.xclbin?clock=0", "clock='0' must be a number from 1 to 10000"),
        ("emu:a.xclbin?timeout=0", "timeout='0' must be a number above 0, up to 1e\\+06"),
        ("emu:a.xclbin?timeout=nan", "timeout='nan' must be a number"),
    ],
)
def test_addresses_that_cannot_be_meant(address: str, told: str) -> None:
    with pytest.raises(of.OptionError, match=told):
        of.connect(address)


def test_files_that_are_no_bitstreams(here: Path) -> None:
    with pytest.raises(of.BitstreamError, match=r"none\.xclbin cannot be read: No such file"):
        of.connect("emu:none.xclbin")
    for path in ("a\0b.xclbin", "a\0b.toml", "a\ud800.xclbin", "a\ud800b/c.toml"):
        with pytest.raises(of.OptionError, match="no file can be called so: "):
            of.connect(f"emu:{path}")
    here.joinpath("nul.toml").write_text('bitstream = "a\\u0000b.xclbin"\n[[instances]]\nunits = ["vadd_1"]')
    with pytest.raises(of.BitstreamError, match="zero byte"):
        of.connect("emu:nul.toml")
    for path in ("pipe.xclbin", "pipe.toml", "pipe.bit"):
        os.mkfifo(path)
    for path in ("emu:pipe.xclbin", "emu:/dev/zero", "emu:pipe.toml", "pynq:pipe.bit"):
        with pytest.raises(of.OffloadError, match=r"cannot be read: .*it is a pipe, a socket or a device"):
            of.connect(path)
    here.joinpath("other.xclbin").write_bytes(b"#!/bin/sh")
    with pytest.raises(of.BitstreamError, match="this is no xclbin file"):
        of.connect("emu:other.xclbin")
    here.joinpath("short.xclbin").write_bytes(pack(bitstream())[:-9])
    with pytest.raises(of.BitstreamError, match="truncated or damaged"):
        of.connect("pynq:short.xclbin")


def test_kernels_with_different_numbers_of_units(here: Path) -> None:
    Xclbin([add, scale], units={"vadd": 2}).write("a.xclbin")
    with pytest.raises(of.DeviceUnavailable, match="2 of vadd, 1 of scale"):
        of.connect("emu:a.xclbin")


@pytest.mark.skipif(PYNQ, reason="for where pynq is not installed")
def test_without_pynq(here: Path) -> None:
    Xclbin([add]).write("a.xclbin")
    for kind in ("emu", "pynq"):
        with pytest.raises(
            of.DeviceUnavailable, match=r"pynq cannot be imported.*pip install 'offload\[alveo\]'"
        ):
            of.connect(f"{kind}:a.xclbin")


@needs_pynq
def test_models_that_do_not_load(here: Path) -> None:
    made = bitstream()._replace(circuit=b"no pickle")
    here.joinpath("a.xclbin").write_bytes(pack(made))
    with pytest.raises(of.DeviceUnavailable, match=r"do not load here .* for the Python they were"):
        of.connect("emu:a.xclbin")
    here.joinpath("a.xclbin").write_bytes(pack(made._replace(circuit=b"cnot_there\nmodel\n.")))
    with pytest.raises(of.DeviceUnavailable, match="module 'not_there', which has to be beside the script"):
        of.connect("emu:a.xclbin")


@needs_pynq
def test_the_file_is_read_once(connected: Any, here: Path) -> None:
    """What becomes of it afterwards is no concern of the device's, also when it starts again."""
    if on_cards():
        pytest.skip("a card's file is read again")
    connected(Xclbin([add]), "?units=2")
    here.joinpath("test.xclbin").unlink()
    os.chdir("/")
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=1)(3)
    assert added(1, 2) == [2, 4]


@needs_pynq
def test_a_unit_that_hangs(connected: Any) -> None:
    connected(Xclbin([add], units=2, faults={"vadd_2": Fault("hang", after=2)}), "?timeout=0.2")
    one = np.ones(2, "float32")
    for _ in range(2):
        assert add(one, one, np.empty(2, "float32"), 2, target="vadd_2")[0].tolist() == [2, 2]
    out = np.full(2, 7, "float32")
    with pytest.raises(of.DeviceError, match=r"unit vadd_2 has not ended .*registers from 0x0 on: 00000000"):
        add(one, one, out, 2, target="vadd_2")
    assert out.tolist() == [7, 7]
    assert added(1, 2) == [2, 4]
    assert add(one, one, out, 2, target="vadd_2")[0].tolist() == [2, 2]


@needs_pynq
@pytest.mark.parametrize("size", [2, 50_000])
def test_a_unit_that_does_not_come_back(connected: Any, size: int) -> None:
    """It hangs again where it is given what the other one has an answer to."""
    connected(Xclbin([add], units=2, faults={"vadd_2": Fault("hang")}), "?timeout=0.2")
    one, out = np.ones(size, "float32"), np.empty(size, "float32")
    assert add(one, one, out, 2, target="vadd_1")[0][:2].tolist() == [2, 2]
    with pytest.raises(of.DeviceError, match="unit vadd_2 has not ended"):
        add(one, one, out, 2, target="vadd_2")
    with pytest.raises(of.NoUnitsError, match=r"core 1 of .* is gone: unit vadd_2 has not ended after"):
        add(one, one, out, 2, target="vadd_2")
    for _ in range(4):
        assert added(1, 2) == [2, 4]


@needs_pynq
def test_what_was_sent_to_a_unit_that_does_not_come_back_goes_to_another(connected: Any) -> None:
    connected(Xclbin([add], units=2, faults={"vadd_2": Fault("hang")}), "?timeout=0.2")
    ones = np.ones(2, "float32")
    for _ in range(50):  # now it is known to be short, so that several are sent to a unit
        add.launch(ones, ones, np.empty(2, "float32"), 2, target="vadd_1").result()
    hangs = add.launch(ones, ones, np.empty(2, "float32"), 2, target="vadd_2")
    others = [add.launch(ones, ones, np.empty(2, "float32"), 2) for _ in range(20)]
    with pytest.raises(of.DeviceError, match="unit vadd_2 has not ended"):
        hangs.result()
    assert [one.result().tolist() for one in others] == [[2, 2]] * 20
    with pytest.raises(of.NoUnitsError, match="core 1 of"):
        add(ones, ones, np.empty(2, "float32"), 2, target="vadd_2")


@needs_pynq
def test_a_unit_that_hangs_again_and_again(connected: Any) -> None:
    """Where nothing is known that it once gave, three times in a row are enough."""
    connected(Xclbin([add], faults={"vadd_1": Fault("hang")}), "?timeout=0.1")

    @offload(auto=1)
    def drive() -> None:
        ones = np.ones(2, "float32")
        instance().vadd(ones, ones, np.empty(2, "float32"), 2)

    for _ in range(3):
        with pytest.raises(of.DeviceError, match="unit vadd_1 has not ended"):
            drive()
    with pytest.raises(
        of.NoUnitsError, match="unit vadd_1 has hung, or not answered, 3 times in a row; it is not used any"
    ):
        drive()


@needs_pynq
def test_what_cannot_be_foretold_condemns_no_unit(connected: Any) -> None:
    """It gives random numbers, and leaves the rest of its array as it was."""

    @offload(kernel="vadd")
    def odd(out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
        out[:n] = np.random.default_rng().random(n)
        out[0] = n

    connected(Xclbin([odd], units=2))
    for unit in (0, 1):
        odd(np.empty(8, "float32"), 4, target=unit)
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(3)
    for unit in (0, 1):
        assert odd(np.empty(8, "float32"), 4, target=unit)[0][0] == 4


@needs_pynq
def test_the_function_of_a_kernel_does_not_run_beside_its_circuit(connected: Any, here: Path) -> None:
    @offload(kernel="vadd")
    def told(a: In("float32"), out: Out("float32")) -> None:  # type: ignore[valid-type]
        Path("ran").touch()
        os._exit(3)

    def circuit(a: Any, out: Any) -> None:
        out[:] = a + 1

    connected(Xclbin([told], models={"vadd": circuit}))
    for _ in range(2):
        assert told(np.ones(2, "float32"), np.empty(2, "float32"))[0].tolist() == [2, 2]
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(3)
    assert told(np.ones(2, "float32"), np.empty(2, "float32"))[0].tolist() == [2, 2]
    assert not here.joinpath("ran").exists()


@needs_pynq
def test_launches_wait_for_room(connected: Any) -> None:
    """Two units have a bank that is too small for two launches at once."""

    @offload(kernel="vadd")
    def slow(a: In("uint8"), out: Out("uint8")) -> None:  # type: ignore[valid-type]
        import time

        time.sleep(0.02)  # the circuit takes its time
        out[:] = a + 1

    connected(Xclbin([slow], units=2, banks={"DDR0": "1M"}))
    given = np.zeros(320 << 10, "uint8")
    handles = [slow.launch(given, np.empty_like(given)) for _ in range(6)]
    assert [handle.result()[-1] for handle in handles] == [1] * 6
    large = np.zeros(640 << 10, "uint8")
    with pytest.raises(of.DeviceMemoryError, match="bank DDR0 has no room for 655,360 bytes: 393,216 of its"):
        slow(large, np.empty_like(large))


@needs_pynq
def test_a_file_that_was_written_anew(connected: Any, here: Path) -> None:
    def other(a: Any, b: Any, out: Any, n: int) -> None:
        out[:n] = 100

    if on_cards():
        pytest.skip("each of its addresses names another card")
    connected(Xclbin([add]))
    first, bytes_of_it = session(), here.joinpath("test.xclbin").read_bytes()
    assert of.connect("emu:test.xclbin") is first
    here.joinpath("test.xclbin").unlink()
    assert of.connect("emu:test.xclbin") is first
    here.joinpath("test.xclbin").write_bytes(bytes_of_it[:-1])
    with pytest.raises(of.BitstreamError, match="truncated or damaged"):
        of.connect("emu:test.xclbin")
    with pytest.raises(
        of.DeviceUnavailable, match="was opened with another bitstream than it names now: shut"
    ):
        connected(Xclbin([add], models={"vadd": other}))
    assert added(1) == [2]
    first.shutdown()
    assert of.connect("emu:test.xclbin") is not first
    assert added(1) == [100]


@needs_pynq
def test_a_driver_may_tell_a_circuit_something_that_it_keeps(connected: Any) -> None:
    """Then what came back is no answer for a circuit that was told nothing."""

    class Adder:
        more = 0

        def __call__(self, out: Any, n: int) -> None:
            if n:
                self.more = n
            out[:] = self.more

    @offload(kernel="vadd")
    def keep(out: Out("int32"), n: int) -> None:  # type: ignore[valid-type]
        pass

    @offload(auto=1)
    def drive() -> Any:
        out = np.zeros(2, "int32")
        instance().vadd(out, 5)
        instance().vadd(out, 0)
        return out.tolist()

    connected(Xclbin([keep], models={"vadd": Adder()}))
    for _ in range(2):
        assert drive() == [[5, 5]]
        assert keep(np.zeros(2, "int32"), 0)[0].tolist() == [5, 5]
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(3)
    assert drive() == [[5, 5]]


@needs_pynq
def test_numbers_of_types_that_an_owner_does_not_know(connected: Any) -> None:
    class Mode(enum.IntEnum):
        ADD = 2

    connected(Xclbin([add]))
    one = np.ones(2, "float32")
    for number in (Mode.ADD, np.int32(2), Mode.ADD):
        assert add(one, one, np.empty(2, "float32"), number)[0].tolist() == [2, 2]
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(3)


@needs_pynq
def test_a_unit_that_was_wrong_from_the_first_condemns_no_others(connected: Any) -> None:
    connected(Xclbin([add], units=3, faults={"vadd_1": Fault("flip")}))
    one = np.ones(2, "float32")
    assert not np.allclose(add(one, one, np.empty(2, "float32"), 2, target=0)[0], 2)
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(3)
    for unit in (1, 2):
        assert add(one, one, np.empty(2, "float32"), 2, target=unit)[0].tolist() == [2, 2]


@needs_pynq
def test_a_unit_that_comes_back_and_is_wrong(connected: Any, here: Path) -> None:
    @offload(kernel="vadd")
    def odd(a: In("float32"), out: Out("float32")):  # type: ignore[valid-type, no-untyped-def]
        import os
        import time

        time.sleep(0.0 if a[0] == 1 else 1.0)
        out[:] = a + (0 if os.path.exists("right") else 1)

    here.joinpath("right").touch()
    connected(Xclbin([odd]), "?timeout=0.2")
    ones = np.ones(2, "float32")
    assert odd(ones, np.empty(2, "float32"))[0].tolist() == [1, 1]
    here.joinpath("right").unlink()
    with pytest.raises(of.LaunchTimeout):
        odd(ones * 2, np.empty(2, "float32"), timeout=0.1, retries=0)
    with pytest.raises(of.NoUnitsError, match="vadd_1 does not give the answer any more that it gave"):
        odd(ones, np.empty(2, "float32"))


@needs_pynq
def test_a_device_that_does_not_load_again(
    connected: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up when that has taken too long five times."""
    stuck = here.joinpath("stuck")

    class Model:
        def __reduce__(self) -> Any:
            return load, (str(stuck),)

        def __call__(self, a: Any, b: Any, out: Any, n: int) -> None:
            out[:n] = a[:n] + b[:n]

    def load(path: str) -> Model:
        import os
        import threading

        if os.path.exists(path):
            threading.Event().wait()
        return Model()

    class Impatient:
        def __init__(self, nanoseconds: int) -> None:
            assert nanoseconds == 60 * 10**9
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        def fileno(self) -> int:
            return self._event

        def set(self, on: bool) -> None:
            if on and stuck.exists():
                os.eventfd_write(self._event, 1)

        def hear(self) -> None:
            os.eventfd_read(self._event)

        def close(self) -> None:
            os.close(self._event)

    monkeypatch.setattr("device_runtime.fpga.device.Alarm", Impatient)
    connected(Xclbin([add], models={"vadd": Model()}))
    assert added(1) == [2]
    stuck.touch()
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(3)
    with pytest.raises(of.NoUnitsError, match=r"was not loaded within 60 s.*5 in a row"):
        added(1)


@needs_pynq
def test_a_bus_that_fails(connected: Any) -> None:
    """What is read then looks as if the unit were done."""
    connected(Xclbin([add], faults={"vadd_1": Fault("error", after=2)}))
    assert added(1, 2) == [2, 4]
    assert added(1, 2) == [2, 4]
    told = r"unit vadd_1 does not answer: .*registers from 0x0 on: ffffffff ffffffff"
    with pytest.raises(of.DeviceError, match=told):
        added(1, 2)
    assert added(1, 2) == [2, 4], "the device was set up anew"


@needs_pynq
def test_what_is_told_of_a_unit_may_be_long(connected: Any, here: Path) -> None:
    """Who waits for it is told that it is gone, with as much of that as helps."""

    mark = str(here / "mark")

    def model(a: Any, b: Any, out: Any, n: int) -> None:
        import os

        if os.path.exists(mark):
            raise ValueError("x" * 100_000)
        out[:n] = a[:n] + b[:n]

    connected(Xclbin([add], models={"vadd": model}))
    assert added(1) == [2]
    Path(mark).touch()
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=0)(3)
    with pytest.raises(of.NoUnitsError, match=r"vadd_1 fails: .*ValueError.*x \.\.\. \(100,\d* characters\)"):
        added(1)


@needs_pynq
def test_registers_that_lie_far_apart(connected: Any, here: Path) -> None:
    made = Xclbin([add], faults={"vadd_1": Fault("hang")}).bitstream
    (kernel,) = made.kernels
    far = kernel.arguments[3]._replace(offset=0xFFF0)
    made = made._replace(kernels=(kernel._replace(arguments=(*kernel.arguments[:3], far)),))
    written(here, made)
    of.connect(address("emu:test.xclbin?timeout=0.2"))
    with pytest.raises(of.DeviceError, match=r"from 0x0 on: 0.* 00000000, from 0xfff0 on: 00000002$"):
        added(1, 2)


@needs_pynq
def test_what_an_owner_is_told_may_be_long(connected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path, *(f"/nowhere/{n:0200}" for n in range(2000))])
    connected(Xclbin([add], units=2))
    assert added(1) == [2]


@needs_pynq
def test_warnings_of_the_driver_are_no_errors(connected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    connected(Xclbin([add]))
    assert added(1) == [2]


def test_more_units_than_files_may_be_open(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runtime.fpga.device.allow_descriptors", lambda more: (more, 100))
    Xclbin([add], units=64).write("test.xclbin")
    with pytest.raises(
        of.DeviceUnavailable, match=r"has 64 units, and needs 552 open files; .* may have 100"
    ):
        of.connect("emu:test.xclbin")


def test_a_device_that_cannot_be_started_keeps_nothing_open(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    Xclbin([add], units=8).write("test.xclbin")
    with pytest.raises(of.OptionError):
        of.connect("emu:test.xclbin?units=0")  # what is loaded the first time, is
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("subprocess.Popen", refused)
    with pytest.raises(of.DeviceUnavailable, match="Resource temporarily unavailable"):
        of.connect("emu:test.xclbin")
    assert os.listdir("/proc/self/fd") == before


@needs_pynq
def test_an_owner_ends_with_its_host_whatever_it_runs(program: Callable[..., Program], here: Path) -> None:
    """Also where a kernel never lets others have the interpreter: the card is free, and nothing is left."""
    if on_cards():
        pytest.skip("it is the emulated one")
    path, gate = Xclbin([add]).write(here / "test.xclbin"), Gate.make(here / "gate")
    script = program(
        "-c",
        f"""if True:
        import offload as of
        from offload import offload

        @offload(target=0)
        def spin():
            with open({gate.here!r}, "w"):
                pass
            sum(range(10**13))

        of.connect("emu:{path}?device=11&wait=60")
        spin()
        """,
    )
    gate.wait()
    os.kill(script.number, signal.SIGKILL)
    with of.connect("emu:test.xclbin?device=11&wait=60"):
        assert added(1) == [2]


@needs_pynq
def test_a_unit_that_is_slow(connected: Any) -> None:
    connected(Xclbin([add], faults={"vadd_1": Fault("slow", seconds=0.05)}))
    assert added(1, 2) == [2, 4]


@needs_pynq
def test_a_bit_that_flips(connected: Any) -> None:
    connected(Xclbin([add], faults={"vadd_1": Fault("flip", after=1)}))
    assert added(1, 2) == [2, 4]
    wrong = added(1, 2)
    assert wrong[0] == 2 and not np.isclose(wrong[1], 4), "it is no matter of rounding"


@needs_pynq
def test_a_launch_runs_again_when_its_device_was_lost(connected: Any) -> None:
    """What another unit's kernel does to the owner is not its fault."""
    connected(Xclbin([add], units=2, faults={"vadd_1": Fault("slow", seconds=1)}))
    one = np.ones(2, "float32")
    handle = add.launch(one, one, np.empty(2, "float32"), 2, target=0)
    with pytest.raises(of.WorkerDied):
        offload(os._exit, target=1)(3)
    assert handle.result().tolist() == [2, 2]


@needs_pynq
def test_a_neighbour_is_not_to_blame(connected: Any) -> None:
    """However often a unit is ended, what another one runs is run again, also with no retries."""
    connected(Xclbin([add], units=2, faults={"vadd_1": Fault("slow", seconds=1), "vadd_2": Fault("hang")}))
    one = np.ones(2, "float32")
    for _ in range(4):
        innocent = add.options(retries=0).launch(one, one, np.empty(2, "float32"), 2, target=0)
        with pytest.raises(of.LaunchTimeout):
            add(one, one, np.empty(2, "float32"), 2, target=1, timeout=0.1, retries=0)
    assert innocent.result().tolist() == [2, 2]


@needs_pynq
def test_a_process_that_a_kernel_forks_is_no_unit(connected: Any) -> None:
    """It ends where the kernel returns, and nobody hears of it."""

    @offload(auto=1)
    def fork() -> tuple[str, int]:
        child = os.fork()
        if not child:
            logging.getLogger("child").warning("logged")
            return "the child", 0
        return "the unit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    connected(Xclbin([add], units=2))
    assert [fork(), fork(), added(1)] == [[("the unit", 0)], [("the unit", 0)], [2]]


@needs_pynq
def test_what_is_printed_before_a_fork_is_printed_once(
    connected: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    @offload(auto=1)
    def fork() -> list[int]:
        print("once", end=" ")
        codes = []
        for _ in range(2):
            child = os.fork()
            if not child:
                mine = [os.dup(0) for _ in range(99)]
                if not os.fork():
                    for descriptor in mine:
                        os.fstat(descriptor)  # it has them from its parent
                    os._exit(0)
                os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print("over")
        return codes

    connected(Xclbin([add]))
    assert fork() == [[0, 0]]
    assert "[core 0] once over\n" in capfd.readouterr().out


@needs_pynq
def test_a_unit_is_not_given_up_for_what_its_neighbour_runs(connected: Any) -> None:
    connected(Xclbin([add], units=2, faults={"vadd_2": Fault("slow", seconds=0.5)}))
    one = np.ones(2, "float32")
    assert added(1) == [2]  # so that there is something to be checked, which the neighbour does not wait for
    for _ in range(6):
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(3)
    assert add(one, one, np.empty(2, "float32"), 2, target=1)[0].tolist() == [2, 2]


@needs_pynq
def test_a_protocol_that_cannot_be_waited_for(here: Path) -> None:
    made = bitstream()
    kernels = (made.kernels[0]._replace(protocol="ap_ctrl_none"),)
    here.joinpath("a.xclbin").write_bytes(pack(made._replace(kernels=kernels)))
    with pytest.raises(of.DeviceUnavailable, match="kernel vadd is controlled by ap_ctrl_none"):
        of.connect("emu:a.xclbin")


@needs_pynq
def test_a_timeout_ends_what_a_unit_runs(connected: Any) -> None:
    connected(Xclbin([add], faults={"vadd_1": Fault("slow", after=2, seconds=50)}))
    assert added(1) == [2]
    assert added(1) == [2]
    one = np.ones(2, "float32")
    with pytest.raises(of.LaunchTimeout):
        add(one, one, np.empty(2, "float32"), 2, timeout=0.2, retries=0)
    assert added(1) == [2]


def test_a_fault_of_no_kind() -> None:
    with pytest.raises(of.OptionError, match="kind='fire' must be 'hang', 'error', 'slow' or 'flip'"):
        Fault("fire")
    with pytest.raises(of.OptionError, match="after='x' must be a number of runs"):
        Fault("hang", after="x")  # type: ignore[arg-type]
    with pytest.raises(of.OptionError, match="after=True must be a number of runs"):
        Fault("hang", after=True)
    with pytest.raises(of.OptionError, match="seconds=-1 must be a number of seconds"):
        Fault("slow", seconds=-1)
    with pytest.raises(of.OptionError, match="kind='slow' needs seconds="):
        Fault("slow")
    with pytest.raises(of.OptionError, match="maps units to Faults; there is vadd_1"):
        Xclbin([add], faults={"vadd_3": Fault("hang")})
