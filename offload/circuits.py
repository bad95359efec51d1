"""What a hardware kernel's function says of its arguments, and how they go to a circuit."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from device_runtime.errors import BitstreamError, DeviceError, DeviceMemoryError, OptionError
from device_runtime.fpga.boards import read
from device_runtime.fpga.circuit import directions
from device_runtime.fpga.interface import IN, INOUT, OUT, Interface, Parameter, dtype_error
from device_runtime.fpga.scalars import Scalar, held, held_argument, scalar
from device_runtime.hardware import run
from device_runtime.launch import Blank
from offload.arrays import BankArray, DeviceArray, HostArray
from offload.body import Body
from offload.directions import parameters
from offload.filling import Filling, Finish, Verified, folded, overlap
from offload.handle import Handle
from offload.scattering import Scatter
from offload.verifying import Verifier, Verify

if TYPE_CHECKING:
    from device_runtime.capture import Capture
    from device_runtime.fpga.bitstream import Argument, Bitstream, KernelSpec, Unit
    from offload.keeping import Needed
    from scheduler.ticket import Pool, Route


_KEPT = BankArray, HostArray  # asked by type, as their common class asks far longer


class HardwareBody(Body):
    """Hold a hardware kernel's function, and what it says of its arguments."""

    retries = 2  # its arguments are snapshots, so it may be run again where its device is lost

    __slots__ = ("__weakref__", "_changed", "_fits", "_last", "_verifier", "interface", "verify")

    def __init__(
        self,
        fn: Any,
        kernel: str | None,
        xclbin: str | None,
        known: Interface | None = None,
        verify: Verify | None = None,
    ) -> None:
        super().__init__(fn)
        inner = fn.__func__ if isinstance(fn, (staticmethod, classmethod)) else fn
        name = kernel or str(getattr(inner, "__name__", ""))
        self.interface = known or Interface(name, parameters(self.name, self.fn), xclbin)
        self._changed = [one.name for one in self.interface.parameters if one.direction == INOUT]
        self.verify = verify
        self._verifier = None if verify is None else Verifier(verify, self.name, self.plain(), self.fn)
        # By the identity of circuits that were looked at: those, and what this interface makes of them.
        self._fits: dict[int, tuple[KernelSpec, KernelSpec]] = {}
        # What a launch has come to, for the next one by the same route.
        self._last: tuple[weakref.ref[Route], _Way] | None = None
        if self.interface.xclbin is not None and known is None:  # else it is a copy, which has travelled
            _named[self.number] = self

    @property
    def capture(self) -> Capture:
        if self._capture is None:
            from device_runtime.capture import Capture

            self._capture = Capture(partial(run, self.plain(), self.fn), pure=True)
            self._capture.name, self._capture.module = self.name, self.module
        return self._capture

    def verified(
        self,
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
        filling: Filling,
        resident: Sequence[Needed],
    ) -> Finish:
        """Return what finishes a launch, and verifies it if it is one that is to be.

        One with a handle or an array on the device among its arguments is not:
        their values are not known here.
        """
        verifier = self._verifier
        if verifier is None or resident or not verifier.is_due():
            return filling
        if any(isinstance(value, Handle) for row, _ in calls for value in row):
            return filling
        rows = [[value.copy() if hasattr(value, "copy") else value for value in row] for row, _ in calls]
        return Verified(filling, verifier, rows)

    def circuit(self, bitstream: Bitstream | None, address: str) -> KernelSpec | None:
        """Return the kernel's circuit on a device; None if it has none.

        Raises DeviceError, naming every mismatch, if it is not the circuit of this kernel.
        """
        if bitstream is None:
            return None
        spec = next((one for one in bitstream.kernels if one.name == self.interface.kernel), None)
        if spec is None:
            raise DeviceError(
                f"kernel {self.name}: the bitstream of {address} has no kernel {self.interface.kernel!r}; "
                f"it has {', '.join(one.name for one in bitstream.kernels) or 'none'}"
            )
        known = self._fits.get(id(spec))
        if known is not None:
            return known[1]
        wrong = self.interface.mismatches(spec, directions(bitstream.circuit, spec.name))
        if wrong:
            raise DeviceError(
                f"kernel {self.name} does not fit kernel {spec.name} of the bitstream of {address}: "
                + "; ".join(wrong)
            )
        if self.interface.xclbin is not None and os.path.exists(self.interface.xclbin):
            wanted = read(self.interface.xclbin).uuid
            if wanted != bitstream.uuid:
                raise DeviceError(
                    f"kernel {self.name} is for {self.interface.xclbin} ({wanted.hex()}), and {address} "
                    f"has another bitstream loaded ({bitstream.uuid.hex()})"
                )
        settled = self.interface.settle(spec)
        self._fits[id(spec)] = spec, settled
        return settled

    def check_target(self, circuit: KernelSpec | None, target: Sequence[Any] | None, pool: Pool) -> None:
        """Raise OptionError for units that were named, and are not those that the kernel runs on."""
        if circuit is None or target is None or type(target[0]) is not str:
            return
        units = pool.device.names
        mine = [unit.name for unit in circuit.units if unit.name in units]
        for name in target:
            where = f"kernel {self.name}: target={name!r}"
            if name not in mine:
                raise OptionError(f"{where} is no unit of {circuit.name}; its units are {', '.join(mine)}")
            first = next(one for one in units if one in mine and units[one] == units[name])
            if name != first:
                raise OptionError(
                    f"{where} is not the first unit of {circuit.name} on instance {units[name]}: it runs on "
                    f"{first} there, and a driver kernel may call offload.core.instance().{name}"
                )

    def plain(self) -> tuple[Any, ...]:
        """Return the interface as tuples, as it travels."""
        kernel, parameters, xclbin = self.interface
        return kernel, tuple([tuple(parameter) for parameter in parameters]), xclbin

    def calls(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], route: Route, circuit: KernelSpec | None
    ) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], Filling, Sequence[Needed]]:
        """Return what travels to each shard, what makes of a shard's value that of the call, and its arrays.

        There is one entry where all shards get the same. The arrays are those on the device, and if
        they are read and written. Raises TypeError,
        ValueError and OptionError, naming kernel and argument, for what the kernel cannot take.
        """
        given = args
        if kwargs or len(args) < len(self.interface.parameters):
            signature = self.signature.shown
            assert signature is not None
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.args
        count = route.count
        last = self._last
        if last is None or last[0]() is not route or last[1].circuit is not circuit:
            last = self._last = weakref.ref(route), self._look(route, circuit)
        way = last[1]
        columns: list[Sequence[Any]] = []  # by argument: what travels to each shard
        shown: list[Sequence[Any]] = []  # by argument: what each shard is given
        outs: list[Sequence[Any]] = []  # of those that come out
        resident: list[tuple[BankArray, bool, bool]] = []
        hosts = False  # there are arrays that stand for some on a device
        for place, (parameter, value) in enumerate(zip(self.interface.parameters, given, strict=True)):
            if isinstance(value, Handle):
                value = _array_of(value)
            scattered = type(value) is Scatter
            pieces = self._pieces(parameter, value, count) if scattered else [value] * count
            shown.append(pieces)
            if parameter.direction is None:
                if scattered:
                    pieces = [self._held(place, piece, way) for piece in pieces]
                else:
                    pieces = [self._held(place, value, way)] * count
            else:
                for piece in pieces if scattered else pieces[:1]:
                    self._check(place, piece, route, way)
                    if type(piece) is BankArray:
                        resident.append((piece, parameter.direction != OUT, parameter.direction != IN))
                    elif type(piece) is HostArray:
                        hosts = True
                if parameter.direction != IN:
                    if count > 1 and not scattered:
                        raise ValueError(
                            f"kernel {self.name}: {count} shards would all write to {parameter.name}; "
                            "give each its own slice by scatter(), or launch on one unit"
                        )
                    outs.append(pieces)
                pieces = [_travels(parameter, piece) for piece in pieces]
            columns.append(pieces)
        if len(outs) > 1 or count > 1:
            self._refuse_overlap([piece for pieces in outs for piece in pieces])
        if hosts or len({id(array.memory) for array, _, _ in resident}) < len(resident):
            self._refuse_sharing(shown)
        rows: list[tuple[Any, ...]] = list(zip(*columns)) if columns else [()] * count
        if not any(type(value) is Scatter for value in given):
            del rows[1:]
        first = [column[0] for column in shown] if count == 1 else None
        return [(row, {}) for row in rows], Filling(outs, self.fn, first, self._changed), resident

    def _look(self, route: Route, circuit: KernelSpec | None) -> _Way:
        """Return what launches by a route come to.

        Raises OptionError for one on instances that have no unit of the circuit.
        """
        fits: list[set[Any]] = [set() for _ in self.interface.parameters]
        if circuit is None:
            return _Way(circuit, {}, [frozenset() for _ in fits], fits, [None for _ in fits])
        reached = _reached(circuit, route)
        self._check_units(circuit, route, reached)
        banks = [
            frozenset.intersection(*[frozenset(unit.banks[place]) for unit in reached.values()])
            if parameter.bank is None
            else frozenset([parameter.bank])
            for place, parameter in enumerate(self.interface.parameters)
        ]
        integers = [
            _integer(parameter, argument)
            for parameter, argument in zip(self.interface.parameters, circuit.arguments, strict=True)
        ]
        return _Way(circuit, reached, banks, fits, integers)

    def _check_units(self, circuit: KernelSpec, route: Route, reached: Mapping[int, Unit]) -> None:
        """Raise OptionError for a launch on instances that have no unit of the circuit."""
        asked = route.units if route.units is not None else range(route.pool.units)
        lacking = [str(number) for number in asked if number not in reached]
        if lacking:
            names = route.pool.device.names
            there = [unit.name for unit in circuit.units if unit.name in names]
            raise OptionError(
                f"kernel {self.name}: instance {', '.join(lacking)} of {route.pool.address} has no unit of "
                f"{circuit.name}; target= one of {', '.join(there) or 'none: it has no unit there'}"
            )

    def _pieces(self, parameter: Parameter, value: Scatter, count: int) -> Sequence[Any]:
        """Return what each shard gets of what is scattered: a slice, or a number."""
        if parameter.direction is not None:
            return value.slices(count, self.name)
        if value.sizes is not None:
            raise OptionError(
                f"kernel {self.name}: argument {parameter.name}: of numbers each unit gets one: "
                f"scatter({value.value!r}), without sizes"
            )
        if len(value.value) != count:
            raise ValueError(
                f"kernel {self.name}: argument {parameter.name} has {len(value.value)} numbers "
                f"to be scattered, and the launch has {count} shards"
            )
        return list(value.value)

    def _check(self, place: int, value: Any, route: Route, way: _Way) -> None:
        """Raise TypeError, ValueError and DeviceMemoryError for what is no array that the argument takes."""
        import numpy as np

        parameter, kind = self.interface.parameters[place], type(value)
        if kind is not BankArray and kind is not np.ndarray and self._check_kind(parameter, value):
            return  # what it gives is looked at where it runs
        if value.dtype not in way.fits[place]:
            self._check_dtype(place, value.dtype, way.circuit)
            way.fits[place].add(value.dtype)
        if kind is BankArray:
            if way.circuit is None or value.memory.home.pool is not route.pool:
                home = value.memory.home
                whose = "a session that was shut down" if home.closed else "another session"
                there = f" in {whose}" if home.pool.address == route.pool.address else ""
                raise ValueError(
                    f"{self._called(parameter)} is on {home.pool.address}{there}, "
                    f"and the launch goes to {route.pool.address}"
                )
            if value.bank not in way.banks[place]:
                _refuse_bank(self._called(parameter), value, parameter.bank, place, way.reached)
        if parameter.shape is not None and value.shape != parameter.shape:
            raise ValueError(
                f"{self._called(parameter)} has shape {value.shape}, and must have {parameter.shape}"
            )
        if parameter.direction != IN and isinstance(value, np.ndarray):
            what = f"{self._called(parameter)} comes out of the kernel ({parameter.direction})"
            if not value.flags.writeable:
                raise ValueError(f"{what}, and is read-only")
            if not value.flags.c_contiguous and folded(value):
                raise ValueError(f"{what}, and its elements share memory")

    def _called(self, parameter: Parameter) -> str:
        return f"kernel {self.name}: argument {parameter.name}"

    def _check_kind(self, parameter: Parameter, value: Any) -> bool:
        """Tell whether a value is not known yet. Raises TypeError for what is no array, nor will be one."""
        import numpy as np

        what = self._called(parameter)
        if isinstance(value, Handle) and parameter.direction == IN:
            if not value._bare:
                raise TypeError(f"{what} is an array, and this handle gives a list: launch that on one unit")
            gives = _outs_of(value)
            if gives != 1:
                raise TypeError(
                    f"{what} is an array, and this handle gives {gives or 'none'}: "
                    + ("give handle.result()[0]" if gives else "give one of a launch that does")
                )
            return True
        if not isinstance(value, (np.ndarray, DeviceArray)):
            told = ""
            if isinstance(value, Handle):
                told = "; a handle stands for an In array: give handle.result(), or an array on the device"
            elif type(value).__name__ == "Buffer":
                told = "; offload.core.instance() runs circuits with its buffers"
            raise TypeError(
                f"{what} is a NumPy array ({parameter.direction}), not {type(value).__name__}{told}"
            )
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{what} is a masked array, and its mask would be lost: give x.filled(0) or x.data"
            )
        return False

    def _check_dtype(self, place: int, dtype: Any, circuit: KernelSpec | None) -> None:
        import numpy as np

        parameter = self.interface.parameters[place]
        what = self._called(parameter)
        if dtype.kind in "biufc" and not dtype.isnative:
            raise TypeError(
                f"{what} has dtype {dtype}, of another byte order than this machine's: "
                f"give x.astype({dtype.name!r})"
            )
        if parameter.dtype is not None and dtype.str != parameter.dtype:
            raise TypeError(f"{what} has dtype {dtype}, and must have {np.dtype(parameter.dtype)}")
        if dtype.kind not in "biufc":
            raise TypeError(f"{what} has dtype {dtype}, and a circuit takes numbers")
        if circuit is not None:
            wrong = dtype_error(circuit.arguments[place].ctype, dtype)
            if wrong:
                raise TypeError(f"{what} {wrong}")

    def _held(self, place: int, value: Any, way: _Way) -> Any:
        """Return a number as the argument holds it; a handle's is looked at where it runs."""
        integer = way.integers[place]
        if type(value) is int and integer is not None and integer.takes(value):
            return value
        if isinstance(value, Handle):
            return value
        parameter = self.interface.parameters[place]
        try:
            number = held(parameter.dtype or "int", value)
        except TypeError as error:
            raise TypeError(f"{self._called(parameter)} {error}") from None
        except ValueError as error:
            raise ValueError(f"{self._called(parameter)}: {error}") from None
        if way.circuit is None:
            return number
        return held_argument(self.name, way.circuit.arguments[place], value)

    def _refuse_sharing(self, shown: Sequence[Sequence[Any]]) -> None:
        """Raise ValueError for arrays on the device of which one is written and the other used."""
        placed = [
            (parameter, piece)
            for parameter, pieces in zip(self.interface.parameters, shown, strict=True)
            for piece in {id(one): one for one in pieces}.values()
            if type(piece) in _KEPT
        ]
        for place, (one, first) in enumerate(placed):
            for other, second in placed[place + 1 :]:
                if (one.direction, other.direction) != (IN, IN) and overlap(first, second):
                    raise ValueError(
                        f"kernel {self.name}: arguments {one.name} and {other.name} share memory on the "
                        "device, and one is written; give another array, or have an InOut argument"
                    )

    def _refuse_overlap(self, outs: Sequence[Any]) -> None:
        for place, one in enumerate(outs):
            for other in outs[place + 1 :]:
                if overlap(one, other):
                    raise ValueError(f"kernel {self.name}: two arrays that come out of it share memory")


