"""Timeouts: what can be one, and one for several waits."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from device_runtime.errors import OptionError


def seconds(timeout: Any, where: str = "") -> float | None:
    """Return a timeout as a user wrote it in seconds, None for none, or one that outlasts any program.

    `where` begins the message. Raises OptionError for what is not a number.
    """
    if timeout is None:
        return None
    try:
        number = float("nan") if isinstance(timeout, (bool, str, bytes)) else float(timeout)
    except (TypeError, ValueError):
        number = float("nan")
    except OverflowError:
        return None
    if math.isnan(number):
        kind = f", not {type(timeout).__name__}" if not isinstance(timeout, float) else ""
        raise OptionError(f"{where}timeout={timeout!r} must be a number of seconds{kind}")
    return number if number <= threading.TIMEOUT_MAX else None


class Deadline:
    """Share one timeout among several waits. Raises what `seconds` raises."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = seconds(timeout)
        self._end = None if self.timeout is None else time.monotonic() + self.timeout

    def left(self) -> float | None:
        """Return the seconds that are left, None without a timeout."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
