"""The host's account of the buffers that it keeps on a device, and of who uses them.

Launches that use one come one after the other, as if each were made when the
one before had ended, as far as one of them writes what the other uses. Such a
launch depends on the others, so nobody waits; and two that use different
slices of an array, or only read it, run side by side.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from device_runtime.capture import Capture
from device_runtime.hardware import Blank
from offload.arrays import TURN, BankArray, DeviceArray, HostArray
from offload.body import Body
from offload.handle import Handle
from offload.launching import launch
from offload.options import Options
from offload.scattering import Scatter
from scheduler.ticket import END, SUCCESS, Depends, Ticket

if TYPE_CHECKING:
    from offload.session import Session
    from scheduler.ticket import Pool

_OPTIONS = Options(auto=1, retries=2)


class Use(NamedTuple):
    """A launch that uses the bytes of an array from `start` to `stop`, and writes them if `writes`."""

    ticket: Ticket
    start: int
    stop: int
    writes: bool


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
        """Return what a use has to wait for."""
        found = []
        for use in list(self.uses.values()):
            if use.start < stop and start < use.stop and (writes or use.writes):
                found.append(Depends((use.ticket,), True, SUCCESS if use.writes and reads else END))
        return found

    def note(self, use: Use) -> None:
        """Take note of a use that was launched."""
        if use.writes:  # whoever waits for it waits for what it waits for
            for number, other in list(self.uses.items()):
                if use.start <= other.start and other.stop <= use.stop:
                    self.uses.pop(number, None)
        number = next(_numbers)
        self.uses[number] = use
        use.ticket.on_done(partial(_ended, weakref.ref(self), number))


def _ended(memory: weakref.ref[Memory], number: int, ticket: Ticket) -> None:
    """Forget a use, unless it was to write and has failed: what it has left is not to be read."""
    found = memory()
    use = None if found is None else found.uses.get(number)
    if found is not None and use is not None and (ticket.ok or not use.writes):
        found.uses.pop(number, None)


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
            return HostArray(value.made() if isinstance(value, Blank) else value.copy())
        import numpy as np

        units = [unit for kernel in bitstream.kernels for unit in kernel.units]
        wired = {name for unit in units for banks in unit.banks for name in banks}
        bank = _bank(bank, [one.name for one in bitstream.banks if one.name in wired])
        memory = Memory(self, Slot(next(_numbers), self._dead), bank)
        made = BankArray(memory, 0, value.shape, np.dtype(value.dtype))
        self.launch("keep", (made.slot.number, bank, value), [(made, False, True)]).result()
        return made

    def uses(self, needed: Sequence[tuple[BankArray, bool, bool]]) -> list[Depends]:
        """Return what a launch has to wait for that reads or writes arrays, as the flags behind each say."""
        found = self._bury()
        for array, reads, writes in needed:
            found += array.memory.conflicts(array.start, array.stop, writes, reads)
        return found

    def note(self, handle: Handle[Any], needed: Sequence[tuple[BankArray, bool, bool]]) -> None:
        """Take note that it was launched."""
        ticket = handle._tickets[0]
        for array, _, writes in needed:
            array.memory.note(Use(ticket, array.start, array.stop, writes))

    def launch(
        self,
        what: str,
        args: tuple[Any, ...],
        needed: Sequence[tuple[BankArray, bool, bool]],
    ) -> Handle[Any]:
        """Have the device do something with arrays: a function of device_runtime.fpga.buffers."""
        body = self._bodies.get(what) or self._bodies.setdefault(what, _body(what))
        held = [array.slot for array, _, _ in needed]
        options = replace(_OPTIONS, device=self.pool.address)
        with TURN:
            after = self.uses(needed)
            handle = launch(self._session, body, args, {}, options, finish=partial(_value, held), after=after)
            self.note(handle, needed)
        return handle

    def _bury(self) -> list[Depends]:
        """Free what nobody has any more; return what comes after that."""
        numbers = tuple(self._dead.popleft() for _ in range(len(self._dead)))
        if not numbers:
            return []
        return [Depends(self.launch("drop", (numbers,), ())._tickets, True, END)]


def _value(held: Sequence[Slot], rank: int, value: Any) -> Any:
    return value


def _body(what: str) -> Body:
    from device_runtime.fpga import buffers

    body = Body(getattr(buffers, what))
    body._capture = Capture(body.fn, pure=True)
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


def may_be_array(argument: Any) -> bool:
    """Tell whether an argument of a call is an array on a device, or may stand for one."""
    value = argument.value if type(argument) is Scatter else argument
    return isinstance(value, (DeviceArray, Handle))
