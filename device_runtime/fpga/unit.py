"""A compute unit as its owner drives it: arguments into registers, start, wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from device_runtime.errors import DeviceError, DeviceMemoryError
from device_runtime.fpga.answers import Answers, same
from device_runtime.fpga.bitstream import Argument, KernelSpec, Unit
from device_runtime.fpga.buffers import METER, Buffer, Store
from device_runtime.fpga.emulation import CONTINUE, DONE, IDLE, START
from device_runtime.fpga.habit import Habit
from device_runtime.fpga.interface import IN, INOUT, OUT, Interface, dtype_error
from device_runtime.fpga.scalars import pack_argument
from device_runtime.hardware import Blank, Kept, blank, checked

_LOOKS = 50  # reads of the status before the reader sleeps between them
_FAILED = 0xFFFFFFFF  # what is read where no device answers
_LONGEST = 0.001  # seconds it sleeps at most: there is no event to wait for on this path


class UnitDriver:
    """Run a kernel on one unit, as a function."""

    def __init__(self, board: Any, spec: KernelSpec, unit: Unit, habit: Habit) -> None:
        self.spec = spec
        self.unit = unit
        self.habit = habit
        self.hung = False
        self.busy = 0.0  # seconds that its runs so far have taken
        self._board = board
        self._registers = board.registers(unit.name)
        self._described = spec  # by the bitstream, which may leave open what an interface settles
        self._interface: Interface | None = None
        self._banks: Sequence[str | None] = [None] * len(spec.arguments)  # those that were asked for
        self.directions: Sequence[str | None] = [
            None if argument.kind == "scalar" else "" for argument in spec.arguments
        ]

    @property
    def predicted(self) -> float | None:
        """Seconds that its runs so far would have taken; None for a unit that is no emulated one."""
        found: float | None = self._board.predicted(self.unit.name)
        return found

    @property
    def cycles(self) -> int | None:
        """Cycles of the clock that the last run took, for an emulated unit that is in Verilog."""
        found: int | None = self._board.cycles(self.unit.name)
        return found

    def learn(self, interface: Interface, model: Any) -> None:
        """Take note of which arrays go in, and which come out, and of what an emulated unit is to do.

        Raises DeviceError, naming every mismatch, if the bitstream's kernel is another one.
        """
        if interface != self._interface:
            wrong = interface.mismatches(self._described)
            if wrong:
                raise DeviceError(
                    f"kernel {self.spec.name} of the bitstream is not what the function says: "
                    + "; ".join(wrong)
                )
            self._interface, self.spec = interface, interface.settle(self._described)
            self.directions = [parameter.direction for parameter in interface.parameters]
            self._banks = [parameter.bank for parameter in interface.parameters]
        self._board.give_model(self.unit.name, model, self.directions)

    def __call__(self, *args: Any) -> None:
        """Run the kernel and wait for its end.

        A buffer stays where it is. An array is copied to the bank that its
        argument is wired to and, where the kernel writes to it, copied back;
        where that is not known, if it is writable and was changed on the
        device. Raises what `run` raises.
        """
        came = [(value, found.host()) for value, found in self.run(args)]
        if "" in self.directions:  # one array may stand for what goes in and what comes out
            came = [(value, found) for value, found in came if value.tobytes() != found.tobytes()]
        for value, found in came:
            value[...] = found

    def run(self, args: Sequence[Any]) -> list[tuple[Any, Buffer]]:
        """Do the same, but return the arrays to be copied back, and from where.

        Raises TypeError for another number of arguments, ArgsNotSerializable
        for a scalar that its type cannot hold, DeviceMemoryError, and
        DeviceError for a unit that does not end.
        """
        arguments = self.spec.arguments
        if len(args) != len(arguments):
            raise TypeError(
                f"kernel {self.spec.name} takes {len(arguments)} arguments "
                f"({', '.join(one.name for one in arguments)}), and {len(args)} are given"
            )
        words: list[tuple[int, bytes]] = []
        back: list[tuple[Any, Buffer]] = []
        held: list[Buffer] = []  # for this run only
        parts: dict[int, Any] = {}
        for place, (argument, value, direction) in enumerate(
            zip(arguments, args, self.directions, strict=True)
        ):
            number = argument.kind == "word" and not isinstance(value, (np.ndarray, Buffer, Blank))
            if number or argument.kind == "scalar":
                words.append((argument.offset, pack_argument(self.spec.name, argument, value)))
                continue
            bank = self._banks[place]
            wired = self.unit.banks[place] if bank is None else (bank,)
            if isinstance(value, Buffer):
                buffer = value
                self._check_dtype(argument, buffer)
                if wired and buffer.bank not in wired:
                    raise DeviceMemoryError(
                        f"argument {argument.name} of {self.unit.name} is in bank {buffer.bank}, "
                        f"and its port is wired to {', '.join(wired)}"
                    )
            else:
                buffer = self._fill(argument, value, direction, wired)
                held.append(buffer)
                if direction in (OUT, INOUT) or (not direction and value.flags.writeable):
                    back.append((value, buffer))
            if direction != IN:
                buffer.written()
            if not buffer.whole:
                parts[place] = buffer.shape, buffer.dtype
            if buffer.address >> 8 * argument.nbytes:
                raise DeviceMemoryError(
                    f"argument {argument.name} of {self.unit.name} takes addresses of "
                    f"{8 * argument.nbytes} bits, and the buffer is at {buffer.address:#x}"
                )
            words.append((argument.offset, buffer.address.to_bytes(argument.nbytes, "little")))
        self._board.give_shapes(self.unit.name, parts)
        self._set(words)
        self._run()
        del held
        return back

    def _fill(self, argument: Argument, value: Any, direction: str | None, wired: Sequence[str]) -> Buffer:
        if not isinstance(value, (np.ndarray, Blank)):
            raise TypeError(
                f"kernel {self.spec.name}: argument {argument.name} is a pointer, and takes a NumPy array "
                f"or a buffer, not {type(value).__name__}"
            )
        if not wired:
            raise DeviceError(f"argument {argument.name} of {self.unit.name} is wired to no bank")
        self._check_dtype(argument, value)
        buffer = self._allocate(wired, value.shape, np.dtype(value.dtype))
        if not (isinstance(value, Blank) or direction == OUT):
            buffer.write(value)
        return buffer

    def _check_dtype(self, argument: Argument, value: Any) -> None:
        wrong = dtype_error(argument.ctype, np.dtype(value.dtype))
        if wrong:
            raise TypeError(f"kernel {self.spec.name}: argument {argument.name} {wrong}")

    def _allocate(self, wired: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        for bank in wired[:-1]:
            try:
                return Buffer.allocate(self._board, bank, shape, dtype)
            except DeviceMemoryError:
                pass  # the board may take any of them
        return Buffer.allocate(self._board, wired[-1], shape, dtype)

    def _set(self, words: list[tuple[int, bytes]]) -> None:
        """Write registers, those that lie together at once."""
        words.sort()
        ends = [0, *(offset + len(data) for offset, data in words)]
        run = 0
        runs = []
        for (offset, data), end in zip(words, ends):
            run += offset != end
            runs.append((run, offset, data))
        for _, group in groupby(runs, key=lambda one: one[0]):
            together = list(group)
            self._registers.write(together[0][1], b"".join(data for _, _, data in together))

    def _run(self) -> None:
        """Start the unit, and wait until it is done."""
        registers = self._registers
        begun = time.monotonic()
        registers.write(0, START)
        looks = 0
        while not (status := registers.read(0)) & (DONE | IDLE):
            looks += 1
            if looks > _LOOKS:
                passed = time.monotonic() - begun
                if passed > self.habit.limit:
                    self.hung = True
                    raise DeviceError(
                        f"unit {self.unit.name} has not ended after {passed:.3g} s "
                        f"(its limit is {self.habit}); {self._dump()}"
                    )
                time.sleep(min(_LONGEST, passed / 8))
        if status == _FAILED:
            self.hung = True
            raise DeviceError(
                f"unit {self.unit.name} does not answer: an error of the bus, or the device is gone; "
                + self._dump()
            )
        took = time.monotonic() - begun
        self.busy += took
        METER.compute += took
        self.habit.learn(took)
        if status & DONE and self.spec.protocol == "ap_ctrl_chain":
            registers.write(0, CONTINUE)

    def _dump(self) -> str:
        last = max((one.offset + one.nbytes for one in self.spec.arguments), default=4)
        dump = " ".join(f"{self._registers.read(offset):08x}" for offset in range(0, last, 4))
        return f"its registers from 0x0 on: {dump}"


class Instance:
    """Units of a device that work together, one of each kernel, as what runs on them has them.

    `instance.vadd(a, b, out, n)` runs a kernel, on its first unit here, and
    `instance.vadd_2(...)` that unit; `instance["run"]` is one that has the name
    of something else here. `array` and `empty` give buffers that stay.
    """

    def __init__(
        self,
        board: Any,
        drivers: Sequence[UnitDriver],
        kept: Store,
        answers: Answers,
        batch: int | None = None,
    ) -> None:
        self.kept = kept
        self._answers = answers
        self.batch = batch  # how much of a data set is its share, where a manifest says so
        self._board = board
        self._units = {driver.unit.name: driver for driver in drivers}
        # By kernel: its first unit here.
        self._drivers = {driver.spec.name: driver for driver in reversed(drivers)}

    @property
    def hung(self) -> bool:
        """Tell whether one of the units has hung."""
        return any(driver.hung for driver in self._units.values())

    def __getitem__(self, name: str) -> UnitDriver:
        drivers, units = self.__dict__["_drivers"], self.__dict__["_units"]
        driver: UnitDriver | None = drivers.get(name) or units.get(name)
        if driver is None:
            raise KeyError(
                f"there is no kernel or unit {name!r} on this instance; "
                f"it has {', '.join((*drivers, *units))}"
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
        return list(self._units)

    def array(self, value: Any, bank: str | None = None) -> Buffer:
        """Return a buffer that holds a copy of an array; see `empty`."""
        array = checked("array", np.asarray(value))
        buffer = self.empty(array.shape, array.dtype, bank)
        buffer.write(array)
        return buffer

    def empty(
        self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, bank: str | None = None
    ) -> Buffer:
        """Return a buffer in a bank; it is freed with the last reference to it.

        The bank need not be named if all of the instance's arguments are wired to one.
        Raises ValueError for a bank that is not, and for a shape that cannot be, TypeError for
        a dtype that is not of numbers, DeviceMemoryError if the bank is full.
        """
        wired = self._wired()
        if bank is None:
            if len(wired) != 1:
                raise ValueError(f"which bank? The instance is wired to {', '.join(wired) or 'none'}")
            bank = wired[0]
        elif bank not in wired:
            raise ValueError(f"the instance is wired to {', '.join(wired) or 'no bank'}, not to {bank}")
        asked = blank(shape, dtype)
        return Buffer.allocate(self._board, bank, asked.shape, np.dtype(asked.dtype))

    def run(self, interface: Interface, model: Any, args: Sequence[Any]) -> tuple[NDArray[Any], ...]:
        """Run a kernel as a decorated function describes it; return the arrays that come out.

        Raises DeviceError, naming every mismatch, if the bitstream's kernel is another one.
        """
        driver = self._drivers.get(interface.kernel)
        if driver is None:
            raise DeviceError(
                f"the device's bitstream has no kernel {interface.kernel!r}; "
                f"it has {', '.join(self._drivers) or 'none'}"
            )
        driver.learn(interface, model)
        found = [self.kept.find(value) if isinstance(value, Kept) else value for value in args]
        outs = tuple([buffer.host() for _, buffer in driver.run(found)])
        if not any(isinstance(value, Kept) for value in args):
            self._answers.learn(interface, model, args, outs)
        return outs

    def check(self) -> str:
        """Have the units give the answers that are known of their kernels; return what is wrong, if it is.

        Those of which none is known, and emulated ones without a model, are taken at their word.
        """
        for name, driver in self._units.items():
            known = self._answers.get(driver.spec.name)
            if known is None or not self._board.has_model(name):
                continue
            try:
                driver.learn(known.interface, None)
                found = [buffer.host() for _, buffer in driver.run(known.args)]
            except DeviceError as error:
                return str(error)
            except Exception as error:  # a model's own
                return f"unit {name} fails: {error!r}"
            if not same(found, known.outs):
                return f"unit {name} does not give the answer any more that {driver.spec.name} gave before"
        return ""

    def _wired(self) -> list[str]:
        return list(
            dict.fromkeys(
                bank for driver in self._units.values() for banks in driver.unit.banks for bank in banks
            )
        )

    def __repr__(self) -> str:
        return f"<instance of {', '.join(self.units)}>"
