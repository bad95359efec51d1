"""Hardware kernels: functions that stand for a circuit, and are its reference."""

from __future__ import annotations

import itertools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from device_runtime.errors import DeviceError, OptionError
from device_runtime.fpga.boards import read
from device_runtime.fpga.interface import IN, OUT, Interface, Parameter, dtype_error
from device_runtime.hardware import Blank, interface, run
from offload.body import Body
from offload.directions import parameters
from offload.handle import Handle
from offload.kernel import Kernel
from offload.launching import launch, route_of
from offload.options import Options
from offload.scattering import Scatter
from offload.session import Session, session
from offload.verifying import Verifier, Verify

if TYPE_CHECKING:
    from device_runtime.capture import Capture
    from device_runtime.fpga.bitstream import Bitstream, KernelSpec

Finish = Callable[[int, Any], Any]


class HardwareKernel(Kernel[..., Any]):
    """Be a kernel whose calls run a circuit, on devices that have one, and its function elsewhere.

    A call runs on one unit if it is not told otherwise. Its value is the array
    that comes out of it, the caller's own, or a tuple of several; they are
    filled when the value is taken (`wait`, `result` and their kin).
    """

    _body: HardwareBody

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the device and return the list of the units' values, or a handle if `async_`.

        Raises TypeError and ValueError for arguments that the kernel cannot take.
        """
        here = session()
        options = self._options(here, kwargs)
        handle = self._start(here, args, kwargs, options, attended=not options.async_)
        return handle if options.async_ else handle.wait()

    def launch(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        here = session()
        options = self._options(here, kwargs)
        return self._start(here, args, kwargs, options)

    def map(
        self, *iterables: Iterable[Any], chunksize: int | None = None, window: int | None = None
    ) -> Iterator[Any]:
        """Run once per element, as `Kernel.map` does; each call is a launch of its own.

        Raises OptionError for a `chunksize`, and a `window` below 1.
        """
        if chunksize is not None:
            raise OptionError(f"{self._body.name}.map: calls of a hardware kernel do not travel in chunks")
        if window is not None and (isinstance(window, bool) or operator.index(window) < 1):
            raise OptionError(f"{self._body.name}.map: window={window!r} must be an integer of at least 1")
        if not iterables:
            raise TypeError(f"{self._body.name}.map() needs at least one iterable")
        here = session()
        options = self._options(here, {})
        pool = here.pool(options.device)
        units, _ = options.place(pool.units, self._body.name, pool.device.names)
        if options.target is None or units is None:
            placed = [replace(options, auto=1, target=None)]
        else:
            placed = [replace(options, target=(unit,), single=True) for unit in units]
        return self._stream(here, zip(*iterables), placed, window or 2 * max(len(placed), pool.units))

    def _stream(
        self, here: Session, rows: Iterator[tuple[Any, ...]], placed: Sequence[Options], window: int
    ) -> Iterator[Any]:
        pending: deque[Handle[Any]] = deque()
        turns = itertools.cycle(placed)
        try:
            while True:
                for row in itertools.islice(rows, window - len(pending)):
                    pending.append(self._start(here, row, {}, next(turns)))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for handle in pending:
                handle.cancel()

    def __offload_reduce__(self) -> Any:
        # With the interface: where it goes to, its annotations may not be understood.
        body = self._body
        return _rebuild, (body.fn, body.kind, body.plain(), self._layer, self._bound, body.verify)

    def _start(
        self,
        here: Session,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        attended: bool = False,
    ) -> Handle[Any]:
        full = self._bound + args
        self._body.signature.check(full, kwargs)
        pool = here.pool(options.device)
        count = route_of(pool, self._body, options).count
        circuit = self._body.circuit(pool.device.bitstream, pool.address)
        calls, finish = self._body.calls(full, kwargs, count, circuit)
        if pool.device.bitstream is not None:
            finish = self._body.verified(calls, finish)
        return launch(here, self._body, (), {}, options, attended, calls=calls, finish=finish)


class HardwareBody(Body):
    """Hold a hardware kernel's function, and what it says of its arguments."""

    __slots__ = ("_fits", "_verifier", "interface", "verify")

    makes = HardwareKernel

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
        self.verify = verify
        self._verifier = None if verify is None else Verifier(verify, self.name, self.plain(), self.fn)
        # The circuit that was looked at last, and the types of what its pointers lead to.
        self._fits: tuple[KernelSpec | None, Mapping[str, str]] = None, {}

    @property
    def capture(self) -> Capture:
        if self._capture is None:
            from device_runtime.capture import Capture

            self._capture = Capture(partial(run, self.plain(), self.fn), pure=True)
            self._capture.name, self._capture.module = self.name, self.module
        return self._capture

    def verified(self, calls: list[tuple[tuple[Any, ...], dict[str, Any]]], finish: Finish) -> Finish:
        """Return what finishes a launch, and verifies it if it is one that is to be.

        One with a handle among its arguments is not: their values are not known here.
        """
        verifier = self._verifier
        if verifier is None or not verifier.is_due():
            return finish
        if any(isinstance(value, Handle) for row, _ in calls for value in row):
            return finish
        rows = [[value.copy() if hasattr(value, "copy") else value for value in row] for row, _ in calls]
        return partial(_finish_verified, verifier, rows, finish)

    def circuit(self, bitstream: Bitstream | None, address: str) -> Mapping[str, str]:
        """Return the types of what the pointers of a device's circuit lead to; nothing if it has none.

        Raises DeviceError, naming every mismatch, if it is not the circuit of this kernel.
        """
        if bitstream is None:
            return {}
        spec = next((one for one in bitstream.kernels if one.name == self.interface.kernel), None)
        if spec is None:
            raise DeviceError(
                f"kernel {self.name}: the bitstream of {address} has no kernel {self.interface.kernel!r}; "
                f"it has {', '.join(one.name for one in bitstream.kernels) or 'none'}"
            )
        known, circuit = self._fits
        if spec is known:
            return circuit
        wrong = self.interface.mismatches(spec)
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
        circuit = {one.name: one.ctype for one in spec.arguments if one.kind != "scalar"}
        self._fits = spec, circuit
        return circuit

    def plain(self) -> tuple[Any, ...]:
        """Return the interface as tuples, as it travels."""
        kernel, parameters, xclbin = self.interface
        return kernel, tuple([tuple(parameter) for parameter in parameters]), xclbin

    def calls(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], count: int, circuit: Mapping[str, str]
    ) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], Finish]:
        """Return what travels to each shard, and what makes of a shard's value that of the call.

        There is one entry where all shards get the same. Raises TypeError and
        ValueError, naming kernel and argument, for what the kernel cannot take.
        """
        signature = self.signature.shown
        assert signature is not None
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        columns: list[Sequence[Any]] = []  # by argument: one value for each shard
        outs: list[Sequence[Any]] = []  # of those that come out
        for parameter, value in zip(self.interface.parameters, bound.args, strict=True):
            scattered = type(value) is Scatter
            pieces = self._pieces(parameter, value, count) if scattered else [value] * count
            if parameter.direction is None:
                for piece in pieces if scattered else pieces[:1]:
                    self._check_scalar(parameter, piece)
            else:
                for piece in pieces if scattered else pieces[:1]:
                    self._check(parameter, piece, circuit)
                if parameter.direction != IN:
                    if count > 1 and not scattered:
                        raise ValueError(
                            f"kernel {self.name}: {count} shards would all write to {parameter.name}; "
                            "give each its own slice by scatter(), or launch on one unit"
                        )
                    outs.append(pieces)
                if parameter.direction == OUT:
                    pieces = [Blank(piece.shape, piece.dtype.str) for piece in pieces]
            columns.append(pieces)
        self._refuse_overlap([piece for pieces in outs for piece in pieces])
        rows: list[tuple[Any, ...]] = list(zip(*columns)) if columns else [()] * count
        if not any(type(value) is Scatter for value in bound.args):
            del rows[1:]
        return [(row, {}) for row in rows], partial(_finish, outs)

    def _pieces(self, parameter: Parameter, value: Scatter, count: int) -> Sequence[Any]:
        """Return what each shard gets of what is scattered: a slice, or a number."""
        if parameter.direction is not None:
            return value.slices(count, self.name)
        if len(value.value) != count:
            raise ValueError(
                f"kernel {self.name}: argument {parameter.name} has {len(value.value)} numbers "
                f"to be scattered, and the launch has {count} shards"
            )
        return list(value.value)

    def _check(self, parameter: Parameter, value: Any, circuit: Mapping[str, str]) -> None:
        import numpy as np

        what = f"kernel {self.name}: argument {parameter.name}"
        if isinstance(value, Handle) and parameter.direction == IN:
            if not value._bare:
                raise TypeError(f"{what} is an array, and this handle gives a list: launch that on one unit")
            return  # what it gives is looked at where it runs
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{what} is a NumPy array ({parameter.direction}), not {type(value).__name__}")
        if parameter.dtype is not None and value.dtype.str != parameter.dtype:
            raise TypeError(f"{what} has dtype {value.dtype}, and must have {np.dtype(parameter.dtype)}")
        if value.dtype.kind not in "biufc":
            raise TypeError(f"{what} has dtype {value.dtype}, and a circuit takes numbers")
        wrong = dtype_error(circuit[parameter.name], value.dtype) if circuit else None
        if wrong:
            raise TypeError(f"{what} {wrong}")
        if parameter.shape is not None and value.shape != parameter.shape:
            raise ValueError(f"{what} has shape {value.shape}, and must have {parameter.shape}")
        if parameter.direction != IN and not value.flags.writeable:
            raise ValueError(f"{what} comes out of the kernel ({parameter.direction}), and is read-only")

    def _check_scalar(self, parameter: Parameter, value: Any) -> None:
        import numpy as np

        if isinstance(value, Handle):
            return
        what, kind = f"kernel {self.name}: argument {parameter.name}", np.dtype(parameter.dtype)
        try:
            if kind.kind == "f":
                float(value)
            else:
                number = operator.index(bool(value) if isinstance(value, (bool, np.bool_)) else value)
        except (TypeError, ValueError):
            known = {"f": "a real number", "b": "True or False"}.get(kind.kind, "a whole number")
            raise TypeError(f"{what} must be {known}, not {value!r}") from None
        if kind.kind != "f" and parameter.dtype != "int":
            least, most = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
            if not least <= number <= most:
                raise ValueError(f"{what} is {number}, which is not between {least} and {most}")

    def _refuse_overlap(self, outs: Sequence[Any]) -> None:
        for place, one in enumerate(outs):
            for other in outs[place + 1 :]:
                if _overlap(one, other):
                    raise ValueError(f"kernel {self.name}: two arrays that come out of it share memory")


