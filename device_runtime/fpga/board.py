"""Boards as pynq has them: all of the runtime that touches pynq, or its internals, is here.

It is loaded in the owner of a device only. The same code runs on pynq 3.0.1
and 4: units are driven through `MMIO`, not through the drivers of pynq, which
differ, and know some types of arguments by another size or not at all.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pynq
from pynq.buffer import PynqBuffer

from device_runtime.errors import DeviceMemoryError, DeviceUnavailable, EmulationError
from device_runtime.fpga.bitstream import Bitstream, KernelSpec, Unit
from device_runtime.fpga.circuit import Circuit, Directions, Model, load
from device_runtime.fpga.emulation import Allocation, EmulatedBank, EmulatedUnit
from device_runtime.fpga.rtl import Rtl
from device_runtime.fpga.rtl_unit import RtlUnit
from device_runtime.fpga.timing import Predictor


class Board:
    """A device of pynq's with a bitstream loaded: the registers of its units, and its memory."""

    def __init__(self, device: pynq.Device, path: str, bitstream: Bitstream) -> None:
        self.bitstream = bitstream
        self._device = device
        self._overlay = pynq.Overlay(path, device=device)
        self._banks: dict[str, Any] = {}

    def registers(self, unit: str) -> pynq.MMIO:
        """Return what reads and writes the registers of a unit."""
        described = self._overlay.ip_dict[unit]
        if "index" in described:
            self._device.open_context(described)
        return pynq.MMIO(described["phys_addr"], described["addr_range"], device=self._device)

    def allocate(self, bank: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PynqBuffer:
        """Return a buffer in a bank; it is given back with the last reference to it.

        Raises DeviceMemoryError, naming the bank.
        """
        memory = self._banks.get(bank)
        if memory is None:
            memory = self._banks[bank] = self._device.get_memory_by_name(bank)
        try:
            return memory.allocate(shape, dtype)
        except RuntimeError as error:
            nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            raise DeviceMemoryError(f"bank {bank} has no room for {nbytes:,} bytes: {error}") from error

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        """Have an emulated unit do what a function does, where its bitstream does not say."""

    @property
    def predictor(self) -> Predictor | None:
        """Tell what predicts times of an emulated device; None for one that is there."""
        return None

    def predicted(self, unit: str) -> float | None:
        """Return how many seconds a unit's runs so far would have taken; None for one that is there."""
        return None

    def cycles(self, unit: str) -> int | None:
        """Return how many cycles the last run of a unit took; None where they are not counted."""
        return None


def open_card(index: int, path: str, bitstream: Bitstream) -> Board:
    """Load a bitstream on a card or board that pynq finds.

    Raises DeviceUnavailable, saying what to do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pynq.Device.devices
    if index >= len(found):
        hint = (
            "source XRT's setup.sh first, and see `xbutil examine`"
            if "XILINX_XRT" not in os.environ
            else "see `xbutil examine`, and whether this user may open it"
        )
        raise DeviceUnavailable(
            f"pynq {pynq.__version__} finds {len(found)} devices, and number {index} is asked for; {hint}"
        )
    try:
        return Board(found[index], path, bitstream)
    except (RuntimeError, OSError) as error:
        raise DeviceUnavailable(f"{path} could not be loaded: {error}") from error


class EmulatedBoard(Board):
    """The same with an emulated device."""

    def __init__(self, path: str, bitstream: Bitstream) -> None:
        self._emulated = EmulatedDevice(bitstream)
        super().__init__(self._emulated, path, bitstream)

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        self._emulated.give_model(unit, model, directions)

    @property
    def predictor(self) -> Predictor:
        return self._emulated.predictor

    def predicted(self, unit: str) -> float:
        return self._emulated.predicted(unit)

    def cycles(self, unit: str) -> int | None:
        return self._emulated.cycles(unit)


class EmulatedDevice(pynq.Device):  # type: ignore[misc, unused-ignore]
    """A device that pynq drives as it drives a card, and that is not there."""

    name = "emulated"

    def __init__(self, bitstream: Bitstream) -> None:
        super().__init__("emulated")
        circuit = load(bitstream.circuit)
        self.predictor = Predictor(circuit.timing, bitstream)
        self.capabilities = {"REGISTER_RW": True}
        self._memories = {bank.name: EmulatedBank(bank) for bank in bitstream.banks if bank.nbytes}
        self._units = {
            unit.address: _emulated(kernel, unit, self._memories, circuit, self.predictor)
            for kernel in bitstream.kernels
            for unit in kernel.units
        }
        self._by_name = {one.unit.name: one for one in self._units.values()}
        self._without = {name for name, one in self._by_name.items() if one.model is None}
        self._spans = {unit.address: kernel.span for kernel in bitstream.kernels for unit in kernel.units}

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        """Have a unit do what a function does, where its bitstream does not say."""
        if unit in self._without:
            self._by_name[unit].model, self._by_name[unit].directions = model, directions

    def predicted(self, unit: str) -> float:
        """Return how many seconds a unit's runs so far would have taken."""
        return self._by_name[unit].predicted

    def cycles(self, unit: str) -> int | None:
        """Return how many cycles the last run of a unit took; None if it is not in Verilog."""
        return self._by_name[unit].cycles

    # Loading a bitstream, as Overlay asks for it.

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        from pynq.pl_server.xclbin_parser import XclBin

        return XclBin(bitfile_name)

    def download(self, bitstream: Any, parser: Any = None) -> None:
        self.post_download(bitstream, parser)

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Keep nothing: there is no server that asks for it."""

    def free_bitstream(self) -> None:
        """Do nothing: what is loaded goes with the process."""

    def close(self) -> None:
        """The same."""

    def open_context(self, description: Mapping[str, Any], shared: bool = True) -> int:
        index: int = description["index"]
        return index

    # Registers.

    def read_registers(self, address: int, length: int) -> bytes:
        unit, offset = self._unit(address)
        return unit.read(offset, length)

    def write_registers(self, address: int, data: bytes) -> None:
        unit, offset = self._unit(address)
        unit.write(offset, bytes(data))

    def _unit(self, address: int) -> tuple[EmulatedUnit, int]:
        for base, unit in self._units.items():
            if base <= address < base + self._spans[base]:
                return unit, address - base
        raise DeviceUnavailable(f"no unit has registers at {address:#x}")

    # Memory.

    def get_memory_by_name(self, name: str) -> _Memory:
        return _Memory(self, self._memories[name])

    def get_memory(self, description: Mapping[str, Any]) -> _Memory:
        return self.get_memory_by_name(description["tag"])

    def flush(self, bo: int, offset: int, vaddr: int, nbytes: int) -> None:
        _, buffer = self._find(bo)
        buffer.memory[offset : offset + nbytes] = _host(vaddr, nbytes)
        buffer.written = True

    def invalidate(self, bo: int, offset: int, vaddr: int, nbytes: int) -> None:
        bank, buffer = self._find(bo)
        if not buffer.written:
            raise EmulationError(
                f"a buffer of bank {bank} is read that was never written, neither by the host nor by a unit"
            )
        _host(vaddr, nbytes)[:] = buffer.memory[offset : offset + nbytes]

    def _find(self, address: int) -> tuple[str, Allocation]:
        for name, bank in self._memories.items():
            found = bank.find(address)
            if found is not None:
                return name, found[0]
        raise DeviceUnavailable(f"no buffer begins at {address:#x}")


def _emulated(
    kernel: KernelSpec,
    unit: Unit,
    banks: Mapping[str, EmulatedBank],
    circuit: Circuit,
    predictor: Predictor,
) -> EmulatedUnit:
    model, fault = circuit.models.get(kernel.name), circuit.faults.get(unit.name)
    directions = circuit.directions.get(kernel.name)
    if isinstance(model, Rtl):
        return RtlUnit(kernel, unit, banks, model, fault, directions, predictor)
    return EmulatedUnit(kernel, unit, banks, model, fault, directions, predictor)


class _Memory:
    """A bank of the emulated device, as pynq asks for its buffers."""

    def __init__(self, device: EmulatedDevice, bank: EmulatedBank) -> None:
        self._device = device
        self._bank = bank

    def allocate(self, shape: Any, dtype: Any, **_: Any) -> PynqBuffer:
        full = (shape,) if isinstance(shape, int) else tuple(shape)
        made = self._bank.allocate(full, np.dtype(dtype))
        buffer = PynqBuffer(
            full,
            np.dtype(dtype),
            buffer=bytearray(made.memory.nbytes),
            device=self._device,
            device_address=made.address,
            bo=made.address,
            coherent=False,
        )
        buffer.memory = buffer.return_to = self
        buffer.pointer = (made.address,)  # which is true also where the address is 0
        return buffer

    def return_pointer(self, pointer: tuple[int]) -> None:
        self._bank.free(*pointer)


def _host(address: int, nbytes: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)) if nbytes else np.empty(0)
