"""How long a circuit would take: seconds of runs and transfers, as predicted for the emulated device.

A pipelined loop of N passes takes depth + interval · (N - 1) cycles (UG1399,
"Vitis HLS": iteration latency, initiation interval and trip count). A unit is
no faster than its memory: each bank carries what is read and written at its
own bandwidth, all banks at once, and the longest of these times counts (the
roofline model: Williams, Waterman and Patterson, 2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from device_runtime.errors import OptionError
from device_runtime.fpga.bitstream import DATA_CLOCK, Bitstream

_CLOCK = 300  # MHz, where a bitstream does not say
_HBM = 460e9 / 32  # bytes/s of one of the 32 pseudo channels of an Alveo U280 (DS963)
_DDR4 = 19.2e9  # of a DIMM at 2,400 MT/s, 8 bytes each


@dataclass(frozen=True)
class TimingModel:
    """What a prediction stands on, besides the clock.

    A kernel makes as many passes as its largest array has elements. `interval`
    is the cycles from one pass to the next, 1/16 for a circuit that makes 16
    at once, and `depth` those of one pass: a number, or a dict by kernel, where
    a kernel that is not named has 1. `bandwidth` is the bytes/s of a memory
    bank: a number, or a dict by bank; where it is not said, 14.4e9 for HBM and
    19.2e9 for the rest. `link` is the bytes/s between host and device, each
    way (12e9 is what PCIe 3.0 x16 comes to), and `launch` the seconds that a
    run takes besides its passes.

    Raises OptionError for what is no such number.
    """

    interval: float | Mapping[str, float] = 1
    depth: float | Mapping[str, float] = 1
    bandwidth: float | Mapping[str, float] | None = None
    link: float = 12e9
    launch: float = 0.0

    def __post_init__(self) -> None:
        for name in ("interval", "depth", "bandwidth"):
            given = getattr(self, name)
            if name == "bandwidth" and given is None:
                continue
            values = given.values() if isinstance(given, Mapping) else [given]
            if not all(_is_number(value) and value > 0 for value in values):
                raise OptionError(
                    f"TimingModel: {name}={given!r} must be a number above 0, or a dict of such"
                )
        if not (_is_number(self.link) and self.link > 0):
            raise OptionError(f"TimingModel: link={self.link!r} must be a number of bytes/s")
        if not (_is_number(self.launch) and self.launch >= 0):
            raise OptionError(f"TimingModel: launch={self.launch!r} must be a number of seconds")

    def names(self) -> tuple[set[str], set[str]]:
        """Return which kernels, and which banks, it says something of."""
        kernels, depths, banks = (
            set(given) if isinstance(given, Mapping) else set()
            for given in (self.interval, self.depth, self.bandwidth)
        )
        return kernels | depths, banks


class Predictor:
    """Predict what a bitstream's kernels would take. Any thread may use it."""

    def __init__(self, timing: TimingModel, bitstream: Bitstream) -> None:
        self._timing = timing
        self._loops: dict[str, tuple[float, float]] = {}  # by kernel: its interval, and its depth
        clocks = dict(bitstream.clocks)
        mhz = clocks.get(DATA_CLOCK) or next(iter(clocks.values()), 0) or _CLOCK
        self._second = mhz * 1e6  # in cycles
        self._bandwidth = {
            bank.name: _of(timing.bandwidth, bank.name, _HBM if bank.kind == "HBM" else _DDR4)
            for bank in bitstream.banks
        }

    def run(self, kernel: str, passes: int, traffic: Mapping[str, int]) -> float:
        """Return the seconds of a run; `traffic` is how many bytes it reads and writes in each bank."""
        loop = self._loops.get(kernel)
        if loop is None:
            loop = _of(self._timing.interval, kernel, 1), _of(self._timing.depth, kernel, 1)
            self._loops[kernel] = loop
        interval, depth = loop
        longest = (depth + interval * max(passes - 1, 0)) / self._second
        for bank, nbytes in traffic.items():
            longest = max(longest, nbytes / self._bandwidth[bank])
        return self._timing.launch + longest

    def counted(self, cycles: int) -> float:
        """Return the seconds of a run that takes so many cycles of the clock."""
        return self._timing.launch + cycles / self._second

    def transfer(self, nbytes: int) -> float:
        """Return the seconds that bytes take between host and device."""
        return nbytes / self._timing.link


def _of(given: float | Mapping[str, float] | None, name: str, default: float) -> float:
    if isinstance(given, Mapping):
        return given.get(name, default)
    return default if given is None else given


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
