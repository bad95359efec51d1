"""The zygote, seen from the host: how it is started, and the host's end of its socket."""

from __future__ import annotations

import marshal
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from device_runtime.process.cpus import available

# Run by the fresh interpreter. Its first entry of sys.path, the current
# directory, goes before anything is imported from there.
_BOOT = """
import gc, sys
gc.disable()  # what is being imported is not garbage
sys.path[:] = [entry for entry in sys.path if entry]
import marshal, socket
control = socket.socket(fileno=int(sys.argv[1]))
sys.path[:] = marshal.loads(control.recv(1 << 17))
from device_runtime.process.zygote import main
main(control)
"""
_REPORT = 4096  # bytes that a report of the zygote's has at most


class _Order(NamedTuple):
    data: bytes
    descriptors: Sequence[int]  # that go along
    sent: Callable[[], object]  # called once they may be closed


class Control:
    """Tell the zygote what to do, in order, and hear what it has to report.

    Neither waits: hundreds of orders may come at once, and the zygote may at
    that moment report as many ends.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._backlog: deque[_Order] = deque()  # those that the socket had no room for

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def blocked(self) -> bool:
        """Tell whether orders wait for room in the socket."""
        return bool(self._backlog)

    def send(
        self, data: bytes, descriptors: Sequence[int] = (), sent: Callable[[], object] = lambda: None
    ) -> None:
        """Send an order and the descriptors that belong to it, and call `sent` when that is done."""
        self._backlog.append(_Order(data, descriptors, sent))
        self.flush()

    def flush(self) -> bool:
        """Send what has been waiting for room; return whether all is sent."""
        while self._backlog:
            order = self._backlog[0]
            try:
                socket.send_fds(self._end, [order.data], order.descriptors)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                pass  # the zygote has ended; `hear` says so next
            self._backlog.popleft()
            order.sent()
        return True

    def hear(self) -> tuple[list[tuple[Any, ...]], bool]:
        """Return what the zygote has reported, and whether it lives."""
        reports: list[tuple[Any, ...]] = []
        while True:
            try:
                data = self._end.recv(_REPORT)
            except BlockingIOError:
                return reports, True
            except ConnectionResetError:
                data = b""
            if not data:
                return reports, False
            reports.append(pickle.loads(data))

    def close(self) -> None:
        """Close the socket, which ends the zygote; orders that waited are dropped."""
        self._backlog.clear()
        self._end.close()


class Beginning:
    """A zygote that has been started and told nothing but where modules are; it ends with its socket."""

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.end = end
        self.process = process

    def give_up(self) -> None:
        """End it."""
        self.end.close()
        self.process.wait()


def begin_zygote(units: int) -> Beginning:
    """Start the process that cores are forked from; it is told what to do by a socket, and ends with it."""
    # The libraries that have threads of their own (OpenMP, OpenBLAS, MKL, BLIS) all read this variable
    # where their own one is not set; so whichever of them the user has set wins.
    share = {"OMP_NUM_THREADS": str(max(1, available() // units))}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=share | os.environ,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    try:
        ours.send(marshal.dumps(search_path()))
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended already, as will be seen
    return Beginning(ours, process)


def search_path() -> list[str]:
    """Return where the host looks for modules; cores look in the same places."""
    return [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
