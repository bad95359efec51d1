"""Hardware kernels: functions that stand for a circuit, and are its reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from device_runtime.errors import DeviceUnavailable, OptionError
from device_runtime.hardware import interface
from offload.arrays import HostArray
from offload.circuits import HardwareBody
from offload.filling import Finish
from offload.handle import Handle
from offload.keeping import Turn
from offload.kernel import Kernel
from offload.launching import call, launch, route_of
from offload.mapping import Elements, check_counts, stream
from offload.options import Options
from offload.session import Session, session
from offload.verifying import Verify
from scheduler.ticket import Depends

__all__ = ["HardwareBody", "HardwareKernel"]


class HardwareKernel(Kernel[..., Any]):
    """Be a kernel whose calls run a circuit, on devices that have one, and its function elsewhere.

    A call runs on one unit if it is not told otherwise. Its value is the array
    that comes out of it, the caller's own, or a tuple of several; they are
    filled when the value is taken (`wait`, `result` and their kin).
    """

    _body: HardwareBody

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run on the device and return the list of the units' values, or a handle if `async_`.

        Raises TypeError and ValueError for arguments that the kernel cannot take.
        """
        here = session()
        options = self._options(here, kwargs)
        if options.async_:
            return self._start(here, args, kwargs, options)
        asked = self._asked(here, args, kwargs, options, attended=True)
        if len(asked.calls) == 1 and not (asked.after or asked.hosts):
            return call(here, self._body, *asked.calls[0], options, asked.finish, asked.turn)
        return self._launch(here, options, asked, attended=True).wait()

    def launch(self, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        here = session()
        options = self._options(here, kwargs)
        return self._start(here, args, kwargs, options)

    def map(
        self, *iterables: Iterable[Any], chunksize: int | None = None, window: int | None = None
    ) -> Iterator[Any]:
        """Run once per element, as `Kernel.map` does; each call is a launch of its own.

        Raises OptionError for a `chunksize`, and a `window` that is no integer of at least 1.
        """
        if chunksize is not None:
            raise OptionError(f"{self._body.name}.map: calls of a hardware kernel do not travel in chunks")
        check_counts(self._body.name, window=window)
        if not iterables:
            raise TypeError(f"{self._body.name}.map() needs at least one iterable")
        self._body.signature.check((*self._bound, *itertools.repeat(None, len(iterables))), {})
        here = session()
        options = self._options(here, {})
        pool = here.pool(options.device)
        units, _ = options.place(pool.units, self._body.name, pool.device.names)
        circuit = self._body.circuit(pool.device.bitstream, pool.address)
        self._body.check_target(circuit, options.target, pool)
        if options.target is None or units is None:
            placed = [replace(options, auto=1, target=None)]
        else:
            placed = [replace(options, target=(unit,), single=True) for unit in units]
        turns = itertools.cycle(placed)

        def start(row: tuple[list[Any], ...]) -> Handle[Any]:
            return self._start(here, tuple([value for (value,) in row]), {}, next(turns))

        elements = Elements(iterables, len(placed), chunksize=1)
        most = window or 2 * max(len(placed), pool.units)
        return stream(elements, most, start, lambda handle: [handle.result()])

    def __offload_reduce__(self) -> Any:
        # With the interface: where it goes to, its annotations may not be understood.
        body = self._body
        return _rebuild, (body.fn, body.kind, body.plain(), self._layer, self._bound, body.verify)

    def _start(
        self, here: Session, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> Handle[Any]:
        return self._launch(here, options, self._asked(here, args, kwargs, options))

    def _asked(
        self,
        here: Session,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        attended: bool = False,
    ) -> _Asked:
        full = self._bound + args
        self._body.signature.check(full, kwargs)
        pool = here.pool(options.device)
        route = route_of(pool, self._body, options)
        circuit = self._body.circuit(pool.device.bitstream, pool.address)
        if circuit is None and here.in_place_of is not None and options.device is None:
            raise DeviceUnavailable(
                f"kernel {self._body.name}: {here.in_place_of} is the device of the process that this one "
                "was forked from; offload.connect(...) says where the kernel is to run here"
            )
        self._body.check_target(circuit, options.target, pool)
        calls, filling, resident = self._body.calls(full, kwargs, route, circuit)
        finish = filling if circuit is None else self._body.verified(calls, filling, resident)
        arrays = here.arrays.get(pool.index)
        turn = None if arrays is None or not resident else Turn(arrays, resident)
        waits = not attended and options.when_full == "wait"
        after = () if arrays is None else arrays.bury(waits)
        return _Asked(calls, finish, after, turn, filling.outs_of(HostArray))

    def _launch(self, here: Session, options: Options, asked: _Asked, attended: bool = False) -> Handle[Any]:
        calls, finish, after, turn, hosts = asked
        handle = launch(
            here,
            self._body,
            (),
            {},
            options,
            attended,
            calls=calls,
            finish=finish,
            after=after,
            turn=turn,
        )
        if hosts:
            _settle(handle, hosts)
        return handle


class _Asked(NamedTuple):
    """A launch as `launch` takes it, and the arrays of the host that are to be filled."""

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    finish: Finish
    after: Sequence[Depends]
    turn: Turn | None
    hosts: Sequence[HostArray]


HardwareBody.makes = HardwareKernel


def _settle(handle: Handle[Any], arrays: Sequence[HostArray]) -> None:
    """Wait for a launch that writes to arrays, and fill them."""
    error: BaseException | None = None
    try:
        handle.wait()
    except Exception as failure:  # whoever has the handle is told
        error = failure
    except BaseException as interrupt:
        error = interrupt
        raise
    finally:
        for array in arrays:
            array.written(handle._name, error)


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
