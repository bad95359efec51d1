"""The host's account of the buffers that it keeps on a device, and of who uses them.

Launches that use one come one after the other, as if each were made when the
one before had ended, as far as one of them writes what the other uses. Such a
launch depends on the others, so nobody waits; and two that use different
slices of an array, or only read it, run side by side.
"""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from device_runtime.capture import Capture
from device_runtime.errors import DeviceMemoryError
from device_runtime.hardware import Blank
from device_runtime.interrupts import Shield
from offload.arrays import TURN, BankArray, DeviceArray, HostArray
from offload.body import Body
from offload.handle import Handle
from offload.launching import launch
from offload.options import Options
from scheduler.ticket import END, SUCCESS, Depends, Ticket

if TYPE_CHECKING:
    from offload.session import Session
    from scheduler.ticket import Pool

_OPTIONS = Options(auto=1, retries=2)
_CALLED = {"keep": "array", "fetch": "numpy.asarray", "replace": "write", "drop": "free"}  # by the user
Needed = tuple[BankArray, bool, bool]  # what a launch needs of an array: that it reads, and writes it


class Use(NamedTuple):
    """A launch that uses the bytes of an array from `start` to `stop`, and writes them if `writes`."""

    ticket: Ticket
    start: int
    stop: int
    writes: bool

    def is_within(self, other: Use) -> bool:
        """Tell whether another one uses all these bytes."""
        return other.start <= self.start and self.stop <= other.stop


class Slot:
    """Hold a buffer of the device's: it is freed when this is collected.

    An array has it, and every launch that uses the array until that has ended.
    """

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int, dead: deque[int]) -> None:
        self.number = number
        weakref.finalize(self, dead.append, number).atexit = False


class Memory:
    """What an array and its slices have in common."""

    def __init__(self, home: Arrays, slot: Slot, bank: str) -> None:
        self.home = home
        self.slot: Slot | None = slot  # None once it is freed
        self.bank = bank
        self.uses: dict[int, Use] = {}  # those that have not ended, or failed to write

    def conflicts(self, start: int, stop: int, writes: bool, reads: bool) -> list[Depends]:
        """Return what a use has to wait for; the last to write what it reads must have ended well."""
        found = []
        later: list[Use] = []
        for use in reversed(list(self.uses.values())):
            if use.start < stop and start < use.stop and (writes or use.writes):
                needed = reads and use.writes and not any(use.is_within(other) for other in later)
                found.append(Depends((use.ticket,), True, SUCCESS if needed else END))
            if use.writes:
                later.append(use)
        return found

    def note(self, use: Use) -> None:
        """Take note of a use that was launched."""
        number = next(_numbers)
        self.uses[number] = use
        use.ticket.on_done(partial(_ended, weakref.ref(self), number))


def _ended(memory: weakref.ref[Memory], number: int, ticket: Ticket) -> None:
    """Forget a use, and those that failed before it to write what it has written, or was to write.

    One that has failed to write is kept: what it has left is not to be read.
    """
    found = memory()
    if found is None:
        return
    use = found.uses.get(number)
    if use is None:
        return
    if ticket.ok or not use.writes:
        found.uses.pop(number, None)
    if use.writes:
        for other, earlier in list(found.uses.items()):
            if other < number and earlier.ticket.done and earlier.is_within(use):
                found.uses.pop(other, None)


_numbers = itertools.count()


class Arrays:
    """Those of a session's device."""

    def __init__(self, session: Session, pool: Pool) -> None:
        self.pool = pool
        self._session = session
        self._dead: deque[int] = deque()  # numbers of buffers that nobody has any more
        self._bodies: dict[str, Body] = {}

    def make(self, value: Any, bank: str | None) -> DeviceArray:
        """Return an array that holds a copy of a NumPy array, or nothing yet where it is a Blank.

        Raises ValueError for a bank that there is not, and DeviceMemoryError.
        """
        bitstream = self.pool.device.bitstream
        if bitstream is None:
            return HostArray.of(value.made() if isinstance(value, Blank) else value.copy())
        names = self.pool.device.names
        units = [unit for kernel in bitstream.kernels for unit in kernel.units if unit.name in names]
        wired = {name for unit in units for banks in unit.banks for name in banks}
        bank = _bank(bank, [one.name for one in bitstream.banks if one.name in wired])
        try:
            return self._make(value, bank)
        except DeviceMemoryError:
            gc.collect()  # arrays in cycles hold memory that the interpreter knows nothing of
            if not self._dead:
                raise
            return self._make(value, bank)

    def _make(self, value: Any, bank: str) -> BankArray:
        import numpy as np

        memory = Memory(self, Slot(next(_numbers), self._dead), bank)
        made = BankArray(memory, 0, value.shape, np.dtype(value.dtype))
        self.launch("keep", (made.slot.number, bank, value), [(made, False, True)]).result()
        return made

    def in_turn(
        self, needed: Sequence[Needed], start: Callable[[Sequence[Depends]], Handle[Any]]
    ) -> Handle[Any]:
        """Start a launch behind those that it has to wait for, which `start` gets.

        The arrays' buffers are kept until it has ended.
        """
        held = [array.slot for array, _, _ in needed]
        with TURN, Shield():  # an interrupt must not leave a launch that nobody knows of
            after = self.bury()
            for array, reads, writes in needed:
                after += array.memory.conflicts(array.start, array.stop, writes, reads)
            handle = start(after)
            ticket = handle._tickets[0]
            for array, _, writes in needed:
                array.memory.note(Use(ticket, array.start, array.stop, writes))
            ticket.on_done(lambda _: held.clear())
        return handle

    def launch(self, what: str, args: tuple[Any, ...], needed: Sequence[Needed]) -> Handle[Any]:
        """Have the device do something with arrays: a function of device_runtime.fpga.buffers."""
        body = self._bodies.get(what) or self._bodies.setdefault(what, _body(what))
        options = replace(_OPTIONS, device=self.pool.address)
        return self.in_turn(needed, lambda after: launch(self._session, body, args, {}, options, after=after))

    def bury(self) -> list[Depends]:
        """Free what nobody has any more; return what comes after that."""
        numbers = tuple([self._dead.popleft() for _ in range(len(self._dead))])
        if not numbers or self._session.closed:
            return []
        try:
            return [Depends(self.launch("drop", (numbers,), ())._tickets, True, END)]
        except BaseException:
            self._dead.extend(numbers)
            raise


def _body(what: str) -> Body:
    from device_runtime.fpga import buffers

    body = Body(getattr(buffers, what))
    body._capture = Capture(body.fn, pure=True)
    body.name = body._capture.name = f"{_CALLED[what]} of an array on a device"
    return body


def _bank(asked: str | None, banks: Sequence[str]) -> str:
    known = ", ".join(banks) or "none"
    if asked is None:
        if len(banks) != 1:
            raise ValueError(f"which bank? A unit of the device is wired to {known}; say bank=")
        return banks[0]
    if asked not in banks:
        raise ValueError(f"bank={asked!r}: no unit of the device is wired to it, but to {known}")
    return asked
