"""XRT's library, stood in for: what pynq 3.0.1 calls of it, on a card whose memory and units are emulated.

It is as strict as a driver: buffers without bytes, transfers beyond a buffer's
end and registers of a unit without a context are refused, and host and device
have separate copies of every buffer. Models of units are in the bitstreams.

These variables of the environment say what is found: XRT_CARDS, a number;
XRT_PLATFORM, the shell of the cards; XRT_REFUSES, "open" where this user may
not open them, "context" where another program has their units, or the error
that loading ends with.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from device_runtime.errors import BitstreamError, DeviceMemoryError
from device_runtime.fpga.bitstream import Unit
from device_runtime.fpga.circuit import load
from device_runtime.fpga.emulation import Allocation, EmulatedBank, EmulatedUnit
from device_runtime.fpga.xclbin import parse

_NO_BUFFER = 0xFFFFFFFF
_TO_DEVICE, _FROM_DEVICE = 0, 1
_REGISTERS = 2  # XCL_ADDR_KERNEL_CTRL
_WRONG = (1 << 32) - errno.EINVAL  # as an unsigned int

_libc = ctypes.CDLL("libc.so.6")
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


class _Buffer(NamedTuple):
    bank: EmulatedBank
    device: Allocation
    host: int  # address of the host's copy
    nbytes: int  # whole pages


class _Card:
    """A card, opened."""

    def __init__(self) -> None:
        self.uuid = b""
        self.banks: list[EmulatedBank] = []
        self.units: list[EmulatedUnit] = []  # by address
        self.spans: list[int] = []
        self.names: list[str] = []
        self.contexts: set[int] = set()
        self.buffers: dict[int, _Buffer] = {}
        self.numbers = count(1)

    def load(self, data: bytes) -> int:
        try:
            bitstream = parse(data)
        except BitstreamError:
            return -errno.EINVAL
        if bitstream.platform != os.environ.get("XRT_PLATFORM", "emulated"):
            return -errno.EOPNOTSUPP
        models, faults = load(bitstream.circuit)
        self.uuid, self.contexts = bitstream.uuid, set()
        self.banks = [EmulatedBank(bank) for bank in bitstream.banks]
        banks = {bank.bank.name: bank for bank in self.banks}
        placed = sorted(
            ((unit, kernel) for kernel in bitstream.kernels for unit in kernel.units),
            key=lambda one: one[0].address,
        )
        self.units = [
            EmulatedUnit(kernel, unit, banks, models.get(kernel.name), faults.get(unit.name))
            for unit, kernel in placed
        ]
        self.spans = [kernel.span for _, kernel in placed]
        self.names = [f"{kernel.name}:{unit.name}" for unit, kernel in placed]
        return 0

    def unit(self, address: int) -> tuple[EmulatedUnit, int] | None:
        """Return the unit that has a register, and where in it; none if no context is open on it."""
        for place in self.contexts:
            unit: Unit = self.units[place].unit
            if unit.address <= address < unit.address + self.spans[place]:
                return self.units[place], address - unit.address
        return None


class Library:
    """What stands for the library: its functions, as ctypes has them."""

    def __init__(self) -> None:
        self._cards: list[_Card] = []
        for name in dir(self):
            if name.startswith("xcl"):  # pynq notes at each what it takes and returns
                setattr(self, name, partial(getattr(self, name)))

    def _card(self, handle: Any) -> _Card:
        return self._cards[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]

    def xclProbe(self) -> int:
        return int(os.environ.get("XRT_CARDS", "1"))

    def xclOpen(self, index: int, log: Any, level: int) -> Any:
        if os.environ.get("XRT_REFUSES") == "open":
            return ctypes.POINTER(ctypes.c_void_p)()
        self._cards.append(_Card())
        return ctypes.cast(len(self._cards), ctypes.POINTER(ctypes.c_void_p))

    def xclClose(self, handle: Any) -> None:
        pass

    def xclGetDeviceInfo2(self, handle: Any, info: Any) -> int:
        if not handle:
            return -errno.ENODEV
        info.mName = os.environ.get("XRT_PLATFORM", "emulated").encode()
        return 0

    def xclLockDevice(self, handle: Any) -> int:
        return 0

    def xclUnlockDevice(self, handle: Any) -> int:
        return 0

    def xclLoadXclBin(self, handle: Any, data: bytes) -> int:
        refused = os.environ.get("XRT_REFUSES")
        return -int(refused) if refused and refused.isdecimal() else self._card(handle).load(data)

    # Units.

    def xclIPName2Index(self, handle: Any, name: bytes) -> int:
        names = self._card(handle).names
        return names.index(name.decode()) if name.decode() in names else -errno.ENOENT

    def xclOpenContext(self, handle: Any, uuid: Any, index: int, shared: bool) -> int:
        card = self._card(handle)
        if os.environ.get("XRT_REFUSES") == "context":
            return -errno.EBUSY
        if uuid.raw != card.uuid or not 0 <= index < len(card.units):
            return -errno.EINVAL
        card.contexts.add(index)
        return 0

    def xclCloseContext(self, handle: Any, uuid: Any, index: int) -> int:
        self._card(handle).contexts.discard(index)
        return 0

    def xclRead(self, handle: Any, space: int, address: int, data: Any, nbytes: int) -> int:
        found = self._card(handle).unit(address)
        if found is None or space != _REGISTERS:
            return -errno.EINVAL
        data[:] = found[0].read(found[1], nbytes)
        return nbytes

    def xclWrite(self, handle: Any, space: int, address: int, data: Any, nbytes: int) -> int:
        found = self._card(handle).unit(address)
        if found is None or space != _REGISTERS:
            return -errno.EINVAL
        found[0].write(found[1], data.raw)
        return nbytes

    # Memory.

    def xclAllocBO(self, handle: Any, nbytes: int, kind: int, flags: int) -> int:
        card, place = self._card(handle), flags & 0xFFFF
        if nbytes == 0 or place >= len(card.banks) or not card.banks[place].bank.used:
            return _NO_BUFFER
        # What a model runs on has a shape, which is told to no driver; so who asks is asked.
        asks = sys._getframe(0)
        while asks.f_code.co_name != "_xrt_allocate":
            assert asks.f_back is not None
            asks = asks.f_back
        given = asks.f_locals["shape"]
        shape = (given,) if isinstance(given, int) else tuple(given)
        try:
            made = card.banks[place].allocate(shape, np.dtype(asks.f_locals["dtype"]))
        except DeviceMemoryError:
            return _NO_BUFFER
        whole = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        host = _libc.mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)  # private, anonymous
        number = next(card.numbers)
        card.buffers[number] = _Buffer(card.banks[place], made, host, whole)
        return number

    def xclGetBOProperties(self, handle: Any, number: int, properties: Any) -> int:
        found = self._card(handle).buffers[number]
        properties.handle, properties.size = number, found.nbytes
        properties.paddr = found.device.address
        return 0

    def xclMapBO(self, handle: Any, number: int, write: bool) -> Any:
        return ctypes.cast(self._card(handle).buffers[number].host, ctypes.POINTER(ctypes.c_char))

    def xclSyncBO(self, handle: Any, number: int, direction: int, nbytes: int, offset: int) -> int:
        found = self._card(handle).buffers[number]
        if nbytes == 0 or offset + nbytes > found.nbytes:
            return _WRONG
        host = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(found.host + offset))
        device = found.device.memory[offset : offset + nbytes]
        if direction == _TO_DEVICE:
            device[:] = host
        else:
            assert direction == _FROM_DEVICE
            host[:] = device
        return 0

    def xclFreeBO(self, handle: Any, number: int) -> None:
        """Give a buffer back. Its host's copy is the caller's, who has unmapped it."""
        found = self._card(handle).buffers.pop(number)
        found.bank.free(found.device.address)
