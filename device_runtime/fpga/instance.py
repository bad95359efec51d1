"""An instance: what a launch on an FPGA has to itself, units with their memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from device_runtime import context
from device_runtime.errors import DeviceError
from device_runtime.fpga.boards import read
from device_runtime.fpga.buffers import Buffer, Meter, Store
from device_runtime.fpga.interface import Interface
from device_runtime.fpga.room import Room
from device_runtime.fpga.unit import UnitDriver
from device_runtime.hardware import blank, checked, unmasked
from device_runtime.launch import Blank, Kept

T = TypeVar("T")


class InstanceDriver:
    """Units of a device that work together, one of each kernel; `shown` is what a kernel sees of it."""

    def __init__(
        self,
        board: Any,
        drivers: Sequence[UnitDriver],
        kept: Store,
        room: Room,
        batch: int | None = None,
    ) -> None:
        self.kept = kept
        self.meter = Meter(board.predictor)
        self.batch = batch  # how much of a data set is its share, where a manifest says so
        self.units = {driver.unit.name: driver for driver in drivers}
        self.kernels = {driver.spec.name: driver for driver in reversed(drivers)}  # by kernel: its first unit
        self.shown = Instance(self)
        self._room = room
        self._board = board
        self._seen: set[Interface] = set()  # of kernels that drivers have called: those of this bitstream
        for driver in drivers:
            driver.join(self, self._take)

    @property
    def hung(self) -> bool:
        """Tell whether one of the units has hung."""
        return True in [driver.hung for driver in self.units.values()]

    def allocate(self, asked: Blank, bank: str | None) -> Buffer:
        """Return a buffer; see `Instance.empty`."""
        wired = self._wired()
        if bank is None:
            if len(wired) != 1:
                raise ValueError(f"which bank? The instance is wired to {', '.join(wired) or 'none'}")
            bank = wired[0]
        elif bank not in wired:
            raise ValueError(f"the instance is wired to {', '.join(wired) or 'no bank'}, not to {bank}")
        return self.allocate_in(bank, asked.shape, np.dtype(asked.dtype))

    def allocate_in(
        self, bank: str, shape: tuple[int, ...], dtype: np.dtype[Any], keeps: bool = False
    ) -> Buffer:
        """Return a buffer in a bank; `keeps`: for the host, by a launch that holds nothing.

        That waits, where there is no room, for hardware kernels on other units. Raises DeviceMemoryError.
        """
        room = {one.name: one.nbytes for one in self._board.bitstream.banks}[bank]
        return self._take(
            (bank,),
            partial(Buffer.allocate, self._board, bank, shape, dtype, self.meter, self._room.look_again),
            (lambda: math.prod(shape) * dtype.itemsize <= room - self.kept.held(bank)) if keeps else None,
            drivers=not keeps,
        )

    def drop(self, numbers: Iterable[int]) -> None:
        """Free buffers that the host keeps, and have those that wait for room look for it."""
        self.kept.drop(numbers)
        self._room.look_again()

    def _take(
        self,
        banks: Iterable[str],
        allocate: Callable[[], T],
        fits: Callable[[], bool] | None = None,
        drivers: bool = True,
    ) -> T:
        """Take memory for the launch that runs here; see `Room`. A kernel's own thread may outlive that."""
        here = context.current()
        who = self if here is not None and here.instance is self else None
        return self._room.take(who, banks, allocate, fits, drivers)

    def launch_ended(self) -> None:
        """Take note of the end of a launch, which has given back what memory it had taken."""
        self._room.ended(self)

    def run(
        self, interface: Interface, model: Any, args: Sequence[Any], alone: bool
    ) -> tuple[NDArray[Any], ...]:
        """Run a kernel as a decorated function describes it; return the arrays that come out.

        `alone`: the launch that runs here is this one, and no driver kernel that holds something.
        Raises DeviceError, naming every mismatch, if the bitstream's kernel is another one.
        """
        driver = self.kernels.get(interface.kernel)
        if driver is None:
            raise DeviceError(
                f"the device's bitstream has no kernel {interface.kernel!r}; "
                f"it has {', '.join(self.kernels) or 'none'}"
            )
        if not alone:
            self._check_bitstream(interface)
        found = [self.kept.find(value) if isinstance(value, Kept) else value for value in args]
        return tuple(driver.run(found, interface, model, alone).values())

    def _check_bitstream(self, interface: Interface) -> None:
        """Raise DeviceError for a kernel of another bitstream, which the host has not looked at."""
        path = interface.xclbin
        if path is None or interface in self._seen or not os.path.exists(path):
            return
        wanted, uuid = read(path).uuid, self._board.bitstream.uuid
        if wanted != uuid:
            raise DeviceError(
                f"kernel {interface.kernel} is for {path} ({wanted.hex()}), and this device has another "
                f"bitstream loaded ({uuid.hex()})"
            )
        self._seen.add(interface)

    def check(self) -> str:
        """Have the units give the answers that are known of them; return what is wrong, if it is."""
        try:
            return next(filter(None, (driver.check() for driver in self.units.values())), "")
        finally:
            self.launch_ended()

    def _wired(self) -> list[str]:
        return list(
            dict.fromkeys(
                bank for driver in self.units.values() for banks in driver.unit.banks for bank in banks
            )
        )

    def __repr__(self) -> str:
        return repr(self.shown)


class Instance:
    """What a kernel has to itself of a device: units that work together, one of each kernel, and memory.

    `instance.vadd(a, b, out, n)` runs a kernel, on its first unit here, and
    `instance.vadd_2(...)` that unit; `instance["array"]` is one that has the name
    of something else here. `array` and `empty` give buffers that stay.
    """

    def __init__(self, driven: InstanceDriver) -> None:
        self._driven = driven

    def __getitem__(self, name: str) -> UnitDriver:
        # A copy under construction has no attribute yet.
        driven: InstanceDriver = self.__dict__["_driven"]
        driver = driven.kernels.get(name) or driven.units.get(name)
        if driver is None:
            raise KeyError(
                f"there is no kernel or unit {name!r} on this instance; "
                f"it has {', '.join((*driven.kernels, *driven.units))}"
            )
        return driver

    def __getattr__(self, name: str) -> UnitDriver:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    @property
    def units(self) -> list[str]:
        """Names of the units."""
        return list(self._driven.units)

    @property
    def batch(self) -> int | None:
        """How much of a data set is its share, where a manifest says so."""
        return self._driven.batch

    def array(self, value: Any, bank: str | None = None) -> Buffer:
        """Return a buffer that holds a copy of an array; see `empty`."""
        array = checked("array", np.asarray(unmasked(value)))
        buffer = self.empty(array.shape, array.dtype, bank)
        buffer.write(array)
        return buffer

    def empty(
        self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, bank: str | None = None
    ) -> Buffer:
        """Return a buffer in a bank; it is freed by `free`, in a `with` block, or with the last reference.

        The bank need not be named if all of the instance's arguments are wired to one.
        Raises ValueError for a bank that is not, and for a shape that cannot be, TypeError for
        a dtype that is not of numbers, DeviceMemoryError if the bank is full.
        """
        return self._driven.allocate(blank(shape, dtype), bank)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} stays on its device; offload.core.instance() gives it to each launch")

    def __repr__(self) -> str:
        return f"<instance of {', '.join(self.units)}>"
