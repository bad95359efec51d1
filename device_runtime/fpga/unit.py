"""A compute unit as its owner drives it: arguments to where a run finds them, and what comes back."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from device_runtime import context
from device_runtime.errors import DeviceError, DeviceMemoryError
from device_runtime.fpga.answers import LONGEST, MOST, Answer, Answers, same, steady
from device_runtime.fpga.bitstream import Argument, KernelSpec, Unit
from device_runtime.fpga.buffers import Buffer
from device_runtime.fpga.control import Control
from device_runtime.fpga.habit import Habit
from device_runtime.fpga.interface import IN, INOUT, OUT, Interface, dtype_error
from device_runtime.fpga.scalars import pack_argument
from device_runtime.hardware import share_memory
from device_runtime.launch import Blank

if TYPE_CHECKING:
    from device_runtime.fpga.instance import InstanceDriver

_MOST_HANGS = 3  # times in a row that a unit may hang of which no answer is known


class Way(NamedTuple):
    """How arguments are passed: as the bitstream says, or as a decorated function does."""

    arguments: tuple[Argument, ...]
    directions: tuple[str | None, ...]  # None for a scalar, "" where it is not known
    banks: tuple[str | None, ...]  # those that were asked for


class UnitDriver:
    """Run a kernel on one unit, as a function."""

    def __init__(self, board: Any, spec: KernelSpec, unit: Unit, habit: Habit, answers: Answers) -> None:
        self.spec = spec
        self.unit = unit
        self.hung = False
        self.busy = 0.0  # seconds that its runs so far have taken
        self._driven = False  # a driver kernel has called it, and may have told the circuit something
        self._board = board
        self._answers = answers
        self._control = Control(unit.name, spec, board.registers(unit.name), habit, self._has_hung)
        self._running = threading.Lock()  # also a kernel's own threads may call it
        directions = tuple([None if one.kind == "scalar" else "" for one in spec.arguments])
        self._plain = Way(spec.arguments, directions, (None,) * len(directions))
        self._settled: tuple[Interface | None, Way] = None, self._plain  # the last one that was asked for

    def join(self, instance: InstanceDriver, take: Callable[..., Any]) -> None:
        """Become a part of an instance, whose `take` gives memory to launches that run there."""
        self.instance, self._take = instance, take

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

    def _way(self, interface: Interface | None) -> Way:
        """Return how arguments are passed.

        Raises DeviceError, naming every mismatch, if the bitstream's kernel is another one.
        """
        if interface is None:
            return self._plain
        known, way = self._settled
        if interface != known:
            wrong = interface.mismatches(self.spec, self._board.directions(self.spec.name))
            if wrong:
                raise DeviceError(
                    f"kernel {self.spec.name} of the bitstream is not what the function says: "
                    + "; ".join(wrong)
                )
            way = Way(
                interface.settle(self.spec).arguments,
                tuple([parameter.direction for parameter in interface.parameters]),
                tuple([parameter.bank for parameter in interface.parameters]),
            )
            self._settled = interface, way
        return way

    def __call__(self, *args: Any, **named: Any) -> None:
        """Run the kernel and wait for its end.

        A buffer stays where it is. An array is copied to the bank that its
        argument is wired to and, if it is writable and was changed on the
        device, copied back. Raises what `run` raises, DeviceError from a
        kernel that runs on another instance, and ValueError for a read-only
        array that comes out, and for two that share memory, where it is known
        that they do.
        """
        here = context.current()
        # A thread that outlives its launch may work for another one, by what it is given.
        if here is not None and here.instance is not self.instance and not hasattr(here.instance, "over"):
            raise DeviceError(
                f"unit {self.unit.name} belongs to {self.instance!r}, and this kernel runs on "
                f"{here.instance!r}: ask for offload.core.instance() in each launch"
            )
        args = self._in_order(args, named) if named else args
        before: list[tuple[str, str, Any]] = []
        for argument, value, direction in zip(
            self.spec.arguments, args, self._board.directions(self.spec.name)
        ):
            if not direction:  # a number, or nobody knows
                continue
            if direction != IN and isinstance(value, np.ndarray) and not value.flags.writeable:
                raise ValueError(
                    f"kernel {self.spec.name}: argument {argument.name} comes out of the circuit "
                    f"({direction}), and is read-only, as what a kernel is given is: give a copy of it"
                )
            for name, its, other in before:
                if _collide(value, direction, other, its):
                    raise ValueError(
                        f"kernel {self.spec.name}: arguments {name} ({its}) and {argument.name} "
                        f"({direction}) share memory, and the circuit writes there: give another array"
                    )
            before.append((argument.name, direction, value))
        came = [(args[place], found) for place, found in self.run(args).items()]
        # First: one array may stand for what goes in and what comes out.
        for value, found in [(old, new) for old, new in came if old.tobytes() != new.tobytes()]:
            value[...] = found

    def _in_order(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        taken = [one.name for one in self.spec.arguments]
        for name in named:
            if name not in taken[len(args) :]:
                told = "is given twice" if name in taken else f"is none of {', '.join(taken)}"
                raise TypeError(f"kernel {self.spec.name}: argument {name} {told}")
        missing = [name for name in taken[len(args) :] if name not in named]
        if missing:
            raise TypeError(f"kernel {self.spec.name}: argument {', '.join(missing)} is not given")
        return *args, *(named[name] for name in taken[len(args) :])

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"unit {self.unit.name} stays on its device")

    def run(
        self,
        args: Sequence[Any],
        interface: Interface | None = None,
        model: Any = None,
        alone: bool = False,
    ) -> dict[int, NDArray[Any]]:
        """Run the kernel; return the arrays that come back, by their places among the arguments.

        `interface` is what a decorated function says, and `model` that
        function, for an emulated unit that has none. `alone`: see `_run`. Raises TypeError for
        another number of arguments, ArgsNotSerializable for a scalar that its
        type cannot hold, DeviceMemoryError, and DeviceError for a unit that
        does not end or another kernel than the function's.
        """
        way = self._way(interface)
        with self._running:
            if model is not None:
                self._board.give_model(self.unit.name, model, way.directions)
            self._driven = self._driven or interface is None
            known = self._answers.get(self.unit.name)
            better = known is None or (known.driven and not self._driven)
            given = _noted(args, way) if better else None
            busy = self.busy
            outs = self._run(args, way, alone)
            self._answers.ended(self.unit.name)
            if given is not None and self.busy - busy <= LONGEST:
                kept = {} if self._driven else {place: found.copy() for place, found in outs.items()}
                noted = Answer(self.unit.name, self.spec.name, interface, given, kept, self._driven)
                self._answers.keep(noted)
            return outs

    def check(self) -> str:
        """Have the unit give an answer that is known; return what is wrong, if it is.

        That is one of its own, else it has to come to an end with what another
        unit of the kernel was given. Where none is known, or there is no room
        for it, the unit is taken at its word, until it has hung three times in a row.
        """
        name = self.unit.name
        own = self._answers.get(name)
        known = own or self._answers.of_another(self.spec.name)
        if known is None or not self._board.has_model(name):
            hangs = self._answers.hangs(name)
            told = f"unit {name} has hung, or not answered, {hangs} times in a row"
            return told if hangs >= _MOST_HANGS else ""
        try:
            if own is None:
                self._again(known, 0xFF)
            elif not self._gives(own):
                return f"unit {name} does not give the answer any more that it gave before"
        except Exception as error:
            told = str(error) if isinstance(error, DeviceError) else f"unit {name} fails: {error!r}"
            sure = own is not None and not own.driven and not isinstance(error, DeviceMemoryError)
            return told if self.hung or sure else ""
        return ""

    def _gives(self, known: Answer) -> bool:
        """Tell whether the unit still gives an answer, as far as its arrays can be foretold."""
        first = self._again(known, 0xFF)
        if all(same(first[place], was) for place, was in known.outs.items()):
            return True
        second = self._again(known, 0)
        sure = {place: steady(first[place], second[place]) for place in known.outs}
        return all(same(first[place][sure[place]], was[sure[place]]) for place, was in known.outs.items())

    def _again(self, known: Answer, fresh: int) -> dict[int, NDArray[Any]]:
        """Run it once more, with arrays that only come out full of a byte."""
        way = self._way(known.interface)
        args = [value.made(fresh) if isinstance(value, Blank) else value for value in known.args]
        back = tuple([INOUT if one == OUT else one for one in way.directions])
        with self._running:
            outs = self._run(args, way._replace(directions=back, banks=(None,) * len(back)), False)
            self._answers.ended(self.unit.name)
            return {place: found.copy() for place, found in outs.items()}

    def _run(self, args: Sequence[Any], way: Way, alone: bool) -> dict[int, NDArray[Any]]:
        """Run it; `alone`: all that the launch holds of the device is what it is given here."""
        arguments = way.arguments
        if len(args) != len(arguments):
            raise TypeError(
                f"kernel {self.spec.name} takes {len(arguments)} arguments "
                f"({', '.join(one.name for one in arguments)}), and {len(args)} are given"
            )
        words: list[tuple[int, bytes]] = []
        arrays: dict[int, Sequence[str]] = {}  # those that get buffers for this run only, and in which banks
        buffers: dict[int, Buffer] = {}
        for place, (argument, value) in enumerate(zip(arguments, args, strict=True)):
            number = argument.kind == "word" and not isinstance(value, (np.ndarray, Buffer, Blank))
            if number or argument.kind == "scalar":
                words.append((argument.offset, pack_argument(self.spec.name, argument, value)))
                continue
            bank = way.banks[place]
            wired = self.unit.banks[place] if bank is None else (bank,)
            if not isinstance(value, Buffer):
                self._check_array(argument, value, wired)
                arrays[place] = wired
                continue
            self._check_dtype(argument, value)
            if wired and value.bank not in wired:
                raise DeviceMemoryError(
                    f"argument {argument.name} of {self.unit.name} is in bank {value.bank}, "
                    + (f"and its port is wired to {', '.join(wired)}" if bank is None else f"not in {bank}")
                )
            buffers[place] = value
        if arrays:
            take = partial(self._allocate_all, args, arrays)
            fits = partial(self._fits, args, arrays) if alone else None
            buffers.update(self._take(chain(*arrays.values()), take, fits))
        held = [buffer.held for buffer in buffers.values()]  # also if a thread frees one while it runs
        parts: dict[int, Any] = {}
        for place, buffer in buffers.items():
            argument, direction = arguments[place], way.directions[place]
            if place in arrays and direction != OUT:
                buffer.write(args[place])
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
        before = self.predicted
        took = self._control.run(words)
        del held
        self.busy += took
        after = self.predicted
        self.instance.meter.ran(took, None if before is None or after is None else after - before)
        return {
            place: buffers[place].host()
            for place in arrays
            if way.directions[place] in (OUT, INOUT)
            or (not way.directions[place] and args[place].flags.writeable)
        }

    def _has_hung(self) -> None:
        self.hung = True
        self._answers.hung(self.unit.name)

    def _check_array(self, argument: Argument, value: Any, wired: Sequence[str]) -> None:
        if not isinstance(value, (np.ndarray, Blank)):
            raise TypeError(
                f"kernel {self.spec.name}: argument {argument.name} is a pointer, and takes a NumPy array "
                f"or a buffer, not {type(value).__name__}"
            )
        if not wired:
            raise DeviceError(f"argument {argument.name} of {self.unit.name} is wired to no bank")
        self._check_dtype(argument, value)

    def _check_dtype(self, argument: Argument, value: Any) -> None:
        wrong = dtype_error(argument.ctype, np.dtype(value.dtype))
        if wrong:
            raise TypeError(f"kernel {self.spec.name}: argument {argument.name} {wrong}")

    def _allocate_all(self, args: Sequence[Any], arrays: Mapping[int, Sequence[str]]) -> dict[int, Buffer]:
        told = ""
        for order in _orders(args, arrays):
            try:
                return {
                    place: self._allocate(wired, args[place].shape, np.dtype(args[place].dtype))
                    for place, wired in order
                }
            except DeviceMemoryError as error:
                told = told or str(error)
        raise DeviceMemoryError(told)

    def _fits(self, args: Sequence[Any], arrays: Mapping[int, Sequence[str]]) -> bool:
        """Tell whether arrays would find room, as `_allocate_all` looks for it, in banks that are empty."""
        return any(self._fits_so(args, order) for order in _orders(args, arrays))

    def _fits_so(self, args: Sequence[Any], order: Sequence[tuple[int, Sequence[str]]]) -> bool:
        room = {bank.name: bank.nbytes for bank in self._board.bitstream.banks}
        for place, wired in order:
            nbytes = _nbytes(args[place])
            bank = next((bank for bank in wired if room[bank] >= nbytes), None)
            if bank is None:
                return False
            room[bank] -= nbytes
        return True

    def _allocate(self, wired: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        told = []
        for bank in wired:  # the board may take any of them
            try:
                return Buffer.allocate(self._board, bank, shape, dtype, self.instance.meter)
            except DeviceMemoryError as error:
                told.append(str(error))
        raise DeviceMemoryError("; ".join(told))


def _orders(
    args: Sequence[Any], arrays: Mapping[int, Sequence[str]]
) -> list[list[tuple[int, Sequence[str]]]]:
    """Return in which orders places are looked for: first what may be in few banks, or is large; as given."""
    given = list(arrays.items())
    chosen = sorted(given, key=lambda one: (len(one[1]), -_nbytes(args[one[0]])))
    return [chosen] if chosen == given else [chosen, given]


def _noted(args: Sequence[Any], way: Way) -> tuple[Any, ...] | None:
    """Return a copy of arguments, for a run to be done again; None if they are large, or not known here."""
    nbytes = 0
    for value, direction in zip(args, way.directions):
        if isinstance(value, (np.ndarray, Buffer, Blank)):
            if isinstance(value, Buffer) and value.behind and direction != OUT:
                return None
            nbytes += _nbytes(value)
        elif type(value) not in (int, float, bool) and not isinstance(value, np.generic):
            return None
    if nbytes > MOST:
        return None
    return tuple(
        value
        if not isinstance(value, (np.ndarray, Buffer))
        else Blank(value.shape, np.dtype(value.dtype).str)
        if direction == OUT
        else np.array(value)
        for value, direction in zip(args, way.directions)
    )


def _collide(one: Any, way: str, other: Any, its: str) -> bool:
    """Tell whether a circuit would spoil an argument by another one; arrays get buffers of their own."""
    if isinstance(one, Buffer) and isinstance(other, Buffer):  # their addresses: one that was freed has none
        in_place = (one.address, one.nbytes) == (other.address, other.nbytes) and IN in (way, its)
        return (way, its) != (IN, IN) and not in_place and one.overlaps(other)
    both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return both and IN not in (way, its) and share_memory(one, other)


def _nbytes(value: Any) -> int:
    nbytes: int = math.prod(value.shape) * np.dtype(value.dtype).itemsize
    return nbytes
