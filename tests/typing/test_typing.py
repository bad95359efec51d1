"""Types survive the decorators: what mypy and basedpyright accept and refuse."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REFUSED = {
    number
    for number, line in enumerate((HERE / "refused.py").read_text().splitlines(), 1)
    if line.endswith("# refused")
}


def complaints(checker: str, file: str) -> set[int]:
    """Return the lines of a file that a type checker complains of."""
    path = str(HERE / file)
    if checker == "mypy":
        command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", path]
    else:
        command = [sys.executable, "-m", "basedpyright", "--outputjson", path]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if checker == "mypy":
        assert not done.stderr, done.stderr
        return {int(line) for line in re.findall(rf"{re.escape(file)}:(\d+): error", done.stdout)}
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_right_programs_are_accepted_and_wrong_ones_refused(checker: str) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    assert complaints(checker, "accepted.py") == set()
    assert complaints(checker, "refused.py") == REFUSED
