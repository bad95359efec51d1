"""Compute units of the emulated FPGA that are kernels in Verilog.

What their registers say is what the Verilog says. Its clock goes on while
somebody writes or reads registers: a status that is read of a unit which runs
is that of some milliseconds later, so that who waits for its end brings it about.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from device_runtime.errors import DeviceUnavailable, EmulationError
from device_runtime.fpga.bitstream import KernelSpec, Unit
from device_runtime.fpga.circuit import Directions, Fault
from device_runtime.fpga.emulation import DONE, IDLE, START, EmulatedBank, EmulatedUnit, Reached
from device_runtime.fpga.rtl import Rtl, memory_ports
from device_runtime.fpga.timing import Predictor
from device_runtime.fpga.verilator import library

_WORD = 4  # bytes of a register
_SLICE = 0.02  # seconds that a read of the status runs the simulation at most
_log = logging.getLogger("offload")


class _Region(ctypes.Structure):
    """A buffer, as `rtl_harness.cpp` has it."""

    _fields_ = (("address", ctypes.c_uint64), ("nbytes", ctypes.c_uint64), ("data", ctypes.c_void_p))


class RtlUnit(EmulatedUnit):
    """A unit whose registers and memory ports are those of a module in Verilog.

    Units run side by side: their simulation holds no lock of the interpreter's.
    Raises DeviceUnavailable, also where the library of its kernel cannot be loaded.
    """

    def __init__(
        self,
        spec: KernelSpec,
        unit: Unit,
        banks: Mapping[str, EmulatedBank],
        rtl: Rtl,
        fault: Fault | None = None,
        directions: Directions | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        super().__init__(spec, unit, banks, None, fault, directions, predictor)
        try:
            self._library = ctypes.CDLL(str(library(spec, rtl)))
        except OSError as error:
            raise DeviceUnavailable(
                f"kernel {spec.name}: its Verilog, built, does not load: {error}"
            ) from error
        self._library.rtl_new.restype = ctypes.c_void_p
        self._library.rtl_why.restype = ctypes.c_char_p
        self._library.rtl_cycles.restype = ctypes.c_uint64
        self._simulation = ctypes.c_void_p(self._library.rtl_new())
        weakref.finalize(self, self._library.rtl_delete, self._simulation)
        self._running: tuple[Sequence[Reached], Fault | None] | None = None
        self._held: list[Any] = []  # buffers that the run may touch
        self._begun = 0  # the cycle that the run was begun in
        self._ports = [
            {
                bank: None
                for argument, wired in zip(spec.arguments, unit.banks, strict=True)
                if argument.port.lower() == port
                for bank in wired
            }
            for port in memory_ports(spec)
        ]
        self._call("reset")

    def read(self, offset: int, nbytes: int) -> bytes:
        if offset and not self._failed:
            words = range(offset, offset + nbytes, _WORD)
            return b"".join(self._ask("read", ctypes.c_uint32(place)) for place in words)[:nbytes]
        if self._running is not None:
            self._go_on(*self._running)
        return super().read(offset, nbytes)

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        if (offset or not data[0] & START) and not self._failed:
            for place in range(0, len(data), _WORD):
                self._set(offset + place, int.from_bytes(data[place : place + _WORD], "little"))

    def _run(self, fault: Fault | None) -> None:
        """Begin; reads of the status go on with it."""
        try:
            reached: list[Reached] = []
            self._arguments(reached)
            for port, banks in enumerate(self._ports):
                self._lay(port, banks)
            self._begun = self._library.rtl_cycles(self._simulation)
            self._set(0, START)
        except BaseException:
            self._control = IDLE
            raise
        self._running = reached, fault

    def _lay(self, port: int, banks: Iterable[str]) -> None:
        """Show the buffers of some banks to a port of memory."""
        buffers = sorted(
            (buffer for bank in banks for buffer in self._banks[bank].allocations()),
            key=lambda buffer: buffer.address,
        )
        regions = (_Region * len(buffers))(
            *(_Region(one.address, one.memory.nbytes, one.memory.ctypes.data) for one in buffers)
        )
        self._library.rtl_lay(
            self._simulation, port, regions, ctypes.c_size_t(len(buffers)), ", ".join(banks).encode()
        )
        self._held += buffers

    def _go_on(self, reached: Sequence[Reached], fault: Fault | None) -> None:
        status = self._ask("await", ctypes.c_double(_SLICE))
        if not status[0] & (DONE | IDLE):
            return
        self._running = None
        self.cycles = self._library.rtl_cycles(self._simulation) - self._begun
        _log.info("unit %s has run for %d cycles", self.unit.name, self.cycles)
        self._call("end")
        self._held.clear()
        self._control = status[0] | IDLE  # where that it is done is seen a cycle before that it is idle
        if self._predictor is not None:
            self.predicted += self._predictor.counted(self.cycles)
        self._end(reached, fault)

    def _set(self, offset: int, word: int) -> None:
        self._call("write", ctypes.c_uint32(offset), ctypes.c_uint32(word))

    def _ask(self, verb: str, given: Any) -> bytes:
        word = ctypes.c_uint32()
        self._call(verb, given, ctypes.byref(word))
        return word.value.to_bytes(_WORD, "little")

    def _call(self, verb: str, *given: Any) -> None:
        """Do what may fail; where it does, the simulation begins anew. Raises EmulationError."""
        if getattr(self._library, f"rtl_{verb}")(self._simulation, *given):
            why = self._library.rtl_why(self._simulation).decode(errors="replace")
            self._running = None
            self._control = IDLE
            self._library.rtl_reset(self._simulation)
            self._held.clear()
            raise EmulationError(f"unit {self.unit.name}: {why}")
