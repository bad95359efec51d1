"""The emulated FPGA itself, without pynq: memory banks, and compute units that are models in Python.

Host and device have separate copies of every buffer, so a missing transfer
shows. A unit is what its registers say, as Vitis HLS makes them (UG1399,
"S_AXILITE Control Register Map"): arguments are read from there when it is
started, and pointers lead to the device's copies. What a circuit would answer
with silence or with wrong data, is an error here.
"""

from __future__ import annotations

import bisect
import math
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_runtime.context import without_instance
from device_runtime.errors import DeviceMemoryError, EmulationError
from device_runtime.fpga.bitstream import Argument, Bank, KernelSpec, Unit
from device_runtime.fpga.bounded import bounded
from device_runtime.fpga.circuit import Directions, Fault, Model
from device_runtime.fpga.interface import IN, INOUT
from device_runtime.fpga.scalars import scalar
from device_runtime.fpga.timing import Predictor

START, DONE, IDLE, READY, CONTINUE = 1, 2, 4, 8, 16  # bits of a unit's first register
_BLOCKS = 0.002  # seconds that a read of a busy unit's status takes at most
_ALIGNED = 4096  # bytes: where buffers begin
_UNWRITTEN = 0xFF  # in every byte of fresh memory: NaN, or -1, which shows where a zero would not
_POINTED = {  # what the types of a kernel's source are in NumPy, besides the integers
    "half": "f2",
    "float": "f4",
    "double": "f8",
    "bool": "?",
    "std::complex<float>": "c8",
    "std::complex<double>": "c16",
    "float2": "c8",
    "void": "u1",
}


Shape = tuple[tuple[int, ...], np.dtype[Any]]  # with the dtype: what a part of a buffer is


@dataclass(eq=False)
class Allocation:
    """A buffer: its address on the device, its shape and dtype as the host has them, the device's copy.

    It counts as `written` as a whole: which part of it a unit has written, or
    will read, is not known.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    memory: NDArray[np.uint8]
    written: bool = False  # by the host, or by a unit

    @property
    def array(self) -> NDArray[Any]:
        """The device's copy, as the host has the buffer."""
        array: NDArray[Any] = np.ndarray(self.shape, self.dtype, self.memory)
        return array


