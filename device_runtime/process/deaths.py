"""How a process came to its end, in words."""

from __future__ import annotations

import os
import re
import signal

from device_runtime.process import memory


def count_oom_kills(root: str | os.PathLike[str] = "/") -> int:
    """Return how many processes the system has ended for lack of memory so far.

    Those of our own control group are counted, as cores are in it; where no count of it is seen, all.
    """
    files = [
        os.path.join(folder, "memory.events" if new else "memory.oom_control")
        for folder, new in memory.groups(root)
    ]
    for file in (*files, os.path.join(root, "proc/vmstat")):
        try:
            with open(file) as opened:
                found = re.search(r"^oom_kill (\d+)", opened.read(), re.M)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def describe(code: int | None, oom_kills: int = 0) -> str:
    """Return what an exit code tells; it is negative for a signal.

    `oom_kills` is how many processes were ended for lack of memory at about that time: which, is not told.
    """
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    if name == "SIGKILL":
        if oom_kills > 0:
            return "signal 9, SIGKILL; the system has ended processes for lack of memory, maybe this one"
        return "signal 9, SIGKILL, cause unknown"
    return f"signal {-code}, {name}"


def end_group(process: int) -> None:
    """End the processes that a core's kernels left behind."""
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # none are left
