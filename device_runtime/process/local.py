"""The way to the device of process cores: what they are forked from starts while the rest is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from device_runtime.process.control import Beginning, begin_zygote
from device_runtime.process.cpus import available
from device_runtime.registry import unit_count

if TYPE_CHECKING:
    from device_runtime.process.cores import ProcessDevice


def open_local(rest: str) -> ProcessDevice:
    """Make the device of an address: `local` has one core for each CPU, `local:4` has four."""
    units = unit_count("local", rest, available())
    begun = _begin(units)
    try:
        from device_runtime.process.cores import ProcessDevice
    except BaseException:
        if begun is not None:
            begun.give_up()
        raise
    return ProcessDevice(units, begun)


def _begin(units: int) -> Beginning | None:
    """Start the zygote; where that fails, opening the device will say so."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "fork"):
        return None
    try:
        return begin_zygote(units)
    except OSError:
        return None
