"""Cut a ground into parts, each a smaller problem of its own, and put what was found together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .configuration import Configuration, ConfigurationError, Grid, Point
from .forward import Real, spacing

_LEAST = 3  # cells in each direction: a gradient of second order takes as many


class Part(NamedTuple):
    """A piece of the ground: its own configuration, and which of the whole's cells it has, (N,)."""

    asked: Configuration
    cells: np.ndarray


def split(asked: Configuration, count: int, even: bool = False, shares: Sequence[int] = ()) -> list[Part]:
    """Cut the domain across its longer side into `count` parts, as even as possible, or by shares.

    Parts of `shares` 2, 1, 1 have half, a quarter and a quarter of it; there is one for each part.

    Every part is heard by all receivers, and shot at from all sources, as if
    the others were not there.

    Raises ConfigurationError where parts would be thinner than 3 cells, with `even`
    where they would not be alike, and for shares that are no whole numbers of 1 or more.
    """
    along = "x" if asked.ngrid.x >= asked.ngrid.z else "z"
    total = getattr(asked.ngrid, along)
    if count < 1 or total < _LEAST * count:
        raise ConfigurationError(
            f"ngrid.{along} is {total}, which makes 1 to {total // _LEAST} parts of {_LEAST} cells "
            f"or more, not {count}"
        )
    weights = list(shares) or [1] * count
    if len(weights) != count or not all(isinstance(one, (int, np.integer)) and one > 0 for one in weights):
        raise ConfigurationError(
            f"shares are {weights}, and must be {count} whole numbers of 1 or more, one for each part"
        )
    ends = [total * sum(weights[: part + 1]) // sum(weights) for part in range(count)]
    sizes = [end - begin for begin, end in zip([0, *ends], ends)]
    if min(sizes) < _LEAST:
        raise ConfigurationError(
            f"ngrid.{along} is {total}, which shares {weights} cut into {sizes}; {_LEAST} cells are the least"
        )
    if even and min(sizes) < max(sizes):
        raise ConfigurationError(
            f"ngrid.{along} is {total}, cut into {sizes}: {count} parts that are not alike"
        )
    numbers = np.arange(asked.cells).reshape(asked.ngrid.z, asked.ngrid.x)
    parts, begin = [], 0
    for size in sizes if len(shares) else sorted(sizes, reverse=True):
        piece = slice(begin, begin + size)
        cells = numbers[:, piece] if along == "x" else numbers[piece]
        parts.append(Part(_cut(asked, along, begin, size), cells.ravel()))
        begin += size
    return parts


def join(parts: Sequence[Part], found: Sequence[Real]) -> Real:
    """Return what was found in the parts, by the whole's cells, (N,)."""
    whole = np.empty(sum(len(part.cells) for part in parts))
    for part, chi in zip(parts, found, strict=True):
        whole[part.cells] = chi
    return whole


def _cut(asked: Configuration, along: str, begin: int, size: int) -> Configuration:
    top, (dx, dz) = asked.reservoirTopLeft, spacing(asked)
    bottom = asked.reservoirBottomRight
    if along == "x":
        first, last = Point(top.x + dx * begin, top.z), Point(top.x + dx * (begin + size), bottom.z)
        grid = Grid(size, asked.ngrid.z)
    else:
        first, last = Point(top.x, top.z + dz * begin), Point(bottom.x, top.z + dz * (begin + size))
        grid = Grid(asked.ngrid.x, size)
    return replace(asked, reservoirTopLeft=first, reservoirBottomRight=last, ngrid=grid)
