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
from device_runtime.fpga.xclbin import parse

_NO_BUFFER = 0xFFFFFFFF
_TO_DEVICE, _FROM_DEVICE = 0, 1
_REGISTERS = 2  # XCL_ADDR_KERNEL_CTRL
_WRONG = (1 << 32) - errno.EINVAL  # as an unsigned int

_libc = ctypes.CDLL("libc.so.6")
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


class _Buffer(NamedTuple):
    device: Any  # that of the emulated device
    host: int  # address of the host's copy
    nbytes: int  # whole pages


class _Card:
    """A card, opened."""

    device: Any  # the emulated one that has its memory and units

    def __init__(self) -> None:
        self.uuid = b""
        self.banks: list[str] = []  # "" for one that nothing is wired to
        self.units: list[tuple[str, range]] = []  # names, and addresses of registers, in their order
        self.contexts: set[int] = set()
        self.buffers: dict[int, _Buffer] = {}
        self.numbers = count(1)

    def load(self, data: bytes) -> int:
        from device_runtime.fpga.board import EmulatedDevice  # which asks for this library

        try:
            bitstream = parse(data)
        except BitstreamError:
            return -errno.EINVAL
        if bitstream.platform != os.environ.get("XRT_PLATFORM", "emulated"):
            return -errno.EOPNOTSUPP
        self.device = EmulatedDevice(bitstream)
        self.uuid, self.contexts = bitstream.uuid, set()
        self.banks = [bank.name if bank.used else "" for bank in bitstream.banks]
        self.units = [
            (f"{kernel.name}:{unit.name}", range(unit.address, unit.address + kernel.span))
            for kernel in bitstream.kernels
            for unit in kernel.units
        ]
        self.units.sort(key=lambda one: one[1].start)
        return 0

    def has(self, space: int, address: int) -> bool:
        """Tell whether there is a register, of a unit that a context is open on."""
        return space == _REGISTERS and any(address in self.units[place][1] for place in self.contexts)


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
        names = [unit for unit, _ in self._card(handle).units]
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
        card = self._card(handle)
        if not card.has(space, address):
            return -errno.EINVAL
        data[:] = card.device.read_registers(address, nbytes)
        return nbytes

    def xclWrite(self, handle: Any, space: int, address: int, data: Any, nbytes: int) -> int:
        card = self._card(handle)
        if not card.has(space, address):
            return -errno.EINVAL
        card.device.write_registers(address, data.raw)
        return nbytes

    # Memory.

    def xclAllocBO(self, handle: Any, nbytes: int, kind: int, flags: int) -> int:
        card, place = self._card(handle), flags & 0xFFFF
        if nbytes == 0 or place >= len(card.banks) or not card.banks[place]:
            return _NO_BUFFER
        # What a model runs on has a shape, which is told to no driver; so who asks is asked.
        asks = sys._getframe(0)
        while asks.f_code.co_name != "_xrt_allocate":
            assert asks.f_back is not None
            asks = asks.f_back
        given = asks.f_locals["shape"]
        shape = (given,) if isinstance(given, int) else tuple(given)
        try:
            memory = card.device.get_memory_by_name(card.banks[place])
            made = memory.allocate(shape, np.dtype(asks.f_locals["dtype"]))
        except DeviceMemoryError:
            return _NO_BUFFER
        whole = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        host = _libc.mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)  # private, anonymous
        number = next(card.numbers)
        card.buffers[number] = _Buffer(made, host, whole)
        return number

    def xclGetBOProperties(self, handle: Any, number: int, properties: Any) -> int:
        found = self._card(handle).buffers[number]
        properties.handle, properties.size = number, found.nbytes
        properties.paddr = found.device.device_address
        return 0

    def xclMapBO(self, handle: Any, number: int, write: bool) -> Any:
        return ctypes.cast(self._card(handle).buffers[number].host, ctypes.POINTER(ctypes.c_char))

    def xclSyncBO(self, handle: Any, number: int, direction: int, nbytes: int, offset: int) -> int:
        card = self._card(handle)
        found = card.buffers[number]
        if nbytes == 0 or offset + nbytes > found.nbytes or direction not in (_TO_DEVICE, _FROM_DEVICE):
            return _WRONG
        move = card.device.flush if direction == _TO_DEVICE else card.device.invalidate
        move(found.device.bo, offset, found.host + offset, nbytes)
        return 0

    def xclFreeBO(self, handle: Any, number: int) -> None:
        """Give a buffer back. Its host's copy is the caller's, who has unmapped it."""
        del self._card(handle).buffers[number]
