"""Small packets from core to core, through rings in shared memory.

There is a ring for each core that sends and each that receives, in a file of
which only those take memory that are used. What finds no room goes by socket,
and so does everything where rings are not sound. Who has sent something by
socket marks that on the status page, so that who looks for packets sees it
without a system call.

Rings outlive their cores, as the sockets do. What is in one may be for a shard
that is over; who takes it out drops it.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence

from device_runtime.process.ring import Ring
from device_runtime.process.status import LINK, StatusPage

_PAGE = mmap.PAGESIZE
LARGEST = (LINK - _PAGE) // 2 - 8  # bytes of a packet that an empty ring surely has room for


class Links:
    """One core's ends of the rings to and from all others.

    `descriptor` is that of the status page's file, which they are in.
    """

    def __init__(self, core: int, status: StatusPage, descriptor: int) -> None:
        self.sound, _, self.cpus = status.settled()
        self._core = core
        self._status = status
        self._descriptor = descriptor
        self._out: dict[int, Ring | None] = {}  # None: it cannot be mapped
        self._into: dict[int, Ring] = {}
        self._cores: Sequence[int] = ()
        self._reading: Sequence[Ring] | None = ()  # None: not asked for yet in this launch
        self._lock = threading.Lock()
        if self.sound:
            place, size = status.links_to(core)
            self._memory = memoryview(mmap.mmap(descriptor, size, offset=place))

    def begin(self, cores: Sequence[int]) -> None:
        """Take packets of these cores from now on."""
        self._cores, self._reading = cores, None if self.sound else ()

    def put(self, core: int, packet: bytes) -> bool:
        """Send a packet; return False if it has to go by socket. Who sleeps is to be woken then."""
        if not self.sound or len(packet) > LARGEST:
            return False
        ring = self._out.get(core)
        if ring is None:
            if core in self._out:
                return False
            ring = self._open(core)
        if ring is None or not ring.put(packet):
            return False
        with self._lock:
            pass
        return True

    def fence(self) -> None:
        """Have what was written before seen by others before what is read afterwards was written."""
        with self._lock:
            pass

    def stirs(self) -> bool:
        """Tell whether there is a packet in a ring, or may be one in the socket."""
        for ring in self._reading if self._reading is not None else self.reading():
            if ring.words[ring.tail] != ring.at:
                return True
        return self._status.has_mail(self._core)

    def reading(self) -> Sequence[Ring]:
        """Return the rings that packets for the launch come through."""
        if self._reading is None:
            self._reading = [self._from(core) for core in self._cores if core != self._core]
        return self._reading

    def _from(self, core: int) -> Ring:
        ring = self._into.get(core)
        if ring is None:
            ring = self._into[core] = _ring(self._memory[core * LINK :][:LINK])
            ring.at = ring.words[ring.head]
        return ring

    def _open(self, core: int) -> Ring | None:
        place, _ = self._status.links_to(core)
        try:
            memory = memoryview(mmap.mmap(self._descriptor, LINK, offset=place + self._core * LINK))
        except OSError:  # the process may have no more addresses, or has closed what it had open
            ring = None
        else:
            ring = _ring(memory)
            ring.at = ring.words[ring.tail]
        self._out[core] = ring
        return ring


def _ring(memory: memoryview) -> Ring:
    return Ring(memory[:_PAGE].cast("Q"), 0, memory[_PAGE:])
