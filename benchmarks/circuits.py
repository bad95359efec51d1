"""Hardware kernels to be measured; imported where that is done, as it loads offload."""

from __future__ import annotations

import numpy as np

from offload import In, InOut, Out, offload


@offload(kernel="nothing")
def nothing(n: int) -> None:
    """Do nothing."""


@offload(kernel="vadd")
def vadd(a: In("float32"), b: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
    """Add vectors."""
    np.add(a[:n], b[:n], out=out[:n])


@offload(kernel="grow")
def grow(x: InOut("float32"), by: float) -> None:  # type: ignore[valid-type]
    """Add a number to each element."""
    np.add(x, np.float32(by), out=x)


@offload(kernel="angles")
def angles(y: In("float32"), x: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
    """Give the angles of points to the axis of x, in radians, which takes far longer than to add."""
    np.arctan2(y[:n], x[:n], out=out[:n])


@offload(kernel="vadd")
def vadd_int(a: In("int32"), b: In("int32"), out: Out("int32"), n: int) -> None:  # type: ignore[valid-type]
    """Add vectors of integers, as examples/rtl/vadd.v does."""
    np.add(a[:n], b[:n], out=out[:n])