# Those that say which bitstream they are for, by number.
_named: weakref.WeakValueDictionary[int, HardwareBody] = weakref.WeakValueDictionary()


def check_named(bitstream: Bitstream, address: str) -> None:
    """Look at the kernels so far that are for a bitstream by what their `xclbin` names.

    Raises DeviceError, naming every mismatch of each, if some do not fit it.
    """
    files: dict[str, bool] = {}
    wrong = []
    for found in _named.valuerefs():
        body = found()
        if body is None or _is_replaced(body):
            continue
        path = body.interface.xclbin
        assert path is not None
        if path not in files:
            files[path] = _is_in(path, bitstream)
        if files[path]:
            try:
                body.circuit(bitstream, address)
            except DeviceError as error:
                wrong.append(str(error))
    body = None  # whoever keeps the error must not keep the kernel
    if wrong:
        raise DeviceError("\n".join(wrong))


def _is_replaced(body: HardwareBody) -> bool:
    """Tell whether another kernel has its name in its module now: in a notebook it was written anew."""
    now: Any = sys.modules.get(body.module)
    for part in body.name.removeprefix(f"{body.module}.").split("."):
        now = getattr(now, part, None)
    return getattr(now, "_body", body) is not body


def _is_in(path: str, bitstream: Bitstream) -> bool:
    """Tell whether a file is there and has this bitstream."""
    try:
        return os.path.exists(path) and read(path).uuid == bitstream.uuid
    except BitstreamError:
        return False  # a call tells of that, if there is one


