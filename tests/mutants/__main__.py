"""Plant bugs in copies of the project, and see whether its tests find them: `python -m tests.mutants`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .planted import MUTANTS, Mutant

_ROOT = Path(__file__).parents[2]
_HISTORIES = 3000
_PATIENCE = 120  # seconds, for the tests of one bug
_SURVIVORS = 0.1  # the share of bugs that may stay undiscovered


def outcome(tests: Sequence[str], mutant: Mutant | None = None, patience: float = _PATIENCE) -> str:
    """Run tests, or the simulation, with a bug or without one; return "passed", "failed" or "hung".

    Raises RuntimeError where they cannot be run: that shows nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(
            _ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
        )
        if mutant is not None:
            mutant.plant(copy)
            module = mutant.file.removesuffix(".py").replace("/", ".")
            subprocess.run([sys.executable, "-c", f"import {module}"], cwd=copy, check=True)
        command = [sys.executable, "-m", "tests.simulation", "--jobs", "1", "--histories", str(_HISTORIES)]
        if tests:
            command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", "--timeout=15"]
            command += ["--timeout-method=thread", *tests]  # the first that hangs is the end of them
        try:
            done = subprocess.run(
                command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=patience
            )
        except subprocess.TimeoutExpired:
            return "hung"
        if done.returncode not in (0, 1):
            name = "without a bug" if mutant is None else mutant.name
            raise RuntimeError(f"{name}: the tests could not be run:\n{done.stdout.decode()}")
        if done.returncode and b"+ Timeout +" in done.stdout:  # as pytest-timeout says it
            return "hung"
        return "failed" if done.returncode else "passed"


def is_caught(mutant: Mutant) -> bool:
    """Tell whether the tests that are to find a bug fail with it, or hang if it is one that makes them."""
    found = outcome(mutant.tests, mutant)
    return found == "failed" or (found == "hung" and mutant.hangs)


def is_sound(chosen: Sequence[Mutant]) -> bool:
    """Tell whether all that is to find the bugs passes without them: else it would find anything."""
    tests = {test for mutant in chosen for test in mutant.tests}
    simulated = any(not mutant.tests for mutant in chosen)
    found = [outcome(())] if simulated else []
    found += [outcome(sorted(tests), patience=10 * _PATIENCE)] if tests else []
    return found.count("passed") == len(found)


def main() -> int:
    """Try the bugs that the command line names, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the bugs with one of these words in their names")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="so many at a time")
    asked = parser.parse_args()
    chosen = [one for one in MUTANTS if not asked.words or any(word in one.name for word in asked.words)]
    if not is_sound(chosen):
        print("the tests do not pass without a bug either: they show nothing")
        return 1
    survived = 0
    with ThreadPoolExecutor(asked.jobs) as executor:
        for mutant, caught in zip(chosen, executor.map(is_caught, chosen)):
            survived += not caught
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name} ({mutant.file})", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} bugs were caught; without one all tests pass")
    return survived > _SURVIVORS * len(chosen)


if __name__ == "__main__":
    sys.exit(main())
