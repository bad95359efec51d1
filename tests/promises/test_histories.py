"""The histories that hypothesis finds, in full number: see tests/scheduler/test_state_properties.py."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from simulation.choices import Histories

EXAMPLES, STEPS = 2000, 50


@pytest.mark.promises
@pytest.mark.timeout(900)
def test_no_history_breaks_a_promise() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"\nhistories: {EXAMPLES} of up to {STEPS} steps, chosen by hypothesis; none breaks a promise")
