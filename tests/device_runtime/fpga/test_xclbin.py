"""Bitstream files: what is written is read again, by pynq too, and what is damaged is refused in words."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import BitstreamError, DeviceUnavailable
from device_runtime.fpga import axlf
from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.writing import _file, pack, with_units
from device_runtime.fpga.xclbin import parse, read

VADD = (
    Argument("a", "pointer", "float*", 0x10, 8, "M_AXI_GMEM0"),
    Argument("b", "pointer", "float*", 0x1C, 8, "M_AXI_GMEM1"),
    Argument("out", "pointer", "float*", 0x28, 8, "M_AXI_GMEM0"),
    Argument("n", "scalar", "int", 0x34, 4, "S_AXI_CONTROL"),
)
SCALE = (
    Argument("x", "pointer", "double*", 0x10, 8, "M_AXI_GMEM"),
    Argument("by", "scalar", "double", 0x1C, 8, "S_AXI_CONTROL"),
)


def vadd(unit: int, bank: str) -> Unit:
    return Unit(f"vadd_{unit}", 0x1800000 + unit * 0x10000, ((bank,), (bank,), (bank,), ()))


EXAMPLE = Bitstream(
    bytes(range(16)),
    "xilinx_u280_xdma_201920_3",
    tuple(Bank(f"HBM[{number}]", "HBM", number << 28, 256 << 20, number < 3) for number in range(4)),
    (
        KernelSpec("vadd", "ap_ctrl_hs", VADD, (vadd(1, "HBM[0]"), vadd(2, "HBM[1]"), vadd(3, "HBM[0]"))),
        KernelSpec("scale", "ap_ctrl_chain", SCALE, (Unit("scale_1", 0x1900000, (("HBM[2]",), ())),), 0x1000),
    ),
    (("DATA_CLK", 300), ("KERNEL_CLK", 500)),
)
FILE = pack(EXAMPLE)


def relabelled(number: str) -> bytes:
    """Return the example's file with another number for its second argument."""
    metadata = FILE[FILE.index(b"<?xml") : FILE.rindex(b">") + 1]
    changed = metadata.replace(b'id="1"', f'id="{number}"'.encode(), 1)
    return _file(parse(FILE), [(axlf.METADATA, changed)])


def edited(**changes: Any) -> Bitstream:
    """Return the example with other arguments, units or the like of its first kernel."""
    return EXAMPLE._replace(kernels=(EXAMPLE.kernels[0]._replace(**changes), *EXAMPLE.kernels[1:]))


# ---- what is right ---------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "example.xclbin").write_bytes(FILE)

    assert read(tmp_path / "example.xclbin") == EXAMPLE
    assert len(FILE) < 8192


def test_banks_that_no_argument_of_a_kernel_reaches_may_be_of_any_kind() -> None:
    banks = tuple(Bank(kind.replace(" ", ""), kind, 0, 0, False) for kind in axlf.BANK_KINDS)
    made = EXAMPLE._replace(banks=EXAMPLE.banks + banks)
    assert parse(pack(made)) == made
    assert {"Host", "PS"} <= {bank.kind for bank in made.banks}


def test_of_a_section_that_is_not_read_there_may_be_several() -> None:
    metadata = FILE[FILE.index(b"<?xml") : FILE.rindex(b">") + 1]
    kernels = [axlf.METADATA, axlf.MEMORY, axlf.LAYOUT]
    assert parse(_file(EXAMPLE, [(24, b"one"), (24, b"two"), (axlf.METADATA, metadata)])).uuid == EXAMPLE.uuid
    for kind in kernels:
        with pytest.raises(BitstreamError, match=f"section {kind} twice"):
            parse(_file(EXAMPLE, [(kind, metadata), (kind, metadata)]))


def test_units_of_a_kernel_that_has_no_registers() -> None:
    made = with_units(edited(span=0, arguments=()), 5)
    assert len({unit.address for unit in made.kernels[0].units}) == 5


def test_more_units_than_there_are_addresses_for() -> None:
    last = vadd(1, "HBM[0]")._replace(address=(1 << 64) - 0x20000)
    with pytest.raises(BitstreamError, match="no room for 5 units of vadd"):
        with_units(edited(units=(last,)), 5)


def test_a_bitstream_may_have_next_to_nothing() -> None:
    empty = Bitstream(bytes(16), "", (), ())

    assert parse(pack(empty)) == empty


def test_units_that_are_wired_alike_can_stand_for_each_other() -> None:
    one, other, alike = EXAMPLE.kernels[0].units

    assert EXAMPLE.kernels[0].symmetric() == [(one, alike), (other,)]


