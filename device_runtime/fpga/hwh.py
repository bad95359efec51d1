"""Read what Vivado writes beside a Zynq board's bitstream: FILE.hwh, next to FILE.bit.

Kernels are the blocks that Vitis HLS made, known by their start bit. The file
says names, places and widths of their registers, but not what the kernel's
source says of them: whether a register holds a number or an address, and of
what, is the decorated function's to say.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from device_runtime.errors import BitstreamError
from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.files import size_of
from device_runtime.fpga.xclbin import once, refuse, tree

PS = "PSDDR"  # pynq's name of the memory that a Zynq's processors and its circuit share
_LARGEST = 1 << 28  # bytes of a file
_PROCESSORS = ("processing_system7", "zynq_ultra_ps_e")
_ARGUMENTS = 0x10  # where their registers begin; before them are those of control and interrupts


class _Register(NamedTuple):
    name: str
    offset: int
    bits: int


class _Range(NamedTuple):
    """Addresses by which one block reaches another."""

    instance: str
    interface: str
    kind: str  # "REGISTER" or "MEMORY"
    base: int
    nbytes: int


def read(path: str | Path) -> Bitstream:
    """Return what the .hwh file beside a .bit file says.

    Raises BitstreamError, naming the file, if there is none, or what is wrong with it.
    """
    bit, hwh = Path(path), Path(path).with_suffix(".hwh")
    circuit = _bytes(bit)
    if not hwh.exists():
        raise BitstreamError(
            f"{bit} tells nothing of its kernels, and there is no {hwh.name} beside it, which does: "
            "copy it there; Vivado writes it into its folder hw_handoff, and into what it exports (.xsa)"
        )
    described = _bytes(hwh)
    try:
        found = parse(described)
    except BitstreamError as error:
        raise BitstreamError(f"{hwh}: {error}") from None
    part = _part_of(circuit)
    if part is None:
        raise BitstreamError(f"{bit}: this is no .bit file: it does not begin as Vivado's do")
    if not part.startswith(found.platform.partition(" ")[2]):
        raise BitstreamError(
            f"{bit} is for {part}, and {hwh.name} beside it for {found.platform}: they do not belong together"
        )
    return found._replace(uuid=hashlib.sha256(circuit + described).digest()[:16])


def parse(data: bytes) -> Bitstream:
    """Return what the bytes of a .hwh file say.

    Raises BitstreamError, saying what is wrong.
    """
    root = tree(data)
    if root.tag != "EDKSYSTEM":
        refuse(f"this is no hardware handoff of Vivado's: it begins with {root.tag[:40]!r}")
    system = root.find("SYSTEMINFO")
    if system is None:
        refuse("it does not say which part it is for: there is no SYSTEMINFO")
    modules = root.findall("MODULES/MODULE")
    processors = {_attribute(one, "INSTANCE") for one in modules if one.get("MODTYPE") in _PROCESSORS}
    if not processors:
        refuse(f"there is no processor to drive the circuit; known are {', '.join(_PROCESSORS)}")
    kernels, memory = _kernels(modules, processors)
    units = [unit for kernel in kernels for unit in kernel.units]
    once([unit.name for unit in units], "unit")
    once([f"{unit.address:#x}" for unit in units], "address of units")
    part = _part(system.get("DEVICE", "") + system.get("PACKAGE", ""))
    banks = (Bank(PS, "DRAM", 0, memory),) if memory else ()
    return Bitstream(bytes(16), f"{system.get('ARCH', '')} {part}", banks, tuple(kernels))


def _kernels(modules: list[ElementTree.Element], processors: set[str]) -> tuple[list[KernelSpec], int]:
    """Return the kernels, and how many bytes of the processor's memory they reach."""
    seen = [found for one in modules if one.get("INSTANCE") in processors for found in _ranges(one)]
    kernels: dict[str, KernelSpec] = {}
    memory = 0
    for module in modules:
        made = _unit(module, seen)
        if made is None:
            continue
        spec, unit = made
        reached = [found for found in _ranges(module) if found.kind == "MEMORY"]
        shared = [found.nbytes for found in reached if found.instance in processors and found.base == 0]
        if reached and not shared:
            refuse(
                f"unit {unit.name} reaches the memory of {reached[0].instance}, "
                "and only that of the processor can be used"
            )
        memory = max([memory, *shared])
        if shared:
            spec = spec._replace(arguments=tuple(one._replace(kind="word") for one in spec.arguments))
        known = kernels.setdefault(spec.name, spec)
        if known._replace(units=()) != spec:
            refuse(
                f"units {known.units[0].name} and {unit.name} of kernel {spec.name} have different registers"
            )
        banks = ((PS,) if shared else (),) * len(spec.arguments)
        units = sorted((*known.units, unit._replace(banks=banks)), key=lambda one: one.address)
        kernels[spec.name] = known._replace(units=tuple(units))
    return list(kernels.values()), memory


