"""Which program has a card: one at a time, and the others are told which one.

A claim is a socket's name, in the abstract namespace: the system gives it back
with the last process that has the socket, however that ends. Who waits for a
card connects to the socket, and so is told when it goes. Programs in containers
with a network of their own do not see each other's claims.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import time
import weakref

from device_runtime.errors import DeviceUnavailable

SPACE = "offload"  # what the names of our sockets begin with
_PEER = struct.Struct("3i")  # process, user and group, as SO_PEERCRED gives them
_WAITING = 4096  # programs that may wait for one card
_MOMENT = 1.0  # seconds that may pass between the two steps of a claim


class Claim:
    """Hold a card for this program, and processes that are given the descriptor, until all close it.

    `others` are the program's other claims to the same card.
    """

    def __init__(self, held: socket.socket, others: weakref.WeakSet[Claim] | None = None) -> None:
        self._socket = held
        self._all: weakref.WeakSet[Claim] = weakref.WeakSet() if others is None else others
        self._all.add(self)
        self._process = os.getpid()
        _claims.add(self)

    def fileno(self) -> int:
        """Return the descriptor to be handed to a process that uses the card."""
        return self._socket.fileno()

    def share(self) -> Claim:
        """Return another one for the same card; it is free when both are closed."""
        return Claim(self._socket.dup(), self._all)

    def close(self) -> None:
        """Let go of the card; in a forked process, leave it to the one that has it."""
        self._all.discard(self)
        if not self._all and self._process == os.getpid() and self._socket.fileno() != -1:
            # A child that was just forked may have it for a moment yet: who asks meanwhile tries again.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def claim(card: str, address: str, wait: float) -> Claim:
    """Return the claim to a card that no other program has, and this one has not elsewhere.

    Raises DeviceUnavailable, naming the process that has it, after `wait` seconds.
    """
    name = f"\0{SPACE} {card}"
    deadline = time.monotonic() + wait
    while True:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.bind(name)
            ours.listen(_WAITING)
            return Claim(ours)
        except OSError as error:
            ours.close()
            if error.errno != errno.EADDRINUSE:
                raise
        holder, ended = _wait_for_end(name, deadline)
        if not ended or time.monotonic() >= deadline + _MOMENT:
            raise DeviceUnavailable(f"{address}: {_told(holder)} has {card}{_advice(holder)}")


def _wait_for_end(name: str, deadline: float) -> tuple[int, bool]:
    """Wait until who has a name lets go of it, or the time has come; tell whose process that is, and which.

    0 is one that is not known: in another container, or where there is none at the moment.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.setblocking(False)
        try:
            end.connect(name)
        except ConnectionRefusedError:
            os.sched_yield()  # it lets go just now, or is about to listen
            return 0, True
        except BlockingIOError:
            return 0, False  # too many wait
        holder: int = _PEER.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
        return holder, readable(end, deadline - time.monotonic())


def readable(end: socket.socket, seconds: float) -> bool:
    """Wait so long for a socket to be readable; tell whether it is. Its number may be a large one."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(max(0, math.ceil(seconds * 1000))))


def _told(process: int) -> str:
    if process == os.getpid():
        return "this program"
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    command = b" ".join(words).decode(errors="replace")[:200]
    return f"process {process}{f' ({command})' if command else ''}" if process > 0 else "another program"


def _advice(process: int) -> str:
    if process == os.getpid():
        return " in another session or executor: shut that down first, or launch there, with device="
    return " and uses it; end that, or wait for it, with wait=60 in the address, for so many seconds"


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


def _after_fork() -> None:
    for held in list(_claims):
        held.close()


os.register_at_fork(after_in_child=_after_fork)
