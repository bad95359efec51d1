"""Manifests: which units of a bitstream work together, as instances, in a TOML file.

bitstream = "fwi.xclbin"                # from the folder of this file

[[instances]]
units = ["dotprod_1", "update_1"]
banks = { "update.K" = "HBM3" }         # of those that its port is wired to; "update_1.K" is that of one unit
batch = 500                             # how much of a data set is its share
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from device_runtime import toml
from device_runtime.errors import OptionError
from device_runtime.fpga.bitstream import Bitstream, KernelSpec, Unit
from device_runtime.fpga.files import size_of


class Member(NamedTuple):
    """An instance: its units by name, the banks asked for by argument ("update.K"), and its share of data."""

    units: tuple[str, ...]
    banks: tuple[tuple[str, str], ...] = ()
    batch: int | None = None


class Manifest(NamedTuple):
    """A bitstream's file, and its instances."""

    bitstream: str
    members: tuple[Member, ...]


def read(path: str) -> Manifest:
    """Return what a manifest says; its bitstream is not looked at.

    Raises OptionError, naming file and key.
    """
    try:
        size_of(path)
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from error
    given = toml.parse(text, path)
    _check_keys(given, ("bitstream", "instances"), path)
    bitstream = given.get("bitstream")
    if not isinstance(bitstream, str) or not bitstream:
        raise OptionError(f"{path}: bitstream={bitstream!r} must be the name of a file")
    folder = os.path.dirname(os.path.realpath(path))
    return Manifest(os.path.join(folder, bitstream), members(given.get("instances"), path))


def members(given: Any, where: str) -> tuple[Member, ...]:
    """Return instances as they are described: a list of mappings.

    Raises OptionError for what none can be, naming it.
    """
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise OptionError(f"{where}: instances={given!r} must be a list of tables, each with its units")
    found = tuple([_member(one, f"{where}: instance {n}") for n, one in enumerate(given)])
    seen: dict[str, int] = {}
    for n, one in enumerate(found):
        for unit in one.units:
            if unit in seen:
                raise OptionError(f"{where}: unit {unit} is named by instances {seen[unit]} and {n}")
            seen[unit] = n
    return found


def _member(given: Any, where: str) -> Member:
    if not isinstance(given, Mapping):
        raise OptionError(f"{where} is {given!r}, and must be a table: units, and maybe banks and batch")
    _check_keys(given, ("units", "banks", "batch"), where)
    units, banks, batch = given.get("units"), given.get("banks", {}), given.get("batch")
    if not isinstance(units, Sequence) or isinstance(units, str) or not units:
        raise OptionError(f"{where}: units={units!r} must be a list of names of units")
    if not all(isinstance(unit, str) for unit in units) or len(set(units)) < len(units):
        raise OptionError(f"{where}: units={list(units)!r} must be different names")
    if not isinstance(banks, Mapping) or not all(isinstance(bank, str) for bank in banks.values()):
        raise OptionError(f"{where}: banks={banks!r} must be a table of arguments and their banks")
    try:
        share = None if batch is None else 0 if isinstance(batch, bool) else operator.index(batch)
    except TypeError:
        share = 0
    if share is not None and share < 1:
        raise OptionError(f"{where}: batch={batch!r} must be a whole number above 0")
    return Member(tuple(units), tuple(banks.items()), share)


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise OptionError(f"{where}: there is no {key!r} to be set; there is {', '.join(known)}")


def wired(bitstream: Bitstream, asked: Sequence[Member], path: str) -> Bitstream:
    """Return a bitstream whose units are wired to nothing but the banks that instances ask for.

    Raises OptionError, naming the manifest's file, for units, arguments and banks that it has not.
    """
    units = {unit.name: (kernel, unit) for kernel in bitstream.kernels for unit in kernel.units}
    for n, member in enumerate(asked):
        where = f"{path}: instance {n}"
        for name in member.units:
            if name not in units:
                raise OptionError(f"{where}: the bitstream has no unit {name!r}; it has {', '.join(units)}")
        for argument, bank in member.banks:
            for name, place in _places([units[name] for name in member.units], argument, where):
                kernel, unit = units[name]
                own = f"{name}.{kernel.arguments[place].name}"
                if own != argument and own in dict(member.banks):
                    continue  # it has a bank of its own
                if bank not in unit.banks[place]:
                    raise OptionError(
                        f"{where}: {argument} is to be in bank {bank}, and unit {name} is wired to "
                        f"{', '.join(unit.banks[place]) or 'none'} there"
                    )
                banks = (*unit.banks[:place], (bank,), *unit.banks[place + 1 :])
                units[name] = kernel, unit._replace(banks=banks)
    kernels = [
        kernel._replace(units=tuple([units[unit.name][1] for unit in kernel.units]))
        for kernel in bitstream.kernels
    ]
    return bitstream._replace(kernels=tuple(kernels))


def _places(group: Sequence[tuple[KernelSpec, Unit]], argument: str, where: str) -> list[tuple[str, int]]:
    """Return which arguments of which units are meant: "update.K", or "update_1.K" for one unit's."""
    owner, _, name = argument.partition(".")
    found = [
        (unit.name, place)
        for kernel, unit in group
        for place, one in enumerate(kernel.arguments)
        if one.name == name and one.kind == "pointer" and owner in (kernel.name, unit.name)
    ]
    if not found:
        raise OptionError(f"{where}: banks names {argument!r}, which is no array of its units")
    return found
