"""What stands in the place of a circuit in a bitstream for the emulated FPGA."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from device_runtime.capture import load_image
from device_runtime.errors import BitstreamError, OptionError
from device_runtime.fpga.rtl import Rtl
from device_runtime.fpga.timing import TimingModel
from device_runtime.hardware import perform

Model = Callable[..., object]
Directions = Sequence[str | None]  # of a kernel's arguments: "In", "Out", "InOut", None for a scalar


@dataclass(frozen=True)
class Fault:
    """What goes wrong in an emulated unit, from a run on that is counted from 0.

    `kind` is "hang": it is never done; "error": its registers do not answer any
    more, and are read as ones, as where a bus has failed; "slow": it takes
    `seconds` more; or "flip": a bit of the last array that it writes is wrong
    afterwards, of floats the highest of the exponent of the largest.

    Raises OptionError for another kind.
    """

    kind: str
    after: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("hang", "error", "slow", "flip"):
            raise OptionError(f"Fault: kind={self.kind!r} must be 'hang', 'error', 'slow' or 'flip'")
        if isinstance(self.after, bool) or not (isinstance(self.after, int) and self.after >= 0):
            raise OptionError(f"Fault: after={self.after!r} must be a number of runs")
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not (number and 0 <= self.seconds < math.inf):
            raise OptionError(f"Fault: seconds={self.seconds!r} must be a number of seconds")
        if self.kind == "slow" and not self.seconds:
            raise OptionError("Fault: kind='slow' needs seconds=, which the unit takes more")


class Circuit(NamedTuple):
    """What a bitstream for the emulated FPGA carries: models and directions by kernel, faults by unit."""

    models: Mapping[str, Model | Rtl] = {}
    faults: Mapping[str, Fault] = {}
    directions: Mapping[str, Directions] = {}
    timing: TimingModel = TimingModel()


def load(circuit: bytes) -> Circuit:
    """Return what a bitstream carries for the emulated FPGA; nothing if it is for a board.

    Raises BitstreamError where they do not load here.
    """
    if not circuit:
        return Circuit()
    try:
        images, *rest = pickle.loads(circuit)
        models = {
            kernel: found if isinstance(found, Rtl) else partial(perform, kernel, load_image(found))
            for kernel, found in images.items()
        }
        return Circuit(models, *rest)
    except Exception as error:
        raise _unloadable(error) from error


def directions(circuit: bytes, kernel: str) -> Directions:
    """Return those of a kernel's arguments, where a bitstream says it: that of no board does."""
    if not circuit:
        return ()
    try:
        _, *rest = pickle.loads(circuit)
        return Circuit({}, *rest).directions.get(kernel, ())
    except Exception as error:
        raise _unloadable(error) from error


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
    why = "they are for the Python they were written by"
    if isinstance(error, ModuleNotFoundError) and error.name:
        why = f"they use module {error.name!r}, which has to be beside the script, or installed, here, too"
    return BitstreamError(f"its models do not load here ({error!r}); {why}")
