"""Sessions: which devices are open, and which one is the default.

A program has a default session, made at its first launch or by `connect`. A
kernel that launches others has one of its own on its core's place, so that a
launch that waits for another never waits for the place it holds itself.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeVar

from device_runtime.context import Context, current
from device_runtime.device import Device, SharedDevice
from device_runtime.errors import DeviceUnavailable, NestedDeadlockError, SessionClosed
from device_runtime.interrupts import Shield, defer_interrupts
from device_runtime.registry import identity, open_device
from offload import settings
from offload.options import Options

if TYPE_CHECKING:
    from device_runtime.claims import Claim
    from offload.arrays import DeviceArray
    from offload.keeping import Arrays
    from scheduler.dispatcher import Dispatcher
    from scheduler.ticket import Depends, Pool

T = TypeVar("T")

MAX_DEPTH = 16  # of launches nested in kernels
DRAIN_AT_EXIT = 5.0  # seconds


class _Making(Generic[T]):
    """A value that a thread is making; the others wait for its lock."""

    value: T

    def __init__(self) -> None:
        self.maker = threading.get_ident()
        self.over = False
        self.error: BaseException | None = None
        self.lock = threading.Lock()
        self.lock.acquire()


class Once(Generic[T]):
    """Hold values that are made once each, whichever threads ask for them."""

    def __init__(self) -> None:
        self.values: dict[str, T] = {}
        self._making: dict[str, _Making[T]] = {}

    def get(self, key: str, make: Callable[[], T], insist: bool = False) -> T:
        """Return the value of `key`; make it if there is none, or wait for the thread that does.

        If that cannot, its error is raised here as well; or who may `insist` tries it by its own `make`.
        """
        if key in self.values:
            return self.values[key]
        mine: _Making[T] = _Making()
        first = self._making.setdefault(key, mine)
        if first is mine:
            try:
                made = self.values[key] = mine.value = make()
            except BaseException as error:
                del self._making[key]  # the next one tries again
                mine.error = error
                raise
            finally:
                mine.over = True
                mine.lock.release()
                del mine, first  # else an error would hold, by its traceback, what holds it
            return made
        if first.maker == mine.maker and not first.over:
            raise RuntimeError("a signal handler cannot use the device that it interrupted the opening of")
        with Shield(), first.lock:  # Ctrl-C must not leave it locked
            pass
        if first.error is not None:
            if insist:
                return self.get(key, make, insist)
            raise first.error
        return first.value

    def forget(self) -> None:
        """Forget the values that are made; those that are being made are still to come."""
        self.values.clear()
        for key, making in list(self._making.items()):
            if making.over:
                self._making.pop(key, None)

    def clear(self) -> None:
        """Forget all values."""
        self.values.clear()
        self._making.clear()


class Session:
    """Hold the devices that launches run on, each opened when it is first used.

    `device` is the address of the default one, or its name in the user's
    settings: as given, else OFFLOAD_DEVICE, else process cores, one per CPU. As
    a context manager a session shuts down when the block is left, after
    everything in it has ended.
    """

    def __init__(self, device: str | None = None) -> None:
        self._settings = settings.read()
        layer = self._settings.options
        # Taken out also where `device` overrules it, or every launch would ask for it.
        users = layer.pop("device", None)
        self.device: str = self._settings.address(device if device is not None else users or "local")
        self.identity = identity(self.device)
        self.defaults = Options().merged(layer)
        self.closed = False
        self.nested_in: Context | None = None  # the kernel whose launches it runs
        self.in_place_of: str | None = None  # the FPGA of the process that this one was forked from
        self._dispatchers: Once[Dispatcher] = Once()
        self._claims: Once[Claim] = Once()  # by card
        self._pools: Once[Pool] = Once()  # by address, and by name where it was asked for by that
        self._resident: dict[tuple[int, str], frozenset[str]] = {}  # names, by pool and module
        self.arrays: dict[int, Arrays] = {}  # on devices, by pool
        self._entered = 0  # `with` blocks inside of which it is
        self.holds = (
            0  # calls that connected to it, and `with` blocks, that were not ended by leaving a block
        )
        self.connected = False  # by a call whose `with` block, if it has one, was not entered yet
        self._process = os.getpid()

    @property
    def dispatcher(self) -> Dispatcher:
        """What runs the session's launches, made when it is first asked for."""
        found = self._dispatchers.values.get("")
        return found if found is not None else self._dispatchers.get("", self._start)

    def pool(self, address: str | None = None) -> Pool:
        """Return the open device of an address or name, None being the default's; open it if need be.

        Raises SessionClosed, and what opening raises: UnknownDeviceError,
        OptionError, DeviceUnavailable.
        """
        if self.closed:
            raise SessionClosed("the session is shut down; offload.connect() starts a new one")
        # Inside a kernel all launches stay on the core's own place.
        if address is None or self.nested_in is not None:
            address = self.device
        found = self._pools.values.get(address)
        return found if found is not None else self._pools.get(address, lambda: self._open(address))

    def has_circuits(self) -> bool:
        """Tell whether the default device is open, and an FPGA."""
        found = self._pools.values.get(self.device)
        return found is not None and found.device.bitstream is not None

    def reopen(self) -> None:
        """Open the default device, if it is not.

        Raises what `pool` raises, and DeviceUnavailable where its file holds another bitstream since.
        """
        if self.pool().device.changed():
            raise DeviceUnavailable(
                f"{self.device} was opened with another bitstream than it names now: shut that session down "
                "first, by its shutdown(), or all of them by offload.shutdown()"
            )

    def resident(self, pool: Pool, module: str) -> frozenset[str]:
        """Return the names that are defined on a device for a module."""
        return self._resident.get((pool.index, module), frozenset())

    @property
    def batches(self) -> tuple[int, ...] | None:
        """Each unit's share of a data set, as the device's manifest says: `scatter(rows, session.batches)`.

        None where it does not say so of all.
        """
        return self.pool().device.batches

    def array(self, value: Any, bank: str | None = None) -> DeviceArray:
        """Return an array in the memory of the session's device that holds a copy of a NumPy array.

        See `empty`.
        """
        import numpy as np

        from device_runtime.hardware import checked, unmasked

        return self._array(checked("array", np.array(unmasked(value), order="C")), bank)

    def empty(
        self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, bank: str | None = None
    ) -> DeviceArray:
        """Return an array in the memory of the session's device, for hardware kernels to write and read.

        `shape` is in elements, `dtype` any number of NumPy's. The bank need not
        be named if the device's units are wired to one only. On a device
        without such memory it is an array of the host's, and `bank` is not
        looked at. Raises TypeError for a dtype that is not of numbers,
        ValueError for a shape that cannot be and for a bank that no unit is
        wired to, and DeviceMemoryError where there is no room.
        """
        from device_runtime.hardware import blank

        return self._array(blank(shape, dtype), bank)

    def _array(self, value: Any, bank: str | None) -> DeviceArray:
        from offload.keeping import Arrays

        pool = self.pool()
        home = self.arrays.get(pool.index) or self.arrays.setdefault(pool.index, Arrays(self, pool))
        return home.make(value, bank)

    def burials(self, pool: Pool, waits: bool) -> Sequence[Depends]:
        """Return what a launch comes after: those that free memory that arrays had; see `Arrays.bury`."""
        home = self.arrays.get(pool.index)
        return () if home is None else home.bury(waits)

    def define(self, pool: Pool, module: str, name: str) -> None:
        """Note that a name is defined on a device for a module."""
        self._resident[pool.index, module] = self.resident(pool, module) | {name}

    def shutdown(self, wait: bool = True) -> None:
        """Refuse new launches and close the devices once everything has ended.

        With `wait=False`, what is queued is cancelled and what runs is ended.
        """
        self._close(None if wait else 0.0)

    def __enter__(self) -> Session:
        self._entered += 1
        if not self.connected:
            self.holds += 1
        self.connected = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        self.holds -= 1
        if self._entered == 0 and self.holds == 0:
            self.shutdown()
            if any(s is not self for s in _defaults):  # the one before it is the default again
                _defaults[:] = [s for s in _defaults if s is not self]
        elif _defaults and _defaults[-1] is self and self in _defaults[:-1]:
            _defaults.pop()

    def __repr__(self) -> str:
        return f"<offload session on {self.device!r}{', shut down' if self.closed else ''}>"

    def _open(self, asked: str) -> Pool:
        address = self._settings.address(asked)
        if address != asked:
            return self.pool(address)  # all names of a device share it
        defer_interrupts()
        device = open_device(address)
        same = identity(address)
        if same != address:  # it may be open already, by an address that is written otherwise
            return self._pools.get(same, lambda: self._add_shared(device), insist=True)
        return self._add_shared(device)

    def _add_shared(self, device: Device) -> Pool:
        if isinstance(device, SharedDevice) and device.card:
            return self._open_shared(device)
        return self._add(device)

    def _add(self, device: Device) -> Pool:
        """Open a device, and make its units available to launches."""
        units = device.open()  # before the scheduler is loaded: that takes as long as its cores to start
        try:
            if device.bitstream is not None:
                from offload.circuits import check_named

                check_named(device.bitstream, device.address)
            dispatcher = self.dispatcher
            if self.closed:  # since it was made; what was not there then, nobody would close
                dispatcher.close()
                raise SessionClosed("the session was shut down while a device was being opened")
        except BaseException:
            device.close()
            raise
        return dispatcher.add(device, units)

    def _open_shared(self, device: SharedDevice) -> Pool:
        """Open a device with the session's claim to its card; the first one there is loaded at once."""
        from device_runtime.claims import claim

        pool: Pool | None = None

        def make() -> Claim:
            nonlocal pool
            held = claim(device.card, device.address, device.patience)
            try:
                device.claim = held.share()
                pool = self._add(device)
            except BaseException:
                held.close()
                raise
            return held

        try:
            # What another thread is told may be of another device.
            held = self._claims.get(device.card, make, insist=True)
            if pool is not None:
                return pool
            device.claim = held.share()
        except OSError as error:
            raise DeviceUnavailable(f"{device.address} could not be opened: {error}") from error
        device.loaded = False
        return self._add(device)

    def _start(self) -> Dispatcher:
        if self.closed:
            raise SessionClosed("the session is shut down; offload.connect() starts a new one")
        # Loaded with the first launch: a program that only defines kernels does without.
        from scheduler.dispatcher import Dispatcher

        _started.add(self)
        return Dispatcher()

    def _close(self, drain: float | None) -> tuple[int, int]:
        """Close everything; return how many launches were cancelled and how many ended by force."""
        self.closed = True
        # It stays the default, closed: a launch after shutdown must say so.
        _defaults[:] = [s for s in _defaults[:-1] if s is not self] + _defaults[-1:]
        if self._process != os.getpid():
            return 0, 0
        if not self._dispatchers.values:
            self._give_back()
            return 0, 0
        cut = self._dispatchers.values[""].close(drain)
        self._dispatchers.clear()  # a second shutdown finds nothing to close
        _started.discard(self)  # not before: an interrupted shutdown is taken up again at exit
        self._pools.forget()  # who keeps a closed session keeps no memory of its devices
        self.arrays.clear()
        self._give_back()
        return cut.cancelled, cut.ended

    def _give_back(self) -> None:
        for held in self._claims.values.values():
            held.close()
        self._claims.forget()


