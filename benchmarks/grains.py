"""How small a kernel may be: efficiency against grain, as the Task Bench paper measures it.

Efficiency is what the kernels were to compute, over what the cores could have
computed in the time it took. The figure is METG50, the smallest grain at which
half of that is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

from benchmarks import kernels
from benchmarks.declare import MICROSECONDS, Benchmark, Measure, Reading, Setting
from benchmarks.peers import peers
from benchmarks.reach import at_most
from benchmarks.systems import System, ours

GRAINS = tuple(10_240e-6 / 2**k for k in range(12))  # seconds, from 10 ms to 5 µs
WORK = 0.05  # seconds of it on each core, for a point of the curve
FEWEST, MOST = 40, 2_000  # launches for a point
ENOUGH = 0.2  # an efficiency below which smaller grains are not looked at


def metg(curve: Sequence[tuple[float, float]], share: float = 0.5) -> float:
    """Return the grain at which efficiency comes to a share for good, between two points on a log scale.

    Points go by rising grain. It is the smallest grain if efficiency is above
    the share throughout, and infinite if it is not there at the largest.
    """
    above = math.inf
    last: tuple[float, float] | None = None
    for grain, efficiency in reversed(curve):
        if efficiency < share:
            if last is None:
                return math.inf
            part = (share - efficiency) / (last[1] - efficiency)
            return float(grain * (last[0] / grain) ** part)
        last = (grain, efficiency)
        above = grain
    return above


def sweep(system: System, setting: Setting) -> Measure:
    """Run kernels of falling grain, each a launch of its own."""
    run = system.many(kernels.compute)
    work = setting.pick(WORK, 0.0)

    def measure() -> Reading:
        curve: list[tuple[float, float]] = []
        for grain in GRAINS[:: setting.pick(1, 4)]:
            count = setting.pick(min(MOST, max(FEWEST, round(system.cores * work / grain))), 4)
            calls = [(round(grain * 1e9),)] * count
            begun = perf_counter()
            run(calls)
            wall = perf_counter() - begun
            curve.insert(0, (grain, grain * count / (system.cores * wall)))
            if curve[0][1] < ENOUGH:
                break
        return Reading(metg(curve), tuple(curve))

    return measure


BENCHMARKS = (
    Benchmark(
        "metg",
        "grain at 50 % efficiency (METG50), a launch for each kernel",
        MICROSECONDS,
        (ours(sweep), *peers(sweep)),
        (at_most(40e-6, MICROSECONDS),),
        rounds=7,
        heavy_rounds=2,
    ),
)
