"""Boards as pynq has them: all of the runtime that touches pynq, or its internals, is here.

It is loaded in the owner of a device only. The same code runs on pynq 3.0.1
and 4: units are driven through `MMIO`, not through the drivers of pynq, which
differ, and know some types of arguments by another size or not at all.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import pynq
from pynq.buffer import PynqBuffer

from device_runtime.errors import DeviceMemoryError, DeviceUnavailable, EmulationError
from device_runtime.fpga.bitstream import Bitstream, KernelSpec, Unit
from device_runtime.fpga.circuit import Circuit, Directions, Model, load
from device_runtime.fpga.emulation import Allocation, EmulatedBank, EmulatedUnit, Shape
from device_runtime.fpga.hwh import PS
from device_runtime.fpga.rtl import Rtl
from device_runtime.fpga.rtl_unit import RtlUnit
from device_runtime.fpga.timing import Predictor


class Board:
    """A device of pynq's with a bitstream loaded: the registers of its units, and its memory."""

    def __init__(self, device: pynq.Device, path: str, bitstream: Bitstream) -> None:
        self.bitstream = bitstream
        self._device = device
        self._overlay = pynq.Overlay(path, device=device)
        self._banks = {bank.name: bank for bank in bitstream.banks if bank.used}
        self._memories: dict[str, Any] = {}  # as pynq has them
        self._held: dict[str, WeakValueDictionary[int, PynqBuffer]] = {
            name: WeakValueDictionary() for name in self._banks
        }

    def registers(self, unit: str) -> pynq.MMIO:
        """Return what reads and writes the registers of a unit.

        Raises DeviceUnavailable where another program has it, or this user may not.
        """
        try:
            described = self._overlay.ip_dict[unit]
            if "index" in described:
                self._device.open_context(described)
            return pynq.MMIO(described["phys_addr"], described["addr_range"], device=self._device)
        except Exception as error:  # pynq raises all sorts
            raise DeviceUnavailable(f"unit {unit} cannot be reached: {_told(error)}") from error

    def allocate(self, bank: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PynqBuffer:
        """Return a buffer in a bank; it is given back with the last reference to it.

        Raises DeviceMemoryError, naming bank, size and free space.
        """
        try:
            if 0 not in shape:
                made = self._memory(bank).allocate(shape, dtype)
            else:  # XRT makes no buffers of no bytes, and moves none
                least = self._memory(bank).allocate((1,), dtype)
                least.flush()
                made = least[:0].reshape(shape)
                made.coherent = True
        except (RuntimeError, OSError) as error:
            nbytes, room = dtype.itemsize * math.prod(shape), self._banks[bank].nbytes
            raise DeviceMemoryError(
                f"bank {bank} has no room for {nbytes:,} bytes: {room - self._taken(bank):,} of its {room:,} "
                f"are free, as far as this process knows ({error})"
            ) from error
        self._held[bank][made.device_address] = made
        return made

    def _taken(self, bank: str) -> int:
        # By itself, as the frame of an error would keep the buffers that it has seen.
        held = [one() for one in self._held[bank].valuerefs()]
        return sum(one.nbytes for one in held if one is not None)

    def _memory(self, bank: str) -> Any:
        memory = self._memories.get(bank)
        if memory is None:  # that of a Zynq board has no name where pynq looks for one
            device = self._device
            memory = device.default_memory if bank == PS else device.get_memory_by_name(bank)
            self._memories[bank] = memory
        return memory

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        """Have an emulated unit do what a function does, where its bitstream does not say."""

    def directions(self, kernel: str) -> Directions:
        """Return those of a kernel's arguments, where the bitstream says it."""
        return ()

    def has_model(self, unit: str) -> bool:
        """Tell whether a unit can run: not an emulated one whose bitstream does not say what it does."""
        return True

    def give_shapes(self, unit: str, shapes: Mapping[int, Shape]) -> None:
        """Tell an emulated unit what those arguments of its next run are that are parts of buffers."""

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
    zynq = path.endswith(".bit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = pynq.Device.devices
        except Exception as error:  # whatever the driver has to say
            raise DeviceUnavailable(
                f"pynq {pynq.__version__} cannot look for devices: {_told(error)}"
            ) from error
        if zynq:
            found = [device for device in found if device.has_capability("MEMORY_MAPPED")]
        if index >= len(found):
            raise DeviceUnavailable(
                f"pynq {pynq.__version__} finds {len(found)} devices{' for .bit files' if zynq else ''}, "
                f"and number {index} is asked for; {_missing(len(found), zynq)}"
            )
        device = found[index]
        if not getattr(device, "handle", True):
            raise DeviceUnavailable(
                f"device {index} is there, but this user may not open it: look at `ls -l /dev/dri`, "
                "and become a member of the group that may, 'render' or 'video'"
            )
        family, machine = bitstream.platform.partition(" ")[0], platform.machine()
        if zynq and (family == "zynq") != (machine == "armv7l") and machine in _BOARDS:
            raise DeviceUnavailable(
                f"{path} is for a board with {bitstream.platform}, and this one is another ({machine}): "
                "build it for this board"
            )
        try:
            with _elsewhere():
                return Board(device, path, bitstream)
        except Exception as error:  # pynq raises all sorts
            raise DeviceUnavailable(
                f"{path}, made for {bitstream.platform or 'an unknown platform'}, could not be loaded on "
                f"device {index}, {device.name}: {_told(error)}"
            ) from error


def _missing(found: int, zynq: bool) -> str:
    """Say what to do where a device is not found."""
    version, machine = pynq.__version__, platform.machine()
    if found:
        return "they are counted from ?device=0 on"
    if zynq and machine not in _BOARDS:
        return f"such a file is for a Zynq board, and this machine is {machine}: run it on the board"
    if zynq:
        return "run it as root, with XRT's environment: source /etc/profile.d/xrt_setup.sh, and sudo -E"
    if [int(part) for part in version.split(".")[:2]] > [3, 0]:
        return f"pynq {version} drives no Alveo cards any more: pip install 'offload[alveo]', pynq 3.0.1"
    if "XILINX_XRT" not in os.environ:
        return "source XRT's setup.sh first, and see `xbutil examine`"
    return "see `xbutil examine`, and whether this user may open it"


def _told(error: Exception) -> str:
    """Return what pynq, or XRT under it, has to say, and what to do about it where that is known."""
    told = f"{error}" if isinstance(error, (RuntimeError, OSError)) else repr(error)
    return "; ".join([told, *(advice for sign, advice in _ADVICE.items() if sign in told)])


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Be in a folder that goes away: pynq 4 leaves a file where it is while it loads a bitstream."""
    here = os.open(".", os.O_PATH)
    try:
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                yield
            finally:
                os.fchdir(here)
    finally:
        os.close(here)


_BOARDS = ("armv7l", "aarch64")  # what Zynq boards say that they are: the first ones, and all since
_ADVICE = {
    "Shell does not match": "it was built for another board or shell: build it for the platform of this one",
    "in use by another program": "end that program first; `xbutil examine` names it",
    "buffers still allocated": "another program has buffers on it: end that first; `xbutil examine` names it",
    "undefined symbol": "pynq 3.0.1 takes XRT up to 2.15",
    "CU context": "another program may have it; see `xbutil examine`",
    "Root permissions": "run it as root: sudo -E",
    "Permission denied": "run it as root: sudo -E",
    "xclbinutil": "source XRT's setup.sh first, which says where that is",
}


class EmulatedBoard(Board):
    """The same with an emulated device."""

    def __init__(self, path: str, bitstream: Bitstream) -> None:
        self._emulated = EmulatedDevice(bitstream)
        super().__init__(self._emulated, path, bitstream)

    def allocate(self, bank: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PynqBuffer:
        return self._memory(bank).allocate(shape, dtype)

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        self._emulated.give_model(unit, model, directions)

    def directions(self, kernel: str) -> Directions:
        return self._emulated.directions.get(kernel, ())

    def has_model(self, unit: str) -> bool:
        return self._emulated.has_model(unit)

    @property
    def predictor(self) -> Predictor:
        return self._emulated.predictor

    def predicted(self, unit: str) -> float:
        return self._emulated.predicted(unit)

    def give_shapes(self, unit: str, shapes: Mapping[int, Shape]) -> None:
        self._emulated.give_shapes(unit, shapes)

    def cycles(self, unit: str) -> int | None:
        return self._emulated.cycles(unit)


class EmulatedDevice(pynq.Device):  # type: ignore[misc, unused-ignore]
    """A device that pynq drives as it drives a card, and that is not there."""

    name = "emulated"

    def __init__(self, bitstream: Bitstream) -> None:
        super().__init__("emulated")
        circuit = load(bitstream.circuit)
        self.directions = circuit.directions
        self.predictor = Predictor(circuit.timing, bitstream)
        self.capabilities = {"REGISTER_RW": True}
        self._memories = {bank.name: EmulatedBank(bank) for bank in bitstream.banks if bank.nbytes}
        self._units = {
            unit.address: _emulated(kernel, unit, self._memories, circuit, self.predictor)
            for kernel in bitstream.kernels
            for unit in kernel.units
        }
        self._by_name = {one.unit.name: one for one in self._units.values()}
        self._without = {
            unit.name for one in bitstream.kernels if one.name not in circuit.models for unit in one.units
        }
        self._spans = {unit.address: kernel.span for kernel in bitstream.kernels for unit in kernel.units}

    def give_model(self, unit: str, model: Model, directions: Directions) -> None:
        """Have a unit do what a function does, where its bitstream does not say."""
        if unit in self._without:
            self._by_name[unit].model, self._by_name[unit].directions = model, directions

    def has_model(self, unit: str) -> bool:
        """Tell whether the bitstream says what a unit does."""
        return unit not in self._without

    def predicted(self, unit: str) -> float:
        """Return how many seconds a unit's runs so far would have taken."""
        return self._by_name[unit].predicted

    def give_shapes(self, unit: str, shapes: Mapping[int, Shape]) -> None:
        """Tell a unit what those arguments of its next run are that are parts of buffers, by their place."""
        self._by_name[unit].shapes = shapes

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

    def flush(self, bo: _Object, offset: int, vaddr: int, nbytes: int) -> None:
        _, buffer = bo
        buffer.memory[offset : offset + nbytes] = _host(vaddr, nbytes)
        buffer.written = True

    def invalidate(self, bo: _Object, offset: int, vaddr: int, nbytes: int) -> None:
        bank, buffer = bo
        if nbytes and not buffer.written:
            raise EmulationError(
                f"a buffer of bank {bank} is read that was never written, neither by the host nor by a unit"
            )
        _host(vaddr, nbytes)[:] = buffer.memory[offset : offset + nbytes]


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


class _Object(NamedTuple):
    """A buffer as its driver has it. Banks may have the same addresses."""

    bank: str
    allocation: Allocation


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
            bo=_Object(self._bank.bank.name, made),
            coherent=False,
        )
        buffer.memory = buffer.return_to = self
        buffer.pointer = (made.address,)  # which is true also where the address is 0
        return buffer

    def return_pointer(self, pointer: tuple[int]) -> None:
        self._bank.free(*pointer)


def _host(address: int, nbytes: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)) if nbytes else np.empty(0)
