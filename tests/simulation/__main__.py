"""Run histories of made-up devices: `python -m tests.simulation --seed N` shows one, event by event."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from .history import simulate

_CHUNK = 100  # seeds that a process is given at a time


def first_failure(seeds: range) -> tuple[int, str] | None:
    """Return the first seed whose history breaks a promise, and how; None if none does."""
    gc.set_threshold(50_000)  # worlds have cycles, but few
    for seed in seeds:
        try:
            simulate(seed)
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="show the history of this seed")
    parser.add_argument("--histories", type=int, default=20_000, help="how many to run, if none is shown")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first of them")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="on so many CPUs")
    asked = parser.parse_args()
    if asked.seed is not None:
        world = simulate(asked.seed, print)
        print(f"{world.launches} launches, {world.events} events: every promise was kept")
        return 0
    last = asked.first + asked.histories
    chunks = [range(seed, min(seed + _CHUNK, last)) for seed in range(asked.first, last, _CHUNK)]
    began = time.monotonic()
    with ProcessPoolExecutor(asked.jobs) as executor:
        failures = [found for found in executor.map(first_failure, chunks) if found is not None]
    seconds = time.monotonic() - began
    rate = asked.histories / seconds
    print(f"{asked.histories} histories in {seconds:.0f} s, {rate:.0f} a second on {asked.jobs} CPUs")
    for seed, how in failures:
        print(f"seed {seed}: {how}; python -m tests.simulation --seed {seed} shows how")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
