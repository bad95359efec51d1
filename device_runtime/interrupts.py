"""Keep Ctrl-C from tearing a hole into the state of the scheduler.

A KeyboardInterrupt may strike between any two bytecodes of the main thread.
While the main thread is inside a `Shield`, it is put off; inside a `Window`
within the shield it strikes again. So every place where an interrupt can
surface is one that was chosen.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

_main = threading.main_thread().ident
_depth = 0  # shields that the main thread is inside of; no other thread touches it
_pending = False


def _on_interrupt(signum: int, frame: FrameType | None) -> None:
    global _pending
    if _depth or (frame is not None and frame.f_code in _closing):
        _pending = True
    else:
        signal.default_int_handler(signum, frame)


def _strike() -> None:
    global _pending
    if _pending and not _depth:
        _pending = False
        raise KeyboardInterrupt


def defer_interrupts() -> None:
    """Take over SIGINT from Python's default handler; a handler of the user's own is left alone."""
    if threading.get_ident() == _main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)


class Shield:
    """Put off Ctrl-C until the block is left."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _depth
        if threading.get_ident() == _main:
            _depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _depth
        if threading.get_ident() == _main:
            _depth -= 1
            _strike()


class Window:
    """Let Ctrl-C through, inside shields, where the thread waits or runs foreign code."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = _depth

    def __enter__(self) -> None:
        global _depth
        if threading.get_ident() == _main:
            _depth = 0
            try:
                _strike()
            except KeyboardInterrupt:
                _depth = self._saved
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _depth
        if threading.get_ident() == _main:
            _depth = self._saved

    def close(self) -> None:
        """Close the window, whether it was opened or not."""
        self.__exit__(None, None, None)


def closes_window(function: T) -> T:
    """Mark what closes a window and must not be torn away from it by an interrupt."""
    _closing.add(function.__code__)
    return function


# Code on its way to close a window: what strikes there would leave it open.
_closing = {Window.__exit__.__code__, Window.close.__code__}


class Guard(Shield):
    """Hold a lock, shielded. Not reentrant."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        super().__enter__()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        super().__exit__(kind, error, trace)
