"""Look at files before they are read."""

from __future__ import annotations

import errno
import os
import stat


def size_of(path: str | os.PathLike[str]) -> int:
    """Return how many bytes a file has.

    Raises OSError, also for a pipe, a socket and a device: to read one may have no end.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # reading that fails at once
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file")
    return status.st_size
