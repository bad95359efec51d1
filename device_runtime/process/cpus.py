"""How many CPUs this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache


@cache
def available() -> int:
    """Return the number of CPUs that this process may keep busy, as it was when this was first asked.

    It is bounded by the affinity mask, and by the quota that a container gives
    (cgroup, versions 1 and 2); a fraction of a CPU is left out.
    """
    try:
        with open("/proc/self/cgroup") as file:
            groups = file.read()
    except OSError:
        groups = ""
    return within(len(os.sched_getaffinity(0)), groups, "/sys/fs/cgroup")


def leave(cpu: int) -> None:
    """Have the system run this thread on another CPU, if it may use one; it is free to come back."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1 and cpu in allowed:
        os.sched_setaffinity(0, allowed - {cpu})
        os.sched_setaffinity(0, allowed)


def within(cpus: int, groups: str, root: str) -> int:
    """Return how many of `cpus` the control groups leave; `groups` is as in /proc/self/cgroup."""
    return max(1, min([cpus, *(int(quota) for quota in _quotas(groups, root))]))


def _quotas(groups: str, root: str) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the control groups and all that these are in."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = os.path.join(root, "cpu") if controllers else root
        for part in ("", *path.split("/")):
            folder = os.path.join(folder, part)
            try:
                yield _quota_1(folder) if controllers else _quota_2(folder)
            except (OSError, ValueError, ZeroDivisionError):
                pass  # it sets none; or the path is the one outside of the container


def _quota_1(folder: str) -> float:
    with open(os.path.join(folder, "cpu.cfs_quota_us")) as quota:
        microseconds = int(quota.read())
    if microseconds < 0:
        raise ValueError("no limit")
    with open(os.path.join(folder, "cpu.cfs_period_us")) as period:
        return microseconds / int(period.read())


def _quota_2(folder: str) -> float:
    with open(os.path.join(folder, "cpu.max")) as file:
        microseconds, period = file.read().split()  # "max" is no number, and no limit
    return int(microseconds) / int(period)
