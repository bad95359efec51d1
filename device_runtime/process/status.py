"""The page on which each core writes how far it has come, readable by others and after its death.

A core counts the works it was sent, from 0, and marks one as begun just before
user code runs. The mark is in shared memory, so it survives a SIGKILL and tells
whether the shard may have had effects. It is a single word, so nobody reads
half of it.

For those that send it messages a core also marks which shard it runs, or ran
last, and whether it sleeps; who waits until it begins a certain shard leaves a
mark that it is to be told, and who has sent it something by socket one that it
is to look there.

Behind the cores' slots is the host's, with its own mark and what it has
settled for all cores; behind the page are the areas of the cores' rings, to and
from the host and then from core to core.
"""

from __future__ import annotations

import mmap
import os

from device_runtime.process.ring import AREA
from device_runtime.process.settled import Settled

_SLOT = 8  # words a core, 64 bytes: one cache line, so that cores do not disturb each other
_PROGRESS, _ARRIVED, _SHARD, _AWAITED, _SLEEPS, _MAIL, _CPU = range(7)  # words of a slot
_ATTEMPT = 16  # bits of the attempt, in the word that names a shard
LINK = mmap.PAGESIZE + (1 << 15)  # bytes of a ring from one core to another
_HOST_SLEEPS, _RINGS, _SPIN, _CPUS, _HOST_CPU = range(5)  # words of the host's slot


class StatusPage:
    """One slot for each core."""

    def __init__(self, descriptor: int, units: int) -> None:
        size = -((units + 1) * _SLOT * 8 // -mmap.PAGESIZE) * mmap.PAGESIZE
        whole = size + units * (AREA + units * LINK)
        if os.fstat(descriptor).st_size < whole:
            os.ftruncate(descriptor, whole)
        self._size = size  # of the page; the areas follow
        self._memory = memoryview(mmap.mmap(descriptor, size + units * AREA))
        self.words = self._words = self._memory[:size].cast("Q")
        self.host_sleeps = units * _SLOT + _HOST_SLEEPS  # the word that says that the host must be woken
        self._units = units

    def area(self, unit: int) -> memoryview:
        """Return the memory of a core's rings."""
        return self._memory[self._size + unit * AREA :][:AREA]

    def links_to(self, unit: int) -> tuple[int, int]:
        """Return where the file has the rings from all cores to one, and their size together."""
        size = self._units * LINK
        return self._size + self._units * AREA + unit * size, size

    def settle(self, settled: Settled) -> None:
        """Tell the cores what is settled."""
        host = self._units * _SLOT
        self._words[host + _RINGS], self._words[host + _SPIN], self._words[host + _CPUS] = settled

    def settled(self) -> Settled:
        """Return what the host has settled."""
        rings, spin, cpus = self._words[self._units * _SLOT + _RINGS :][: len(Settled._fields)]
        return Settled(bool(rings), spin, cpus)

    def host_runs_on(self, cpu: int) -> None:
        """Mark on which CPU the host has just been running."""
        self._words[self._units * _SLOT + _HOST_CPU] = cpu + 1

    def shares_cpu(self, cpu: int) -> bool:
        """Tell whether the host has last been running on this CPU, as far as it has marked that."""
        return bool(self._words[self._units * _SLOT + _HOST_CPU] == cpu + 1)

    def busy(self) -> int:
        """Return how many cores run user code."""
        return sum(word & 1 for word in self._words[_PROGRESS : self._units * _SLOT : _SLOT].tolist())

    def arrive(self, unit: int) -> None:
        """Mark that a core, this process, waits for its first work."""
        self._words[unit * _SLOT + _ARRIVED] = os.getpid()

    def arrived(self, unit: int) -> bool:
        """Tell whether a core has come so far as to wait for works."""
        return bool(self.process(unit))

    def process(self, unit: int) -> int:
        """Return the process of such a core, 0 where there is none."""
        return int(self._words[unit * _SLOT + _ARRIVED])

    def clear(self, unit: int) -> None:
        """Wipe off what a core has marked that is dead now."""
        for word in (_PROGRESS, _ARRIVED, _SHARD, _SLEEPS):
            self._words[unit * _SLOT + word] = 0

    def begin(self, unit: int, work: int) -> None:
        """Mark a work as begun."""
        self._words[unit * _SLOT + _PROGRESS] = 2 * work + 1

    def end(self, unit: int, work: int) -> None:
        """Mark a work as ended; its outcome must have been sent."""
        self._words[unit * _SLOT + _PROGRESS] = 2 * work + 2

    def begun(self, unit: int) -> int | None:
        """Return the work that has begun and not ended."""
        word = self._words[unit * _SLOT + _PROGRESS]
        return word >> 1 if word & 1 else None

    def is_past(self, unit: int, work: int) -> bool:
        """Tell whether a work has ended."""
        return self._words[unit * _SLOT + _PROGRESS] > 2 * work + 1

    def enter(self, unit: int, launch: int, attempt: int) -> None:
        """Mark of which launch a core runs a shard, and which attempt at it."""
        self._words[unit * _SLOT + _SHARD] = launch << _ATTEMPT | attempt

    def attempt(self, unit: int, launch: int) -> int | None:
        """Return which attempt at its shard of a launch a core runs or ran last, None if it is in another."""
        word = self._words[unit * _SLOT + _SHARD]
        return word & (1 << _ATTEMPT) - 1 if word >> _ATTEMPT == launch else None

    def wait_for(self, unit: int) -> None:
        """Mark that somebody waits until a core begins another shard."""
        self._words[unit * _SLOT + _AWAITED] = 1

    def take_awaited(self, unit: int) -> bool:
        """Tell whether somebody waits so, and wipe the mark off."""
        awaited = bool(self._words[unit * _SLOT + _AWAITED])
        if awaited:
            self._words[unit * _SLOT + _AWAITED] = 0
        return awaited

    def runs_on(self, unit: int, cpu: int) -> None:
        """Mark on which CPU a core is running."""
        self._words[unit * _SLOT + _CPU] = cpu + 1

    def ran_on(self, unit: int, cpu: int) -> bool:
        """Tell whether a core has last been running on this CPU, as far as it has marked that."""
        return bool(self._words[unit * _SLOT + _CPU] == cpu + 1)

    def sleep(self, unit: int, sleeps: bool) -> None:
        """Mark whether a core has to be woken to see what others send it."""
        self._words[unit * _SLOT + _SLEEPS] = sleeps

    def take_sleep(self, unit: int) -> bool:
        """Tell whether a core is to be woken, and wipe the mark off."""
        sleeps = bool(self._words[unit * _SLOT + _SLEEPS])
        if sleeps:
            self._words[unit * _SLOT + _SLEEPS] = 0
        return sleeps

    def mail(self, unit: int, sent: bool) -> None:
        """Mark whether something may have been sent to a core by socket that it has not seen."""
        self._words[unit * _SLOT + _MAIL] = sent

    def has_mail(self, unit: int) -> bool:
        """Tell whether it may."""
        return bool(self._words[unit * _SLOT + _MAIL])
