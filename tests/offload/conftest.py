"""What the tests of the floor that users import share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gates import Gate

import offload
from offload import Executor


@pytest.fixture(scope="module", params=["inline:4", "local:4"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make devices of four cores the default one in turn: kernels must behave alike on both."""
    with offload.connect(request.param):
        yield request.param


@pytest.fixture(scope="module")
def cores() -> Iterator[Executor]:
    """Make an executor of two process cores, for what takes a call that goes on while the test does."""
    with Executor(2) as made:
        yield made


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Gate]]:
    """Make places in kernels where they wait for the test, at most until the test's end.

    However short a wait is, nothing is sent to a core ahead of its turn.
    """
    monkeypatch.setattr("scheduler.pace.AHEAD", 0.0)
    gates = [Gate.make(tmp_path / f"gate{number}") for number in range(4)]
    yield gates
    for gate in gates:
        gate.remove()
