"""What a device's address asks for: which board, with which bitstream, and how its units are grouped."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from device_runtime.errors import BitstreamError, DeviceUnavailable, OptionError
from device_runtime.fpga import hwh, manifest, xclbin
from device_runtime.fpga.bitstream import DATA_CLOCK, Bitstream, KernelSpec, Unit
from device_runtime.fpga.circuit import in_verilog
from device_runtime.fpga.manifest import Member
from device_runtime.fpga.writing import with_units

if TYPE_CHECKING:
    from device_runtime.fpga.answers import Answers
    from device_runtime.fpga.instance import InstanceDriver

HUNG = 75  # exit code of an owner one of whose units has hung: EX_TEMPFAIL


class Config(NamedTuple):
    """An address such as `emu:vadd.xclbin?units=8`, read."""

    kind: str  # "emu" or "pynq"
    path: str  # absolute
    units: int | None = None  # of each kernel; emulated only
    clock: int | None = None  # MHz; emulated only
    device: int | None = None  # which card; an emulated one shares none if it does not say
    timeout: float | None = None  # seconds a unit may take for one run; None: as it is used to
    wait: float = 0.0  # seconds to wait for a card that another program has
    members: tuple[Member, ...] = ()  # instances, as a manifest says
    manifest: str = ""  # its file, absolute
    asked: str = ""  # what stands behind the kind in the address

    @property
    def identity(self) -> str:
        """The address, however it was written: the path from the root, and what is not as it is anyway."""
        device = self.device or None if self.kind == "pynq" else self.device
        said = {"units": self.units, "clock": self.clock, "device": device, "timeout": self.timeout}
        query = "&".join(f"{name}={value}" for name, value in said.items() if value is not None)
        return f"{self.kind}:{self.manifest or self.path}?{query}".rstrip("?")

    @property
    def card(self) -> str:
        """Name of the card that the device is on; empty for an emulated one that has its own."""
        if self.kind == "pynq":
            return f"card {self.device or 0}"
        return "" if self.device is None else f"emulated card {self.device} of user {os.getuid()}"


def configure(kind: str, rest: str) -> Config:
    """Read what stands behind the kind in an address.

    Raises OptionError for what cannot be meant.
    """
    path, _, query = rest.partition("?")
    address = f"device={kind + ':' + rest!r}"
    if not path:
        raise OptionError(f"{address}: behind the colon stands a bitstream, as in '{kind}:vadd.xclbin'")
    path = _settled(path, address)
    given: dict[str, int | float] = {}
    known = {
        "emu": ("units", "clock", "device", "timeout", "wait"),
        "pynq": ("device", "timeout", "wait"),
    }[kind]
    for part in query.split("&") if query else ():
        name, _, text = part.partition("=")
        if name not in known:
            raise OptionError(f"{address}: there is no {name!r} to be set; there is {', '.join(known)}")
        if name in given:
            raise OptionError(f"{address}: {name} is set twice")
        given[name] = _number(address, name, text)
    if not path.endswith(".toml"):
        return Config(kind, path, asked=rest, **given)  # type: ignore[arg-type]
    if "units" in given:
        raise OptionError(f"{address}: the manifest names the units; units= goes with a bitstream")
    said = manifest.read(path)
    return Config(kind, said.bitstream, members=said.members, manifest=path, asked=rest, **given)  # type: ignore[arg-type]


def _settled(path: str, address: str) -> str:
    """Return a path from the root; folders that are links are followed before `..` is.

    Raises OptionError for what no file can be called.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise OptionError(f"{address}: no file can be called so: {error}") from None
    if b"\0" in encoded:
        raise OptionError(f"{address}: no file can be called so: it has a zero byte")
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _number(address: str, name: str, text: str) -> int | float:
    try:
        number = float(text) if name in ("timeout", "wait") else int(text)
    except ValueError:
        number = -1
    most = {"units": 64, "clock": 10_000, "device": 63, "timeout": 1e6, "wait": 1e6}[name]
    least = 1 if name in ("units", "clock") else 0
    if not least <= number <= most or (name == "timeout" and number == 0):
        known = f"above 0, up to {most:g}" if name == "timeout" else f"from {least} to {most:g}"
        raise OptionError(f"{address}: {name}={text!r} must be a number {known}")
    return number


def read(path: str) -> Bitstream:
    """Return what a file of a card, FILE.xclbin, or of a Zynq board, FILE.bit, says.

    Raises BitstreamError.
    """
    if "\0" in path:
        raise BitstreamError(f"{path!r} is the name of no file: it has a zero byte")
    if path.endswith((".hwh", ".xsa")):
        raise BitstreamError(f"{path}: name the .bit file, and have the .hwh file beside it")
    return hwh.read(path) if path.endswith(".bit") else xclbin.read(path)


