"""Bitstreams for tests: kernels, units and banks of an emulated device."""

from __future__ import annotations

from pathlib import Path

from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.writing import pack


def arguments(**ctypes: str) -> tuple[Argument, ...]:
    """Return arguments by name and type, where Vitis HLS puts their registers."""
    made, offset = [], 0x10
    for name, ctype in ctypes.items():
        pointer = ctype.endswith("*")
        wide = pointer or ctype in ("double", "long", "size_t")
        kind, port = ("pointer", f"M_AXI_{name.upper()}") if pointer else ("scalar", "S_AXI_CONTROL")
        made.append(Argument(name, kind, ctype, offset, 8 if wide else 4, port))
        offset += 12 if wide else 8
    return tuple(made)


VADD = arguments(a="float*", b="float*", out="float*", n="int")


def vadd(units: int = 1, out: str = "HBM1") -> Bitstream:
    """Return a bitstream that adds vectors."""
    banks = tuple(Bank(f"HBM{n}", "HBM", n << 24, 1 << 24) for n in range(3))
    wired = ("HBM0",), ("HBM0",), (out,), ()
    made = tuple(Unit(f"vadd_{n + 1}", 0x800000 + 0x10000 * n, wired) for n in range(units))
    return Bitstream(b"vadd's own uuid!", "emulated", banks, (KernelSpec("vadd", "ap_ctrl_hs", VADD, made),))


def written(folder: Path, bitstream: Bitstream) -> Path:
    """Write a bitstream to a file, and return its path."""
    path = folder / "test.xclbin"
    path.write_bytes(pack(bitstream))
    return path
