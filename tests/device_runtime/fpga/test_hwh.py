"""Zynq boards: what Vivado says beside a bitstream is read, as pynq reads it, and units are run by it."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import stand_in_for_zynq
from zynq import hwh, kernel, written

import offload as of
from device_runtime.errors import ArgsNotSerializable, BitstreamError, DeviceError
from device_runtime.fpga.bitstream import Bank
from device_runtime.fpga.boards import read
from device_runtime.fpga.hwh import PS, parse
from device_runtime.fpga.interface import Interface, Parameter
from device_runtime.fpga.scalars import scalar
from offload import In, InOut, Out, offload
from offload.core import instance

PYNQ = importlib.util.find_spec("pynq") is not None
needs_pynq = pytest.mark.skipif(not PYNQ, reason="needs pynq")


@offload(kernel="add")
def add(a: In("float32"), b: In("float32"), out: Out("float32"), length: int):  # type: ignore[valid-type, no-untyped-def]
    out[:length] = a[:length] + b[:length]


@offload(kernel="scale")
def scale(x: InOut("float64"), factor: float, times: np.uint16) -> None:  # type: ignore[valid-type]
    for _ in range(times):
        x *= factor


ADD = kernel(
    "add",
    {"a": ("float*", 64), "b": ("float*", 64), "out": ("float*", 64), "length": ("int", 32)},
    2,
    0x43C00000,
)
ADD = ADD._replace(units=(ADD.units[0], ADD.units[1]._replace(name="adders/add_1")))
SCALE = kernel(
    "scale", {"x": ("double*", 32), "factor": ("float", 32), "times": ("short", 16)}, 2, 0x43D00000
)
FILE = hwh([ADD, SCALE])


def changed(old: str, new: str, count: int = -1) -> bytes:
    text = FILE.decode()
    assert old in text
    return text.replace(old, new, count).encode()


# ---- what is right ---------------------------------------------------------------------


def test_kernels_registers_and_memory() -> None:
    found = parse(FILE)
    assert found.platform == "zynq 7z020clg400"
    assert found.banks == (Bank(PS, "DRAM", 0, 1 << 29),)
    adding, scaling = found.kernels
    assert [(one.name, one.kind, one.ctype, one.offset, one.nbytes) for one in adding.arguments] == [
        ("a", "word", "bits<64>", 0x10, 8),
        ("b", "word", "bits<64>", 0x1C, 8),
        ("out", "word", "bits<64>", 0x28, 8),  # out_r, as HLS names it
        ("length", "word", "bits<32>", 0x34, 4),
    ]
    assert [(one.name, one.address) for one in adding.units] == [
        ("add_0", 0x43C00000),
        ("adders/add_1", 0x43C10000),
    ]
    assert (adding.protocol, adding.span, adding.units[0].banks[0]) == ("ap_ctrl_hs", 0x10000, (PS,))
    assert [one.ctype for one in scaling.arguments] == ["bits<32>", "bits<32>", "bits<16>"]


def test_a_kernel_that_has_no_memory_has_numbers_only() -> None:
    (found,) = parse(hwh([kernel("k", {"x": ("double", 64)}, 1, 0x43C00000)])).kernels
    assert found.arguments[0].kind == "scalar" and found.units[0].banks == ((),)


def test_names_that_only_look_like_pieces() -> None:
    """They are pieces of one argument where their registers lie side by side."""
    (found,) = parse(hwh([kernel("k", {"x_1": ("int", 32), "x_2": ("int", 32)}, 1, 0x43C00000)])).kernels
    assert [one.name for one in found.arguments] == ["x_1", "x_2"]


def test_a_kernel_that_is_chained() -> None:
    assert parse(hwh([ADD._replace(protocol="ap_ctrl_chain")])).kernels[0].protocol == "ap_ctrl_chain"


@needs_pynq
def test_the_handoffs_that_come_with_pynq() -> None:
    """Vivado wrote these two; pynq's own reader has the same to say of the one with a kernel."""
    import pynqmetadata

    folder = Path(pynqmetadata.__file__).parent / "tests" / "hwhs"
    assert parse(folder.joinpath("rfsoc_sam.hwh").read_bytes()).kernels == ()
    (found,) = parse(folder.joinpath("resizer.hwh").read_bytes()).kernels
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "from pynqmetadata.frontends import Metadata\n"
        "try: from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser\n"
        "except ImportError: from pynqmetadata.views.runtime import RuntimeMetadataParser\n"
        "one = RuntimeMetadataParser(Metadata(input=sys.argv[1])).ip_dict['resize_accel_0']\n"
        "places = {name: r['address_offset'] for name, r in one['registers'].items()}\n"
        "print(json.dumps([one['phys_addr'], one['addr_range'], places]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(folder / "resizer.hwh")], check=True, capture_output=True, text=True
    )
    address, span, places = json.loads(told.stdout.splitlines()[-1])
    assert (found.units[0].address, found.span) == (address, span)
    assert [(one.name, one.offset) for one in found.arguments] == [
        (name, offset) for name, offset in places.items() if offset >= 0x10
    ]


