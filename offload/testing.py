"""Make bitstreams for the emulated FPGA: to develop without a board, and for users' own tests.

    from offload.testing import Xclbin

    made = Xclbin([vadd], units=4, banks={"HBM0": "256M", "HBM1": "256M"}, wiring={"vadd.out": "HBM1"})
    made.write("vadd.xclbin")
    offload.connect("emu:vadd.xclbin")

The file is an xclbin that pynq and XRT read; in the place of a circuit it
carries the kernels' functions, which only the emulated device runs.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from device_runtime.capture import Capture
from device_runtime.errors import OptionError
from device_runtime.fpga.bitstream import DATA_CLOCK, Argument, Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.circuit import Fault
from device_runtime.fpga.interface import INOUT, OUT, Parameter
from device_runtime.fpga.rtl import Rtl
from device_runtime.fpga.timing import TimingModel
from device_runtime.fpga.writing import pack
from offload import described
from offload.hardware import HardwareKernel
from offload.kernel import Kernel

T = TypeVar("T")

__all__ = ["Fault", "Rtl", "TimingModel", "Xclbin"]

_FIRST, _SPAN = 0x800000, 0x10000  # address of the first unit's registers, and how much a unit has
_LONGEST = 63  # characters of a unit's name in the file
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_CTYPES = {  # by NumPy's name of a dtype
    "bool": "bool",
    "int": "int",  # Python's
    "float": "double",
    "int8": "char",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long",
    "float16": "half",
    "float32": "float",
    "float64": "double",
    "complex64": "std::complex<float>",
    "complex128": "std::complex<double>",
}


class Xclbin:
    """Describe a bitstream for the emulated FPGA.

    `kernels` are decorated functions, each with `kernel=` or `xclbin=`.
    `units` is how many units each has, or a mapping by kernel. `banks` maps
    names of memory banks to their bytes (an int, or as "256M"), or is a list of
    names, of 1 GiB each. `wiring` maps arguments, as "vadd.out" for all units of
    a kernel or "vadd_2.out" for one, to the bank their port is wired to, or
    several; all others are wired to the bank that their kernel names, as in
    `In(bank="HBM1")`, else to the first. `clock` is in MHz. `faults`
    says of units what goes wrong in them, and `timing` what predictions of how
    long a circuit would take stand on. `models` maps kernels to what stands in
    the place of their circuit where that is not their own function: another
    function of the same arguments, or `Rtl`.

    Raises OptionError for what does not fit together, naming it.
    """

    def __init__(
        self,
        kernels: Sequence[HardwareKernel],
        units: int | Mapping[str, int] = 1,
        banks: Mapping[str, int | str] | Sequence[str] = ("DDR0",),
        wiring: Mapping[str, str | Sequence[str]] | None = None,
        clock: int = 300,
        faults: Mapping[str, Fault] | None = None,
        platform: str = "emulated",
        timing: TimingModel | None = None,
        models: Mapping[str, Callable[..., object] | Rtl] | None = None,
    ) -> None:
        if not isinstance(kernels, Iterable) or isinstance(kernels, str):
            raise OptionError(f"Xclbin: kernels={kernels!r} must be a list of kernels, as in Xclbin([vadd])")
        kernels = list(kernels)
        for kernel in kernels:
            if not isinstance(kernel, HardwareKernel):
                raise OptionError(f"Xclbin: {kernel!r} is no hardware kernel: decorate it with kernel=")
        self._kernels = kernels
        names = [kernel._body.interface.kernel for kernel in kernels]
        if not names or len(set(names)) < len(names):
            raise OptionError(f"Xclbin: kernels={names} must be different ones, at least one")
        if not isinstance(units, (int, Mapping)):
            raise OptionError(f"Xclbin: units={units!r} must be a number, or a mapping of kernels to numbers")
        if isinstance(clock, bool) or not isinstance(clock, int) or not 1 <= clock <= 10_000:
            raise OptionError(f"Xclbin: clock={clock!r} must be a whole number of MHz, from 1 to 10,000")
        counts = {name: units for name in names} if isinstance(units, int) else dict(units)
        for name, count in counts.items():
            if name not in names:
                raise OptionError(
                    f"Xclbin: units={units!r} names {name!r}; the kernels are {', '.join(names)}"
                )
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 64:
                raise OptionError(f"Xclbin: units={units!r} must be numbers from 1 to 64")
        if not isinstance(platform, str):
            raise OptionError(f"Xclbin: platform={platform!r} must be a name")
        self._models = self._modelled(_mapping("models", models), names)
        self._banks = _banks(banks)
        self._wiring = {name: _names(name, to) for name, to in _mapping("wiring", wiring).items()}
        for name, to in self._wiring.items():
            missing = [bank for bank in to if bank not in [known.name for known in self._banks]]
            if missing or not to:
                told = f"bank {missing[0]!r}" if missing else "no bank"
                raise OptionError(
                    f"Xclbin: wiring of {name} names {told}; "
                    f"there is {', '.join(bank.name for bank in self._banks)}"
                )
        used: set[str] = set()
        address = _FIRST
        specs = []
        for kernel, name in zip(kernels, names, strict=True):
            arguments = _arguments(kernel._body.interface.parameters, self._models.get(name))
            _check_name(name, counts.get(name, 1))
            made = []
            for n in range(counts.get(name, 1)):
                unit = f"{name}_{n + 1}"
                wired = tuple(
                    self._wired(name, unit, argument, parameter.bank, used)
                    for argument, parameter in zip(arguments, kernel._body.interface.parameters, strict=True)
                )
                made.append(Unit(unit, address, wired))
                address += _SPAN
            specs.append(KernelSpec(name, "ap_ctrl_hs", arguments, tuple(made), _SPAN))
        unknown = self._wiring.keys() - used
        if unknown:
            raise OptionError(
                f"Xclbin: wiring names {sorted(unknown)[0]!r}, which is no pointer of a kernel or unit"
            )
        self._directions = {
            name: [parameter.direction for parameter in kernel._body.interface.parameters]
            for kernel, name in zip(kernels, names)
        }
        self._faults = dict(_mapping("faults", faults))
        for name, fault in self._faults.items():
            known = [unit.name for spec in specs for unit in spec.units]
            if name not in known or not isinstance(fault, Fault):
                raise OptionError(
                    f"Xclbin: faults={faults!r} maps units to Faults; there is {', '.join(known)}"
                )
            if fault.kind == "flip" and not {OUT, INOUT} & set(self._directions[name.rpartition("_")[0]]):
                raise OptionError(f"Xclbin: faults={faults!r}: no array comes out of {name}, to be wrong")
        self._timing = self._checked(TimingModel() if timing is None else timing, names)
        self.bitstream = self._identified(
            Bitstream(b"", platform, self._banks, tuple(specs), ((DATA_CLOCK, clock),))
        )

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Xclbin:
        """Make the bitstream that a TOML file describes: its keys are the arguments of this class.

        A kernel is named "module:function", or "file.py:function" for a file
        beside this one, which is run. `faults` and `timing` are tables. A model
        is a function named so, or Verilog: a file, a list of files, or a table of
        `Rtl`'s arguments.

        Raises OptionError, naming file and key, and what a kernel's module raises.
        """
        given = described.arguments(path)
        try:
            return cls(**given)
        except OptionError as error:
            raise OptionError(f"{os.fspath(path)}: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, and return its path."""
        Path(path).write_bytes(pack(self.bitstream))
        return Path(path)

    def _wired(
        self, kernel: str, unit: str, argument: Argument, bank: str | None, used: set[str]
    ) -> tuple[str, ...]:
        """Return the banks of a unit's argument, whose kernel may name one."""
        if argument.kind == "scalar":
            return ()
        names = f"{unit}.{argument.name}", f"{kernel}.{argument.name}"
        used.update(names)
        known = [one.name for one in self._banks]
        if bank is not None and bank not in known:
            raise OptionError(
                f"Xclbin: {names[0]} is to be in bank {bank!r}; there is {', '.join(known)}, by banks="
            )
        found = next((self._wiring[name] for name in names if name in self._wiring), None)
        if found is None:
            return (bank or known[0],)
        if bank is not None and bank not in found:
            raise OptionError(
                f"Xclbin: {names[0]} is wired to {', '.join(found)}, and its kernel says bank={bank!r}"
            )
        return found

    def _checked(self, timing: TimingModel, kernels: Sequence[str]) -> TimingModel:
        if not isinstance(timing, TimingModel):
            raise OptionError(f"Xclbin: timing={timing!r} must be a TimingModel")
        banks = [bank.name for bank in self._banks]
        for names, known in zip(timing.names(), (kernels, banks)):
            for name in sorted(names - set(known)):
                raise OptionError(f"Xclbin: timing names {name!r}; there is {', '.join(known)}")
        return timing

    def _modelled(
        self, given: Mapping[str, Callable[..., object] | Rtl], names: Sequence[str]
    ) -> dict[str, Callable[..., object] | Rtl]:
        models: dict[str, Callable[..., object] | Rtl] = {
            one._body.interface.kernel: one.fn for one in self._kernels
        }
        given = {name: model.fn if isinstance(model, Kernel) else model for name, model in given.items()}
        for name, model in given.items():
            if name not in models:
                raise OptionError(f"Xclbin: models names {name!r}; the kernels are {', '.join(names)}")
            if not (isinstance(model, Rtl) or callable(model)):
                raise OptionError(
                    f"Xclbin: the model of {name} is {model!r}, and must be a function, or an Rtl"
                )
        for kernel in self._kernels:
            taken = kernel._body.interface
            _check_model(given.get(taken.kernel), taken.kernel, taken.parameters)
        return models | dict(given)

    def _identified(self, bitstream: Bitstream) -> Bitstream:
        models = {
            name: model if isinstance(model, Rtl) else Capture(model).image().data
            for name, model in self._models.items()
        }
        whole = bitstream._replace(
            circuit=pickle.dumps((models, self._faults, self._directions, self._timing))
        )
        return whole._replace(uuid=hashlib.sha256(repr(whole).encode()).digest()[:16])


