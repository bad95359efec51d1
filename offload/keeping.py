"""The host's account of the buffers that it keeps on a device, and of who uses them.

Launches that use one come one after the other, as if each were made when the
one before had ended, as far as one of them writes what the other uses. Such a
launch depends on the others, so nobody waits; and two that use different
slices of an array, or only read it, run side by side.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from device_runtime.capture import Capture
from device_runtime.errors import DeviceMemoryError, QueueFull
from device_runtime.interrupts import is_inside
from device_runtime.launch import Blank
from offload.arrays import BankArray, DeviceArray, HostArray, Spans, share, without
from offload.body import Body
from offload.handle import Handle
from offload.launching import launch
from offload.options import Options
from scheduler.ticket import END, SUCCESS, Depends, Ticket

if TYPE_CHECKING:
    from offload.session import Session
    from scheduler.ticket import Pool

_OPTIONS = Options(auto=1, retries=2)
_FIRST = sys.maxsize  # the priority of what frees memory: others wait for that, whatever theirs is
_PATIENCE = 1.0  # seconds that another thread's collection is waited for
_CALLED = {"keep": "array", "fetch": "numpy.asarray", "replace": "write", "drop": "free"}  # by the user
Needed = tuple[BankArray, bool, bool]  # what a launch needs of an array: that it reads, and writes it


class Use(NamedTuple):
    """A launch that uses some bytes of an array."""

    ticket: Ticket
    bytes: Spans

    def overlaps(self, start: int, stop: int) -> bool:
        """Tell whether it uses some of these bytes."""
        return any(share(start, stop, *span) for span in self.bytes)

    def covers(self, start: int, stop: int) -> bool:
        """Tell whether it uses all of these bytes."""
        return any(mine <= start and stop <= end for mine, end in self.bytes)


class Slot:
    """Hold a buffer of the device's: it is freed when nobody has this any more.

    An array has it, and every launch that uses the array until that has ended.
    """

    __slots__ = ("_end", "_token", "number")

    def __init__(self, number: int, dead: deque[int]) -> None:
        import numpy as np

        self.number = number
        # What is in a cycle of garbage is told to be dead before the cycle's finalizers run, which may
        # use the buffer, or keep the array. NumPy's arrays are nothing that the collector of cycles knows.
        self._token = np.empty(0)
        self._end = weakref.finalize(self._token, dead.append, number)
        self._end.atexit = False

    def disown(self) -> None:
        """Have nothing to be freed: the buffer was not made."""
        self._end.detach()


class Memory:
    """What an array and its slices have in common."""

    def __init__(self, home: Arrays, slot: Slot, bank: str) -> None:
        self.home = home
        self.slot: Slot | None = slot  # None once it is freed
        self.bank = bank
        # Uses that have not ended, by number, in the order that they came in; and writers that have failed.
        self.readers: dict[int, Use] = {}
        self.writers: dict[int, Use] = {}

    def conflicts(self, start: int, stop: int, reads: bool, writes: bool) -> list[Depends]:
        """Return what a use has to wait for; the last to write what it reads must have ended well.

        A launch under way that writes all of these bytes waits for all that were before it; should it end
        without, those behind it wait for them in its place.
        """
        found = []
        left: Spans = ((start, stop),)  # what no later use writes
        since = -1  # the number of such a use
        for number, use in reversed(self.writers.items()):
            if use.overlaps(start, stop):
                needed = reads and any(use.overlaps(*span) for span in left)
                found.append(Depends((use.ticket,), True, SUCCESS if needed else END))
                for span in use.bytes:
                    left = without(left, *span)
                if use.covers(start, stop) and not use.ticket.done:
                    since = number
                    break
        if writes:
            for number, use in reversed(self.readers.items()):
                if number < since:
                    break
                if use.overlaps(start, stop):
                    found.append(Depends((use.ticket,), True, END))
        return found

    def forget(self, number: int, ended_well: bool) -> None:
        """Forget a use that ends, and what writers before it failed to write and it was to write.

        A writer that has failed is kept: what it has left is not to be read.
        """
        use = self.writers.get(number)
        if use is None:
            del self.readers[number]
            return
        if ended_well:
            del self.writers[number]
        before = itertools.takewhile(lambda item: item[0] < number, self.writers.items())
        for other, earlier in list(before):
            if earlier.ticket.done:
                left = earlier.bytes
                for span in use.bytes:
                    left = without(left, *span)
                if left:
                    self.writers[other] = Use(earlier.ticket, left)
                else:
                    del self.writers[other]


class Turn:
    """The place of a launch among those that use the same arrays; it keeps their buffers until it has ended.

    Raises ValueError if one was freed.
    """

    def __init__(self, home: Arrays, needed: Sequence[Needed]) -> None:
        self._home = home
        # By array: what notes the use, and the buffer.
        self._holds = [(weakref.ref(array.memory), array.slot) for array, _, _ in needed]
        self._uses: list[int] = []  # their numbers, once it is taken
        self._needed = needed  # until it is taken

    def waits(self) -> bool:
        return bool(self._conflicts())

    def _conflicts(self) -> list[Depends]:
        return [
            one
            for array, reads, writes in self._needed
            for one in array.memory.conflicts(array.start, array.stop, reads, writes)
        ]

    def take(self, ticket: Ticket) -> list[Depends]:
        behind = self._conflicts()
        for array, _, writes in self._needed:
            uses = array.memory.writers if writes else array.memory.readers
            number = next(_numbers)
            uses[number] = Use(ticket, ((array.start, array.stop),))
            self._uses.append(number)
        self._needed = ()
        self._home.turns.add(self)
        return behind

    def end(self, ok: bool) -> None:
        for (found, _), number in zip(self._holds, self._uses, strict=True):
            memory = found()
            if memory is not None:
                memory.forget(number, ok)
        self._holds = []  # somebody may keep an error, and its frames this
        self._home.turns.discard(self)


_numbers = itertools.count()


class Arrays:
    """Those of a session's device."""

    def __init__(self, session: Session, pool: Pool) -> None:
        self.pool = pool
        self._session = session
        self.turns: set[Turn] = set()  # of launches under way; the guard's
        self._burials: dict[Ticket, None] = {}  # launches under way that free buffers
        self._buriers: set[object] = set()  # threads that are about to launch one
        self._buried: object = None  # the last of them that has
        self._dead: deque[int] = deque()  # numbers of buffers that nobody has any more
        self._made: dict[int, int] = {}  # by number: how often memory had been lost when a buffer was made
        self._bodies: dict[str, Body] = {}

    @property
    def closed(self) -> bool:
        """Tell whether the session was shut down."""
        return self._session.closed

    def make(self, value: Any, bank: str | None) -> DeviceArray:
        """Return an array that holds a copy of a NumPy array, or nothing yet where it is a Blank.

        While the bank is full, it waits for launches that use arrays to end.

        Raises ValueError for a bank that there is not, and DeviceMemoryError.
        """
        bitstream = self.pool.device.bitstream
        if bitstream is None:
            import numpy as np

            # Zeros take no memory before they are written to.
            blank = isinstance(value, Blank)
            return HostArray.of(np.zeros(value.shape, value.dtype) if blank else value.copy())
        names = self.pool.device.names
        units = [unit for kernel in bitstream.kernels for unit in kernel.units if unit.name in names]
        wired = {name for unit in units for banks in unit.banks for name in banks}
        bank = _bank(bank, [one.name for one in bitstream.banks if one.name in wired])
        while True:
            before = self._buried
            try:
                return self._make(value, bank)
            except DeviceMemoryError:
                _collect()  # arrays in cycles hold memory that the interpreter knows nothing of
                # Launches that end may leave some to bury, and other threads may be about to.
                self._session.dispatcher.wait(partial(self._knows, before))
                if not self._frees(before):
                    raise

    def _frees(self, before: object) -> bool:
        """Tell whether an array that is made now finds more freed than one made when `before` was noted."""
        return bool(self._dead) or self._buried is not before

    def _knows(self, before: object) -> bool:
        """Tell whether it does, or nothing is under way that could free some."""
        return self._frees(before) or not (self.turns or self._buriers)

    def _make(self, value: Any, bank: str) -> BankArray:
        import numpy as np

        slot = Slot(next(_numbers), self._dead)
        made = BankArray(Memory(self, slot, bank), 0, value.shape, np.dtype(value.dtype))
        try:
            self.launch("keep", (slot.number, bank, value), [(made, False, True)]).result()
        except DeviceMemoryError:
            slot.disown()
            raise
        self._made[slot.number] = self.pool.device.losses
        return made

    def launch(self, what: str, args: tuple[Any, ...], needed: Sequence[Needed], **how: Any) -> Handle[Any]:
        """Have the device do something with arrays: a function of device_runtime.fpga.buffers."""
        body = self._bodies.get(what) or self._bodies.setdefault(what, _body(what))
        options = replace(_OPTIONS, device=self.pool.address, **how)
        if not needed:
            return launch(self._session, body, args, {}, options, after=())
        after = self.bury(waits=True)
        return launch(self._session, body, args, {}, options, after=after, turn=Turn(self, needed))

    def bury(self, waits: bool = False) -> list[Depends]:
        """Free what nobody has any more; return what comes after that, and after what other threads free.

        That goes before all that is queued. If the queue is full, and this thread does not wait for
        room, the next launch frees it; so it does if this is a finalizer that has interrupted the
        thread in the midst of something.
        """
        if self._dead and not self._session.closed and not is_inside():
            mine = object()
            self._buriers.add(mine)  # first: another thread may find nobody dead any more
            try:
                self._bury(waits)
            finally:
                self._buried = mine
                self._buriers.discard(mine)
                self._session.dispatcher.look_up()
        if not self._burials:
            return []
        for ticket in list(self._burials):
            if ticket.done:
                self._burials.pop(ticket, None)
        return [Depends((ticket,), True, END) for ticket in list(self._burials)]

    def _bury(self, waits: bool) -> None:
        numbers, losses = [], self.pool.device.losses
        while self._dead:
            with contextlib.suppress(IndexError):  # another thread has taken the last
                number = self._dead.popleft()
                if self._made.get(number, losses) == losses:
                    numbers.append(number)
                else:  # it was lost, and needs no freeing
                    del self._made[number]
        if numbers and not self._session.closed:
            try:
                how = {"priority": _FIRST, "when_full": "wait" if waits else "raise"}
                tickets = self.launch("drop", (tuple(numbers),), (), **how)._tickets
            except BaseException as error:
                self._dead.extend(numbers)
                if isinstance(error, QueueFull):
                    return
                raise
            for number in numbers:
                self._made.pop(number, None)
            self._burials.update(dict.fromkeys(tickets))


def _collect() -> None:
    """Collect garbage in cycles.

    Python does nothing while another thread is in the midst of that, whose end is waited for then: for a
    second at most, as it may also be this one, which calls from a finalizer.
    """
    me, whole = threading.get_ident(), [False]
    # Free when one has ended. An Event has a lock inside, which `note` could wait for in this very thread.
    ended = threading.Lock()

    def note(phase: str, what: Mapping[str, int]) -> None:
        if phase == "stop":
            whole[0] |= threading.get_ident() == me and what["generation"] == 2
            if ended.locked():
                ended.release()

    gc.callbacks.append(note)
    try:
        while not whole[0]:
            ended.acquire(blocking=False)
            gc.collect()
            if not ended.acquire(timeout=_PATIENCE):
                gc.collect()  # Python tells of an end just before it is one: that may have been too early
                return
    finally:
        gc.callbacks.remove(note)


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
