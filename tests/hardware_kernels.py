"""Hardware kernels, and a bitstream that has them."""

from __future__ import annotations

from typing import Annotated, Any

from bitstreams import arguments, vadd

from device_runtime.fpga.bitstream import Bitstream, KernelSpec, Unit
from offload import In, InOut, Out, offload


@offload(xclbin="vadd.xclbin", kernel="vadd")
def add(a: In("float32"), b: In, out: Out, n: int):  # type: ignore[valid-type, no-untyped-def]
    out[:n] = a[:n] + b[:n]


@offload(kernel="scale")
def scale(x: Annotated[Any, InOut], factor: float) -> None:
    x *= factor


@offload(kernel="split")
def split(x: In, low: Out, high: Out) -> None:
    low[:], high[:] = x[: len(low)], x[len(low) :]


def bitstream() -> Bitstream:
    """Return one with all the kernels above."""
    made = vadd()
    banks = ("HBM0",), ("HBM1", "HBM2"), ("HBM2",)
    scaling = KernelSpec(
        "scale",
        "ap_ctrl_chain",
        arguments(x="double*", factor="double"),
        (Unit("scale_1", 0x900000, (("HBM0",), ())),),
    )
    splitting = KernelSpec(
        "split",
        "ap_ctrl_hs",
        arguments(x="int*", low="int*", high="int*"),
        (Unit("split_1", 0xA00000, banks),),
    )
    return made._replace(kernels=(*made.kernels, scaling, splitting))
