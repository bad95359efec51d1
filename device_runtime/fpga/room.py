"""Room in the banks of a device, for the launches that run on its units at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from device_runtime.errors import DeviceMemoryError

T = TypeVar("T")


class Room:
    """Have a launch that finds no room wait until one on another unit has given some back.

    Who waits holds nothing, and so no holder waits: each comes to its end, and wakes the others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[Any, set[str]] = {}  # by whose launches have taken memory: in which banks

    def take(
        self,
        who: Any,
        banks: Iterable[str],
        allocate: Callable[[], T],
        fits: Callable[[], bool] | None = None,
    ) -> T:
        """Return what `allocate` gives, which takes all that it needs of some banks, or nothing.

        It waits for others where `fits` says that it would find room if it were
        alone; only who holds nothing may say so. `who` is None for nobody whose
        end is told. Raises DeviceMemoryError where there is no room, and nothing to wait for.
        """
        wanted = set(banks)
        with self._changed:
            while True:
                try:
                    made = allocate()
                    break
                except DeviceMemoryError:
                    pass  # here, its frames would keep what they had taken
                if fits is None or not self._is_held(wanted) or not fits():
                    gc.collect()  # buffers in cycles hold memory that the interpreter knows nothing of
                    made = allocate()
                    break
                self._changed.wait()
            if who is not None:
                self._holders.setdefault(who, set()).update(wanted)
            return made

    def _is_held(self, wanted: set[str]) -> bool:
        return any(banks & wanted for banks in self._holders.values())

    def ended(self, who: Any) -> None:
        """Take note of the end of a launch, which has given back what it had taken."""
        if who in self._holders:  # it is only ever put there by its own launch
            with self._changed:
                del self._holders[who]
                self._changed.notify_all()
