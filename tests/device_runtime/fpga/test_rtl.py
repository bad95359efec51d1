"""Kernels in Verilog on the emulated FPGA: as Verilator runs them, and what is refused."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import on_cards
from programs import Program

import offload as of
from device_runtime.fpga import verilator
from device_runtime.fpga.bitstream import Bank
from device_runtime.fpga.circuit import Fault
from device_runtime.fpga.emulation import DONE, IDLE, START, EmulatedBank, EmulationError
from device_runtime.fpga.rtl_unit import RtlUnit
from offload import In, InOut, Out, offload
from offload.core import instance
from offload.testing import Rtl, TimingModel, Xclbin

ROOT = Path(__file__).parents[3]
VADD = ROOT / "examples" / "rtl" / "vadd.v"
POKE = Path(__file__).with_name("poke.v")
TOOLS = all(map(shutil.which, ("verilator", "make", "g++")))
needs_verilator = pytest.mark.skipif(not TOOLS, reason="needs verilator, make and g++")
needs_pynq = pytest.mark.skipif(
    not (TOOLS and importlib.util.find_spec("pynq")), reason="needs verilator, make, g++ and pynq"
)
pytestmark = pytest.mark.timeout(200)  # a compiler takes its time


@offload(kernel="vadd")
def vadd(a: In("int32"), b: In("int32"), out: Out("int32"), n: int):  # type: ignore[valid-type, no-untyped-def]
    out[:n] = a[:n] + b[:n]


@pytest.fixture(autouse=True, scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what is built for these tests only."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@offload(kernel="poke")
def poke(at: InOut("uint8"), length: int, size: int, burst: int, strobes: int, mode: int, seen: int):  # type: ignore[valid-type, no-untyped-def]
    """Stand for `poke.v`, which runs on the device only."""


def bitstream(kernel: Any, model: Rtl) -> Xclbin:
    """Return one with two units of a kernel, on the first of two banks."""
    return Xclbin(
        [kernel], units=2, banks={"A": "1M", "B": "1M"}, models={kernel._body.interface.kernel: model}
    )


POKED = bitstream(poke, Rtl([POKE], ports="m_axi_data")).bitstream.kernels[0]
ADDED = bitstream(vadd, Rtl([VADD])).bitstream.kernels[0]
READ, WRITE, HANG, FATAL, FINISH, BAD_ANSWER, NO_ANSWER, NOT_LAST, LOOP, EARLY, LATE, UNASKED = range(12)


class Poked:
    """A unit that makes bursts as it is told, and two buffers of its bank."""

    def __init__(self, nbytes: int = 8192, fault: Fault | None = None) -> None:
        banks = {
            name: EmulatedBank(Bank(name, "HBM", base, 1 << 20)) for name, base in (("A", 0), ("B", 1 << 20))
        }
        self.before = banks["A"].allocate((4096,), np.dtype("u1"))
        self.buffer = banks["A"].allocate((nbytes,), np.dtype("u1"))
        self.elsewhere = banks["B"].allocate((nbytes,), np.dtype("u1"))
        self.before.array[:] = 0
        self.buffer.array[:] = np.arange(nbytes) * 7 + 1
        self.unit = RtlUnit(POKED, POKED.units[0], banks, Rtl([POKE]), fault)

    def start(
        self,
        at: int = 0,
        length: int = 0,
        size: int = 3,
        burst: int = 1,
        strobes: int = 255,
        mode: int = READ,
    ) -> None:
        words = struct.pack("<Q4xi4xi4xi4xi4xi", self.buffer.address + at, length, size, burst, strobes, mode)
        self.unit.write(0x10, words)
        self.unit.write(0, struct.pack("<I", START))

    def status(self) -> int:
        return int.from_bytes(self.unit.read(0, 4), "little")

    def run(self, **given: int) -> int:
        """Make a burst, and return what was read by it: its words of 32 bits by exclusive or."""
        self.start(**given)
        assert self.status() & (DONE | IDLE) == DONE | IDLE
        return int.from_bytes(self.unit.read(0x44, 4), "little")


@pytest.fixture(scope="module")
def poked() -> Poked:
    return Poked()


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "length", "size"), [(0, 0, 3), (0, 15, 3), (512, 255, 3), (4, 6, 2), (4096 - 8, 0, 3), (20, 0, 2)]
)
def test_bursts_that_read(poked: Poked, at: int, length: int, size: int) -> None:
    read = poked.buffer.array[at : at + (length + 1 << size)].view("u4")
    assert poked.run(at=at, length=length, size=size) == np.bitwise_xor.reduce(read)


@needs_verilator
@pytest.mark.slow
def test_bursts_that_write() -> None:
    poked = Poked()
    expected = poked.buffer.array.copy()
    poked.run(at=64, length=2, mode=WRITE)
    expected[64:88] = np.repeat([1, 2, 3], 8)
    poked.run(at=128, length=1, strobes=0b00100110, mode=WRITE)
    expected[[129, 130, 133]], expected[[137, 138, 141]] = 1, 2
    poked.run(at=204, length=2, size=2, mode=WRITE)
    expected[204:216] = np.repeat([1, 2, 3], 4)
    assert (poked.buffer.array == expected).all()
    assert not poked.before.array.any()


@needs_verilator
@pytest.mark.slow
def test_the_last_beat_may_reach_over_the_end_of_a_buffer() -> None:
    poked = Poked(nbytes=12)
    assert poked.run(length=1) == np.bitwise_xor.reduce(poked.buffer.array.view("u4"))
    poked.run(length=1, strobes=0x0F, mode=WRITE)
    assert poked.buffer.array[[0, 3, 8, 11]].tolist() == [1, 1, 2, 2]
    with pytest.raises(
        EmulationError, match=r"writes to 0x100c, behind the end of a buffer; it is wired to A"
    ):
        poked.run(length=1, strobes=0x1F, mode=WRITE)


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"at": 8184, "length": 1}, "a burst across a boundary of 4096 bytes"),
        ({"at": 8191, "length": 0, "size": 4}, "reads 16 bytes at 0x2fff, 16 in a beat, and has 8"),
        ({"length": 3, "burst": 2}, "reads 32 bytes at 0x1000 in a burst of type 2; only INCR"),
        ({"length": 3, "burst": 0, "mode": WRITE}, "writes 32 bytes at 0x1000 in a burst of type 0"),
        ({"length": 3, "mode": NOT_LAST}, "that it is the last"),
        (
            {"length": 255, "mode": EARLY},
            "is in the midst of a burst, and the kernel has said that it is",
        ),
        ({"mode": LATE}, "writes 8 bytes at 0x1000, and the kernel has said that it is done"),
        ({"mode": FATAL}, r"its Verilog ended the simulation: .*stop in line \d+ of poke.v"),
        ({"mode": FINISH}, r"its Verilog ended the simulation: \$finish in line \d+ of poke.v"),
        ({"mode": LOOP}, "its Verilog ended the simulation: .* did not converge"),
        ({"mode": BAD_ANSWER}, "a read of register 0x0 was answered by error 2"),
        ({"mode": NO_ANSWER}, "a read of register 0x0 was not answered within 10000 cycles"),
        ({"mode": UNASKED}, "a read of register 0x0 was answered before it was taken: ready was not said"),
    ],
)
def test_what_a_board_would_not_tell(poked: Poked, given: dict[str, int], told: str) -> None:
    with pytest.raises(EmulationError, match=f"^unit poke_1: .*{told}"):
        poked.run(**given)
    assert poked.run(at=4, size=2) == poked.buffer.array[4:8].view("u4")[0], "and it goes on"


@needs_verilator
@pytest.mark.slow
def test_a_write_that_is_answered_before_it_is_taken() -> None:
    poked = Poked()
    poked.start(mode=UNASKED)
    with pytest.raises(EmulationError, match="a write to register 0x10 was answered before it was taken"):
        poked.unit.write(0x10, bytes(4))


@needs_verilator
@pytest.mark.slow
def test_memory_that_is_in_no_buffer() -> None:
    poked = Poked(nbytes=100)
    with pytest.raises(
        EmulationError,
        match="port m_axi_data reads 128 bytes at 0x1000, which are not in a buffer; it is wired to A",
    ):
        poked.run(length=15)
    with pytest.raises(EmulationError, match="argument at points to 0x100000, in bank B"):
        poked.run(at=poked.elsewhere.address - poked.buffer.address)
    poked.run(length=12)


@needs_verilator
@pytest.mark.slow
def test_a_run_that_does_not_end() -> None:
    poked = Poked()
    poked.start(mode=HANG)
    assert [poked.status() for _ in range(3)] == [0, 0, 0]
    assert poked.unit.read(0x3C, 4) == struct.pack("<I", HANG), "its registers are read meanwhile"
    with pytest.raises(EmulationError, match="poke_1 is started while it is busy"):
        poked.unit.write(0, struct.pack("<I", START))
    assert poked.unit.cycles is None


@needs_verilator
@pytest.mark.slow
def test_faults() -> None:
    hung, slow, wrong = (Poked(fault=Fault(kind, after=1, seconds=0.05)) for kind in ("hang", "slow", "flip"))
    for poked in (hung, slow, wrong):
        poked.run()
        poked.start(mode=WRITE)
    assert hung.status() == hung.status() == 0
    assert slow.status() == 0
    while not slow.status():
        pass
    assert wrong.status() & DONE
    assert wrong.buffer.array[:8].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


@needs_verilator
@pytest.mark.slow
def test_cycles_are_counted(poked: Poked) -> None:
    """They are the same in every run of the same; a beat takes one."""
    found = []
    for length in (0, 0, 100):
        poked.run(length=length)
        found.append(poked.unit.cycles)
    assert found[0] == found[1] and found[0] is not None and found[2] is not None
    assert 95 <= found[2] - found[0] <= 105


@needs_verilator
@pytest.mark.slow
def test_a_simulation_leaves_the_interpreter_to_others() -> None:
    poked = Poked()
    ended, turns = threading.Event(), []

    def take_turns() -> None:
        while not ended.wait(0.001):
            turns.append(1)

    other = threading.Thread(target=take_turns)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # nobody gives the lock away but of itself
    try:
        other.start()
        poked.start(mode=HANG)
        before = len(turns)
        poked.status()
        assert len(turns) > before
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        other.join()


def changed(tmp_path: Path, source: Path, *changes: tuple[str, str]) -> Rtl:
    """Return the Verilog of a file with some of its text replaced."""
    text = source.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / source.name
    path.write_text(text)
    return Rtl([path])


@needs_verilator
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([("endmodule", "")], r"verilator cannot build its Verilog:\n%Error: vadd.v:\d+:\d+: syntax error"),
        ([("module vadd", "module other")], "top-module 'vadd' was not found"),
        ([("ap_rst_n", "ap_rst")], r"module vadd is no kernel of Vitis: it lacks ap_rst_n \(input\)"),
        (
            [("s_axi_control_bready", "ready_for_b"), ("s_axi_control_rdata", "data")],
            r"it lacks s_axi_control_bready \(input\), s_axi_control_rdata \(output\)",
        ),
        (
            [("[31:0]        s_axi_control_wdata", "[63:0] s_axi_control_wdata")],
            "has 64 bits in s_axi_control_wdata",
        ),
        (
            [("[5:0]         s_axi_control_araddr", "[4:0] s_axi_control_araddr")],
            "has 5 bits in s_axi_control_araddr, and the kernel's registers go up to 0x38",
        ),
        (
            [("m_axi_gmem_", "m_axi_memory_")],
            "has no AXI4 port m_axi_gmem, by which vadd's pointers come in; it has m_axi_memory",
        ),
        ([("WIDTH = 32", "WIDTH = 1024")], "has 1024 bits of data in m_axi_gmem; known here are 32, 64"),
        ([("m_axi_gmem_rready", "ready_for_r")], r"it lacks m_axi_gmem_rready \(output\)"),
        (
            [("input  wire               ap_clk,", "input wire ap_clk, output wire m_axi_more_arvalid,")],
            "has an AXI4 port m_axi_more that no argument comes in by",
        ),
    ],
)
def test_verilog_that_is_no_kernel(tmp_path: Path, changes: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(of.BitstreamError, match=f"(?s)^kernel vadd: .*{told}"):
        verilator.library(ADDED, changed(tmp_path, VADD, *changes))


@needs_verilator
def test_no_more_is_shown_of_errors_than_helps(tmp_path: Path) -> None:
    with pytest.raises(of.BitstreamError) as caught:
        verilator.library(ADDED, changed(tmp_path, VADD, ("reg ", "rag ")))
    assert 2 <= len(str(caught.value).splitlines()) <= 9


def test_without_verilator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(of.DeviceUnavailable, match="no verilator: apt-get install verilator make g"):
        verilator.library(ADDED, Rtl([VADD]))


def test_a_verilator_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("verilator", "make", "g++"):
        tmp_path.joinpath(tool).write_text("#!/bin/sh\necho Verilator 4.038 2020-07-11 rev v4.036\n")
        tmp_path.joinpath(tool).chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        of.DeviceUnavailable, match=r"needs Verilator 5 or later, and here is 'Verilator 4.038"
    ):
        verilator.library(ADDED, Rtl([VADD]))


@needs_verilator
def test_where_others_could_write_nothing_is_loaded_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "offload" / "rtl"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(
        of.DeviceUnavailable, match="must be a folder that is yours and only you can write to"
    ):
        verilator.library(ADDED, Rtl([VADD]))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(
        of.DeviceUnavailable, match=r"/proc/none/offload/rtl, where .* cannot be made: No such file"
    ):
        verilator.library(ADDED, Rtl([VADD]))


@needs_verilator
@pytest.mark.slow
def test_what_was_built_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = verilator.library(ADDED, Rtl([VADD]))
    assert path.is_relative_to(kept) and path.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(verilator, "_build", None)
    assert verilator.library(ADDED._replace(units=()), Rtl([VADD])) == path
    other = ADDED._replace(arguments=tuple(one._replace(offset=one.offset + 64) for one in ADDED.arguments))
    with pytest.raises(TypeError):
        verilator.library(other, Rtl([VADD]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sources": []}, "must be a list of files, at least one"),
        ({"sources": "vadd.v"}, "must be a list of files"),
        ({"sources": 3}, "sources=3 must be a list of files"),
        ({"sources": [3]}, "sources=[3] must be a list of files"),
        ({"sources": [VADD], "ports": 3}, "ports=3 must be a name, or a mapping of arguments to names"),
        ({"sources": ["none.v"]}, "source none.v cannot be read"),
        ({"sources": [VADD, VADD]}, "two sources are called vadd.v"),
        ({"sources": ["vadd.vhd"]}, "source vadd.vhd must have a plain name that ends in"),
        ({"sources": ["-o.v"]}, "source -o.v must have a plain name"),
        ({"sources": [VADD], "top": "no name"}, "'no name' is no name of a module or port"),
        ({"sources": [VADD], "ports": {"a": 3}}, "3 is no name of a module or port"),
    ],
)
def test_rtl_that_cannot_be_meant(given: dict[str, Any], told: str) -> None:
    with pytest.raises(of.OptionError, match=f"Rtl: .*{re.escape(told)}"):
        Rtl(**given)


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({"vsub": Rtl([VADD])}, "models names 'vsub'; the kernels are vadd"),
        ({"vadd": "vadd.v"}, "the model of vadd is 'vadd.v', and must be a function, or an Rtl"),
        ({"vadd": lambda a, b: None}, "the model of vadd does not take its 4 arguments"),
        ({"vadd": Rtl([VADD], ports={"a": "m", "b": "m"})}, "says nothing of argument out"),
        ({"vadd": Rtl([VADD], ports={"n": "m"})}, "ports names 'n'; the pointers of vadd are a, b, out"),
    ],
)
def test_models_that_cannot_be_meant(models: dict[str, Any], told: str) -> None:
    with pytest.raises(of.OptionError, match=told):
        Xclbin([vadd], models=models)


def test_pointers_come_in_by_the_ports_of_the_verilog() -> None:
    def ports(model: Rtl) -> list[str]:
        (kernel,) = Xclbin([vadd], models={"vadd": model}).bitstream.kernels
        return [one.port for one in kernel.arguments]

    assert ports(Rtl([VADD])) == ["M_AXI_GMEM"] * 3 + ["S_AXI_CONTROL"]
    given = {"a": "m_axi_in", "b": "m_axi_in", "out": "m_axi_out"}
    assert ports(Rtl([VADD], ports=given)) == ["M_AXI_IN", "M_AXI_IN", "M_AXI_OUT", "S_AXI_CONTROL"]


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return what opens a device with a bitstream, and some of its address."""

    def connect(made: Xclbin, more: str = "") -> None:
        of.connect(f"emu:{made.write(tmp_path / 'test.xclbin')}{more}")

    yield connect
    of.shutdown()


