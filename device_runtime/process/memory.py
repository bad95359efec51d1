"""How much memory there is, and how much of it host and cores may share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from device_runtime.errors import DeviceMemoryError, OptionError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ROOT = "/"


def bound(environment: Mapping[str, str] = os.environ, root: str | os.PathLike[str] = _ROOT) -> int:
    """Return how many bytes the host's arena may take: OFFLOAD_ARENA, or a quarter of memory.

    Raises OptionError for a value that cannot be meant.
    """
    text = environment.get("OFFLOAD_ARENA", "").strip()
    if not text:
        return min([_meminfo("MemTotal", root), *(limit for limit, _ in _limits(root))]) // 4
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    given = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if given < 1 << 20:
        raise OptionError(
            f"OFFLOAD_ARENA={text!r}: it says how much memory arguments may take on their way to cores, "
            "in bytes or as '500M' or '4G', and is at least 1M"
        )
    return given


def check(nbytes: int, root: str | os.PathLike[str] = _ROOT) -> None:
    """Refuse what would make the kernel kill processes: it gives no error of its own.

    Raises DeviceMemoryError.
    """
    left = min([_meminfo("MemAvailable", root), *(limit - used for limit, used in _limits(root))])
    if nbytes > left:
        raise DeviceMemoryError(
            f"{nbytes:,} bytes do not fit in memory: {max(0, left):,} bytes are available here"
        )


def _meminfo(name: str, root: str | os.PathLike[str]) -> int:
    try:
        text = _read(root, "proc/meminfo")
        return int(text.partition(f"{name}:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        pages = "SC_PHYS_PAGES" if name == "MemTotal" else "SC_AVPHYS_PAGES"
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def groups(root: str | os.PathLike[str] = _ROOT) -> Iterator[tuple[str, bool]]:
    """Give the folders of the control groups that bind the process's memory, its own first.

    With each, whether it is one of version 2. Those that are not seen from here are among them.
    """
    try:
        lines = _read(root, "proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = "sys/fs/cgroup/memory" if kinds else "sys/fs/cgroup"
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield os.path.join(root, top, *parts[:depth]), not kinds


def _limits(root: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """Give limit and use, in bytes, of each control group that the process is in."""
    for folder, new in groups(root):
        limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        if new:
            limit, usage = "memory.max", "memory.current"
        try:
            most, used = int(_read(folder, limit)), int(_read(folder, usage))
            stat = _read(folder, "memory.stat")
        except (OSError, ValueError):  # "max" where there is no limit
            continue
        cache = [int(found) for found in re.findall(r"^(?:total_)?inactive_file (\d+)", stat, re.M)]
        yield most, used - max(cache, default=0)


def _read(*path: str | os.PathLike[str]) -> str:
    with open(os.path.join(*path)) as file:
        return file.read()
