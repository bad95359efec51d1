"""What FPGAs need: the package pynq, and for real ones XRT, a card or a Zynq board, and leave to open it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from offload.doctor import child
from offload.doctor.finding import Finding
from offload.doctor.machine import version

_PATIENCE = 60.0  # seconds that importing pynq, and looking for devices, may take; boards are slow
# The first versions that pynq does not work with: the pins of the extras.
TOO_NEW = {"numpy": 2, "pycparser": 3, "setuptools": 81}
_ALVEO, _ZYNQ = "pip install 'offload[alveo]'", "pip install 'offload[zynq]'"
_CARDS = "3.0.1"  # the last version of pynq that drives cards by XRT
_NEWEST_XRT = (2, 15)  # that it can be had with
_XILINX = "0x10ee"  # the vendor's number on the PCI bus
_DRIVERS = ("xocl", "zocl", "zocl-drm")  # XRT's, of a card and of a Zynq


class Pynq(NamedTuple):
    """What was found of the package, which the emulated FPGA needs, too, and of the devices that it finds."""

    package: list[Finding]
    devices: list[Finding]


def look_at_pynq() -> list[Finding]:
    """Return what was found of the package pynq, without loading it here."""
    found = version("pynq")
    if found is None:
        here = sys.version_info[:2]
        fitting = "" if here <= (3, 12) else f", with Python 3.10 to 3.12 (this is {here[0]}.{here[1]})"
        return [Finding("pynq", False, "it is not installed", f"{_ALVEO}, or {_ZYNQ} on a board{fitting}")]
    works = found == _CARDS or (3, 1, 2) <= _numbers(found) < (5,)
    told = found if works else f"{found}: offload works with {_CARDS}, and with 3.1.2 up to, not including, 5"
    findings = [Finding("pynq", works, told, "" if works else f"{_ALVEO}, or {_ZYNQ} on a board")]
    for name, bound in TOO_NEW.items():
        has = version(name)
        if has is not None and _numbers(has) >= (bound,):
            told = f"{has}: pynq does not work with {bound} or later"
            findings.append(Finding(name, False, told, f"pip install '{name}<{bound}'"))
    return findings


def ask_for_pynq() -> Pynq:
    """Return what was found of the package, and what it says in a process of its own.

    There it is imported, and looks for devices: XRT, which it loads, may crash or hang.
    """
    package = look_at_pynq()
    if version("pynq") is None:
        return Pynq(package, [])
    answer = child.ask(f"{__name__}:ask_pynq", "", _PATIENCE)
    imported, devices = answer.findings[:1], answer.findings[1:]
    # What was not told of is what it ended by.
    if answer.failure and not imported:
        todo = f"{_ALVEO} again, or {_ZYNQ} on a board, in a new virtual environment"
        imported = [Finding("import pynq", False, answer.failure, todo)]
    elif answer.failure:
        devices = [Finding("devices", False, answer.failure, "see `xbutil examine`, and `dmesg`")]
    return Pynq([*package, *imported], devices)


def ask_pynq(_: str, tell: child.Tell) -> None:
    """Be the process that asks pynq."""
    import warnings

    warnings.simplefilter("ignore")
    import pynq

    tell(Finding("import pynq", True, os.path.dirname(pynq.__file__)))
    names = [str(device.name) for device in pynq.Device.devices]
    todo = "" if names else "see the lines above, else `xbutil examine`"
    tell(Finding("devices", bool(names), f"pynq finds {', '.join(names) or 'none'}", todo))


def look_at_boards(root: str = "/", environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Return what was found of cards, boards and XRT, by what the system says of them."""
    top = Path(root)
    cards, zynq = _cards(top), _has(top / "sys/class/fpga_manager")
    findings = []
    if cards or not zynq:
        findings.append(_card(top, cards))
    if zynq:
        findings.append(_zynq(top))
    elif (top / "dev/xlnk").exists():
        told = "/dev/xlnk without an FPGA manager: the image is of PYNQ 2.6 or before"
        findings.append(Finding("board", False, told, "write an image of PYNQ 3.1 or later to its card"))
    findings += map(partial(_node, top), _nodes(top))
    findings.append(_xrt(top, environment, zynq and not cards))
    if cards and (version("pynq") or _CARDS) != _CARDS:
        told = f"pynq {version('pynq')} drives no cards any more; {_CARDS} does"
        findings.append(Finding("pynq for cards", False, told, _ALVEO))
    return findings