_started: set[Session] = set()
_defaults: list[Session] = []  # the last one counts; the others wait for it to be shut down
_first: Once[Session] = Once()
_fpga: list[str] = []  # in a forked child: the address of its parent's default, if that has circuits


def session() -> Session:
    """Return the session that a launch made here and now belongs to."""
    context = current()
    if context is not None:
        return _nested(context)
    return _defaults[-1] if _defaults else _first.get("", _make_default)


def _make_default() -> Session:
    made = Session()
    made.holds = 1
    made.in_place_of = next(iter(_fpga), None)
    _defaults.append(made)
    return made


def connect(device: str | None = None) -> Session:
    """Make `device` the one that launches run on, open it, and return its session.

    Launches under way elsewhere go on. An address that was connected to before
    gives the session it had, with its resident data, unless that is shut down.
    When a `with` block is left, the session that was the default before is so
    again, and this one is shut down unless it was connected to outside of the
    block, too.

        offload.connect("local:4")
        with offload.connect("inline"): ...

    Raises UnknownDeviceError, OptionError and DeviceUnavailable.
    """
    context = current()
    if context is not None:
        return _nested(context)
    made = Session(device)
    known = [s for s in _defaults if s.identity == made.identity and not s.closed]
    chosen = known[-1] if known else made
    try:
        chosen.reopen()
    except BaseException:
        made.shutdown(wait=False)
        raise
    chosen.holds, chosen.connected = chosen.holds + 1, True
    if not _defaults or _defaults[-1] is not chosen:
        _defaults.append(chosen)
    if _defaults[0].closed:
        del _defaults[0]
    return chosen


