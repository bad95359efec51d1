"""How long to look for the next record before going to sleep.

To wake a process that sleeps takes tens of microseconds; one that looks on
sees a record at once, but burns its CPU meanwhile. So who waits looks on for a
short time, and only while what it waits for has been coming that soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_CREDIT = 8  # times that it may be in vain before it is given up
_WOKEN = 4  # times as long a look at one that was asleep: to sleep, and be woken too, takes longer still
_BUSY = 400_000  # nanoseconds that giving way takes where others want the CPU; less is some hiccup
_EVERY, _LONGER = 8, 10  # of so many looks in vain, the last is so many times longer
_ALONE = 15_000  # nanoseconds without giving way, where nobody else is expected to want the CPU
_LEAST_REST, _MOST_REST = 32, 1024  # waits without looking on, where others do


class Patience:
    """Learn from each wait whether looking on would have paid, and would pay the next time.

    Who looks on gives way to others at every turn. Where that takes long there
    are others: to sleep, and to be woken, is then much the quicker way.

    Where two wait for each other, and waking takes longer than either looks on,
    each would find the other asleep for ever. So one of them `probes`.
    """

    __slots__ = ("_credit", "_failed", "_penalty", "_probes", "_rest", "limit")

    def __init__(self, limit: int, probes: bool = False) -> None:
        self.limit = limit  # nanoseconds
        self._probes = probes  # whether to look on for longer now and then
        self._failed = 0  # looks in a row that were in vain
        self._credit = _CREDIT if limit else 0
        self._rest = 0  # waits until it is tried again
        self._penalty = _LEAST_REST

    def pays(self) -> bool:
        """Tell whether to look on before sleeping; asked once for each wait."""
        if self._rest:
            self._rest -= 1
            return False
        return self._credit > 0

    def learn(self, waited: int) -> None:
        """Take note of how many nanoseconds a wait took, waking up included."""
        if waited <= 2 * self.limit:
            self._credit = _CREDIT if self.limit else 0
        elif self._credit:
            self._credit -= 1

    def until(
        self,
        ready: Callable[[], object],
        give_way: Callable[[], object],
        alone: bool = False,
        woken: bool = False,
    ) -> bool:
        """Look on until something is ready; return whether it was in time.

        `alone`: there is a CPU for each who has something to do, so that to give way can wait for a little.
        `woken`: the other has just been woken, which it takes some time to be.
        """
        now = time.monotonic_ns
        before = now()
        end = before + (_WOKEN * self.limit if woken else self.limit)
        if self._probes and self._failed % _EVERY == _EVERY - 1:
            end += (_LONGER - 1) * self.limit
        if alone:
            free = before + _ALONE
            while not ready():
                before = now()
                if before > free:
                    break
        while not ready():
            give_way()
            after = now()
            if after - before > _BUSY:
                self._rest, self._penalty = self._penalty, min(2 * self._penalty, _MOST_REST)
                return bool(ready())
            if after > end:
                self._failed += 1
                self.learn(2 * self.limit + 1)
                return False
            before = after
        self._credit, self._penalty, self._failed = _CREDIT, _LEAST_REST, 0
        return True