def test_an_argument_may_be_wired_to_one_of_several_banks() -> None:
    unit = Unit("vadd_1", 0, (("HBM[0]", "HBM[1]"), (), (), ()))

    assert parse(pack(edited(units=(unit,)))).kernels[0].units[0].banks[0] == ("HBM[0]", "HBM[1]")


def test_pynq_reads_the_same(tmp_path: Path) -> None:
    parser = pytest.importorskip("pynq.pl_server.xclbin_parser")
    (tmp_path / "example.xclbin").write_bytes(FILE)

    found = parser.XclBin(str(tmp_path / "example.xclbin"))

    assert {name: unit["phys_addr"] for name, unit in found.ip_dict.items()} == {
        unit.name: unit.address for kernel in EXAMPLE.kernels for unit in kernel.units
    }
    registers = found.ip_dict["vadd_2"]["registers"]
    assert [registers[one.name]["address_offset"] for one in VADD] == [one.offset for one in VADD]
    assert [registers[one.name].get("memory") for one in VADD] == ["HBM[1]", "HBM[1]", "HBM[1]", None]
    assert found.mem_dict["HBM[3]"]["base_address"] == 3 << 28
    assert [clock["frequency"] for clock in found.clock_dict.values()] == [300, 500]


def test_a_file_that_xilinx_made_is_read() -> None:
    pynq = pytest.importorskip("pynq.pl_server")

    found = read(Path(pynq.__file__).with_name("default.xclbin"))

    assert [(bank.name, bank.kind, bank.nbytes) for bank in found.banks] == [("PSDDR", "DDR4", 1 << 39)]
    assert found.kernels == () and found.uuid.hex() == "5fc9fd7e642c4b41a7625ee6f5f7ac29"


# ---- what is wrong ---------------------------------------------------------------------


def test_an_error_names_the_file_and_is_one_of_a_device(tmp_path: Path) -> None:
    path = tmp_path / "empty.xclbin"
    path.touch()

    with pytest.raises(DeviceUnavailable, match=f"^{path}: the file is empty$"):
        read(path)
    with pytest.raises(BitstreamError, match=r"other\.xclbin cannot be read: No such file"):
        read(tmp_path / "other.xclbin")
    with pytest.raises(BitstreamError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x7fELF" + FILE[4:], "no xclbin file"),
        (FILE[:400], "ends within its header, after 400 bytes of 456"),
        (FILE[:-1], "truncated or damaged"),
        (FILE + b"\0", "truncated or damaged"),
        (FILE[:448] + struct.pack("<I", 1 << 30) + FILE[452:], "claims 1,073,741,824 sections"),
        (FILE[:480] + struct.pack("<Q", 1 << 62) + FILE[488:], "section 2 lies outside"),
        (FILE[:480] + struct.pack("<Q", 8) + FILE[488:], "section 2 lies outside"),
        (FILE[:488] + struct.pack("<Q", 1 << 62) + FILE[496:], "section 2 lies outside"),
        (FILE[:496] + struct.pack("<I", 2) + FILE[500:], "section 2 twice"),
        (FILE[:456] + struct.pack("<I", 99) + FILE[460:], "no metadata"),
        (FILE.replace(b"<?xml", b"<?XML"), "no XML"),
        (FILE.replace(b'name="emulated">', b'name=""><!ENTITY'), "defines entities"),
        (FILE.replace(b'id="1"', b'id="7"', 1), r"arguments are numbered \[0, 2, 3, 7\]"),
        (FILE.replace(b'id="1"', b'id="0"', 1), "a and b are both its argument 0"),
        (relabelled("0" * 5000), "argument b is number '0000"),
        (relabelled("\N{ARABIC-INDIC DIGIT ONE}"), "argument b is number"),
        (FILE.replace(b'name="b"', b'name="a"', 1), "two of the same argument of kernel vadd: a"),
        (FILE.replace(b'offset="0x1c"', b'offset="0x14"', 1), "a and b share a register"),
        (
            FILE.replace(b'offset="0x34"', b'offset="0xfc"').replace(b'range="0x10000"', b'range="0x000f0"'),
            "the registers of n are outside of its unit's 0xf0 bytes",
        ),
        (FILE.replace(b'offset="0x34"', b'offset="-0x4"', 1), "offset is '-0x4'"),
        (FILE.replace(b'offset="0x34"', b'offset="34 0"', 1), "offset is '34 0'"),
        (
            FILE.replace(b'addressQualifier="0"', b'addressQualifier="9"', 1),
            "argument n is number '3', of kind '9'",
        ),
        (FILE.replace(b'"ap_ctrl_hs"', b'"ap_ctrl_xx"', 1), "controlled by 'ap_ctrl_xx'"),
        (FILE.replace(b'name="vadd_2"', b'name="vadd_1"', 1), "two of the same unit: vadd_1"),
        (FILE.replace(b'base="0x1820000"', b'base="0x1810000"', 1), "address of units: 0x1810000"),
        (FILE.replace(b"vadd:vadd_2", b"vadd:vadd_9"), "unit vadd_2 of kernel vadd is not in the layout"),
        (FILE.replace(b"HBM[1]", b"HBM[0]"), r"two of the same memory bank: HBM\[0\]"),
        (FILE.replace(b"HBM[1]\0", b"HBM\xff1]\0"), "no plain text"),
        (FILE.replace(b"HBM[1]" + bytes(10), b"HBM[1]890123456x"), "does not end"),
    ],
)
def test_what_is_damaged_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(BitstreamError, match=told):
        parse(data)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (edited(units=(vadd(1, "HBM[9]"),)), r"vadd_1 is wired to bank HBM\[9\], and there is HBM\[0\]"),
        (edited(name="v" * 60), "no plain name of at most 63 characters"),
        (edited(name="vädd"), "no plain name"),
        (edited(arguments=VADD[:1] * 2), "two of the same argument"),
        (edited(units=(vadd(1, "HBM[0]"),) * 2), "two of the same unit"),
        (edited(span=0x30), "the registers of n are outside"),
        (EXAMPLE._replace(banks=(Bank("HBM[0]", "HBM", 0, 1000),)), "wired to bank"),
        (
            EXAMPLE._replace(banks=(*EXAMPLE.banks[:2], Bank("HBM[2]", "HBM", 0, 0))),
            r"argument x of unit scale_1 is wired to bank HBM\[2\], of no bytes",
        ),
        (
            EXAMPLE._replace(banks=(*EXAMPLE.banks[:2], Bank("HBM[2]", "AXI Stream", 0, 0))),
            r"argument x of unit scale_1 is wired to bank HBM\[2\], of no bytes",
        ),
        (Bitstream(bytes(16), "", (Bank("DDR", "DDR4", 0, 1000),), ()), "cannot be said"),
        (Bitstream(bytes(16), "", (Bank("D" * 16, "DDR4", 0, 1024),), ()), "at most 15 characters"),
        (
            Bitstream(bytes(16), "", (Bank("DDR", "DDR4", 1 << 63, 1 << 63),) * 2, ()),
            "two of the same memory",
        ),
    ],
)
def test_what_no_file_can_say_is_not_written(asked: Bitstream, told: str) -> None:
    with pytest.raises(BitstreamError, match=told):
        pack(asked)