@needs_pynq
@pytest.mark.slow
def test_units_with_a_port_for_each_way_agree_with_numpy(
    connected: Callable[..., None], tmp_path: Path
) -> None:
    """A wide one that reads and one that writes, in different banks; what is wide ends within a beat."""
    ways = [(f"m_axi_gmem_{signal}", f"m_axi__in_{signal}") for signal in ("ar", "r")]
    ways += [(f"m_axi_gmem_{signal}", f"m_axi_out_{signal}") for signal in ("aw", "w", "b")]
    path = tmp_path / "constants.vh"
    path.write_text("localparam IDLE = 0;\n")
    wide = changed(
        tmp_path,
        VADD,
        *ways,
        ("WIDTH = 32", "WIDTH = 512"),
        ("localparam IDLE = 0,", '`include "constants.vh"\nlocalparam'),
    )
    wide.sources[path.name] = path.read_text()
    wide.ports = {"a": "m_axi__in", "b": "m_axi__in", "out": "m_axi_out"}
    connected(
        Xclbin([vadd], units=2, banks=["HBM0", "HBM1"], wiring={"vadd.out": "HBM1"}, models={"vadd": wide})
    )
    rng = np.random.default_rng(3)
    handles = []
    for n in (0, 1, 15, 16, 17, 255, 256, 257, 5000):
        a, b = rng.integers(-(1 << 31), 1 << 31, (2, max(n, 1)), "int32")
        handles.append((n, a, b, vadd.launch(a, b, np.empty_like(a), n)))
    for n, a, b, handle in handles:
        assert (handle.result()[:n] == a[:n] + b[:n]).all()
    a = np.arange(3000, dtype="int32")
    both = vadd(of.scatter(a), of.scatter(a), of.scatter(np.empty_like(a)), of.scatter([1500, 1500]), auto=2)
    assert np.concatenate(both).tolist() == (a + a).tolist()


