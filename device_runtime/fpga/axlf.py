"""How the bytes of an xclbin file lie: struct axlf of XRT's `xclbin.h`, and its sections."""

from __future__ import annotations

import struct

MAGIC = b"xclbin2\0"
CIRCUIT, METADATA, MEMORY, CONNECTIVITY, LAYOUT, CLOCKS = 0, 2, 6, 7, 8, 11  # kinds of sections
GROUP_MEMORY, GROUP_CONNECTIVITY = 26, 27  # the same, with banks that the board picks from

LENGTH = struct.Struct("<304xQ")  # of the file; behind the magic, a cipher, a key block and an id
PLATFORM = struct.Struct("<352x64s16s16xI")  # name of the shell, uuid, number of sections
SECTIONS = 456  # where the table of sections begins
SECTION = struct.Struct("<I16s4xQQ")  # kind, name, offset, size
COUNT = struct.Struct("<i")
IP = struct.Struct("<IIQ64s")  # type, properties, base address, "kernel:unit"
BANK = struct.Struct("<BB6xQQ16s")  # type, used, size in KiB, base address, tag
WIRE = struct.Struct("<iii")  # argument, place in the layout, bank
CLOCK_COUNT, CLOCK = struct.Struct("<h"), struct.Struct("<HB5x128s")  # MHz, type, name

BANK_KINDS = (
    "DDR3",
    "DDR4",
    "DRAM",
    "Streaming",
    "Preallocated",
    "ARE",
    "HBM",
    "BRAM",
    "URAM",
    "AXI Stream",
    "Host",
    "PS",
)
KERNEL_IP = 1  # the type of a compute unit in the layout
EMULATED = b"offload-emulated\0"  # what a circuit begins with that is for the emulated device