def _mapping(name: str, given: Mapping[str, T] | None) -> Mapping[str, T]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise OptionError(f"Xclbin: {name}={given!r} must be a mapping of names")
    return given


def _names(argument: str, given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    names = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(name, str) for name in names):
        raise OptionError(f"Xclbin: wiring of {argument} is {given!r}, and must be a bank's name, or a list")
    return names


def _check_name(kernel: str, units: int) -> None:
    """Raise OptionError for a kernel whose units, which the file calls "vadd:vadd_1", have too long names."""
    most = (_LONGEST - len(f":_{units}")) // 2
    if len(kernel) > most:
        raise OptionError(
            f"Xclbin: kernel name {kernel!r} has {len(kernel)} characters; "
            f"with {units} units it may have {most}, as the file has {_LONGEST} for each, and calls "
            "those of vadd 'vadd:vadd_1' and so on"
        )


def _banks(given: Mapping[str, int | str] | Sequence[str]) -> tuple[Bank, ...]:
    single = isinstance(given, str) or not isinstance(given, Iterable)
    names = [] if single else list(given)
    if single or not all(isinstance(name, str) for name in names):
        raise OptionError(f"Xclbin: banks={given!r} must be a list of names, or a mapping of names to sizes")
    if not names:
        raise OptionError("Xclbin: there must be a memory bank")
    if len(set(names)) < len(names):
        raise OptionError(f"Xclbin: banks={given!r} must be different names")
    sizes = given if isinstance(given, Mapping) else dict.fromkeys(names, "1G")
    made, base = [], 0
    for name, size in sizes.items():
        found = re.fullmatch(r"(\d+)([KMG]?)", str(size))
        nbytes = int(found[1]) * _UNITS[found[2]] if found else 0
        if nbytes < 4096 or nbytes % 4096:
            raise OptionError(f"Xclbin: bank {name} of {size!r} bytes: a multiple of 4096, or such as '256M'")
        kind = next((kind for kind in ("HBM", "DDR4") if name.startswith(kind[:3])), "DDR4")
        made.append(Bank(name, kind, base, nbytes))
        base += nbytes
    if base > 1 << 64:
        raise OptionError(f"Xclbin: banks={given!r} are {base:,} bytes together, and addresses have 64 bits")
    return tuple(made)


