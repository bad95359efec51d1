"""All benchmarks, in the order in which they are shown."""

from __future__ import annotations

from benchmarks import arrays, decisions, failures, fpga, grains, launch, memory, messages, scaling, start
from benchmarks.declare import Benchmark

FAMILIES = (launch, grains, arrays, start, memory, failures, scaling, decisions, messages, fpga)
ALL: tuple[Benchmark, ...] = tuple(benchmark for family in FAMILIES for benchmark in family.BENCHMARKS)


def find(name: str) -> Benchmark:
    """Return the benchmark of a name. Raises LookupError."""
    for benchmark in ALL:
        if benchmark.name == name:
            return benchmark
    raise LookupError(f"there is no benchmark {name!r}; there are {', '.join(one.name for one in ALL)}")
