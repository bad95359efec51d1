"""Device addresses: which factory opens `local:4`, and where it was found.

A device is made known by an entry point in the group `offload.devices`. Its
name is what stands before the colon of an address; it loads to a function
that takes what stands behind it and returns a `Device`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from device_runtime.device import Device
from device_runtime.errors import DeviceUnavailable, OptionError, UnknownDeviceError

GROUP = "offload.devices"
MAX_UNITS = 1024

Factory = Callable[[str], Device]


@cache
def known() -> dict[str, EntryPoint]:
    """Return the entry point of every kind of device that is installed, by name.

    Raises OSError where no file can be opened: importlib would take that for an
    empty folder, and remember it.
    """
    os.listdir(os.path.dirname(__file__))
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def open_device(address: str) -> Device:
    """Make the device that `address` names; it is not opened yet.

    Raises UnknownDeviceError, OptionError for a bad part behind the colon, and
    DeviceUnavailable where what the device needs is not installed.
    """
    if not isinstance(address, str):
        raise OptionError(f"device={address!r}: an address is a string such as 'local:4'")
    kind, _, rest = address.partition(":")
    try:
        point = known().get(kind)
    except OSError as error:
        raise DeviceUnavailable(f"device={address!r} cannot be looked up: {error}") from error
    if point is None:
        raise UnknownDeviceError(
            f"device={address!r}: no device of kind {kind!r} is installed; known are "
            f"{', '.join(repr(name) for name in known())} (an address is such as 'local:4' or 'inline')"
        )
    try:
        factory: Factory = point.load()
    except (ImportError, OSError) as error:
        raise DeviceUnavailable(f"device={address!r} cannot be opened here: {error}") from error
    device = factory(rest)
    device.address = address
    return device


def unit_count(kind: str, text: str, default: int) -> int:
    """Read the number of units in an address such as `local:4`."""
    if not text:
        return default
    try:
        count = int(text)
    except ValueError:
        raise OptionError(f"device='{kind}:{text}': what follows the colon is a number of cores") from None
    if not 1 <= count <= MAX_UNITS:
        raise OptionError(f"device='{kind}:{text}': the number of cores is 1 to {MAX_UNITS}")
    return count