def shutdown(wait: bool = True) -> None:
    """Shut down every session made here; a later launch raises SessionClosed until `connect` is called.

    With `wait=False`, what is queued is cancelled and what runs is ended.
    """
    context = current()
    if context is None:
        for made in _defaults[::-1]:
            made.shutdown(wait)
    elif context.nested is not None:
        context.nested.shutdown(wait)


def _nested(context: Context) -> Session:
    """Return the session for launches made by a kernel."""
    found: Session | None = context.nested
    if found is None:
        if context.depth >= MAX_DEPTH:
            raise NestedDeadlockError(
                f"launches are nested {MAX_DEPTH} deep: kernels that launch kernels without an end? "
                f"Core {context.core} runs them all on its own place and stops here"
            )
        nested = Session(f"inline:{context.numcores}")
        nested.nested_in = context
        found = context.nest(nested)
    return found


def _at_exit() -> None:
    """Let what runs end within DRAIN_AT_EXIT seconds, cancel the rest, and say what was cut off."""
    cancelled = ended = 0
    for live in list(_started):
        try:
            counts = live._close(DRAIN_AT_EXIT)
        except KeyboardInterrupt:
            continue  # the user does not want to wait for them
        cancelled, ended = cancelled + counts[0], ended + counts[1]
    if cancelled or ended:
        print(
            f"offload: the program ended with launches pending: {cancelled} queued cancelled, "
            f"{ended} running ended; wait for handles or call offload.shutdown() to let them finish",
            file=sys.stderr,
        )


def _after_fork() -> None:
    # The child cannot use its parent's devices; its own launches open new ones.
    _fpga[:] = [one.device for one in _defaults[-1:] if one.has_circuits()] or _fpga
    _started.clear()
    _defaults.clear()
    _first.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