@needs_pynq
@pytest.mark.slow
def test_verilog_that_hangs_and_verilog_that_errs(connected: Callable[..., None]) -> None:
    connected(bitstream(poke, Rtl([POKE], ports="m_axi_data")), "?timeout=0.3")
    at = np.zeros(16, "uint8")
    for mode, told in (
        (HANG, r"unit poke_1 has not ended .* registers from 0x0 on: "),
        (FATAL, "in line .* of poke.v"),
    ):
        with pytest.raises(of.DeviceError, match=told):
            poke(at, 1, 3, 1, 255, mode, 0)
        assert poke(at, 1, 3, 1, 255, WRITE, 0)[0].tolist() == [1] * 8 + [2] * 8


@needs_pynq
@pytest.mark.slow
@pytest.mark.parametrize("models", [{}, {"vadd": Rtl([VADD])}], ids=("function", "verilog"))
def test_a_unit_has_to_answer_before_it_is_used_again(
    connected: Callable[..., None], models: dict[str, Any]
) -> None:
    """Its answer is the run after which it hangs; so the launch that comes then finds it hanging."""
    made = Xclbin([vadd], models=models, faults={"vadd_1": Fault("hang", after=1)})
    connected(made, "?timeout=0.3")
    a = np.arange(4, dtype="int32")
    assert vadd(a, a, np.empty_like(a), 4)[0].tolist() == [0, 2, 4, 6]
    for _ in range(2):
        with pytest.raises(of.DeviceError, match="unit vadd_1 has not ended"):
            vadd(a, a, np.empty_like(a), 4)


