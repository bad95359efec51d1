"""Which devices are looked at, and how far.

Whatever may hang or crash, as drivers do, is tried in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from device_runtime import registry
from device_runtime.errors import OffloadError, OptionError
from device_runtime.fpga import boards
from offload import settings
from offload.doctor import child, fpga, machine
from offload.doctor.finding import Finding, Report, report

_OPENING = 90.0  # seconds that opening a device and a launch may take; loading a bitstream may take 60
_NEED_A_FILE = ("emu", "pynq")

_Pynq = Callable[[], fpga.Pynq]


def examine(names: Sequence[str]) -> Iterator[Report]:
    """Open devices, by address or by name, and report on each.

    Raises OptionError where the user's settings cannot be meant.
    """
    users, pynq = settings.read(), cache(fpga.ask_for_pynq)
    for name in names:
        if name in _NEED_A_FILE:
            yield _kind(name, pynq)
        else:
            yield _opened(name, users, pynq)


def examine_all() -> Iterator[Report]:
    """Report on this machine, on the default device, on all other kinds and on all names in the settings.

    The default device is opened, and so are those that are only processes of
    this machine. A card's bitstream is loaded for no other: it may be in use.
    """
    try:
        users = settings.read()
    except OptionError as error:
        wrong = Finding("settings", False, str(error), "correct it: nothing runs on any device until then")
        yield report("this machine", "", [*machine.look(), wrong])
        return
    yield report("this machine", "", [*machine.look(), _told(users)])
    pynq = cache(fpga.ask_for_pynq)
    default = str(users.options.get("device") or "local")
    yield _opened(default, users, pynq)._replace(default=True)
    for kind in registry.known():
        if kind in _NEED_A_FILE:
            yield _kind(kind, pynq)
        elif kind != default:
            yield _opened(kind, users, pynq)
    for name, address in users.devices.items():
        if name == default:
            continue
        if address.startswith("pynq:"):
            yield _unopened(name, address, pynq)
        else:
            yield _opened(name, users, pynq)


def _told(users: settings.Settings) -> Finding:
    given = {**users.options, **({"devices": ", ".join(users.devices)} if users.devices else {})}
    told = "; ".join(f"{name} = {value}" for name, value in given.items()) or "nothing is set"
    file = users.file or "no file, as HOME is not an absolute path"
    return Finding("settings", True, f"{told} (OFFLOAD_* variables, and {file})")


def _kind(kind: str, pynq: _Pynq) -> Report:
    """Report on FPGAs without a bitstream: the emulated one is given one of ours."""
    findings = _around(kind, pynq)
    if kind == "emu" and all(finding.ok for finding in findings):
        findings += _tried("try_emulated", "")
    return report(kind, kind, findings)


def _opened(name: str, users: settings.Settings, pynq: _Pynq) -> Report:
    """Report on a device that is opened; what is around it tells why it could not be."""
    try:
        address = users.address(name)
    except OptionError as error:
        return report(name, name, [Finding("address", False, str(error))])
    tried = _tried("try_device", address)
    works = all(finding.ok for finding in tried)
    return Report(name, address, works, [*_around(address.partition(":")[0], pynq), *tried])


def _unopened(name: str, address: str, pynq: _Pynq) -> Report:
    """Report on a card or board that is not to be disturbed."""
    try:
        config = boards.configure("pynq", address.partition(":")[2])
        kernels = ", ".join(kernel.name for kernel in boards.load(config).kernels)
        found = Finding("bitstream", True, f"{config.path}: {kernels}")
    except OffloadError as error:
        found = Finding("bitstream", False, str(error))
    open_ = Finding("open", None, "not tried: that would load the bitstream", f"offload doctor {name}")
    return report(name, address, [*_around("pynq", pynq), found, open_])


def _around(kind: str, pynq: _Pynq) -> list[Finding]:
    """Return what was found of that which a kind of device stands on."""
    if kind not in _NEED_A_FILE:
        return []
    package, devices = pynq()
    return [*package, *fpga.look_at_boards(), *devices] if kind == "pynq" else [*package]


def _tried(task: str, address: str) -> list[Finding]:
    findings, failure = child.ask(f"offload.doctor.trial:{task}", address, _OPENING)
    if failure:
        findings.append(Finding("answer", False, failure))
    return findings
