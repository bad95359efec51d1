"""The ground: a contrast, 1 - (c_0/c)^2, for every cell."""

from __future__ import annotations

import reprlib
from pathlib import Path

import numpy as np

from .configuration import Configuration, ConfigurationError
from .forward import Real


def layered(asked: Configuration) -> Real:
    """Return the contrasts of a ground in layers, for trying out: (N,), row by row from the top."""
    layers = np.zeros(asked.ngrid.z)
    known = (0.0, 0.173553719, 0.198039652, 0.243856333, 0.221453287)[: asked.ngrid.z]
    layers[: len(known)] = known
    return np.repeat(layers, asked.ngrid.x)


def read(path: str, cells: int) -> Real:
    """Return the contrasts, (cells,), that a file holds, separated by white space.

    Raises ConfigurationError, naming the file, for another number of them and for what is no number.
    """
    try:
        words = Path(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    for place, word in enumerate(words):
        try:
            finite = np.isfinite(float(word)) and "_" not in word
        except ValueError:
            finite = False
        if not finite:
            raise ConfigurationError(
                f"{path}: number {place + 1} is {reprlib.repr(word)}, and must be finite; "
                "white space is what separates them"
            )
    if len(words) != cells:
        raise ConfigurationError(f"{path} has {len(words)} numbers, and the grid has {cells} cells")
    return np.array(words, float)
