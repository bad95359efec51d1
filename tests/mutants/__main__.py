"""Plant bugs in copies of the project, and see whether its tests find them: `python -m tests.mutants`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .planted import MUTANTS, Mutant

_ROOT = Path(__file__).parents[2]
_HISTORIES = 3000
_PATIENCE = 120  # seconds; a bug that makes the tests hang is found, too
_SURVIVORS = 0.1  # the share of bugs that may stay undiscovered


def is_caught(mutant: Mutant) -> bool:
    """Tell whether the tests that are to find a bug fail with it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(
            _ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
        )
        mutant.plant(copy)
        command = [sys.executable, "-m", "tests.simulation", "--jobs", "1", "--histories", str(_HISTORIES)]
        if mutant.tests:
            command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", "--timeout=15"]
            command += ["--timeout-method=thread", *mutant.tests]  # the first that hangs is the end of them
        try:
            done = subprocess.run(
                command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{mutant.name}: the tests could not be run:\n{done.stdout.decode()}")
        return done.returncode == 1


def main() -> int:
    """Try the bugs that the command line names, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the bugs with one of these words in their names")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="so many at a time")
    asked = parser.parse_args()
    chosen = [one for one in MUTANTS if not asked.words or any(word in one.name for word in asked.words)]
    survived = 0
    with ThreadPoolExecutor(asked.jobs) as executor:
        for mutant, caught in zip(chosen, executor.map(is_caught, chosen)):
            survived += not caught
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name} ({mutant.file})", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} bugs were caught")
    return survived > _SURVIVORS * len(chosen)


if __name__ == "__main__":
    sys.exit(main())
