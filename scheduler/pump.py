"""Who receives events: one thread at a time, the pump.

A thread that waits for a launch pumps, so that no other thread need be woken
for its sake; if one does already, it sleeps until its launch is done or the
pump stops. While launches are under way and nobody waits, a thread in the
background is on call: an event wakes it, and it pumps until that is handled.
Whoever begins to wait takes the call away, and puts it back in the end, with a
system call that wakes nobody. The thread is started when it is first needed.

Whoever makes launches one after another has the interpreter's lock most of the
time, and the pump would come too late to keep units busy. So it steps in.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from typing import Protocol

from device_runtime.interrupts import Guard, Rung, Shield, Window

_LONGEST = 2e6  # seconds, 23 days: what `poll` takes at least


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
    """Let threads wait, and have exactly one of them receive events.

    Raises OSError where the process can have no more descriptors.
    """

    def __init__(self, guard: Guard, engine: Engine) -> None:
        self._guard = guard
        self._engine = engine
        with ExitStack() as stack:
            self._poll = stack.enter_context(select.epoll())
            self._bell: tuple[int, ...] = os.pipe()  # rings to make the pump look up from its wait
            for end in self._bell:
                stack.callback(os.close, end)
                os.set_blocking(end, False)
            self._poll.register(self._bell[0], select.EPOLLIN)
            # What the background thread sleeps on: all of that, while it is on call, and a bell of its own.
            self._call = stack.enter_context(select.epoll())
            self._call.register(self._poll, 0)
            self._rouser = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, self._rouser)
            self._call.register(self._rouser, select.EPOLLIN)
            self._descriptors = stack.pop_all()
        self.pumper: int | None = None  # the thread that receives events: here, or by itself
        self._waiters: list[_Waiter] = []
        self._background: threading.Thread | None = None
        self._serves = False  # it has not ended
        self._on_call = False  # an event wakes it, or has, and it comes
        self._due = -inf  # when it wakes by itself; before all else while it is awake
        self._heard: set[int] = set()  # where there was something when `sleep` ended
        self._midway = False  # events were received, and not handled yet
        self._stopped = False

    def watch(self, descriptor: int) -> None:
        """Look for events at one more descriptor."""
        self._poll.register(descriptor, select.EPOLLIN)
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

    def take(self) -> None:
        """Receive events from now on, in the calling thread; called under the guard, if nobody does."""
        self.pumper = threading.get_ident()
        if self._on_call:
            self._on_call = False
            self._call.modify(self._poll, 0)

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
        self._close_at_last()

    def _sleep(self, timeout: float | None) -> set[int]:
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
                        if not pumping and self.pumper is None:
                            self.take()
                            pumping = True
                            if me in self._waiters:
                                self._waiters.remove(me)
                        elif not pumping and me not in self._waiters:
                            self._waiters.append(me)
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
            if self._background is None:
                background = threading.Thread(target=self._run, name="offload-pump", daemon=True)
                try:
                    background.start()
                except RuntimeError:  # the program ends: whoever waits will pump
                    return
                self._background, self._serves = background, True
            if not self._on_call:
                self._on_call = True
                self._call.modify(self._poll, select.EPOLLIN | select.EPOLLONESHOT)
            due = self._engine.next_deadline()
            if due is not None and due < self._due:
                os.eventfd_write(self._rouser, 1)

    def stop(self) -> None:
        """End the background thread and give back the descriptors."""
        with self._guard:
            self._stopped = True
            os.eventfd_write(self._rouser, 1)
            self.ring()
        if self._background is not None and self._background is not threading.current_thread():
            self._background.join()
        with self._guard:
            self._close_at_last()

    def _close_at_last(self) -> None:
        """Give back the descriptors once nobody will use them any more."""
        if self._stopped and self.pumper is None and not self._serves:
            self._bell, self._on_call = (), False
            self._descriptors.close()

    def _turn(self, deadline: float | None) -> None:
        """Wait for events once, and let everything follow from them."""
        with self._guard:
            due = self._engine.next_deadline()
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        readable = self._sleep(_until(deadline))
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
        """Pump, in the background, what an event or a deadline calls for while nobody waits."""
        try:
            while not self._stopped:
                if self._doze():
                    try:
                        self._turn(0.0)
                    finally:
                        with self._guard:
                            self.leave()
                            self.attend()
        finally:
            with self._guard:
                self._serves = False
                if self._stopped:
                    self._close_at_last()
                else:  # by an exception: the next one starts where this one has ended
                    self._background = None
                    self.attend()

    def _doze(self) -> bool:
        """Sleep until called, or late; tell whether this thread is to pump, and begin to."""
        with self._guard:
            # Of what is not for this thread to do no deadline may wake it: it would again and again.
            due = self._engine.next_deadline() if self._is_needed() else None
            self._due = inf if due is None else due
        woken = {descriptor for descriptor, _ in self._call.poll(_until(due))}
        with self._guard:
            self._due = -inf
            if self._rouser in woken:
                os.eventfd_read(self._rouser)
            called = self._poll.fileno() in woken
            if called:
                self._on_call = False
            called = called or (due is not None and time.monotonic() >= due)
            if not called or self._stopped or not self._is_needed():
                return False
            self.take()
            return True

    def _is_needed(self) -> bool:
        """Tell whether it is for the background thread to pump, if there is anything to be done."""
        return self.pumper is None and not self._waiters and self._engine.busy()


def _until(deadline: float | None) -> float | None:
    """Return for how many seconds to poll, which rounds them up to milliseconds."""
    return None if deadline is None else min(_LONGEST, max(0.0, deadline - time.monotonic()))
