"""How far ahead a unit is fed.

A unit that is sent the next shard while it still runs one need not wait for it.
But what was sent cannot be given to another unit, so only kernels that have
been short are sent ahead, and only a little work of them.
"""

from __future__ import annotations

from itertools import islice
from math import inf

# Seconds. Only kernels no longer than that are sent ahead, to a unit that holds no more work than that.
AHEAD = 1e-3
# Seconds. So much work of kernels as short as that may go to a unit as one bundle, where much is queued, and
# one bundle ahead of another.
BUNDLE = 2e-3
_KEPT = 4096  # kernels


class Pace:
    """Estimate how long kernels run."""

    __slots__ = ("_estimates", "costs")

    def __init__(self) -> None:
        self._estimates: dict[int, float] = {}  # seconds, by kernel
        self.costs: dict[int, float] = {}  # the same, but infinite for those that are not sent ahead

    def learn(self, kernel: int, seconds: float) -> None:
        """Take in how long a shard of a kernel ran."""
        estimates = self._estimates
        known = estimates.get(kernel)
        if known is None:
            self._forget_some()
        elif seconds < known:
            # One long run counts at once: what was sent ahead would wait behind the next.
            seconds = known + (seconds - known) / 8
        estimates[kernel] = seconds
        self.costs[kernel] = seconds if seconds <= AHEAD else inf

    def together(self, kernel: int, most: int) -> int:
        """Return how many launches of a kernel may be a bundle, `most` at most."""
        cost = self.costs.get(kernel, inf)
        return max(1, most if cost * most <= BUNDLE else int(BUNDLE / cost))

    def _forget_some(self) -> None:
        if len(self._estimates) >= _KEPT:
            for oldest in list(islice(self._estimates, _KEPT // 2)):
                del self._estimates[oldest], self.costs[oldest]