def _check_model(model: object, kernel: str, parameters: Sequence[Parameter]) -> None:
    """Refuse a model that does not take a kernel's arguments."""
    if isinstance(model, Rtl):
        if not isinstance(model.ports, str):
            pointers = [one.name for one in parameters if one.direction is not None]
            for name in model.ports:
                if name not in pointers:
                    raise OptionError(
                        f"Rtl: ports names {name!r}; "
                        f"the pointers of {kernel} are {', '.join(pointers) or 'none'}"
                    )
    elif callable(model):
        try:
            inspect.signature(model).bind(*parameters)
        except TypeError as error:
            raise OptionError(
                f"Xclbin: the model of {kernel} does not take its {len(parameters)} arguments: {error}"
            ) from None
        except ValueError:
            pass  # what has no signature to be looked at may take them


def _arguments(parameters: Sequence[Parameter], model: object) -> tuple[Argument, ...]:
    """Return arguments with their registers where Vitis HLS puts them (UG1399)."""
    made, offset = [], 0x10
    for parameter in parameters:
        if parameter.direction is None:
            ctype = _CTYPES[parameter.dtype or "int"]
            kind, port = "scalar", "S_AXI_CONTROL"
            nbytes = 8 if ctype in ("long", "unsigned long", "double") else 4
        else:
            import numpy as np

            dtype = None if parameter.dtype is None else np.dtype(parameter.dtype).name
            ctype = f"{_CTYPES[dtype]}*" if dtype in _CTYPES else "void*"
            port = model.port(parameter.name) if isinstance(model, Rtl) else f"m_axi_{parameter.name}"
            kind, port, nbytes = "pointer", port.upper(), 8
        made.append(Argument(parameter.name, kind, ctype, offset, nbytes, port))
        offset += nbytes + 4
    return tuple(made)
