"""Go on while kernels run, look at values as they come, and stop when they are good enough.

Run it as `python 02_stop_early.py [DARTS [ERROR]]`.
"""

import math
import random
import sys

from offload import offload_single
from offload.core import numcores

DARTS = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000  # in a launch
WANTED = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0005  # the error at which to stop
LAUNCHES = 300  # more than it will take


@offload_single  # on one core, whichever is free; a call gives a handle and does not wait
def find_pi(darts, seed):
    throw = random.Random(seed).random
    hits = sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(darts))
    return 4 * hits / darts


handle = find_pi(DARTS, 0)
for seed in range(1, LAUNCHES):
    handle.append(find_pi(DARTS, seed))
print(f"launched; here goes on while {numcores()} cores work through {LAUNCHES} launches")

values = []
error = math.inf
while error > WANTED:
    [(core, value)] = handle.wait_any().items()  # the next one to end, each once
    values.append(value)
    pi = sum(values) / len(values)
    error = math.sqrt(pi * (4 - pi) / (DARTS * len(values)))
    if len(values) % 10 == 0:
        print(f"{len(values):3} values, the last one from core {core}: pi is {pi:.4f} ± {error:.4f}")

handle.cancel()  # what no core has begun; what runs comes to its end
running = handle.number_outstanding()
print(f"good enough: {running} launch{'es' * (running != 1)} still run, the others are cancelled")
print(f"pi is {pi:.4f} ± {error:.4f}, from {len(values)} of {LAUNCHES} launches")
