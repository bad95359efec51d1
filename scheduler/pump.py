"""Who receives events: one thread at a time, the pump.

A thread that waits for a launch pumps, so that no other thread need be woken
for its sake; if one does already, it sleeps until its launch is done or the
pump stops. While launches are under way and nobody waits, a thread in the
background pumps; it makes room for one that does. It is started when it is
first needed, and parked, not ended, when there is nothing to do.

Whoever makes launches one after another has the interpreter's lock most of the
time, and the pump would come too late to keep units busy. So it steps in.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from device_runtime.interrupts import Guard, Rung, Shield, Window

_LONGEST = 2**31 - 1  # milliseconds, 24 days: what `poll` takes


class Engine(Protocol):
    """What the pump drives. All but `work` is called under the guard."""

    def busy(self) -> bool:
        """Tell whether events may come that somebody has to receive."""

    def next_deadline(self) -> float | None:
        """Return when `handle` has something to do even if no event comes."""

    def receive(self, descriptors: set[int]) -> None:
        """Take in the events of the devices whose descriptors are readable."""

    def receive_ends(self) -> bool:
        """Take in what can be had at once; return whether nothing must be done outside the guard first."""

    def work(self) -> None:
        """Do what must be done outside the guard: show output, and run callbacks."""

    def handle(self) -> None:
        """Let everything follow that follows from the events taken in, and from the time."""


class _Waiter:
    """A thread that sleeps while another one pumps."""

    __slots__ = ("ready", "wake")

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.wake = threading.Lock()
        self.wake.acquire()

    def rouse(self) -> None:
        if self.wake.locked():
            self.wake.release()


class Pump:
    """Let threads wait, and have exactly one of them receive events."""

    def __init__(self, guard: Guard, engine: Engine) -> None:
        self._guard = guard
        self._engine = engine
        self._poll = select.poll()
        self._bell: tuple[int, ...] = os.pipe()  # rings to make the pump look up from its wait
        for end in self._bell:
            os.set_blocking(end, False)
        self._poll.register(self._bell[0], select.POLLIN)
        self.pumper: int | None = None  # the thread that receives events: here, or by itself
        self._waiters: list[_Waiter] = []
        self._background: threading.Thread | None = None
        self._heard: set[int] = set()  # where there was something when `sleep` ended
        self._midway = False  # events were received, and not handled yet
        self._parked: _Waiter | None = None  # the background thread's, while it has nothing to do
        self._stopped = False

    def watch(self, descriptor: int) -> None:
        """Look for events at one more descriptor."""
        self._poll.register(descriptor, select.POLLIN)
        self.ring()

    def forget(self, descriptor: int) -> None:
        """Look at a descriptor no longer."""
        self._poll.unregister(descriptor)

    def ring(self) -> None:
        """Make the pump look up, for what no descriptor tells; called under the guard."""
        if not self._bell:
            return  # nobody pumps any more
        try:
            os.write(self._bell[1], b"\0")
        except BlockingIOError:
            pass  # it has not heard the earlier rings yet

    def sleep(self) -> None:
        """Sleep until there is an event, or somebody rings; called by the thread that receives events."""
        self._heard = self._sleep(None)

    def hear(self) -> None:
        """Take note of the rings that `sleep` has ended with; called under the guard."""
        if self._bell and self._bell[0] in self._heard:
            os.read(self._bell[0], 4096)

    def leave(self) -> None:
        """Receive events no longer; called under the guard."""
        self.pumper = None
        if self._stopped:
            self._close_bell()

    def _sleep(self, timeout: int | None) -> set[int]:
        """Wait for events, and return where there are some; Ctrl-C is let through."""
        with Rung(self._bell[1] if self._bell else -1), Window():
            return {descriptor for descriptor, _ in self._poll.poll(timeout)}

    def is_mine(self) -> bool:
        """Tell whether the calling thread is the one that receives events."""
        return self.pumper == threading.get_ident()

    def check(self) -> None:
        """Raise RuntimeError if the calling thread is in a wait already."""
        if self.is_mine():
            raise RuntimeError(
                "this thread waits for launches already, and cannot wait for others or shut down meanwhile; "
                "a signal handler, a log handler or a stream must leave that to another thread"
            )

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `ready()` holds or `timeout` seconds have passed; return whether it holds.

        `ready` is called under the guard, whenever something has happened.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        me = _Waiter(ready)
        thread = threading.get_ident()
        self.check()
        pumping = False
        with Shield():
            try:
                while True:
                    with self._guard:
                        if ready():
                            return True
                        if deadline is not None and time.monotonic() >= deadline:
                            return False
                        if pumping or self.pumper is None:
                            pumping, self.pumper = True, thread
                            if me in self._waiters:
                                self._waiters.remove(me)
                        elif me not in self._waiters:
                            self._waiters.append(me)
                            if self._background is not None and self.pumper == self._background.ident:
                                self.ring()  # it makes room
                    if pumping:
                        self._turn(deadline)
                    else:
                        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
                        with Window():
                            me.wake.acquire(timeout=left)
            finally:
                with self._guard:
                    if me in self._waiters:
                        self._waiters.remove(me)
                    if pumping:
                        self.leave()
                    self.attend()

    def attend(self) -> None:
        """See to it that somebody pumps if anything is under way; called under the guard."""
        if self.pumper is not None:
            return
        if self._waiters:
            self._waiters[0].rouse()
        elif self._engine.busy() and not self._stopped:
            if self._parked is not None:
                self._parked.rouse()
            elif self._background is None:
                background = threading.Thread(target=self._run, name="offload-pump", daemon=True)
                try:
                    background.start()
                except RuntimeError:  # the program ends: whoever waits will pump
                    return
                self._background = background

    def stop(self) -> None:
        """End the background thread and give back the descriptors."""
        with self._guard:
            self._stopped = True
            if self._parked is not None:
                self._parked.rouse()
            self.ring()
        if self._background is not None and self._background is not threading.current_thread():
            self._background.join()
        with self._guard:
            if self.pumper is None:  # else it does when it leaves
                self._close_bell()

    def _close_bell(self) -> None:
        bell, self._bell = self._bell, ()
        for end in bell:
            os.close(end)

    def _turn(self, deadline: float | None) -> None:
        """Wait for events once, and let everything follow from them."""
        with self._guard:
            due = self._engine.next_deadline()
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        # Rounded up: waking a fraction of a millisecond early would mean to poll.
        timeout = None
        if deadline is not None:
            timeout = min(_LONGEST, max(0, int((deadline - time.monotonic()) * 1000) + 1))
        readable = self._sleep(timeout)
        with self._guard:
            if self._bell and self._bell[0] in readable:
                os.read(self._bell[0], 4096)
            self._engine.receive(readable)
            self._midway = True
        self._engine.work()
        with self._guard:
            self._handle()
        self._engine.work()

    def step_in(self) -> None:
        """Receive and handle what is there at once, whoever pumps; called under the guard.

        Not where others come first: the output of a kernel is shown before its end is known.
        """
        if self._midway:
            return
        if self._engine.receive_ends():
            self._handle()
        else:
            self._midway = True
            self.attend()
            self.ring()

    def _handle(self) -> None:
        self._midway = False
        self._engine.handle()
        for waiter in self._waiters:
            if waiter.ready():
                waiter.rouse()

    def _run(self) -> None:
        """Pump in the background while anything is under way and nobody waits; else be parked."""
        park = _Waiter(lambda: False)
        while True:
            with self._guard:
                if self._stopped:
                    return
                needed = self._is_needed()
                if needed:
                    self.pumper = threading.get_ident()
                else:
                    self._parked = park
            if not needed:
                park.wake.acquire()
                with self._guard:
                    self._parked = None
                continue
            try:
                while needed:
                    self._turn(None)
                    with self._guard:
                        needed = not self._stopped and self._is_needed()
            finally:
                with self._guard:
                    self.leave()
                    self.attend()

    def _is_needed(self) -> bool:
        """Tell whether the thread in the background is to pump, if nobody else does."""
        return not self._waiters and self._engine.busy() and self.pumper in (None, threading.get_ident())
