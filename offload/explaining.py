"""Say where the time of a hardware kernel's launch went, and whether it was worth it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from device_runtime.errors import OptionError
from offload.filling import Filling, Verified
from offload.handle import Handle, Timing

# Seconds that what grows with the size, transfers and circuit or the reference, takes at least where
# something can be told of the size from which it pays: of less, much is the same for every size.
_TELLING = 1e-3
_AGAIN = 5.0  # seconds that the reference may take to be run twice: numba compiles in the first run


def explain(handle: Handle[Any], file: TextIO | None = None) -> None:
    """Print where the time of a hardware kernel's launch went, what it moved, and from which size on it pays.

    It waits for the launch, and then runs the reference on the host, with
    copies of the arguments, to have a measure: twice, if that is not for long, as
    the first run may have it compiled. It does not if arrays of the launch are
    gone, or an argument was a handle. An InOut array goes in as it came out of
    the launch, as nobody has what it held before. `file` is where to print, by default standard output.

    The break-even size is estimated from this one launch: what it cost apart
    from transfers and the circuit is taken to be the same for every size, and
    these, as predicted for a board where that is known, and the reference to
    grow with the bytes of the arguments. A launch that is too small to tell
    says so.

    Raises what the launch has raised, TypeError for anything but a handle, and
    OptionError for a launch that was not of a hardware kernel on one unit of a
    device with memory of its own.
    """
    if not isinstance(handle, Handle):
        raise TypeError(f"explain takes a handle, not {type(handle).__name__}")
    handle.wait()
    finish, timing = handle._tickets[0].more.finish, handle.timing
    filling = finish.filling if isinstance(finish, Verified) else finish
    if not isinstance(filling, Filling) or len(timing) > 1 or timing[0].compute is None:
        raise OptionError(
            f"explain: {handle!r} is not of a hardware kernel that ran on one unit of an FPGA; "
            "handle.timing tells when it began and ended"
        )
    told = _lines(handle._name, handle._tickets[0].pool.address, timing[0], filling)
    print("\n".join(told), file=file or sys.stdout)


def _lines(name: str, address: str, timing: Timing, filling: Filling) -> list[str]:
    assert timing.begun is not None and timing.ended is not None
    assert timing.transfer is not None and timing.compute is not None
    total = timing.ended - timing.queued
    waited = timing.begun - timing.queued
    rest = total - waited - timing.transfer - timing.compute
    lines = [
        f"kernel {name} on {address}, unit {timing.core}: {_ms(total)}",
        f"  until it began  {_ms(waited)}",
        *([f"  (its bitstream  {_ms(timing.loading)})"] if timing.loading else []),
        f"  transfers       {_ms(timing.transfer)}   "
        f"{timing.to_device:,} bytes to the device, {timing.from_device:,} from it",
        *_predicted(timing.predicted_transfer),
        f"  circuit         {_ms(timing.compute)}",
        *_predicted(timing.predicted),
        f"  all else        {_ms(rest)}",
    ]
    args = filling.arguments()
    if isinstance(args, str):
        return [*lines, f"  reference       not measured: {args}"]
    nbytes = sum(getattr(one, "nbytes", 0) for one in args)
    here = _seconds(filling.reference, args)
    if here < _AGAIN:
        again = filling.arguments()
        here = here if isinstance(again, str) else min(here, _seconds(filling.reference, again))
    changed = f", with {' and '.join(filling.changed)} as it came out" if filling.changed else ""
    lines.append(f"  reference       {_ms(here)}   on the host{changed}, {_times(total, here)}")
    fixed = max(0.0, waited - (timing.loading or 0.0)) + rest  # a bitstream is not loaded for each launch
    if timing.predicted is not None and timing.predicted_transfer is not None:
        told = _break_even(nbytes, fixed, timing.predicted + timing.predicted_transfer, here, " as predicted")
    else:
        told = _break_even(nbytes, fixed, timing.transfer + timing.compute, here)
    return [*lines, f"  break-even      {told}"]


def _seconds(reference: Callable[..., Any], args: Sequence[Any]) -> float:
    begun = time.perf_counter()
    reference(*args)
    return time.perf_counter() - begun


def _predicted(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"  (on a board     {_ms(seconds)}, as predicted)"]


def _break_even(nbytes: int, fixed: float, growing: float, reference: float, predicted: str = "") -> str:
    if not nbytes:
        return "cannot be told: the kernel takes no arrays"
    if max(reference, growing) < _TELLING:
        return (
            f"cannot be told: transfers and circuit take {growing * 1e3:.3g} ms{predicted}, the reference "
            f"{reference * 1e3:.3g}; of less than {_TELLING * 1e3:g} ms much is the same for every size: "
            "explain a larger launch"
        )
    if reference <= growing:
        return (
            f"none: transfers and circuit take {growing / nbytes * 1e9:.3g} ns a byte{predicted}, "
            f"and the reference {reference / nbytes * 1e9:.3g}"
        )
    size = int(fixed / (reference - growing) * nbytes)
    how = f", with transfers and circuit{predicted}" if predicted else ""
    return f"at about {size:,} bytes of arguments{how}; this launch had {nbytes:,}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:10.3f} ms"


def _times(device: float, host: float) -> str:
    if device <= 0 or host <= 0:
        return "too short to be compared"
    return f"{device / host:.3g} times as fast" if host < device else f"{host / device:.3g} times as long"
