"""Histories of made-up devices, drawn from seeds: every one ends, and no promise is broken in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from simulation.history import simulate

HISTORIES = 1000
CHUNK = 250


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
def test_histories_keep_all_promises(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            simulate(seed)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}; python -m tests.simulation --seed {seed} shows how")


def test_a_seed_replays() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        simulate(17, lines.append)

    assert told[0] == told[1]


def test_histories_see_all_there_is_to_see() -> None:
    worlds = [simulate(seed) for seed in range(200)]
    seen = {how for world in worlds for how in world.model.outcomes.values()}

    assert seen >= {"ended", "died", "timeout", "cancelled", "dependency", "no units", "closed", "poisoned"}
    assert any(max(world.runs.values(), default=0) > 1 for world in worlds), "nothing was tried again"
    assert any(world.state.stale for world in worlds), "nothing came late, or twice"


def test_the_command_shows_a_history(capfd: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "tests.simulation", "--seed", "3"], cwd=root, check=True)
    lines = capfd.readouterr().out.splitlines()
    assert "PoolOpened" in lines[0] and lines[-1].endswith("every promise was kept")

    subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--histories", "20", "--jobs", "1"], cwd=root, check=True
    )
    assert capfd.readouterr().out.startswith("20 histories in ")
