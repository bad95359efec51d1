"""What the environment and the machine settle for all cores of a device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from device_runtime.errors import OptionError
from device_runtime.process.cpus import available
from device_runtime.process.ring import are_sound

_DEFAULT, _MOST = 100, 10_000  # microseconds


class Settled(NamedTuple):
    """What host and cores go by."""

    rings: bool  # records go through rings
    spin: int  # nanoseconds that a side looks for the next record before it sleeps
    cpus: int


def settle() -> Settled:
    """Return what the environment, and the machine, settle for all cores.

    `OFFLOAD_CHANNEL` may ask for the socket instead of rings.

    Raises OptionError for what a variable cannot be, and for rings where they are not sound.
    """
    given = os.environ.get("OFFLOAD_CHANNEL", "").strip()
    if given not in ("", "ring", "socket"):
        raise OptionError(f"OFFLOAD_CHANNEL={given!r} must be 'ring' or 'socket'")
    if given == "ring" and not are_sound():
        raise OptionError("OFFLOAD_CHANNEL='ring' needs an x86-64 processor; leave it out to use sockets")
    cpus = available()
    spin = spin_time()
    return Settled(given != "socket" and are_sound(), spin if cpus > 1 else 0, cpus)


def spin_time(environment: Mapping[str, str] = os.environ) -> int:
    """Return for how many nanoseconds `OFFLOAD_SPIN`, in microseconds, allows to look on.

    Raises OptionError for what is no number from 0 to 10,000.
    """
    given = environment.get("OFFLOAD_SPIN", "").strip() or str(_DEFAULT)
    if not given.isdigit() or int(given) > _MOST:
        raise OptionError(
            f"OFFLOAD_SPIN={given!r} must be a whole number of microseconds, from 0 (never spin) to {_MOST}"
        )
    return int(given) * 1000