def _reached(circuit: KernelSpec, route: Route) -> dict[int, Unit]:
    """Return the circuit's units that a launch may run on, by the number of their instances."""
    mine = {unit.name: unit for unit in circuit.units}
    units: dict[int, Unit] = {}
    for name, instance in route.pool.device.names.items():  # in the order that an instance has its units
        if name in mine:
            units.setdefault(instance, mine[name])
    return units if route.units is None else {n: units[n] for n in route.units if n in units}


class _Way(NamedTuple):
    """What launches by a route come to.

    `reached` are the circuit's units that they may run on, by instance; `banks` are for each
    argument those in which an array may be, `fits` the dtypes that were found to be right, and
    `integers` the types of those that are whole numbers.
    """

    circuit: KernelSpec | None
    reached: Mapping[int, Unit]
    banks: Sequence[frozenset[str]]
    fits: Sequence[set[Any]]
    integers: Sequence[Scalar | None]


def _integer(parameter: Parameter, argument: Argument) -> Scalar | None:
    """Return the type of an argument that takes whole numbers as they are; None for another."""
    kind = scalar(argument.ctype) if argument.kind == "scalar" else None
    whole = (parameter.dtype or "int").startswith(("int", "uint"))
    return kind if whole and kind is not None and kind.fits(argument) else None


