"""Keep Ctrl-C from tearing a hole into the state of the scheduler.

A KeyboardInterrupt may strike between any two bytecodes of the main thread.
While the main thread is inside a `Shield`, it is put off; inside a `Window`
within the shield it strikes again. So every place where an interrupt can
surface is one that was chosen.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from threading import get_ident
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])
R = TypeVar("R")

_main = threading.main_thread().ident
_depth = 0  # shields that the main thread is inside of; no other thread touches it
_pending = False
_strikes = 0  # interrupts that have been let through


def _on_interrupt(signum: int, frame: FrameType | None) -> None:
    global _pending, _strikes
    if _depth or (frame is not None and frame.f_code in _uninterrupted):
        _pending = True
    else:
        _strikes += 1
        signal.default_int_handler(signum, frame)


def _strike() -> None:
    global _pending, _strikes
    if _pending and not _depth:
        _pending = False
        _strikes += 1
        raise KeyboardInterrupt


def defer_interrupts() -> None:
    """Take over SIGINT from Python's default handler; a handler of the user's own is left alone."""
    if get_ident() == _main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)


class Shield:
    """Put off Ctrl-C until the block is left."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _depth
        if get_ident() == _main:
            _depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _depth
        if get_ident() == _main:
            _depth -= 1
            _strike()


class Window:
    """Let Ctrl-C through, inside shields, where the thread waits or runs foreign code."""

    __slots__ = ("_saved", "_strikes")

    def __init__(self) -> None:
        self._saved = _depth
        self._strikes = _strikes

    @property
    def struck(self) -> bool:
        """Tell whether an interrupt came through."""
        return self._strikes != _strikes and get_ident() == _main

    def __enter__(self) -> None:
        global _depth
        if get_ident() == _main:
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
        if get_ident() == _main:
            _depth = self._saved

    def close(self) -> None:
        """Close the window, whether it was opened or not."""
        self.__exit__(None, None, None)


class Rung:
    """Within the block a signal also writes a byte to `bell`, if the main thread is in it.

    One that strikes just before that thread goes to sleep would not wake it:
    Python's handlers run between bytecodes. Where the program has told Python
    of a descriptor of its own, that one is left in place.
    """

    __slots__ = ("_bell", "_set")

    def __init__(self, bell: int) -> None:
        self._bell = bell
        self._set = False

    def __enter__(self) -> None:
        if self._bell != -1 and get_ident() == _main:
            before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
            self._set = before == -1
            if not self._set:
                signal.set_wakeup_fd(before, warn_on_full_buffer=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._set:
            signal.set_wakeup_fd(-1)


def uninterrupted(function: T) -> T:
    """Mark a short function that Ctrl-C must not strike in; it is put off.

    One that closes a window would leave it open, and in a finalizer the
    interrupt would be lost.
    """
    _uninterrupted.add(function.__code__)
    return function


_uninterrupted = {Window.__exit__.__code__, Window.close.__code__}


_in_outer: set[int] = set()  # threads inside of a guard, by their identity
_in_inner: set[int] = set()  # and of one that may be entered there


def is_inside() -> bool:
    """Tell whether the calling thread is inside of a guard: a finalizer, or a signal handler, asks."""
    me = get_ident()
    return me in _in_outer or me in _in_inner


def _after_fork() -> None:
    # Other threads are not there; and the child leaves what its parent was in the midst of to that.
    _in_outer.clear()
    _in_inner.clear()


os.register_at_fork(after_in_child=_after_fork)


class Guard(Shield):
    """Hold a lock, shielded. A thread that is inside of one gets a RuntimeError if it enters one again.

    A finalizer could, whatever its thread is just doing, and in the main thread
    a signal handler; if two threads entered each other's guards they would wait
    for ever. So a thread notes that it is inside before it has the lock, and
    until after it has given it back. One that is `inner` may be entered inside
    of one that is not.

    `visitor` is called, once, by the next one who enters.
    """

    __slots__ = ("_inner", "_lock", "_threads", "visitor")

    def __init__(self, inner: bool = False) -> None:
        self._lock = threading.RLock()  # so releasing it is an error where it is not held
        self._inner = inner
        self._threads = _in_inner if inner else _in_outer
        self.visitor: Callable[[], object] | None = None

    def __enter__(self) -> None:
        global _depth
        me = get_ident()
        if me in _in_inner or (me in _in_outer and not self._inner):
            raise RuntimeError(
                "a signal handler or a finalizer has interrupted offload in the midst of something, and "
                "cannot use it here; let it set a flag, or leave the rest to another thread"
            )
        if me == _main:
            _depth += 1
        self._threads.add(me)
        try:
            self._lock.acquire()
        except BaseException:  # a handler's own; the lock may be held by then
            self.__exit__(None, None, None)
            raise
        if self.visitor is not None:
            try:
                self.visit()
            except BaseException:  # nobody is inside then
                self.__exit__(None, None, None)
                raise

    def visit(self) -> None:
        """Call the visitor, if there is one."""
        visitor, self.visitor = self.visitor, None
        if visitor is not None:
            visitor()

    def aside(self, act: Callable[..., R], *given: Any) -> R:
        """Call something with the lock given back, inside of the block, which stays shielded.

        The visitor is not called when the lock is had again: that is for those who enter.
        """
        me = get_ident()
        self._lock.release()
        self._threads.discard(me)
        try:
            return act(*given)
        finally:
            self._threads.add(me)
            self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _depth
        try:
            self._lock.release()
        except RuntimeError:  # a handler's own exception has struck where it was not held
            pass
        finally:  # or strikes here, when it has been released
            me = get_ident()
            self._threads.discard(me)
            if me == _main:
                _depth -= 1
                if _pending:
                    _strike()


class ShieldedLock:
    """A lock for a `threading.Condition`: reentrant, and shielded while it is held.

    Ctrl-C in a wait on a condition may strike when the lock is held, or not
    yet held again, and so leave a plain lock taken for ever. This one always
    knows whether it is held; releasing it when it is not does nothing.
    """

    __slots__ = ("_lock", "_owner", "_times")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None  # the thread that holds it
        self._times = 0  # that the owner has acquired it

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        Shield().__enter__()
        if not self._is_owned():
            if not self._lock.acquire(blocking, timeout):
                Shield().__exit__(None, None, None)
                return False
            self._owner = get_ident()
        self._times += 1
        return True

    def release(self) -> None:
        if self._is_owned():
            self._times -= 1
            if not self._times:
                self._owner = None
                self._lock.release()
            Shield().__exit__(None, None, None)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # What a condition asks of a reentrant lock.

    def _is_owned(self) -> bool:
        return self._owner == get_ident()

    def _release_save(self) -> int:
        times = self._times
        for _ in range(times):
            self.release()
        return times

    def _acquire_restore(self, times: int) -> None:
        for _ in range(times):
            self.acquire()