# ---- what a function settles -----------------------------------------------------------


def test_what_the_file_leaves_open_is_the_functions_to_say() -> None:
    scaling = parse(FILE).kernels[1]
    settled = scale._body.interface.settle(scaling)
    assert [(one.kind, one.ctype) for one in settled.arguments] == [
        ("pointer", "bits<32>"),
        ("scalar", "float"),
        ("scalar", "bits<16>"),
    ]


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [("int", []), ("bool", []), ("float", ["n"]), ("uint16", ["n"]), ("int32", ["n", "m"])],
)
def test_a_number_of_another_width(dtype: str, wrong: list[str]) -> None:
    (spec,) = parse(hwh([kernel("k", {"n": ("char", 8), "m": ("short", 16)}, 1, 0x43C00000)])).kernels
    told = Interface("k", (Parameter("n", None, dtype), Parameter("m", None, dtype))).mismatches(spec)
    assert [one.split()[0] for one in told] == wrong


def test_bits_take_what_fits_in_them() -> None:
    bits = scalar("bits<32>")
    assert bits is not None
    assert bits.pack(-1) == bits.pack((1 << 32) - 1) == b"\xff" * 4
    assert bits.pack(1.0) == bits.pack(np.float32(1)) == b"\0\0\x80\x3f"
    with pytest.raises(OverflowError):
        bits.pack(1 << 32)
    with pytest.raises(TypeError, match="no float of 8 bits"):
        scalar("bits<8>").pack(1.0)  # type: ignore[union-attr]
    assert scalar("bits<65>") is None


# ---- on a board that is stood in for ---------------------------------------------------


@pytest.fixture(scope="class")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = written(tmp_path_factory.mktemp("zynq"), [ADD, SCALE], [add, scale])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XILINX_XRT", raising=False)
        stand_in_for_zynq(patch)
        with of.connect(f"pynq:{path}"):
            yield path


@needs_pynq
@pytest.mark.timeout(100)
class TestBoard:
    def test_kernels_run(self, board: Path) -> None:
        a, out = np.arange(5, dtype="float32"), np.empty(5, "float32")
        handles = [add.launch(a, a, out.copy(), 5) for _ in range(4)]
        assert [handle.result().tolist() for handle in handles] == [[0, 2, 4, 6, 8]] * 4

    def test_floats_and_numbers_in_registers(self, board: Path) -> None:
        assert scale(np.array([1.0, -3.0]), -0.5, 3)[0].tolist() == [-0.125, 0.375]
        assert scale(np.array([1.0]), 2, 1)[0].tolist() == [2], "a whole number where a float is wanted"

    def test_a_kernel_that_names_its_bitstream(self, board: Path, tmp_path: Path) -> None:
        one = np.ones(1, "float32")
        other = written(tmp_path, [SCALE], [scale])
        mine, theirs = (offload(kernel="add", xclbin=path)(add.fn) for path in (board, other))
        assert mine(one, one, np.empty(1, "float32"), 1)[0].tolist() == [2]
        with pytest.raises(DeviceError, match=r"is for .*, and .* has another bitstream loaded"):
            theirs(one, one, np.empty(1, "float32"), 1)

    def test_a_unit_by_name(self, board: Path) -> None:
        one = np.ones(1, "float32")
        assert add(one, one, np.empty(1, "float32"), 1, target="adders/add_1")[0].tolist() == [2]

    def test_a_driver_gives_what_is_meant(self, board: Path) -> None:
        @offload(auto=1)
        def drive() -> Any:
            device = instance()
            held = device.array(np.array([4.0]))
            device.scale(held, np.float32(0.25), 2)
            return np.asarray(held).tolist(), held.bank

        assert drive() == [([0.25], PS)]

    def test_a_function_that_does_not_fit(self, board: Path) -> None:
        @offload(kernel="scale")
        def other(x: In, factor: np.float64, times: int) -> None:
            pass

        with pytest.raises(DeviceError, match="factor is of type 'bits<32>', and the function takes float64"):
            other(np.ones(1), 1.0, 1)

    def test_a_number_that_a_register_cannot_hold(self, board: Path) -> None:
        one = np.ones(1, "float32")
        with pytest.raises(
            ArgsNotSerializable, match="length is of type bits<32>: 4294967296 is not between"
        ):
            add(one, one, np.empty(1, "float32"), 1 << 32)

    def test_memory_that_is_full(self, board: Path) -> None:
        large = np.zeros(5 << 20, "float32")
        with pytest.raises(of.DeviceMemoryError, match="bank PSDDR has no room for 20,971,520 bytes"):
            add(large, large, large, 1)


@needs_pynq
def test_no_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XILINX_XRT", raising=False)
    path = written(tmp_path, [ADD], [add])
    with pytest.raises(
        of.DeviceUnavailable, match=r"finds 0 devices for \.bit files.*is for a Zynq board, and"
    ):
        of.connect(f"pynq:{path}")