def _bytes(path: Path) -> bytes:
    try:
        size = size_of(path)
        if size > _LARGEST:
            raise BitstreamError(f"{path}: {size:,} bytes, more than any has ({_LARGEST:,})")
        return path.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{path} cannot be read: {error.strerror}") from error


def _part_of(circuit: bytes) -> str | None:
    """Return the part that a .bit file is for, None if it is no such file.

    It begins with a field of no use, and then has a letter before each: a, the
    design; b, the part; c and d, the time.
    """
    try:
        (length,) = struct.unpack_from(">H", circuit)
        place = length + 4
        while circuit[place : place + 1] in (b"a", b"b"):
            (length,) = struct.unpack_from(">xH", circuit, place)
            field = circuit[place + 3 : place + 3 + length]
            if circuit[place : place + 1] == b"b":
                return _part(field.rstrip(b"\0").decode("ascii"))
            place += 3 + length
    except (struct.error, UnicodeDecodeError):
        pass
    return None


def _part(name: str) -> str:
    """Return the name of a part as it is in both kinds of files."""
    return name.lower().replace("-", "").removeprefix("xc")


def _unit(module: ElementTree.Element, seen: list[_Range]) -> tuple[KernelSpec, Unit] | None:
    """Return a block as a kernel, and as a unit of it; None if it is none, or out of reach."""
    blocks = {
        _attribute(block, "INTERFACE"): block.findall("REGISTERS/REGISTER")
        for block in module.findall("ADDRESSBLOCKS/ADDRESSBLOCK")
        if block.get("INTERFACE") and block.find("REGISTERS/REGISTER") is not None
    }
    control = [(name, fields) for name, found in blocks.items() if (fields := _control(found))]
    if not control:
        return None
    (interface, fields), *_ = control
    instance = _attribute(module, "INSTANCE")
    if len(blocks) > 1:
        refuse(
            f"unit {instance} has registers behind {' and '.join(blocks)}, of which pynq drives one: "
            "give all arguments of the kernel the same bundle=, by #pragma HLS INTERFACE s_axilite"
        )
    placed = [one for one in seen if (one.instance, one.interface) == (instance, interface)]
    if not placed:
        return None
    name = module.get("FULLNAME", instance).lstrip("/")
    arguments = tuple(_arguments(blocks[interface], instance))
    for one in arguments:
        if one.offset + one.nbytes > placed[0].nbytes:
            refuse(f"unit {name}: the registers of {one.name} are outside of its {placed[0].nbytes:#x} bytes")
    protocol = "ap_ctrl_chain" if "AP_CONTINUE" in fields else "ap_ctrl_hs"
    spec = KernelSpec(_attribute(module, "MODTYPE"), protocol, arguments, (), placed[0].nbytes)
    return spec, Unit(name, placed[0].base, ())


def _control(registers: list[ElementTree.Element]) -> set[str]:
    """Return the names of the bits of a unit's first register; none if it cannot be started by them."""
    for register in registers:
        if _properties(register, ()).get("ADDRESS_OFFSET", 0) == 0:
            names = {field.get("NAME", "") for field in register.findall("FIELDS/FIELD")}
            return names if "AP_START" in names else set()
    return set()


