"""Estimate pi with darts, on all cores and then on one: how near is it, and how much faster?

Run it as `python 01_first_pi.py [DARTS]`.
"""

import math
import random
import sys
import time

from offload import offload
from offload.core import numcores, rank

DARTS = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
ROUNDS = 25  # launches, for the progress bar to show something


@offload
def find_pi(darts, seed):
    """Throw darts at a square; the share that lands in the circle tells pi."""
    throw = random.Random(f"{seed}, core {rank()}").random  # each core throws darts of its own
    hits = 0
    for _ in range(darts):
        x, y = throw(), throw()
        if x * x + y * y < 1:
            hits += 1
    return 4 * hits / darts


def estimate(kernel, darts):
    """Run all rounds, `darts` on each core in each; return pi and the seconds it took."""
    begin = time.perf_counter()
    handle = kernel.launch(darts, 0)  # does not wait
    for seed in range(1, ROUNDS):
        handle.append(kernel.launch(darts, seed))
    values = handle.wait(progress=True)
    return sum(values) / len(values), time.perf_counter() - begin


begin = time.perf_counter()
cores = numcores()  # the first use starts them
print(f"{cores} core{'s' * (cores > 1)} ready after {time.perf_counter() - begin:.2f} s")

share = max(1, DARTS // ROUNDS // cores)
pi, together = estimate(find_pi, share)
_, alone = estimate(find_pi.options(target=0), share * cores)

darts = share * cores * ROUNDS
error = math.sqrt(math.pi * (4 - math.pi) / darts)
print(f"pi is {pi:.6f} ± {error:.6f} (off by {abs(pi - math.pi):.6f}), from {darts:,} darts")
print(f"all cores took {together:.2f} s, one core {alone:.2f} s: {alone / together:.2f} times faster")