def _cards(top: Path) -> list[Path]:
    """Return the functions on the PCI bus that are those of FPGA cards."""
    bus = top / "sys/bus/pci/devices"
    functions = sorted(bus.iterdir()) if bus.is_dir() else []
    return [one for one in functions if _text(one / "vendor") == _XILINX or _driver(one) in _DRIVERS]


def _card(top: Path, cards: list[Path]) -> Finding:
    if not cards:
        told = "no card of AMD's or Xilinx's on the PCI bus, and no FPGA manager, which a Zynq board has"
        todo = "in a container or virtual machine, pass the card on to it; without a board, use `emu:`"
        return Finding("card", False, told, todo)
    drivers = {card.name: _driver(card) for card in cards}
    told = ", ".join(f"{name} ({driver or 'no driver'})" for name, driver in drivers.items())
    if any(driver in _DRIVERS for driver in drivers.values()):
        return Finding("card", True, told)
    if "vfio-pci" in drivers.values():
        return Finding("card", False, told, "it is set apart for a virtual machine: give it back to the host")
    return Finding("card", False, told, "load XRT's driver: sudo modprobe xocl; see `dmesg` if that fails")


def _zynq(top: Path) -> Finding:
    names = ", ".join(sorted(one.name for one in (top / "sys/class/fpga_manager").iterdir()))
    if os.geteuid() != 0:
        return Finding(
            "board", False, f"{names}, and this user is not root", "sudo -E, as pynq needs /dev/mem"
        )
    return Finding("board", True, names)


def _nodes(top: Path) -> list[Path]:
    """Return the device files by which XRT reaches FPGAs; graphics cards have such, too."""
    folder = top / "sys/class/drm"
    known = sorted(folder.glob("renderD*")) if folder.is_dir() else []
    return [top / "dev/dri" / one.name for one in known if _driver(one / "device") in _DRIVERS]


def _node(top: Path, node: Path) -> Finding:
    name = f"/{node.relative_to(top)}"
    if not node.exists():
        todo = f"in a container, pass it on: docker run --device {name}"
        return Finding(name, False, "the system has it, but it cannot be seen here", todo)
    if not os.access(node, os.R_OK | os.W_OK):
        group = _group(node)
        todo = f"sudo usermod -aG {group} $USER, and log in again"
        return Finding(name, False, f"only root and the group {group} may read and write it", todo)
    return Finding(name, True, "may be read and written")


def _group(node: Path) -> str:
    import grp

    number = node.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _xrt(top: Path, environment: Mapping[str, str], zynq: bool) -> Finding:
    place = environment.get("XILINX_XRT", "")
    if not place:
        setup = "/opt/xilinx/xrt/setup.sh"
        if zynq:
            todo = "source /etc/profile.d/xrt_setup.sh, or run in a root shell of the board's image: sudo -i"
        elif top.joinpath(setup[1:]).exists():
            todo = f"source {setup}"
        else:
            todo = "install XRT, up to 2.15, and source its setup.sh"
        return Finding("XRT", False, "XILINX_XRT is not set", todo)
    if zynq:
        return Finding("XRT", True, place)
    if mode := environment.get("XCL_EMULATION_MODE"):
        told = f"XCL_EMULATION_MODE={mode}: XRT would emulate instead of using the card"
        return Finding("XRT", False, told, "unset XCL_EMULATION_MODE")
    library = os.path.join(place, "lib/libxrt_core.so")
    if not os.path.exists(library):
        return Finding(
            "XRT", False, f"XILINX_XRT={place}: there is no {library}", "source XRT's setup.sh again"
        )
    try:
        found = str(json.loads(Path(place, "version.json").read_text())["BUILD_VERSION"])
    except (OSError, ValueError, KeyError, TypeError):
        return Finding("XRT", True, f"{place}, of a version that it does not say")
    if _numbers(found)[:2] > _NEWEST_XRT:
        told = f"{found} in {place}: pynq {_CARDS}, which drives cards, works up to 2.15"
        return Finding("XRT", False, told, "install XRT 2.15, or an older one that fits the card's shell")
    return Finding("XRT", True, f"{found} in {place}")


def _has(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _driver(device: Path) -> str:
    driver = device / "driver"
    return os.path.basename(os.path.realpath(driver)) if driver.exists() else ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    parts = text.split(".")
    whole = [int(part) for part in parts if part.isdecimal()]
    return tuple(whole[: next((n for n, part in enumerate(parts) if not part.isdecimal()), len(parts))])