@needs_pynq
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "STAND_IN_MACHINE",
            "aarch64",
            r"for a board with zynq 7z020clg400, and .* another \(aarch64\): build it",
        ),
        (
            "STAND_IN_NO_ROOT",
            "1",
            "unit add_0 cannot be reached: Root permissions required.; run it as root: sudo",
        ),
    ],
)
def test_another_board_and_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    stand_in_for_zynq(monkeypatch)
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, [ADD], [add])
    with pytest.raises(of.DeviceUnavailable, match=told):
        of.connect(f"pynq:{path}")
    assert {one.name for one in tmp_path.iterdir()} == {"test.bit", "test.hwh"}, "pynq leaves nothing here"


# ---- what is wrong ---------------------------------------------------------------------


def test_files_that_are_no_pair(tmp_path: Path) -> None:
    path = written(tmp_path, [ADD], [add])
    with pytest.raises(BitstreamError, match=r"the emulated FPGA takes .xclbin files"):
        of.connect(f"emu:{path}")
    with pytest.raises(BitstreamError, match=r"name the .bit file, and have the .hwh file beside it"):
        of.connect(f"pynq:{path.with_suffix('.hwh')}")
    whole = read(str(path)).uuid
    path.write_bytes(path.read_bytes() + b"\0")
    assert read(str(path)).uuid != whole
    written(tmp_path, [ADD], [add], part="xczu48dr-ffvg1517-2-e")
    with pytest.raises(
        BitstreamError, match=r"is for zu48drffvg15172e, and test.hwh .* for zynq 7z020clg400"
    ):
        of.connect(f"pynq:{path}")
    path.write_bytes(b"#!/bin/sh")
    with pytest.raises(BitstreamError, match=r"this is no .bit file"):
        of.connect(f"pynq:{path}")
    path.with_suffix(".hwh").unlink()
    with pytest.raises(BitstreamError, match=r"there is no test.hwh beside it, which does: copy it there"):
        of.connect(f"pynq:{path}")
    path.unlink()
    with pytest.raises(BitstreamError, match=r"test.bit cannot be read: No such file"):
        of.connect(f"pynq:{path}")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no XML"),
        (FILE[:-9], "is no XML"),
        (b"<HWH/>", "begins with 'HWH'"),
        (b"<EDKSYSTEM/>", "there is no SYSTEMINFO"),
        (changed("processing_system7", "microblaze"), "there is no processor to drive the circuit"),
        (changed('VALUE="16"', 'VALUE="sixteen"'), "register a_1: ADDRESS_OFFSET is 'sixteen'"),
        (changed('VALUE="28"', 'VALUE="16"'), "unit add_0: a_1 and b_1 share a register"),
        (changed("0x43C00000", "0x43C0FFFF"), "registers of a are outside of its 0x1 bytes"),
        (changed("0x43C0FFFF", "0x0"), "a range of addresses: HIGHVALUE is '0x0'"),
        (changed("0x43C1", "0x43C0"), "two of the same address of units: 0x43c00000"),
        (changed("/adders/add_1", "/add_0"), "two of the same unit: add_0"),
        (
            changed('VALUE="52"', 'VALUE="56"', 1),
            "units add_0 and adders/add_1 of kernel add have different registers",
        ),
        (
            changed(
                'INSTANCE="processing_system7_0" MASTERBUSINTERFACE="m_axi',
                'INSTANCE="mig" MASTERBUSINTERFACE="m_axi',
            ),
            "reaches the memory of mig, and only that of the processor",
        ),
        (FILE.decode("utf-8-sig").encode("utf-16"), "is no XML in UTF-8"),
        (b'<!DOCTYPE a [<!ENTITY b "bbb">]><EDKSYSTEM>&b;</EDKSYSTEM>', "defines entities"),
        (
            b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><EDKSYSTEM>&b;</EDKSYSTEM>',
            "defines entities",
        ),
    ],
)
def test_what_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(BitstreamError, match=told):
        parse(data)


def test_registers_behind_two_interfaces() -> None:
    block = FILE.decode().partition("<ADDRESSBLOCKS>")[2].partition("</ADDRESSBLOCKS>")[0]
    data = changed(block, block + block.replace("s_axi_control", "s_axi_control_r"))
    with pytest.raises(BitstreamError, match="add_0 has registers behind s_axi_control and s_axi_control_r"):
        parse(data)


def test_damaged_files_are_refused_or_read() -> None:
    random_ = random.Random(7)
    wrong = 0
    for _ in range(1500):
        data = bytearray(FILE)
        for _ in range(random_.choice((1, 1, 2, 8))):
            place = random_.randrange(len(data))
            if random_.random() < 0.3:
                del data[place : place + random_.randrange(1, 200)]
            else:
                data[place] = random_.choice(b"0123456789abcdef<>\"'/& \0\xff")
        try:
            parse(bytes(data))
        except BitstreamError:
            wrong += 1
    assert wrong > 500
