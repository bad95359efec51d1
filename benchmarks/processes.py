"""What a program and all processes that it started use: memory and processor time, from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path


def family(process: int) -> list[int]:
    """Return a process and all that come of it, those started first before the others."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                # The name, in brackets, may hold anything; the parent is the second field behind it.
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
        except OSError:
            pass  # it has ended meanwhile
    found = [process]
    for member in found:
        found += children.get(member, [])
    return found


def proportional_bytes(processes: list[int]) -> int:
    """Return the proportional set size of processes together."""
    return sum(_rolled_up(process).get("Pss", 0) for process in processes)


def held_bytes(processes: list[int]) -> int:
    """Return the memory that is there because of processes: their own, and their anonymous files'.

    An anonymous file is counted whole and once, whether or not somebody maps it.
    """
    files: dict[int, int] = {}
    own = 0
    for process in processes:
        own += _rolled_up(process).get("Pss_Anon", 0)
        try:
            for entry in os.listdir(f"/proc/{process}/fd"):
                path = f"/proc/{process}/fd/{entry}"
                if os.readlink(path).startswith("/memfd:"):
                    status = os.stat(path)
                    files[status.st_ino] = status.st_blocks * 512
        except OSError:
            pass
    return own + sum(files.values())


def processor_seconds(processes: list[int]) -> float:
    """Return the processor time that processes have used."""
    used = 0.0
    for process in processes:
        try:
            used += time.clock_gettime((~process << 3) | 2)  # as clock_getcpuclockid(3) does
        except OSError:
            pass
    return used


def _rolled_up(process: int) -> dict[str, int]:
    """Return the sizes of a process's memory, in bytes."""
    sizes: dict[str, int] = {}
    try:
        for line in Path("/proc", str(process), "smaps_rollup").read_text().splitlines()[1:]:
            name, size, *_ = line.replace(":", " ").split()
            sizes[name] = int(size) * 1024
    except (OSError, ValueError):
        pass
    return sizes
