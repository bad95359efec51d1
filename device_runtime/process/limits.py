"""How many files a process may have open."""

from __future__ import annotations

import os
import resource


def allow_descriptors(more: int) -> tuple[int, int]:
    """Raise the soft limit so that `more` descriptors can be opened, as far as the hard limit goes.

    Return how many are needed in all, and how many are allowed now.
    """
    needed = len(os.listdir("/proc/self/fd")) + more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return needed, needed if soft == resource.RLIM_INFINITY else soft
