"""Keep data on the cores and let them talk: heat spreads in a plate, a block of its rows on each core.

Run it as `python 04_resident_data.py [ITERATIONS]`.
"""

import sys
import time

import numpy as np

from offload import copy_from_device, define_on_device, offload, scatter
from offload.core import coreid, numcores, sendrecv

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
plate = np.vstack([np.full((1, 64), 100.0), np.zeros((65, 64))])  # cold, with a hot edge

block = None
define_on_device(block)  # kernels read and assign it as the global it is; each core has its own


def sweep(rows):
    """Do one Jacobi iteration: each point becomes the mean of its neighbours; the edges stay as they are."""
    rows[1:-1, 1:-1] = (rows[:-2, 1:-1] + rows[2:, 1:-1] + rows[1:-1, :-2] + rows[1:-1, 2:]) / 4


@offload
def place(rows):
    global block
    block = np.pad(rows, ((1, 1), (0, 0)))  # a row above and one below, for those of the neighbours
    if coreid() == 0:
        block[0] = 100.0


@offload
def iterate(times):
    for _ in range(times):
        if coreid() > 0:
            block[0] = sendrecv(block[1], coreid() - 1)
        if coreid() < numcores() - 1:
            block[-1] = sendrecv(block[-2], coreid() + 1)
        sweep(block)


def timed(launches, iterations):
    place(scatter(np.zeros((64, 64))))
    begin = time.perf_counter()
    for _ in range(launches):  # each runs on all cores
        iterate(iterations)
    print(f"{launches:,} × {iterations:,} iterations took {(seconds := time.perf_counter() - begin):.2f} s")
    return np.vstack([rows[1:-1] for rows in copy_from_device("block")]), seconds


for _ in range(ITERATIONS):
    sweep(plate)
many, slow = timed(ITERATIONS, 1)
one, fast = timed(1, ITERATIONS)
print(f"with the loop inside the kernel it is {slow / fast:.1f} times faster")
assert all(np.array_equal(found, plate[1:-1]) for found in (many, one))
print("both give exactly what plain NumPy gives")
