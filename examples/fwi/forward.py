"""How a ground answers: the matrix that makes pressures of contrasts.

Born's approximation of the Lippmann–Schwinger equation in two dimensions: a
cell is an echo of what reaches it straight from a source, and its echo reaches
a receiver straight.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import j0, y0

from .configuration import Configuration, ConfigurationError, Point

Real = NDArray[np.float64]


def green(k: float, distance: Real) -> NDArray[np.complex128]:
    """Return the sound of a point source of wave number `k` (1/m) at distances in metres; 0 at its place.

    ¼(−Y₀(kr) + iJ₀(kr)), the free-space Green's function in two dimensions.
    """
    apart = distance > 0
    r = k * np.where(apart, distance, 1.0)
    return np.where(apart, 0.25 * (-y0(r) + 1j * j0(r)), 0.0)


def wave_numbers(asked: Configuration) -> Real:
    """Return 2πf/c₀ for each frequency, in 1/m."""
    band = asked.Freq
    step = (band.max - band.min) / (max(band.nTotal, 2) - 1)
    found: Real = 2 * np.pi * (band.min + step * np.arange(band.nTotal)) / asked.c_0
    return found


def spacing(asked: Configuration) -> tuple[float, float]:
    """Return the size of a cell in x and in z, in metres."""
    top, bottom = asked.reservoirTopLeft, asked.reservoirBottomRight
    return (bottom.x - top.x) / asked.ngrid.x, (bottom.z - top.z) / asked.ngrid.z


def centres(asked: Configuration) -> Real:
    """Return the centres of the cells, (N, 2), row by row from the top."""
    top, (dx, dz) = asked.reservoirTopLeft, spacing(asked)
    x = top.x + dx * (np.arange(asked.ngrid.x) + 0.5)
    z = top.z + dz * (np.arange(asked.ngrid.z) + 0.5)
    return np.stack([np.tile(x, len(z)), np.repeat(z, len(x))], axis=1)


def line(first: Point, last: Point, count: int) -> Real:
    """Return equally spaced points on a line, (count, 2)."""
    return np.stack([np.linspace(first.x, last.x, count), np.linspace(first.z, last.z, count)], axis=1)


def matrix(asked: Configuration, dtype: DTypeLike = np.complex64) -> NDArray[Any]:
    """Return K, (M, N): the pressures that each cell alone would give, for a contrast of 1.

    Rows are by frequency, then receiver, then source; columns by cell.

    Raises ConfigurationError where this machine's memory does not hold it.
    """
    needed = asked.rows * asked.cells * np.dtype(dtype).itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigurationError(
            f"K has {asked.rows:,} pressures x {asked.cells:,} cells, which take {needed / 1e9:,.0f} GB, and "
            f"this machine has {there / 1e9:,.0f}: use fewer frequencies, sources, receivers or cells"
        )
    cells, (dx, dz) = centres(asked), spacing(asked)
    sources = line(asked.sourcesTopLeft, asked.sourcesBottomRight, asked.nSources)
    receivers = line(asked.receiversTopLeft, asked.receiversBottomRight, asked.nReceivers)
    to_sources, to_receivers = (
        np.linalg.norm(cells - points[:, None], axis=2) for points in (sources, receivers)
    )
    found = np.empty((asked.Freq.nTotal, asked.nReceivers, asked.nSources, len(cells)), dtype)
    for part, k in zip(found, wave_numbers(asked), strict=True):
        heard = (dx * dz * k**2 * green(k, to_receivers))[:, None]
        np.multiply(heard, green(k, to_sources), out=part, casting="same_kind")  # no other array of its size
    return found.reshape(asked.rows, len(cells))
