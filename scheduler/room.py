"""How much may be queued: so many launches, and so many bytes of their arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping

from device_runtime.errors import OptionError
from device_runtime.launch import Encoded, Payload

LAUNCHES = 1_000_000  # that have not ended, unless OFFLOAD_QUEUE says otherwise
BYTES = 1 << 30  # of arguments in the host's own memory; what a device has placed it bounds itself
SMALL = 1024  # bytes of arguments that the number of launches bounds well enough


def most_launches(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many launches may be under way at once.

    Raises OptionError for a value that cannot be meant.
    """
    text = environment.get("OFFLOAD_QUEUE", "").strip()
    if not text:
        return LAUNCHES
    if not text.isdecimal() or not int(text):
        raise OptionError(f"OFFLOAD_QUEUE={text!r}: it says how many launches may be queued, at least 1")
    return int(text)


def weight(args: Encoded | list[Encoded] | None) -> int:
    """Return how many bytes arguments take in the host's own memory; 0 if these are few."""
    total = _bytes(args)
    return total if total > SMALL else 0


def _bytes(args: Encoded | list[Encoded] | None) -> int:
    if type(args) is bytes:
        return len(args)
    if type(args) is Payload:
        return sum([len(part) for part in (args.data, *args.buffers) if type(part) is bytes])
    if type(args) is list:
        return sum(map(_bytes, args))
    return 0
