"""How far ahead a unit is fed.

A unit that is sent the next shard while it still runs one need not wait for it.
But what was sent cannot be given to another unit, so only kernels that have
been short are sent ahead, and only a little work of them.
"""

from __future__ import annotations

from collections import OrderedDict

from device_runtime.launch import ShardId
from scheduler.units import Unit

SHORT = 250e-6  # seconds; only shorter kernels are sent ahead
AHEAD = 500e-6  # seconds of work that a unit holds at most, if more than one shard
_KEPT = 4096  # kernels


class Pace:
    """Estimate how long kernels run, and say when a unit has room for another shard."""

    def __init__(self) -> None:
        self._estimates: OrderedDict[int, float] = OrderedDict()  # seconds, by kernel

    def learn(self, kernel: int, seconds: float) -> None:
        """Take in how long a shard of a kernel ran."""
        known = self._estimates.get(kernel)
        if known is None or seconds >= known:
            # One long run counts at once: what was sent ahead would wait behind the next.
            self._estimates[kernel] = seconds
        else:
            self._estimates[kernel] = known + (seconds - known) / 8
        if len(self._estimates) > _KEPT:
            self._estimates.popitem(last=False)

    def has_room(self, unit: Unit, depth: int, kernel: int) -> bool:
        """Tell whether a unit that holds at most `depth` shards may be sent one of a kernel."""
        if not unit.flight:
            return True
        estimate = self._estimates.get(kernel)
        return (
            len(unit.flight) < depth
            and not unit.long
            and estimate is not None
            and estimate <= SHORT
            and unit.load + estimate <= AHEAD
        )

    def add(self, unit: Unit, shard: ShardId, kernel: int) -> None:
        """Note that a unit holds one more shard."""
        estimate = self._estimates.get(kernel)
        if estimate is None or estimate > SHORT:
            unit.long += 1
            estimate = None
        else:
            unit.load += estimate
        unit.flight[shard] = estimate

    def remove(self, unit: Unit, shard: ShardId) -> None:
        """Note that a unit holds a shard no more."""
        estimate = unit.flight.pop(shard)
        if estimate is None:
            unit.long -= 1
        else:
            unit.load -= estimate
        if not unit.flight:
            unit.load = 0.0  # rounding must not add up
