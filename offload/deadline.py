"""One timeout for several waits."""

from __future__ import annotations

import time


class Deadline:
    """Share one timeout among several waits."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Return the seconds that are left, None without a timeout."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
