"""How a process came to its end, in words."""

from __future__ import annotations

import signal


def count_oom_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since it was booted."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def describe(code: int | None, out_of_memory: bool = False) -> str:
    """Return what an exit code tells; it is negative for a signal."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    if name == "SIGKILL":
        if out_of_memory:
            return "signal 9, SIGKILL, by the kernel: the machine, or its memory limit, was out of memory"
        return "signal 9, SIGKILL, cause unknown"
    return f"signal {-code}, {name}"
