"""Bitstreams for tests: kernels, units and banks of an emulated device."""

from __future__ import annotations

import importlib.util
import itertools
import os
from pathlib import Path

import pytest

from device_runtime.claims import claim
from device_runtime.errors import DeviceUnavailable
from device_runtime.fpga.bitstream import Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.writing import pack, with_units
from device_runtime.fpga.xclbin import read

_CARDS = 16  # as many as tests have at once, and more
_STAND_INS = Path(__file__).parent / "stand_ins"


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


def stand_in_for_xrt(environment: pytest.MonkeyPatch) -> None:
    """Let pynq 3.0.1 find cards in the processes that are started from now on."""
    environment.setenv("XILINX_XRT", str(_STAND_INS))
    environment.setenv("XRT_CARDS", str(_CARDS))
    environment.setenv("PYTHONPATH", str(_STAND_INS), prepend=os.pathsep)


def stand_in_for_zynq(environment: pytest.MonkeyPatch) -> None:
    """Let pynq find a Zynq board in the processes that are started from now on."""
    environment.setenv("STAND_IN_ZYNQ", "1")
    environment.setenv("PYTHONPATH", str(_STAND_INS), prepend=os.pathsep)


def need_pynq() -> None:
    """Skip a test where there is no pynq. With cards that are stood in for it cannot be imported here."""
    if importlib.util.find_spec("pynq") is None:
        pytest.skip("there is no pynq")


def on_cards() -> bool:
    """Tell whether what is emulated elsewhere is on cards now."""
    return os.environ.get("XILINX_XRT") == str(_STAND_INS)


def _equip(path: Path, units: int | None = None) -> None:
    """Give a file what a card is told by nobody: how many units there are, and the models of the circuit."""
    from hardware_kernels import add, scale, split

    from offload.testing import Xclbin

    found = read(path)
    circuit = found.circuit or Xclbin([add, scale, split]).bitstream.circuit
    made = found if units is None else with_units(found, units)
    path.write_bytes(pack(made._replace(circuit=circuit)))


def address(emulated: str) -> str:
    """Return the address of a device; with `--xrt`, that of a card for what begins with "emu:"."""
    kind, _, rest = emulated.partition(":")
    if kind != "emu" or not on_cards():
        return emulated
    path, _, query = rest.partition("?")
    options = dict(part.split("=") for part in query.split("&") if part)
    units = options.pop("units", None)
    options["device"] = str(free_card())
    _equip(Path(path), None if units is None else int(units))
    return f"pynq:{path}?" + "&".join(f"{name}={value}" for name, value in options.items())


def free_card() -> int:
    """Return the number of a card that nobody has, another one each time."""
    for number in _numbers:
        try:
            claim(f"card {number}", "", 0.0).close()
        except DeviceUnavailable:
            continue
        return number
    raise AssertionError("there is no end of numbers")


_numbers = itertools.cycle(range(_CARDS))
