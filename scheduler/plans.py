"""Which plans there are: launches with the same one need be sent to a unit by its number only."""

from __future__ import annotations

import itertools
from collections import OrderedDict

from device_runtime.launch import Image, Plan
from device_runtime.output import wanted_log_level

_KEPT, _BYTES = 512, 16 << 20  # plans, and bytes of their images together

_numbers = itertools.count(1)  # devices may be shared, numbers must not


class Plans:
    """Give the same plan for the same things."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[int, tuple[int, ...], bool, bool, int], Plan] = OrderedDict()
        self._bytes = 0

    def get(self, image: Image, units: tuple[int, ...], mapped: bool, report_begin: bool) -> Plan:
        """Return the plan of launches of an image on these units."""
        level = wanted_log_level()
        key = image.number, units, mapped, report_begin, level
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = Plan(next(_numbers), image, units, mapped, report_begin, level)
            self._bytes += len(image.data)
            while len(self._plans) > _KEPT or (self._bytes > _BYTES and len(self._plans) > 1):
                self._bytes -= len(self._plans.popitem(last=False)[1].image.data)
        return found