def _overlap(one: Any, other: Any) -> bool:
    """Tell whether two arrays share memory; also where it would take too long to find out."""
    import numpy as np

    try:
        return np.may_share_memory(one, other) and np.shares_memory(
            one,
            other,
            max_work=10_000,  # type: ignore[arg-type, unused-ignore]
        )
    except np.exceptions.TooHardError:
        return True


def _finish(outs: Sequence[Sequence[Any]], rank: int, value: Any) -> Any:
    """Copy what came out of a shard to the caller's arrays, and return those; None if there are none."""
    theirs = [pieces[rank] for pieces in outs]
    for array, found in zip(theirs, [value] if len(theirs) == 1 else value, strict=True):
        array[...] = found
    if not theirs:
        return None
    return theirs[0] if len(theirs) == 1 else tuple(theirs)


def _finish_verified(
    verifier: Verifier, rows: Sequence[Sequence[Any]], finish: Finish, rank: int, value: Any
) -> Any:
    found = finish(rank, value)
    outs = () if found is None else found if isinstance(found, tuple) else (found,)
    verifier.check(rows[rank if len(rows) > 1 else 0], outs)
    return found


def _rebuild(
    fn: Any,
    kind: str,
    plain: tuple[Any, ...],
    layer: dict[str, Any],
    bound: tuple[Any, ...],
    verify: Verify | None,
) -> HardwareKernel:
    known = interface(plain)
    body = HardwareBody(fn, known.kernel, known.xclbin, known, verify)
    body.kind = kind
    return HardwareKernel(body, layer, bound)
