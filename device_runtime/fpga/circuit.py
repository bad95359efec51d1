"""What stands in the place of a circuit in a bitstream for the emulated FPGA."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

from device_runtime.capture import load_image
from device_runtime.errors import BitstreamError, OptionError
from device_runtime.fpga.rtl import Rtl

Model = Callable[..., object]


@dataclass(frozen=True)
class Fault:
    """What goes wrong in an emulated unit, from a run on that is counted from 0.

    `kind` is "hang": it is never done; "slow": it takes `seconds` more; or
    "flip": a bit of the last array among its arguments is wrong afterwards.

    Raises OptionError for another kind.
    """

    kind: str
    after: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("hang", "slow", "flip"):
            raise OptionError(f"Fault: kind={self.kind!r} must be 'hang', 'slow' or 'flip'")
        if not (isinstance(self.after, int) and self.after >= 0):
            raise OptionError(f"Fault: after={self.after!r} must be a number of runs")
        if not (isinstance(self.seconds, (int, float)) and 0 <= self.seconds < math.inf):
            raise OptionError(f"Fault: seconds={self.seconds!r} must be a number of seconds")


def load(circuit: bytes) -> tuple[dict[str, Model | Rtl], dict[str, Fault]]:
    """Return models by kernel, and faults by unit; none if the bitstream is for a board.

    Raises BitstreamError where they do not load here.
    """
    if not circuit:
        return {}, {}
    try:
        images, faults = pickle.loads(circuit)
        models = {
            kernel: found if isinstance(found, Rtl) else load_image(found) for kernel, found in images.items()
        }
    except Exception as error:
        raise _unloadable(error) from error
    return models, faults


def in_verilog(circuit: bytes) -> dict[str, Rtl]:
    """Return the models that are Verilog, by kernel, and load no other.

    Raises BitstreamError.
    """
    try:
        images = pickle.loads(circuit)[0] if circuit else {}
        return {kernel: found for kernel, found in images.items() if isinstance(found, Rtl)}
    except Exception as error:
        raise _unloadable(error) from error


def _unloadable(error: Exception) -> BitstreamError:
    return BitstreamError(
        f"its models do not load here ({error!r}); they are for the Python they were written by"
    )
