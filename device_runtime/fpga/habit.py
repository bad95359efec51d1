"""How long a unit may take: what a kernel is used to, where the address does not say."""

from __future__ import annotations

# Seconds that a run may take: at first, and when _ENOUGH have ended so many times the longest of them.
_FIRST, _ENOUGH, _TIMES, _LEAST = 60.0, 10, 100, 10.0


class Habit:
    """How long the runs of a kernel take, and so how long one may, if `given` does not say.

    The units' threads all tell it; what one of them misses does no harm.
    """

    def __init__(self, given: float | None) -> None:
        self._given = given
        self._runs = 0
        self._longest = 0.0

    def learn(self, seconds: float) -> None:
        """Take note of a run that has ended."""
        self._runs += 1
        self._longest = max(self._longest, seconds)

    @property
    def limit(self) -> float:
        """Seconds that a run may take."""
        if self._given is not None:
            return self._given
        return _FIRST if self._runs < _ENOUGH else max(_LEAST, _TIMES * self._longest)

    def __str__(self) -> str:
        known = self._given is None and self._runs >= _ENOUGH
        why = f", as the longest of its {self._runs} runs took {self._longest:.3g} s" if known else ""
        return f"{self.limit:g} s{why}; ?timeout= in the address sets another"
