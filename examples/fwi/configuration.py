"""What is measured, where, and how finely the ground is looked at."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LARGEST = 1e9  # metres, hertz, sources: far more than there ever are


class ConfigurationError(ValueError):
    """Refuse a configuration, naming the field, its value and what it may be."""


@dataclass(frozen=True)
class Point:
    """A place, in metres: x along the surface, z downward."""

    x: float
    z: float


@dataclass(frozen=True)
class Band:
    """Frequencies in Hz, `nTotal` of them from `min` to `max`, equally spaced; a single one is `min`."""

    min: float = 10.0
    max: float = 40.0
    nTotal: int = 5


@dataclass(frozen=True)
class Grid:
    """Cells of the ground in each direction."""

    x: int = 50
    z: int = 10


@dataclass(frozen=True)
class Configuration:
    """One survey. Lengths are in metres, speeds in metres a second."""

    c_0: float = 2000.0  # of sound in the ground around the domain
    Freq: Band = field(default_factory=Band)
    reservoirTopLeft: Point = Point(-300.0, 0.0)
    reservoirBottomRight: Point = Point(300.0, 300.0)
    sourcesTopLeft: Point = Point(-480.0, -5.0)
    sourcesBottomRight: Point = Point(480.0, -5.0)
    receiversTopLeft: Point = Point(-480.0, -5.0)
    receiversBottomRight: Point = Point(480.0, -5.0)
    nSources: int = 10
    nReceivers: int = 10
    ngrid: Grid = field(default_factory=Grid)
    tolerance: float = 9.99e-7  # the inversion ends when the misfit changes by less
    max: int = 1000  # iterations

    def __post_init__(self) -> None:
        _check(self)

    @property
    def cells(self) -> int:
        """How many cells the domain has: N."""
        return self.ngrid.x * self.ngrid.z

    @property
    def rows(self) -> int:
        """How many pressures are measured: M."""
        return self.Freq.nTotal * self.nSources * self.nReceivers


def read(path: str | Path) -> Configuration:
    """Return the configuration that a JSON file holds; what it leaves out is as by default.

    Raises ConfigurationError, naming the file.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise ConfigurationError(f"{path} is empty; {{}} is a configuration of nothing but defaults")
    try:
        return parse(json.loads(text, object_pairs_hook=_once))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        raise ConfigurationError(f"{path} is no JSON that can be read: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON's; Python would keep the last of those that are given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"{twice} is given more than once")
    return found


def parse(given: Any) -> Configuration:
    """Return the configuration that a dict holds.

    Raises ConfigurationError.
    """
    found: Configuration = _made(Configuration, given, "")
    return found


def _made(kind: Any, given: Any, name: str) -> Any:
    fields = {one.name: one for one in dataclasses.fields(kind)}
    if not isinstance(given, dict):
        raise ConfigurationError(
            f"{name.rstrip('.') or 'it'} is {given!r}, and must have the fields {', '.join(fields)}"
        )
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        raise ConfigurationError(f"{name}{unknown[0]} is not known; there are {', '.join(fields)}")
    missing = [each for each, one in fields.items() if each not in given and _is_needed(one)]
    if missing:
        raise ConfigurationError(f"{name}{missing[0]} is missing")
    kinds = {"Freq": Band, "ngrid": Grid}
    values = {}
    for each, value in given.items():
        part = kinds.get(each, Point if fields[each].type == "Point" else None)
        values[each] = _made(part, value, f"{name}{each}.") if part else _number(fields[each], value, name)
    return kind(**values)


def _is_needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _number(one: dataclasses.Field[Any], value: Any, name: str) -> float | int:
    wanted = (int,) if one.type == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ConfigurationError(f"{name}{one.name} is {value!r}, and must be {_a(one.type)}")
    if not abs(value) <= _LARGEST:  # what is no number is not, either
        raise ConfigurationError(
            f"{name}{one.name} is {reprlib.repr(value)}, and must be finite, "
            f"from -{_LARGEST:g} to {_LARGEST:g}"
        )
    return int(value) if one.type == "int" else float(value)


def _a(kind: Any) -> str:
    return "a whole number" if kind == "int" else "a number"


def _check(asked: Configuration) -> None:
    top, bottom = asked.reservoirTopLeft, asked.reservoirBottomRight
    least = [
        ("c_0", asked.c_0, 0, False),
        ("Freq.min", asked.Freq.min, 0, False),
        *([("Freq.max", asked.Freq.max, asked.Freq.min, False)] if asked.Freq.nTotal != 1 else []),
        ("Freq.nTotal", asked.Freq.nTotal, 1, True),
        ("nSources", asked.nSources, 1, True),
        ("nReceivers", asked.nReceivers, 1, True),
        ("ngrid.x", asked.ngrid.x, 3, True),  # a gradient of second order takes as many
        ("ngrid.z", asked.ngrid.z, 3, True),
        ("tolerance", asked.tolerance, 0, True),
        ("max", asked.max, 1, True),
        ("reservoirBottomRight.x", bottom.x, top.x, False),
        ("reservoirBottomRight.z", bottom.z, top.z, False),
    ]
    for name, value, bound, may_be in least:
        if not math.isfinite(value) or value < bound or (value == bound and not may_be):
            raise ConfigurationError(
                f"{name} is {value}, and must be {'at least' if may_be else 'more than'} {bound}"
            )