def mutated(draw: random.Random) -> bytes:
    """Return the example's file with some of its bytes changed, cut out, put in or moved."""
    data = bytearray(FILE)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 700))
        how = draw.random()
        if how < 0.4:
            data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif how < 0.7:
            data[place : place + 8] = draw.choice(
                (0, 1, 2**31, 2**63, 2**64 - 1, draw.getrandbits(64))
            ).to_bytes(8, "little")
        elif how < 0.8:
            del data[place : place + draw.randrange(64)]
        elif how < 0.9:
            data[place:place] = draw.randbytes(draw.randrange(64))
        else:
            other = draw.randrange(len(data))
            data[place : place + 32] = data[other : other + 32]
    if draw.random() < 0.7:  # else hardly any would be looked into
        data[304:312] = len(data).to_bytes(8, "little")
    return bytes(data)


def test_whatever_is_damaged_is_refused_or_harmless() -> None:
    """What is accepted can be followed to its end: no bank, unit or register is outside of what there is."""
    draw, refused = random.Random(5), 0
    for _ in range(10_000):
        data = mutated(draw)
        try:
            found = parse(data)
        except BitstreamError as error:
            refused += 1
            assert str(error)
            continue
        banks = {bank.name for bank in found.banks}
        for kernel in found.kernels:
            for one in kernel.arguments:
                assert one.kind == "stream" or one.offset + one.nbytes <= kernel.span
            for unit in kernel.units:
                assert len(unit.banks) == len(kernel.arguments)
                assert banks.issuperset(name for names in unit.banks for name in names)
    assert 2_000 < refused < 9_900


def test_pynq_survives_what_is_accepted(tmp_path: Path) -> None:
    """It follows the sizes and counts of a file wherever they lead."""
    pytest.importorskip("pynq.pl_server.xclbin_parser")
    draw, accepted = random.Random(6), 0
    for _ in range(1_000):
        data = mutated(draw)
        try:
            parse(data)
        except BitstreamError:
            continue
        (tmp_path / f"{accepted}.xclbin").write_bytes(data)
        accepted += 1
    script = (
        "import pathlib, sys\n"
        "from pynq.pl_server.xclbin_parser import XclBin\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.xclbin'):\n"
        "    XclBin(str(path))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], check=True)
