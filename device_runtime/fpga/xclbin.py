"""Read xclbin files, Xilinx's container for bitstreams.

The metadata is that of Vitis. A file is only believed where all of it fits
together: what reads it after us follows its sizes and counts wherever they lead.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from device_runtime.errors import BitstreamError
from device_runtime.fpga import axlf
from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.files import size_of

_STREAMS = (3, 9)
_PROTOCOLS = ("ap_ctrl_hs", "ap_ctrl_chain", "ap_ctrl_none", "user_managed", "s_axilite")
_KINDS = {"0": "scalar", "1": "pointer", "2": "pointer", "4": "stream"}  # by "addressQualifier"
_ONCE = {  # sections that are read; of others a file may have several
    axlf.CIRCUIT,
    axlf.METADATA,
    axlf.MEMORY,
    axlf.CONNECTIVITY,
    axlf.LAYOUT,
    axlf.CLOCKS,
    axlf.GROUP_MEMORY,
    axlf.GROUP_CONNECTIVITY,
}
_PLACES = 5  # digits of an argument's number, more than there ever are
_MOST = 1 << 16  # entries of a section, far more than there ever are
_LARGEST = 1 << 31  # bytes of a file


def read(path: str | Path) -> Bitstream:
    """Return what an xclbin file says.

    Raises BitstreamError, naming the file, if there is none, or what is wrong with it.
    """
    try:
        size = size_of(path)
        if size > _LARGEST:
            raise BitstreamError(f"{path}: {size:,} bytes, more than any xclbin has ({_LARGEST:,})")
        data = Path(path).read_bytes()
    except OSError as error:
        raise BitstreamError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return parse(data)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None


def parse(data: bytes) -> Bitstream:
    """Return what the bytes of an xclbin file say.

    Raises BitstreamError, saying what is wrong.
    """
    if not data.startswith(axlf.MAGIC):
        refuse(
            "the file is empty" if not data else "this is no xclbin file: it does not begin with 'xclbin2'"
        )
    if len(data) < axlf.SECTIONS:
        refuse(f"it ends within its header, after {len(data)} bytes of {axlf.SECTIONS}")
    (length,) = axlf.LENGTH.unpack_from(data)
    if length != len(data):
        refuse(
            f"its header says {length:,} bytes, and the file has {len(data):,}: it is truncated or damaged"
        )
    platform, uuid, count = axlf.PLATFORM.unpack_from(data)
    sections = _sections(data, count)
    banks = _banks(sections)
    layout = _layout(sections)
    kernels = _kernels(sections, layout, banks)
    circuit = sections.get(axlf.CIRCUIT, b"")
    return Bitstream(
        uuid,
        _text(platform, "the platform's name"),
        banks,
        kernels,
        _clocks(sections),
        circuit[len(axlf.EMULATED) :] if circuit.startswith(axlf.EMULATED) else b"",
    )


def refuse(why: str) -> NoReturn:
    """Raise BitstreamError."""
    raise BitstreamError(why)


def tree(data: bytes, what: str = "it") -> ElementTree.Element:
    """Return XML, read; as text, so that an encoding of its own can hide nothing in it.

    Raises BitstreamError for what is none, and for entities, which may grow without bounds.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(f"{what} is no XML in UTF-8: {error}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        refuse(f"{what} defines entities, as no tool of Xilinx's writes them")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        refuse(f"{what} is no XML: {error}")


def _text(raw: bytes, what: str) -> str:
    """Return the text of a field that a zero byte ends."""
    found, end, _ = raw.partition(b"\0")
    if not end:
        refuse(f"{what} does not end: {raw!r}")
    try:
        return found.decode("ascii")
    except UnicodeDecodeError:
        refuse(f"{what} is no plain text: {found!r}")


def _sections(data: bytes, count: int) -> dict[int, bytes]:
    end = axlf.SECTIONS + count * axlf.SECTION.size
    if count > _MOST or end > len(data):
        refuse(f"it claims {count:,} sections, more than the file has room for")
    found: dict[int, bytes] = {}
    for kind, _, offset, size in axlf.SECTION.iter_unpack(data[axlf.SECTIONS : end]):
        if offset < end or offset + size > len(data):
            refuse(f"section {kind} lies outside of the file: {size:,} bytes from {offset:,} on")
        if kind in found and kind in _ONCE:
            refuse(f"it has section {kind} twice")
        found[kind] = data[offset : offset + size]
    return found


def _entries(section: bytes, kind: struct.Struct, first: int, what: str) -> Iterator[tuple[int | bytes, ...]]:
    """Yield the entries of a section that begins with their number."""
    count = axlf.CLOCK_COUNT if kind is axlf.CLOCK else axlf.COUNT
    if len(section) < count.size:
        refuse(f"the table of {what} is empty")
    (number,) = count.unpack_from(section)
    if not 0 <= number <= _MOST or first + number * kind.size > len(section):
        refuse(f"the table of {what} claims {number:,}, more than it has room for")
    return kind.iter_unpack(section[first : first + number * kind.size])


def _banks(sections: dict[int, bytes]) -> tuple[Bank, ...]:
    section = sections.get(axlf.MEMORY, sections.get(axlf.GROUP_MEMORY))
    if section is None:
        return ()
    found = []
    for kind, used, size, base, tag in _entries(section, axlf.BANK, 8, "memory banks"):
        assert isinstance(kind, int) and isinstance(tag, bytes) and isinstance(size, int)
        assert isinstance(base, int)
        if kind >= len(axlf.BANK_KINDS):
            refuse(f"bank {tag!r} is of a kind that is not known, {kind}")
        name = _text(tag, "the name of a bank")
        if kind in _STREAMS:
            size = base = 0  # the fields mean something else there
        if not name or base + size * 1024 > 1 << 64:
            refuse(f"bank {name!r} has {size:,} KiB from address {base:#x} on")
        found.append(Bank(name, axlf.BANK_KINDS[kind], base, size * 1024, bool(used)))
    once([bank.name for bank in found if bank.used], "memory bank")
    return tuple(found)


def _layout(sections: dict[int, bytes]) -> list[str]:
    """Return the names, "kernel:unit", of what the circuit has; "" for what is no compute unit."""
    section = sections.get(axlf.LAYOUT)
    if section is None:
        return []
    found = []
    for kind, _, _, raw in _entries(section, axlf.IP, 8, "units"):
        assert isinstance(raw, bytes)
        found.append(_text(raw, "the name of a unit") if kind == axlf.KERNEL_IP else "")
    return found


def _wires(
    sections: dict[int, bytes], layout: list[str], banks: tuple[Bank, ...]
) -> dict[tuple[str, int], list[str]]:
    """Return the banks that each argument is wired to, by unit ("kernel:unit") and place of the argument."""
    section = sections.get(axlf.CONNECTIVITY, sections.get(axlf.GROUP_CONNECTIVITY))
    found: dict[tuple[str, int], list[str]] = {}
    if section is None:
        return found
    for argument, place, bank in _entries(section, axlf.WIRE, 4, "wires"):
        assert isinstance(argument, int) and isinstance(place, int) and isinstance(bank, int)
        if not (0 <= place < len(layout) and 0 <= bank < len(banks) and argument >= 0):
            refuse(
                f"a wire leads from argument {argument} of unit {place} to bank {bank}, "
                f"and there are {len(layout)} units and {len(banks)} banks"
            )
        found.setdefault((layout[place], argument), []).append(banks[bank].name)
    return found


def _kernels(
    sections: dict[int, bytes], layout: list[str], banks: tuple[Bank, ...]
) -> tuple[KernelSpec, ...]:
    metadata = sections.get(axlf.METADATA)
    if metadata is None:
        refuse("it has no metadata, and so tells nothing of its kernels")
    root = tree(metadata.rstrip(b"\0"), "its metadata")
    wires = _wires(sections, layout, banks)
    empty = {bank.name for bank in banks if not bank.nbytes} - {bank.name for bank in banks if bank.nbytes}
    found = [
        _kernel(element, layout, wires, empty) for element in root.findall("platform/device/core/kernel")
    ]
    once([kernel.name for kernel in found], "kernel")
    units = [unit for kernel in found for unit in kernel.units]
    once([unit.name for unit in units], "unit")
    once([f"{unit.address:#x}" for unit in units], "address of units")
    return tuple(found)


def _kernel(
    element: ElementTree.Element,
    layout: list[str],
    wires: dict[tuple[str, int], list[str]],
    empty: set[str],
) -> KernelSpec:
    name = _attribute(element, "name", "a kernel")
    what = f"kernel {name}"
    protocol = element.get("hwControlProtocol", "s_axilite")
    if protocol not in _PROTOCOLS:
        refuse(f"{what} is controlled by {protocol!r}, which is none of {', '.join(_PROTOCOLS)}")
    arguments = _arguments(element, what)
    spans = [_number(port, "range", what) for port in element.findall("port") if port.get("mode") == "slave"]
    span = max(spans, default=0)
    for argument in arguments:
        if argument.kind != "stream" and argument.offset + argument.nbytes > span:
            refuse(f"{what}: the registers of {argument.name} are outside of its unit's {span:#x} bytes")
    units = []
    for instance in element.findall("instance"):
        unit = _attribute(instance, "name", what)
        remap = instance.find("addrRemap")
        if remap is None:
            refuse(f"unit {unit} of {what} has no address")
        full = f"{name}:{unit}"
        if layout and full not in layout:
            refuse(f"unit {unit} of {what} is not in the layout of the circuit")
        banks = tuple(tuple(wires.get((full, place), ())) for place in range(len(arguments)))
        for argument, names in zip(arguments, banks, strict=True):
            lacks = [one for one in names if argument.kind == "pointer" and one in empty]
            if lacks:
                refuse(f"argument {argument.name} of unit {unit} is wired to bank {lacks[0]}, of no bytes")
        units.append(Unit(unit, _number(remap, "base", f"unit {unit}"), banks))
    units.sort(key=lambda unit: unit.address)
    return KernelSpec(
        name, "ap_ctrl_hs" if protocol == "s_axilite" else protocol, arguments, tuple(units), span
    )


def _arguments(element: ElementTree.Element, what: str) -> tuple[Argument, ...]:
    found: dict[int, Argument] = {}
    for entry in element.findall("arg"):
        place = entry.get("id", "")
        if not place:
            continue  # a part of an argument that has a register of its own
        name = _attribute(entry, "name", what)
        qualifier = entry.get("addressQualifier", "")
        if qualifier not in _KINDS or not (place.isascii() and place.isdecimal() and len(place) <= _PLACES):
            refuse(f"{what}: argument {name} is number {place[:80]!r}, of kind {qualifier!r}")
        kind = _KINDS[qualifier]
        argument = Argument(
            name,
            kind,
            entry.get("type", ""),
            _number(entry, "offset", f"argument {name} of {what}") if kind != "stream" else 0,
            _number(entry, "size", f"argument {name} of {what}"),
            entry.get("port", ""),
        )
        if int(place) in found:
            refuse(f"{what}: {found[int(place)].name} and {name} are both its argument {place}")
        found[int(place)] = argument
    if sorted(found) != list(range(len(found))):
        refuse(f"{what}: its arguments are numbered {sorted(found)}")
    arguments = tuple(found[place] for place in range(len(found)))
    once([argument.name for argument in arguments], f"argument of {what}")
    taken = sorted(
        (one.offset, one.offset + one.nbytes, one.name) for one in arguments if one.kind != "stream"
    )
    for (_, end, first), (begin, _, second) in itertools.pairwise(taken):
        if begin < end:
            refuse(f"{what}: {first} and {second} share a register")
    return arguments


def _attribute(element: ElementTree.Element, name: str, what: str) -> str:
    found = element.get(name)
    if not found:
        refuse(f"{what} has no {name}")
    return found


def _number(element: ElementTree.Element, name: str, what: str) -> int:
    text = _attribute(element, name, what)
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        refuse(f"{what}: {name} is {text!r}")
    return number


def _clocks(sections: dict[int, bytes]) -> tuple[tuple[str, int], ...]:
    section = sections.get(axlf.CLOCKS)
    if section is None:
        return ()
    found = []
    for mhz, _, raw in _entries(section, axlf.CLOCK, 2, "clocks"):
        assert isinstance(mhz, int) and isinstance(raw, bytes)
        found.append((_text(raw, "the name of a clock"), mhz))
    return tuple(found)


def once(names: list[str], what: str) -> None:
    """Refuse a name that is given to two of a kind: raise BitstreamError, naming it."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(f"it has two of the same {what}: {name}")
        seen.add(name)