@needs_pynq
@pytest.mark.slow
def test_what_is_predicted_of_verilog_are_its_cycles_and_the_launch(connected: Callable[..., None]) -> None:
    @offload(auto=1)
    def drive() -> Any:
        unit, a = instance().vadd, np.arange(4, dtype="int32")
        unit(a, a, np.empty_like(a), 4)
        return unit.cycles

    timing = TimingModel(launch=0.5)
    connected(Xclbin([vadd], clock=100, models={"vadd": Rtl([VADD])}, timing=timing))
    handle = drive.launch()
    cycles = handle.result()
    assert cycles > 4 and handle.timing[0].predicted == pytest.approx(0.5 + cycles / 100e6, rel=1e-12)


@needs_pynq
def test_verilog_that_is_wrong_is_refused_when_the_device_is_opened(
    connected: Callable[..., None], tmp_path: Path
) -> None:
    model = changed(tmp_path, VADD, ("endmodule", ""))
    with pytest.raises(of.BitstreamError, match="kernel vadd: verilator cannot build its Verilog"):
        connected(Xclbin([vadd], models={"vadd": model}))


@needs_pynq
def test_another_function_in_the_place_of_the_circuit(connected: Callable[..., None]) -> None:
    def model(a: Any, b: Any, out: Any, n: int) -> None:
        out[:n] = a[:n] - b[:n]

    connected(Xclbin([vadd], models={"vadd": model}))
    a = np.arange(4, dtype="int32")
    assert vadd(a, a, np.empty_like(a), 4)[0].tolist() == [0] * 4


@needs_pynq
@pytest.mark.slow
def test_the_example(program: Callable[..., Program], kept: Path) -> None:
    if on_cards():
        pytest.skip("the example is of the emulated device")
    started = program(
        str(ROOT / "examples" / "rtl" / "vadd_rtl.py"), PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(kept)
    )
    ended = started.end()
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"as NumPy says it: True\ncycles: 32\d{3}\n", ended.out)