def _arguments(registers: list[ElementTree.Element], unit: str) -> list[Argument]:
    """Return the arguments in the order of their registers, which is that of the kernel's source."""
    found = []
    for register in registers:
        name = _attribute(register, "NAME")
        numbers = _properties(register, ("ADDRESS_OFFSET", "SIZE"))
        read_only = any(
            one.get("NAME") == "ACCESS" and one.get("VALUE") == "read-only"
            for one in register.findall("PROPERTY")
        )
        if numbers["ADDRESS_OFFSET"] < _ARGUMENTS or read_only:
            continue  # what comes out in a register is not an argument
        widths = [
            _properties(field, ("BIT_WIDTH",))["BIT_WIDTH"]
            for field in register.findall("FIELDS/FIELD[@NAME]")
            if field.get("NAME") == name
        ]
        found.append(_Register(name, numbers["ADDRESS_OFFSET"], widths[0] if widths else numbers["SIZE"]))
    found.sort(key=lambda one: one.offset)
    whole = _joined(found)
    for one, other in pairwise(whole):
        if one.offset + -(-one.bits // 32) * 4 > other.offset:
            refuse(f"unit {unit}: {one.name} and {other.name} share a register")
    names = [one.name for one in whole]
    made = []
    for one in whole:
        if one.offset % 4 or not 0 < one.bits <= 1 << 16:
            refuse(f"unit {unit}: register {one.name} of {one.bits} bits at {one.offset:#x}")
        # Names that mean something in Verilog or VHDL, as "in" and "length", get an ending.
        plain = one.name.removesuffix("_r")
        name = one.name if plain in names or not plain else plain
        if names.count(one.name) > 1:
            refuse(f"unit {unit} has two registers {one.name}")
        made.append(Argument(name, "scalar", f"bits<{one.bits}>", one.offset, -(-one.bits // 32) * 4, ""))
    return made


def _joined(registers: list[_Register]) -> list[_Register]:
    """Join the registers of what is wider than one: a_1 and a_2, side by side, are a."""
    whole: list[_Register] = []
    wanted: tuple[str, int] | None = None  # the register that would go on with the last one
    for one in registers:
        if (one.name, one.offset) == wanted:
            stem, _, number = one.name.rpartition("_")
            whole[-1] = whole[-1]._replace(name=stem, bits=32 * (int(number) - 1) + one.bits)
            wanted = f"{stem}_{int(number) + 1}", one.offset + 4
        else:
            whole.append(one)
            wanted = f"{one.name[:-2]}_2", one.offset + 4 if one.name.endswith("_1") else -1
    return whole


def _ranges(module: ElementTree.Element) -> list[_Range]:
    return [
        _Range(
            found.get("INSTANCE", ""),
            found.get("SLAVEBUSINTERFACE", ""),
            found.get("MEMTYPE", ""),
            base := _number(found.attrib, "BASEVALUE", "a range of addresses"),
            _number(found.attrib, "HIGHVALUE", "a range of addresses", base) - base + 1,
        )
        for found in module.findall("MEMORYMAP/MEMRANGE")
        if found.get("MEMTYPE") in ("REGISTER", "MEMORY")
    ]


def _properties(element: ElementTree.Element, wanted: tuple[str, ...]) -> dict[str, int]:
    """Return an element's properties that are numbers; those that are wanted must be there."""
    what = f"{element.tag.lower()} {element.get('NAME')}"
    found = {one.get("NAME", ""): one.get("VALUE", "") for one in element.findall("PROPERTY")}
    names = {name for name in ("ADDRESS_OFFSET", "SIZE", "BIT_WIDTH") if name in found} | set(wanted)
    return {name: _number(found, name, what) for name in names}


def _attribute(element: ElementTree.Element, name: str) -> str:
    found = element.get(name)
    if not found:
        refuse(f"{element.tag.lower()} {element.get('NAME', '')} has no {name}")
    return found


def _number(found: Mapping[str, str], name: str, what: str, least: int = 0) -> int:
    try:
        number = int(found.get(name, ""), 0)
    except ValueError:
        number = -1
    if not least <= number < 1 << 64:
        refuse(f"{what}: {name} is {found.get(name)!r}")
    return number
