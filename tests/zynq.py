"""Bitstreams of Zynq boards for tests: FILE.bit and FILE.hwh, as Vivado writes them."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.hwh import PS
from offload.hardware import HardwareKernel
from offload.testing import Xclbin

_PS, _AXI = "processing_system7_0", "xilinx.com:interface:aximm:1.0"
_START = {"AP_START": (0, 1), "AP_DONE": (1, 1), "AP_IDLE": (2, 1), "AP_READY": (3, 1)}
_INTERRUPTS = ("GIER", 4), ("IP_IER", 8), ("IP_ISR", 12)


def kernel(name: str, arguments: dict[str, tuple[str, int]], units: int, base: int) -> KernelSpec:
    """Return a kernel: its arguments' types in C, and their bits; pointers end in a star."""
    made, offset = [], 0x10
    for argument, (ctype, bits) in arguments.items():
        nbytes = -(-bits // 32) * 4
        made.append(
            Argument(argument, "pointer" if ctype.endswith("*") else "scalar", ctype, offset, nbytes, "")
        )
        offset += nbytes + 4
    banks = tuple((PS,) if one.kind == "pointer" else () for one in made)
    placed = tuple(Unit(f"{name}_{n}", base + 0x10000 * n, banks) for n in range(units))
    return KernelSpec(name, "ap_ctrl_hs", tuple(made), placed)


def written(
    folder: Path,
    kernels: Iterable[KernelSpec],
    functions: Sequence[HardwareKernel],
    part: str = "7z020clg400",
) -> Path:
    """Write a pair of files, and return the path of the .bit file. What that carries are functions."""
    kept = Bank(PS, "DRAM", 0x1000_0000, 1 << 24)  # what the system keeps for buffers
    circuit = Xclbin(functions).bitstream.circuit
    truth = pickle.dumps(Bitstream(bytes(16), "", (kept,), tuple(kernels), circuit=circuit))
    fields = b"".join(
        letter + struct.pack(">H", len(text) + 1) + text + b"\0"
        for letter, text in ((b"a", b"design;Version=2022.1"), (b"b", part.encode()), (b"c", b"2026/11/22"))
    )
    path = folder / "test.bit"
    path.write_bytes(struct.pack(">H", 9) + bytes(9) + b"\0\1" + fields + b"d\0\1\0e" + truth)
    path.with_suffix(".hwh").write_bytes(hwh(kernels))
    return path


def hwh(kernels: Iterable[KernelSpec]) -> bytes:
    """Return what Vivado says of a design with such kernels, and a processor that reaches them."""
    root = Element("EDKSYSTEM", EDWVERSION="1.2", VIVADOVERSION="2022.1")
    SubElement(root, "SYSTEMINFO", ARCH="zynq", DEVICE="7z020", NAME="design", PACKAGE="clg400")
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    seen = _module(modules, _PS, "processing_system7", "ip")
    clocks = {
        f"PCW_FCLK{n}_PERIPHERAL_{what}": "1" for n in range(4) for what in ("DIVISOR0", "DIVISOR1", "CLKSRC")
    }
    parameters = SubElement(seen, "PARAMETERS")
    for name, value in {**clocks, **{f"PCW_FPGA_FCLK{n}_ENABLE": "0" for n in range(4)}}.items():
        SubElement(parameters, "PARAMETER", NAME=name, VALUE=value)
    _interfaces(seen, M_AXI_GP0="MASTER", S_AXI_HP0="SLAVE")
    memory = SubElement(seen, "MEMORYMAP")
    for spec in kernels:
        for unit in spec.units:
            _unit(modules, memory, spec, unit)
    return b"\xef\xbb\xbf" + bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _unit(modules: Element, memory: Element, spec: KernelSpec, unit: Unit) -> None:
    module = _module(modules, unit.name, spec.name, "hls")
    blocks = SubElement(module, "ADDRESSBLOCKS")
    block = SubElement(
        blocks, "ADDRESSBLOCK", INTERFACE="s_axi_control", NAME="Reg", RANGE=str(spec.span), USAGE="register"
    )
    registers = SubElement(block, "REGISTERS")
    bits = {**_START, "AP_CONTINUE": (4, 1)} if spec.protocol == "ap_ctrl_chain" else _START
    _register(registers, "CTRL", 0, "read-write", **bits)
    for name, offset in _INTERRUPTS:
        _register(registers, name, offset, "read-write", Enable=(0, 1))
    for one in spec.arguments:
        name = f"{one.name}_r" if one.name in ("in", "out", "length") else one.name
        words = one.nbytes // 4
        for n in range(words):
            piece = name if words == 1 else f"{name}_{n + 1}"
            _register(registers, piece, one.offset + 4 * n, "write-only", **{piece: (0, _bits(one))})
    SubElement(module, "PARAMETERS")
    pointers = any(one.kind == "pointer" for one in spec.arguments)
    _interfaces(module, s_axi_control="SLAVE", **({"m_axi_gmem": "MASTER"} if pointers else {}))
    if pointers:
        _range(SubElement(module, "MEMORYMAP"), "m_axi_gmem", _PS, "S_AXI_HP0", "MEMORY", 0, 1 << 29)
    _range(memory, "M_AXI_GP0", _flat(unit.name), "s_axi_control", "REGISTER", unit.address, spec.span)


def _flat(name: str) -> str:
    """Return a block's name without those of the hierarchies that it is in."""
    return name.replace("/", "_")


def _bits(argument: Argument) -> int:
    return {"char": 8, "short": 16, "half": 16, "bool": 1}.get(argument.ctype, 32)


def _module(modules: Element, name: str, kind: str, library: str) -> Element:
    vlnv = f"xilinx.com:{library}:{kind}:1.0"
    return SubElement(modules, "MODULE", FULLNAME=f"/{name}", INSTANCE=_flat(name), MODTYPE=kind, VLNV=vlnv)


def _interfaces(module: Element, **kinds: str) -> None:
    interfaces = SubElement(module, "BUSINTERFACES")
    for name, kind in kinds.items():
        SubElement(interfaces, "BUSINTERFACE", BUSNAME=f"net_{name}", NAME=name, TYPE=kind, VLNV=_AXI)


def _register(registers: Element, name: str, offset: int, access: str, **fields: tuple[int, int]) -> None:
    made = SubElement(registers, "REGISTER", NAME=name)
    _properties(made, ADDRESS_OFFSET=offset, SIZE=32, ACCESS=access, IS_ENABLED="true")
    parts = SubElement(made, "FIELDS")
    for field, (place, width) in fields.items():
        part = SubElement(parts, "FIELD", NAME=field)
        _properties(part, BIT_OFFSET=place, BIT_WIDTH=width, ACCESS=access)


def _properties(element: Element, **values: object) -> None:
    for name, value in values.items():
        SubElement(element, "PROPERTY", NAME=name, VALUE=str(value))


def _range(
    memory: Element, master: str, instance: str, interface: str, kind: str, base: int, nbytes: int
) -> None:
    SubElement(
        memory,
        "MEMRANGE",
        ADDRESSBLOCK="Reg",
        BASEVALUE=f"{base:#010X}".replace("X", "x"),
        HIGHVALUE=f"{base + nbytes - 1:#010X}".replace("X", "x"),
        INSTANCE=instance,
        MASTERBUSINTERFACE=master,
        MEMTYPE=kind,
        SLAVEBUSINTERFACE=interface,
    )
