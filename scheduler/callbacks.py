"""Run users' callbacks, in a thread of their own.

A callback may do what takes long or waits, for launches too. The thread that
receives events must not: those launches would never end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from device_runtime.interrupts import Window

_log = logging.getLogger("offload")


class Callbacks:
    """One thread, started when there is something to call, and a queue before it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="offload-callbacks", daemon=True)
        self._start = [self._thread.start]  # who takes it out starts the thread
        self._ended = False

    def put(self, call: Callable[[], object]) -> None:
        """Make a call when those before it have returned. It may raise; that is logged."""
        if self._start:
            try:
                self._start.pop()()
            except IndexError:
                pass  # another thread has started it
            except RuntimeError:
                self._ended = True
        if self._ended:  # the program ends, and no thread can be had any more
            self._make(call)
        else:
            self._queue.put(call)

    def close(self, timeout: float | None = None) -> None:
        """Let all calls be made and the thread end; wait for that, `timeout` seconds at most."""
        self._queue.put(None)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            with Window():
                self._thread.join(timeout)

    def _run(self) -> None:
        while self._make(self._queue.get()):
            pass

    def _make(self, call: Callable[[], object] | None) -> bool:
        """Make a call, and return whether it was one; what it refers to is not kept alive meanwhile."""
        try:
            if call is not None:
                call()
        except BaseException:  # this thread is not the callback's own to end
            _log.exception("a callback failed")
        return call is not None
