"""What the doctor has to say of a device, and of each thing that it looked at."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at: whether it is as it has to be, why, and what to do if not.

    `ok` is None for what was not tried.
    """

    what: str
    ok: bool | None
    told: str
    todo: str = ""


class Report(NamedTuple):
    """What was found of a device, or of the machine.

    `works` is None where nothing is wrong as far as was tried.
    """

    name: str  # an address, a kind of device, or a name in the user's settings
    address: str  # what the name stands for
    works: bool | None
    findings: list[Finding]
    default: bool = False  # launches run on it if nothing else is said


def report(name: str, address: str, findings: list[Finding]) -> Report:
    """Return a report on a device that works if all that was found is as it has to be."""
    found = {finding.ok for finding in findings}
    return Report(name, address, False if False in found else None if None in found else True, findings)
