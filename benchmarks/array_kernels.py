"""Kernels that use NumPy, in a module that every peer can import."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def total(array: Any) -> float:
    """Return the sum of an array."""
    return float(array.sum())


def numpy_total(count: int) -> float:
    """Return the sum of the first numbers, with NumPy."""
    return float(np.arange(count).sum())


def kept(count: int) -> Any:
    """Return an array of so many float64 that this process has made once."""
    # In a module that no system takes for the user's own, or it would be sent along with each call.
    store = vars(sys).setdefault("_kept_by_benchmarks", {})
    if count not in store:
        store[count] = np.arange(count, dtype=np.float64)
    return store[count]