def load(config: Config) -> Bitstream:
    """Return what is in the bitstream of an address; what it has in Verilog is built here.

    Raises BitstreamError, DeviceUnavailable where nothing can be built, and
    OptionError for what a manifest says wrongly of it.
    """
    if config.kind == "emu" and config.path.endswith(".bit"):
        raise BitstreamError(
            f"{config.path}: the emulated FPGA takes .xclbin files, which carry its kernels' functions"
        )
    found = read(config.path)
    if config.members:
        found = manifest.wired(found, config.members, config.manifest)
    if config.kind == "emu":
        try:
            _build(found)
        except BitstreamError as error:
            raise BitstreamError(f"{config.path}: {error}") from error
    if config.units:
        found = with_units(found, config.units)
    if config.clock:
        found = found._replace(clocks=((DATA_CLOCK, config.clock),))
    return found


def _build(bitstream: Bitstream) -> None:
    """Build what is in Verilog: here the user can stop it, and it may take its time; owners find it done."""
    verilog = in_verilog(bitstream.circuit)
    if verilog:
        from device_runtime.fpga.verilator import library

        for kernel in bitstream.kernels:
            if kernel.name in verilog:
                library(kernel, verilog[kernel.name])


def instances(bitstream: Bitstream, members: Sequence[Member] = ()) -> list[list[tuple[KernelSpec, Unit]]]:
    """Return the units that work together: as a manifest says, or the first ones of all kernels, and so on.

    Raises DeviceUnavailable where kernels have different numbers of units and there is no manifest.
    """
    units = {unit.name: (kernel, unit) for kernel in bitstream.kernels for unit in kernel.units}
    groups = [[units[name] for name in member.units] for member in members]
    kernels = [kernel for kernel in bitstream.kernels if kernel.units]
    if not kernels:
        raise DeviceUnavailable("the bitstream has no compute unit")
    for kernel, _ in chain(*groups) if groups else units.values():
        if kernel.protocol not in ("ap_ctrl_hs", "ap_ctrl_chain"):
            raise DeviceUnavailable(
                f"kernel {kernel.name} is controlled by {kernel.protocol}; "
                "only those by ap_ctrl_hs and ap_ctrl_chain can be started and waited for"
            )
    if groups:
        return groups
    if len({len(kernel.units) for kernel in kernels}) > 1:
        told = ", ".join(f"{len(kernel.units)} of {kernel.name}" for kernel in kernels)
        raise DeviceUnavailable(
            f"the bitstream has different numbers of units ({told}), and it is not said which work together: "
            "a manifest says so (see offload.Manifest)"
        )
    return [[(kernel, kernel.units[n]) for kernel in kernels] for n in range(len(kernels[0].units))]


def names(bitstream: Bitstream, members: Sequence[Member] = ()) -> dict[str, int]:
    """Return by which names an instance can be asked for: those of its units."""
    return {unit.name: n for n, group in enumerate(instances(bitstream, members)) for _, unit in group}


def open_board(config: Config, path: str, uuid: bytes, answers: Answers) -> list[InstanceDriver]:
    """Load a bitstream, in the owner of the device, and return its instances.

    `uuid` is the bitstream's that was opened, and `answers` is for what is known of its units.

    Raises DeviceUnavailable, saying what to do.
    """
    from device_runtime.fpga.buffers import Store
    from device_runtime.fpga.habit import Habit
    from device_runtime.fpga.instance import InstanceDriver
    from device_runtime.fpga.room import Room
    from device_runtime.fpga.unit import UnitDriver

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pynq says of most machines that it does not know them
            from device_runtime.fpga import board
    except ImportError as error:
        raise DeviceUnavailable(
            f"pynq cannot be imported ({error}): pip install 'offload[alveo]', "
            "or 'offload[zynq]' on a board; it needs Python 3.10 to 3.12"
        ) from error
    except OSError as error:  # pynq looks for XRT where the environment says that it is
        raise DeviceUnavailable(
            f"XRT cannot be loaded ({error}), and XILINX_XRT is {os.environ.get('XILINX_XRT')!r}: "
            "source the setup.sh of an XRT that is there, up to 2.15"
        ) from error
    except Exception as error:
        stripped = "; PYTHONOPTIMIZE=2 leaves out what its parser needs" if sys.flags.optimize > 1 else ""
        raise DeviceUnavailable(f"pynq cannot be imported: {error!r}{stripped}") from error
    bitstream = manifest.wired(read(path), config.members, config.manifest)
    if bitstream.uuid != uuid:
        raise DeviceUnavailable(
            f"{path} was another bitstream ({uuid.hex()}) when it was opened than it is now "
            f"({bitstream.uuid.hex()}): close the device, and open it again"
        )
    if config.kind == "emu":
        made: board.Board = board.EmulatedBoard(path, bitstream)
    else:
        made = board.open_card(config.device or 0, path, bitstream)
    kept = Store()
    groups = instances(bitstream, config.members)
    shares = [member.batch for member in config.members] or [None] * len(groups)
    habits = {kernel.name: Habit(config.timeout) for kernel in bitstream.kernels}
    room = Room()
    driven = [
        [UnitDriver(made, spec, unit, habits[spec.name], answers) for spec, unit in group] for group in groups
    ]
    return [
        InstanceDriver(made, drivers, kept, room, share)
        for drivers, share in zip(driven, shares, strict=True)
    ]
