"""System calls that take next to no time, made without giving up the interpreter lock.

Who gives the lock up beside a thread that computes in Python waits for a whole
turn of that thread, milliseconds, to have it back.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from device_runtime.process.ring import are_sound

_LIBC = ctypes.PyDLL(None)
_LONG = 200_000  # nanoseconds
_CROWDED = 1000
_EVENT = struct.Struct("<Iixxxx")  # as x86-64 has it: what happened, and the descriptor

give_way: Callable[[], object] = _LIBC.sched_yield
this_cpu: Callable[[], int] = _LIBC.sched_getcpu

_epoll_wait = _LIBC.epoll_wait
_epoll_wait.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
_send = _LIBC.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_recv = _LIBC.recv
_recv.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # to put it together takes as long as a call
_timerfd_create = ctypes.PyDLL(None, use_errno=True).timerfd_create
_timerfd_create.argtypes = (ctypes.c_int, ctypes.c_int)
_timerfd_settime = _LIBC.timerfd_settime
_timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_TIMES = struct.Struct("@4l")  # of a timer: seconds and nanoseconds of its interval, and until it goes off
_heard = ctypes.create_string_buffer(16)


class Watch:
    """Tell which descriptors of an epoll have something to report."""

    def __init__(self, epoll: select.epoll, most: int) -> None:
        self._epoll = epoll
        self._descriptor = epoll.fileno()
        self._most = most
        self._quick = are_sound()
        self._crowded = 0  # looks to be made with the lock kept, which takes longer by itself
        self._events = ctypes.create_string_buffer(_EVENT.size * most)

    def stirs(self) -> bool:
        """Tell whether there is anything to report.

        All of it is asked for: what is reported goes to the end of the epoll's list, and were it only the
        first, `reports` would tell of a core's errors before what it printed earlier.
        """
        if self._crowded:
            self._crowded -= 1
            return bool(_epoll_wait(self._descriptor, self._events, self._most, 0) > 0)
        before = time.monotonic_ns()
        found = self._epoll.poll(0, self._most)
        if self._quick and time.monotonic_ns() - before > _LONG:
            self._crowded = _CROWDED  # another thread wants the interpreter lock, and has had it meanwhile
        return bool(found)

    def reports(self) -> dict[int, int]:
        """Return what there is to report, by descriptor."""
        if not self._quick:
            return dict(self._epoll.poll(0, self._most))
        found = _epoll_wait(self._descriptor, self._events, self._most, 0)
        if found <= 0:
            return {}
        events = memoryview(self._events)[: found * _EVENT.size]
        return {descriptor: mask for mask, descriptor in _EVENT.iter_unpack(events)}


class Alarm:
    """A descriptor that becomes readable a while after it was set."""

    def __init__(self, nanoseconds: int) -> None:
        self._times = _TIMES.pack(0, 0, 0, 0), _TIMES.pack(0, 0, *divmod(nanoseconds, 10**9))
        self._is_set = False
        self._descriptor: int = _timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        return self._descriptor

    def set(self, on: bool) -> None:
        """Let it go off in so many nanoseconds from now, and not before; or not at all."""
        if on or self._is_set:
            _timerfd_settime(self._descriptor, 0, self._times[on], None)
            self._is_set = on

    def hear(self) -> None:
        """Take note that it has gone off."""
        os.read(self._descriptor, 8)

    def close(self) -> None:
        os.close(self._descriptor)


def ring_bell(end: socket.socket) -> None:
    """Send a byte, if there is room for it and somebody to hear it."""
    _send(end.fileno(), b"\0", 1, _AT_ONCE)


def hear_bell(end: socket.socket) -> bool:
    """Take in a byte; return False if none is there, for whatever reason."""
    return bool(_recv(end.fileno(), _heard, 16, _AT_ONCE) > 0)
