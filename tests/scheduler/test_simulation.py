"""Histories of made-up devices, drawn from seeds: every one ends, and nothing in it is against the rules."""

from __future__ import annotations

import os

import pytest
from scheduler_simulator import simulate

HISTORIES = 1500
CHUNK = 250


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
def test_histories_keep_all_promises(first: int) -> None:
    for seed in range(first, first + CHUNK):
        _run(seed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_more_histories_keep_all_promises() -> None:
    first = int(os.environ.get("HISTORIES_FROM", HISTORIES))
    for seed in range(first, first + 20_000):
        _run(seed)


def test_a_seed_replays() -> None:
    first, again = simulate(17), simulate(17)

    assert first.past == again.past
    assert first.model.outcomes == again.model.outcomes


def test_histories_see_all_there_is_to_see() -> None:
    seen = {how for seed in range(150) for how in simulate(seed).model.outcomes.values()}

    assert seen >= {"ended", "died", "timeout", "cancelled", "dependency", "no units", "closed", "poisoned"}


def _run(seed: int) -> None:
    try:
        simulate(seed)
    except Exception as error:
        pytest.fail(f"seed {seed}: {error!r}; python tests/scheduler/scheduler_simulator.py {seed} shows how")
