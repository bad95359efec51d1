"""Room in the banks of a device, for the launches that run on its units at once."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from device_runtime.errors import DeviceMemoryError

T = TypeVar("T")


@dataclass
class _Holder:
    """A launch that has taken memory: since when, in which banks, and if that is a driver kernel's."""

    since: int
    banks: set[str] = field(default_factory=set)
    driver: bool = False


class Room:
    """Have launches that find no room wait for those on other units that have some, first come, first served.

    Who waits holds nothing, and so no holder waits: each comes to its end, and
    wakes the others. Only those are waited for who held something before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._holders: dict[Any, _Holder] = {}  # by whose launches have taken memory
        self._waiting: dict[int, set[str]] = {}  # for which banks, in the order they came

    def take(
        self,
        who: Any,
        banks: Iterable[str],
        allocate: Callable[[], T],
        fits: Callable[[], bool] | None = None,
        drivers: bool = True,
    ) -> T:
        """Return what `allocate` gives, which takes all that it needs of some banks, or nothing.

        It waits for others where `fits` says that it would find room if it were
        alone; only who holds nothing may say so. Without `drivers` it waits for none
        that took some without saying so: such a launch may do anything before it ends.
        `who` is None for nobody whose end is told. Raises DeviceMemoryError where
        there is no room, and nothing to wait for.
        """
        wanted = set(banks)
        with self._changed:
            number = next(self._numbers)
            made = _now(allocate) if fits is None else self._in_turn(number, wanted, allocate, fits, drivers)
            if who is not None:
                holder = self._holders.setdefault(who, _Holder(number))
                holder.banks |= wanted
                holder.driver |= fits is None
            return made

    def _in_turn(
        self,
        number: int,
        wanted: set[str],
        allocate: Callable[[], T],
        fits: Callable[[], bool],
        drivers: bool,
    ) -> T:
        self._waiting[number] = wanted
        try:
            while True:
                if not any(banks & wanted for other, banks in self._waiting.items() if other < number):
                    try:
                        return allocate()
                    except DeviceMemoryError:
                        pass  # here, its frames would keep what they had taken
                    held = any(
                        one.banks & wanted
                        for one in self._holders.values()
                        if one.since < number and (drivers or not one.driver)
                    )
                    if not held or not fits():
                        return _now(allocate)
                self._changed.wait()
        finally:
            del self._waiting[number]
            if self._waiting:
                self._changed.notify_all()

    def look_again(self) -> None:
        """Have those that wait look for room: a launch that goes on has given some back."""
        with self._changed:
            self._changed.notify_all()

    def ended(self, who: Any) -> None:
        """Take note of the end of a launch, which has given back what it had taken."""
        if who in self._holders:  # it is only ever put there by its own launch
            with self._changed:
                del self._holders[who]
                self._changed.notify_all()


def _now(allocate: Callable[[], T]) -> T:
    with contextlib.suppress(DeviceMemoryError):
        return allocate()
    gc.collect()  # buffers in cycles hold memory that the interpreter knows nothing of
    return allocate()
