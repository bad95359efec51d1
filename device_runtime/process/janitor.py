"""Who gives memory back that nobody has used for a while: one thread for each device.

It is started when there is much to give back for the first time, looks about
once a second while there is, and sleeps otherwise.
"""

from __future__ import annotations

import threading
import weakref
from queue import Empty, SimpleQueue
from typing import Protocol

from device_runtime.interrupts import Shield, uninterrupted

IDLE = 1.0  # seconds after which free memory is given back


class Kept(Protocol):
    """What keeps memory."""

    @property
    def lent(self) -> bool:
        """Tell whether there will be more to give back once the device is closed."""

    def trim(self, idle: float = IDLE) -> float | None:
        """Give back what was not used for so many seconds; return in how many to look again, if at all."""


class Janitor:
    """Trim arenas when time has passed."""

    def __init__(self) -> None:
        self.asleep = False  # until it is rung for
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._watched: list[weakref.ref[Kept]] = []
        self.closed = False  # the device is
        self._unborn = [threading.Thread(target=self._run, name="offload-janitor", daemon=True)]

    def watch(self, kept: Kept) -> None:
        """Trim this, too, as long as it lives."""
        self._watched = [known for known in self._watched if known() is not None]
        self._watched.append(weakref.ref(kept, self._ring_for))

    def start(self) -> None:
        """Start the thread, if that has not been done."""
        if self._unborn:
            with Shield():
                try:
                    self._unborn.pop().start()
                except (IndexError, RuntimeError):  # another did; or the program ends
                    return

    def close(self) -> None:
        """End the thread when nothing is lent any more."""
        self.closed = True
        self._unborn.clear()
        self._bell.put(None)

    @uninterrupted
    def ring(self) -> None:
        """Look whether there is something to be done; callable in finalizers."""
        if self.asleep:
            self.asleep = False
            self._bell.put(None)

    @uninterrupted
    def _ring_for(self, _: weakref.ref[Kept]) -> None:
        """Have the thread look what is left, as something it watches is gone."""
        self.ring()

    def _run(self) -> None:
        while True:
            self.asleep = True
            pauses, lent = [], False
            for known in self._watched:
                kept = known()
                if kept is not None:
                    pauses.append(kept.trim(0.0) if self.closed else kept.trim())
                    lent = lent or kept.lent
                del kept  # or this thread would keep it
            if self.closed and not lent:
                return
            due = [pause for pause in pauses if pause is not None]
            if due:
                self.asleep = False
            try:
                self._bell.get(timeout=min(due) if due else None)
            except Empty:
                pass
