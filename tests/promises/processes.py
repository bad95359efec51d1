"""The processes of a device, seen from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from programs import children


def parent(process: int) -> int:
    # The name, in brackets, may hold anything; the parent is the second field behind it.
    return int(Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[1])


def cores() -> list[int]:
    """Return the processes of all cores of this process's devices: children of its children."""
    return list(_grandchildren())


def _grandchildren() -> Iterator[int]:
    ours = children()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and parent(int(entry)) in ours:
                yield int(entry)
        except OSError:
            pass  # it has ended meanwhile


def private_memory(process: int) -> int:
    """Return how many bytes of memory a process has to itself."""
    for line in Path("/proc", str(process), "smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {process} says nothing of its memory")
