"""Device addresses: which factory opens `local:4`, and where it was found.

A device is made known by an entry point in the group `offload.devices`. Its
name is what stands before the colon of an address; it loads to a function
that takes what stands behind it and returns a `Device`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from device_runtime.device import Device
from device_runtime.errors import DeviceUnavailable, OptionError, UnknownDeviceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "offload.devices"
MAX_UNITS = 1024

Factory = Callable[[str], Device]

# Our own are found without looking through all that is installed, which takes longer than starting cores.
_OURS = {
    "emu": "device_runtime.fpga.device:open_emulated",
    "inline": "device_runtime.inline:open_inline",
    "local": "device_runtime.process.local:open_local",
    "pynq": "device_runtime.fpga.device:open_pynq",
}
OURS = frozenset(_OURS)
_OF_A_FILE = ("emu", "pynq")  # what stands behind the colon is a path, and after a `?` what is asked of it


@cache
def known() -> dict[str, EntryPoint]:
    """Return the entry point of every kind of device there is, by name.

    Raises OSError where no file can be opened: importlib would take that for an
    empty folder, and remember it.
    """
    from importlib.metadata import EntryPoint, entry_points

    os.listdir(os.path.dirname(__file__))
    points = {point.name: point for point in entry_points(group=GROUP)}
    points.update((name, EntryPoint(name, value, GROUP)) for name, value in _OURS.items())
    return dict(sorted(points.items()))


def is_known(kind: str) -> bool:
    """Tell whether there is such a kind of device; whether one can be opened is another question."""
    try:
        return kind in _OURS or kind in known()
    except OSError:
        return True  # opening it will say what is wrong


def seen_from(folder: str, address: str) -> str:
    """Return an address with the file that it names, if it does, as it is called from a folder.

    `~` is the user's home, which no shell has put there.
    """
    kind, _, rest = address.partition(":")
    path, mark, query = rest.partition("?")
    if kind not in _OF_A_FILE or not path:
        return address
    return f"{kind}:{os.path.abspath(os.path.join(folder, os.path.expanduser(path)))}{mark}{query}"


def identity(address: str) -> str:
    """Return an address that is the same however one of its device is written, but for how long to wait.

    Raises OptionError.
    """
    kind, _, rest = address.partition(":") if isinstance(address, str) else ("", "", "")
    if kind not in _OF_A_FILE:
        return address  # opening it will say what is wrong
    from device_runtime.fpga.boards import configure

    return configure(kind, rest).identity


def open_device(address: str) -> Device:
    """Make the device that `address` names; it is not opened yet.

    Raises UnknownDeviceError, OptionError for a bad part behind the colon, and
    DeviceUnavailable where what the device needs is not installed.
    """
    if not isinstance(address, str):
        raise OptionError(f"device={address!r}: an address is a string such as 'local:4'")
    kind, _, rest = address.partition(":")
    try:
        factory = _load(kind, address)
    except (ImportError, OSError) as error:
        raise DeviceUnavailable(f"device={address!r} cannot be opened here: {error}") from error
    device = factory(rest)
    device.address = address
    return device


def _load(kind: str, address: str) -> Factory:
    if kind in _OURS:
        module, _, name = _OURS[kind].partition(":")
        ours: Factory = getattr(import_module(module), name)
        return ours
    try:
        point = known().get(kind)
    except OSError as error:
        raise DeviceUnavailable(f"device={address!r} cannot be looked up: {error}") from error
    if point is None:
        raise UnknownDeviceError(
            f"device={address!r}: no device of kind {kind!r} is installed; known are "
            f"{', '.join(repr(name) for name in known())} (an address is such as 'local:4' or 'inline')"
        )
    theirs: Factory = point.load()
    return theirs


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