class EmulatedBank:
    """A memory of the emulated board. Any thread may use it."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self._lock = threading.Lock()  # of the two that follow
        self._addresses: list[int] = []  # of what is allocated, ascending
        self._allocations: dict[int, Allocation] = {}
        self._freed: deque[int] = deque()  # to be taken out of them

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Allocation:
        """Take the first place that is large enough.

        Raises DeviceMemoryError, naming bank, size and free space.
        """
        nbytes = max(1, dtype.itemsize * math.prod(shape))
        with self._lock:
            self._forget()
            address, largest = self.bank.base, 0
            for at in self._addresses:
                if at - address >= _whole(nbytes):
                    break
                largest = max(largest, at - address)
                address = at + _whole(self._allocations[at].memory.nbytes)
            end = self.bank.base + self.bank.nbytes
            if address + nbytes > end:
                free = self.bank.nbytes - sum(_whole(one.memory.nbytes) for one in self._allocations.values())
                largest = max(largest, end - address)
                raise DeviceMemoryError(
                    f"bank {self.bank.name} has no room for {nbytes:,} bytes: "
                    f"{free:,} of its {self.bank.nbytes:,} are free"
                    + (f", {largest:,} at most in one piece" if largest < free else "")
                )
            made = Allocation(address, shape, dtype, np.full(nbytes, _UNWRITTEN, np.uint8))
            bisect.insort(self._addresses, address)
            self._allocations[address] = made
        return made

    def free(self, address: int) -> None:
        """Give a buffer back. A finalizer may do so in the midst of anything, and so it takes no lock."""
        self._freed.append(address)

    def _forget(self) -> None:
        while self._freed:
            address = self._freed.popleft()
            del self._allocations[address]
            self._addresses.remove(address)

    def find(self, address: int) -> tuple[Allocation, int] | None:
        """Return the buffer that an address lies in, and where in it; None if it lies in none."""
        with self._lock:
            self._forget()
            place = bisect.bisect_right(self._addresses, address) - 1
            if place < 0:
                return None
            found = self._allocations[self._addresses[place]]
        offset = address - found.address
        return (found, offset) if offset < found.memory.nbytes else None

    def allocations(self) -> list[Allocation]:
        """Return all buffers, in the order of their addresses."""
        with self._lock:
            return [self._allocations[address] for address in self._addresses]


class Reached(NamedTuple):
    """What a pointer leads to, and which way it goes; "" where that is not known."""

    direction: str
    bank: str
    buffer: Allocation
    array: NDArray[Any]  # from where it points to


class EmulatedUnit:
    """A compute unit: registers, and a model that does the work when it is started.

    The model runs in the thread that sets the start bit, and has ended when
    that write returns; the unit then says that it is done.
    """

    def __init__(
        self,
        spec: KernelSpec,
        unit: Unit,
        banks: Mapping[str, EmulatedBank],
        model: Model | None = None,
        fault: Fault | None = None,
        directions: Directions | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        self.spec = spec
        self.unit = unit
        self.model = model
        self.shapes: Mapping[int, Shape] = {}  # of arguments that are parts of buffers, by their place
        self.directions = directions
        self.predicted = 0.0  # seconds that a circuit would have been busy with its runs
        self._banks = banks
        self._predictor = predictor
        ends = [one.offset + one.nbytes for one in spec.arguments if one.kind != "stream"]
        self._registers = bytearray(-(-max([0x10, *ends]) // 4) * 4)
        self._control = IDLE
        self._fault = fault
        self._runs = 0
        self._busy = 0.0  # until then it looks as if it were busy
        self.cycles: int | None = None  # of the last run, where they are counted
        self._failed = False  # its registers do not answer

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return registers. That it is done, is told once."""
        if self._failed:
            return b"\xff" * nbytes
        if offset == 0:
            left = self._busy - time.monotonic()
            if left > 0:
                time.sleep(min(left, _BLOCKS))  # who asks again and again must let others run
                return bytes(nbytes)
            found = struct.pack("<I", self._control) + bytes(self._registers[4:nbytes])
            self._control &= ~(DONE | READY)
            return found[:nbytes]
        return bytes(self._registers[offset : offset + nbytes]).ljust(nbytes, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Set registers; the start bit of the first one starts the unit.

        Raises EmulationError for what a circuit could not do, and what the model raises.
        """
        if offset % 4 or len(data) % 4:
            raise EmulationError(
                f"unit {self.unit.name}: {len(data)} bytes are written to {offset:#x}, and registers have 4"
            )
        if offset + len(data) > len(self._registers):
            raise EmulationError(
                f"unit {self.unit.name} has registers up to {len(self._registers):#x}, "
                f"and {len(data)} bytes are written to {offset:#x}"
            )
        if self._failed:
            return
        if offset:
            self._registers[offset : offset + len(data)] = data
            return
        if data[0] & START:
            self._start()

    def _start(self) -> None:
        if not self._control & IDLE:
            raise EmulationError(f"unit {self.unit.name} is started while it is busy")
        fault = self._fault if self._fault is not None and self._runs >= self._fault.after else None
        self._runs += 1
        self._control = 0
        if fault is not None and fault.kind == "hang":
            self._busy = math.inf
            return
        if fault is not None and fault.kind == "error":
            self._failed = True
            return
        self._run(fault)

    def _run(self, fault: Fault | None) -> None:
        reached: list[Reached] = []
        try:
            if self.model is None:
                raise EmulationError(
                    f"unit {self.unit.name} has no model: what kernel {self.spec.name} does is neither "
                    "in the bitstream nor known from a decorated function"
                )
            without_instance(self.model, *self._arguments(reached))
        finally:
            self._control = DONE | IDLE | READY
        self._predict(reached)
        self._end(reached, fault)

    def _end(self, reached: Sequence[Reached], fault: Fault | None) -> None:
        """Take note of what a run has written, and have go wrong after it what is to go wrong."""
        written = [one for one in reached if one.direction != IN]
        for one in written:
            one.buffer.written = True
        if fault is not None and fault.kind == "slow":
            self._busy = time.monotonic() + fault.seconds
        elif fault is not None:
            arrays = [one.array for one in written if one.array.nbytes]
            if arrays:
                _flip(arrays[-1])

    def _predict(self, reached: Sequence[Reached]) -> None:
        """Add what this run would have taken."""
        if self._predictor is None:
            return
        passes = 1
        traffic: dict[str, int] = {}
        for direction, bank, _, array in reached:
            passes = max(passes, array.size)
            traffic[bank] = traffic.get(bank, 0) + array.nbytes * (2 if direction == INOUT else 1)
        self.predicted += self._predictor.run(self.spec.name, passes, traffic)

    def _arguments(self, reached: list[Reached]) -> list[Any]:
        return [self._argument(place, one, reached) for place, one in enumerate(self.spec.arguments)]

    def _argument(self, place: int, argument: Argument, reached: list[Reached]) -> Any:
        raw = bytes(self._registers[argument.offset : argument.offset + argument.nbytes])
        if argument.kind == "scalar":
            kind = scalar(argument.ctype)
            if kind is None:
                raise EmulationError(
                    f"kernel {self.spec.name}: argument {argument.name} is of type {argument.ctype!r}, "
                    "which is not known here"
                )
            return kind.unpack(raw)
        if argument.kind == "stream":
            raise EmulationError(
                f"kernel {self.spec.name}: argument {argument.name} is a stream, which is not emulated"
            )
        found = self._pointed(place, argument, int.from_bytes(raw, "little"))
        what = f"unit {self.unit.name}: argument {argument.name}"
        if found.direction in (IN, INOUT) and found.array.nbytes and not found.buffer.written:
            raise EmulationError(
                f"{what} ({found.direction}) points to a buffer of bank {found.bank} that was never written, "
                "neither by the host nor by a unit"
            )
        reached.append(found)
        return bounded(found.array, what, writable=found.direction != IN)

    def _pointed(self, place: int, argument: Argument, address: int) -> Reached:
        direction = (self.directions[place] if self.directions else None) or ""
        wired = self.unit.banks[place]
        for name in wired:
            found = self._banks[name].find(address)
            if found is not None:
                buffer, offset = found
                part = self.shapes.get(place)
                if part is not None:
                    return Reached(direction, name, buffer, np.ndarray(*part, buffer.memory, offset))
                if offset == 0:
                    return Reached(direction, name, buffer, buffer.array)
                dtype = pointed(argument.ctype)
                rest = buffer.memory[offset:]
                rest = rest[: rest.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
                return Reached(direction, name, buffer, rest)
        elsewhere = [name for name, bank in self._banks.items() if bank.find(address) is not None]
        where = f"in bank {elsewhere[0]}" if elsewhere else "in no buffer"
        raise EmulationError(
            f"unit {self.unit.name}: argument {argument.name} points to {address:#x}, {where}; "
            f"its port is wired to {', '.join(wired) or 'no bank'}"
        )


def pointed(ctype: str) -> np.dtype[Any]:
    """Return the dtype of what a pointer of a kernel's source leads to; bytes where that is not known."""
    name = " ".join(word for word in ctype.replace("*", " ").split() if word not in ("const", "volatile"))
    known = _POINTED.get(name)
    if known is not None:
        return np.dtype(known)
    kind = scalar(name)
    if kind is None or kind.kind != "int" or kind.bits not in (8, 16, 32, 64):
        return np.dtype("u1")
    return np.dtype(f"{'i' if kind.signed else 'u'}{kind.bits // 8}")


def _whole(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED


def _flip(array: NDArray[Any]) -> None:
    """Get a bit of an array wrong; of floats one that is not taken for rounding."""
    flat, place, byte, bit = array.reshape(-1), 0, 0, 1
    if array.dtype.kind in "fc":
        finite = np.isfinite(flat)
        flat = flat.view(flat.real.dtype)
        place = int(np.where(finite.repeat(len(flat) // len(finite)), np.abs(flat), -1).argmax())
        byte, bit = flat.itemsize - 1, 0x40  # the highest of the exponent
    flat.view(np.uint8)[place * flat.itemsize + byte] ^= bit
