"""The planted bugs have their places in the code. Whether they are found: `python -m tests.mutants`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mutants.planted import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_place_of_a_bug_is_there(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / mutant.file, copy)
    mutant.plant(tmp_path)
    compile(copy.read_text(), mutant.file, "exec")
    assert copy.read_text() != (ROOT / mutant.file).read_text()


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