def _refuse_bank(
    what: str, array: BankArray, asked: str | None, place: int, units: Mapping[int, Unit]
) -> NoReturn:
    """Raise DeviceMemoryError for an array in another bank than the kernel has `asked` for.

    Or in one that a unit that the launch may run on does not reach.
    """
    if asked is not None:
        raise DeviceMemoryError(
            f"{what} is in bank {array.bank}, and the kernel's annotation says bank={asked!r}: "
            "make the array there, or leave the bank out"
        )
    reach = [unit.name for unit in units.values() if array.bank in unit.banks[place]]
    unit = next(unit for unit in units.values() if unit.name not in reach)
    raise DeviceMemoryError(
        f"{what} is in bank {array.bank}, and unit {unit.name} is wired to "
        + ", ".join(unit.banks[place])
        + (f"; target= one of those that reach it: {', '.join(reach)}" if reach else "")
    )


def _outs_of(handle: Handle[Any]) -> int:
    """Return how many arrays a handle gives; 1 where that is not known."""
    finish = handle._tickets[0].more.finish
    filling = finish.filling if isinstance(finish, Verified) else finish
    return len(filling.outs) if isinstance(filling, Filling) else 1


def _array_of(handle: Handle[Any]) -> Any:
    """Return the array on the device that a handle gives, if it is one; else the handle."""
    finish = handle._tickets[0].more.finish
    if handle._bare and isinstance(finish, Filling) and finish.stays and len(finish.outs) == 1:
        return finish.outs[0][0]
    return handle


def _travels(parameter: Parameter, value: Any) -> Any:
    """Return what goes to the unit in the place of an argument."""
    if type(value) is BankArray:
        return value.kept
    if type(value) is HostArray:  # what a kernel leaves unwritten of one stays
        return value.array if parameter.direction == OUT else value.read()
    return Blank(value.shape, value.dtype.str) if parameter.direction == OUT else value
