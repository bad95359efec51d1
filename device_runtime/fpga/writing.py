"""Write xclbin files without a circuit, for emulated devices."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from xml.etree import ElementTree

from device_runtime.fpga import axlf
from device_runtime.fpga.bitstream import Bitstream
from device_runtime.fpga.xclbin import parse, refuse


def pack(bitstream: Bitstream) -> bytes:
    """Return the bytes of an xclbin file without a circuit, for an emulated device.

    Raises BitstreamError for what no such file can say: names that are too
    long or not plain text, units that name banks there are none of, registers that overlap.
    """
    banks = {bank.name: place for place, bank in enumerate(bitstream.banks)}
    units = [(kernel, unit) for kernel in bitstream.kernels for unit in kernel.units]
    wires = []
    for place, (_, unit) in enumerate(units):
        for argument, names in enumerate(unit.banks):
            for name in names:
                if name not in banks:
                    refuse(
                        f"unit {unit.name} is wired to bank {name}, and there is {', '.join(banks) or 'none'}"
                    )
                wires.append((argument, place, banks[name]))
    sections = [
        (axlf.METADATA, _metadata(bitstream)),
        (
            axlf.LAYOUT,
            _table(
                8,
                [
                    axlf.IP.pack(axlf.KERNEL_IP, 0, unit.address, _field(f"{kernel.name}:{unit.name}", 64))
                    for kernel, unit in units
                ],
            ),
        ),
        (
            axlf.MEMORY,
            _table(
                8,
                [
                    axlf.BANK.pack(
                        axlf.BANK_KINDS.index(bank.kind),
                        bank.used,
                        bank.nbytes >> 10,
                        bank.base,
                        _field(bank.name, 16),
                    )
                    for bank in bitstream.banks
                ],
            ),
        ),
        # pynq reads the first wire and the first clock unasked, so there is room for them.
        (
            axlf.CONNECTIVITY,
            _table(4, [axlf.WIRE.pack(*wire) for wire in wires]).ljust(4 + axlf.WIRE.size, b"\0"),
        ),
        (
            axlf.CLOCKS,
            (
                axlf.CLOCK_COUNT.pack(len(bitstream.clocks))
                + b"".join(axlf.CLOCK.pack(mhz, 1, _field(name, 128)) for name, mhz in bitstream.clocks)
            ).ljust(axlf.CLOCK_COUNT.size + axlf.CLOCK.size, b"\0"),
        ),
    ]
    if bitstream.circuit:
        sections.append((axlf.CIRCUIT, axlf.EMULATED + bitstream.circuit))
    data = _file(bitstream, sections)
    if parse(data) != bitstream:
        refuse("what is asked for cannot be said in an xclbin file")
    return data


_SPAN = 0x1000  # bytes of addresses between units that have no registers


def with_units(bitstream: Bitstream, count: int) -> Bitstream:
    """Return the same circuit with so many units of each kernel, wired as those that there are, in turns.

    Raises BitstreamError for more than there is room for.
    """
    address = max((unit.address + one.span for one in bitstream.kernels for unit in one.units), default=0)
    kernels = []
    for kernel in bitstream.kernels:
        units = list(kernel.units[:count])
        names = {unit.name for unit in units}
        span = kernel.span or _SPAN
        while kernel.units and len(units) < count:
            like = kernel.units[len(units) % len(kernel.units)]
            address = -(-address // span) * span
            if address + span > 1 << 64:
                refuse(f"there is no room for {count} units of {kernel.name}: a unit lies at {address:#x}")
            name = next(
                name for n in itertools.count(len(units) + 1) if (name := f"{kernel.name}_{n}") not in names
            )
            names.add(name)
            units.append(like._replace(name=name, address=address))
            address += span
        kernels.append(kernel._replace(units=tuple(units)))
    return bitstream._replace(kernels=tuple(kernels))


def _file(bitstream: Bitstream, sections: Iterable[tuple[int, bytes]]) -> bytes:
    """Put sections behind a header, each at a multiple of 8 bytes."""
    parts = list(sections)
    place = axlf.SECTIONS + len(parts) * axlf.SECTION.size
    table, body = b"", b""
    for kind, section in parts:
        table += axlf.SECTION.pack(kind, b"", place + len(body), len(section))
        body += section + b"\0" * (-len(section) % 8)
    header = bytearray(axlf.SECTIONS)
    header[: len(axlf.MAGIC)] = axlf.MAGIC
    header[8:12] = struct.pack("<i", -1)  # it is not signed
    _put(header, 304, struct.pack("<Q", place + len(body)))
    _put(header, 352, struct.pack("<64s16s16xI", _field(bitstream.platform, 64), bitstream.uuid, len(parts)))
    return bytes(header) + table + body


def _put(data: bytearray, place: int, part: bytes) -> None:
    data[place : place + len(part)] = part


def _table(first: int, entries: list[bytes]) -> bytes:
    return axlf.COUNT.pack(len(entries)).ljust(first, b"\0") + b"".join(entries)


def _field(text: str, size: int) -> bytes:
    """Return a name as a field of fixed size has it."""
    if not text.isascii() or len(text) >= size or "\0" in text:
        refuse(f"{text!r} is no plain name of at most {size - 1} characters")
    return text.encode("ascii")


def _metadata(bitstream: Bitstream) -> bytes:
    project = ElementTree.Element("project", name="emulated")
    platform = ElementTree.SubElement(project, "platform", vendor="offload", name=bitstream.platform)
    device = ElementTree.SubElement(platform, "device", name="fpga0")
    core = ElementTree.SubElement(device, "core", name="OCL_REGION_0", target="hw", type="clc_region")
    for kernel in bitstream.kernels:
        element = ElementTree.SubElement(
            core,
            "kernel",
            name=kernel.name,
            language="c",
            vlnv=f"offload:emulated:{kernel.name}:1.0",
            hwControlProtocol=kernel.protocol,
        )
        control = dict(
            mode="slave", range=hex(kernel.span), dataWidth="32", portType="addressable", base="0x0"
        )
        ElementTree.SubElement(element, "port", name="S_AXI_CONTROL", attrib=control)
        for port in dict.fromkeys(one.port for one in kernel.arguments if one.kind == "pointer"):
            memory = dict(mode="master", range="0xFFFFFFFFFFFFFFFF", dataWidth="512", portType="addressable")
            ElementTree.SubElement(element, "port", name=port, base="0x0", attrib=memory)
        for place, one in enumerate(kernel.arguments):
            ElementTree.SubElement(
                element,
                "arg",
                name=one.name,
                addressQualifier={"scalar": "0", "pointer": "1", "stream": "4"}[one.kind],
                id=str(place),
                port=one.port,
                size=hex(one.nbytes),
                offset=hex(one.offset),
                hostOffset="0x0",
                hostSize=hex(one.nbytes),
                type=one.ctype,
            )
        for unit in kernel.units:
            instance = ElementTree.SubElement(element, "instance", name=unit.name)
            ElementTree.SubElement(instance, "addrRemap", base=hex(unit.address), port="S_AXI_CONTROL")
    data: bytes = ElementTree.tostring(project, encoding="utf-8", xml_declaration=True)
    return data
