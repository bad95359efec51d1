"""The standard library's interface: an executor whose calls run on the cores of a device."""

from __future__ import annotations

import concurrent.futures
import itertools
import operator
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from device_runtime import codec
from device_runtime.context import current
from device_runtime.errors import OptionError
from offload import settings
from offload.initializer import snapshot
from offload.session import session
from offload.submissions import Submissions, live

P = ParamSpec("P")
T = TypeVar("T")

_exiting = False  # the interpreter is


class Executor(concurrent.futures.Executor):
    """Run each call on one core of a device, as a `concurrent.futures.Executor` does.

    The device is opened here, belongs to the executor, and is closed by
    `shutdown`. `device` is its address, by default process cores of this
    machine; with OFFLOAD_DEVICE set, that kind of device. `max_workers` is how
    many cores are used, by default all of the device's, one per CPU on this
    machine. Inside a kernel the cores are virtual ones, on the kernel's own.

    `initializer(*initargs)` runs in every core before its first call, also in
    a core that was restarted; later calls see the globals it set. If it raises,
    calls that have not begun and later ones fail with BrokenExecutor.

        with offload.Executor(4) as executor:
            executor.submit(pow, 2, 10).result()
            list(executor.map(simulate, seeds, chunksize=16))

    It differs from `ProcessPoolExecutor` in this: functions need not be
    importable, and see globals and closures as they are at the call; arguments
    are snapshotted by `submit`, and arrays arrive as read-only views; a core
    that dies fails its own call, with WorkerDied, and no other.

    Calls that are pending when the interpreter exits are completed first.

    Raises TypeError for a `max_workers` that is no integer, ValueError
    (OptionError) for one below 1 or above what the device has, UnknownDeviceError, DeviceUnavailable, and
    KernelNotSerializable for an initializer that does not pickle.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        device: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is not None:
            try:
                max_workers = operator.index(max_workers)
            except TypeError:
                raise TypeError(
                    f"max_workers must be an integer, not {max_workers!r}; the address of a device is device="
                ) from None
            if max_workers <= 0:
                raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        initialize = None if initializer is None else snapshot(initializer, tuple(initargs))
        address = address_for(max_workers, device)
        self._submissions = Submissions(address, initialize)
        self._max_workers = self._submissions.cores  # where other libraries look for it
        if max_workers not in (None, self._max_workers):
            self._submissions.close(wait=True)
            raise OptionError(
                f"max_workers={max_workers}, but the device {address!r} has {self._max_workers} cores, "
                "of which an executor uses all; leave max_workers out"
            )
        # The executor may be dropped without a shutdown; what is pending is then completed.
        weakref.finalize(self, self._submissions.close, wait=False).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue the call `fn(*args, **kwargs)` and return its future.

        What does not pickle, function or arguments, is the future's exception;
        KernelTypeError is, for an `async def` function.
        Raises RuntimeError after `shutdown` and once the interpreter exits,
        BrokenExecutor after an initializer has failed, and TypeError for a hardware kernel.
        """
        _refuse_at_exit()
        _refuse_hardware(fn)
        return self._submissions.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Return an iterator of `fn`'s values, in input order; all calls are queued at once.

        `chunksize` calls travel together. A call that raises does so when its
        value's turn has come; that, TimeoutError `timeout` seconds from now,
        and closing the iterator cancel what is queued.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        _refuse_at_exit()
        _refuse_hardware(fn)
        end = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables)
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        return _values([self._submissions.submit(fn, (chunk,), {}, chunked=True) for chunk in chunks], end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and give the cores back when those that are pending have ended.

        With `wait`, return only then; with `cancel_futures`, cancel those that have not begun.
        """
        self._submissions.closed = True
        if cancel_futures:
            self._submissions.cancel()
        self._submissions.close(wait)


def address_for(max_workers: int | None, device: str | None) -> str:
    """Return the address of the device that an executor opens.

    Raises OptionError for more cores than an address such as `local:4` names.
    """
    if current() is not None:
        # Inside a kernel everything stays on the core's own place; refused here if nested too deeply.
        here = session().device
        return here if max_workers is None else f"inline:{max_workers}"
    users = settings.read()
    address = users.address(device or users.options.get("device") or "local")
    kind, _, rest = address.partition(":")
    if max_workers is None or not (rest.isdigit() or not rest):
        return address
    if device is not None and rest and max_workers > int(rest):
        raise OptionError(f"max_workers={max_workers} is more than the {rest} cores of device={device!r}")
    return f"{kind}:{max_workers}"


def _values(futures: list[Future[Any]], end: float | None) -> Iterator[Any]:
    """Give the values of chunks in order; whatever ends this early cancels the rest."""
    futures.reverse()
    try:
        while futures:
            values, failed = futures[-1].result(None if end is None else end - time.monotonic())
            futures.pop()
            yield from values
            if failed is not None:
                raise codec.decode_error(failed)
    finally:
        for future in futures:
            future.cancel()


def _refuse_at_exit() -> None:
    if _exiting:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")


def _refuse_hardware(fn: object) -> None:
    """Raise TypeError for a hardware kernel: what comes out of it would be a core's, and lost."""
    # There is no hardware kernel before that is imported, and it may just be.
    kind = getattr(sys.modules.get("offload.hardware"), "HardwareKernel", None)
    if kind is not None and isinstance(fn, kind):
        raise TypeError(
            f"{fn._body.name} is a hardware kernel, and is launched by itself: "
            "kernel.launch(...).future() is the future of its arrays"
        )


def _at_exit() -> None:
    global _exiting
    _exiting = True
    for submissions in list(live):
        submissions.close(wait=True)


# As the standard library's executors do: while other threads still run, and
# so before anything that `atexit` was told of.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
