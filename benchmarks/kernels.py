"""What is run on the cores, in a module that every peer can import. None of it needs NumPy."""

from __future__ import annotations

import os
import signal
from time import thread_time_ns


def noop() -> None:
    """Do nothing."""


def ignore(element: object) -> None:
    """Do nothing with an element."""


def echo(value: object) -> object:
    """Return the value."""
    return value


def compute(nanoseconds: int) -> None:
    """Use the processor for so long; what others use of it meanwhile does not count."""
    end = thread_time_ns() + nanoseconds
    while thread_time_ns() < end:
        pass


def compute_long() -> None:
    """Use the processor for 10 ms."""
    compute(10_000_000)


def compute_short() -> None:
    """Use the processor for 50 µs."""
    compute(50_000)


def hold(path: str) -> None:
    """Wait until somebody opens the named pipe to write, and closes it."""
    with open(path) as gate:
        gate.read()


def die() -> None:
    """Kill the process that runs this."""
    os.kill(os.getpid(), signal.SIGKILL)
