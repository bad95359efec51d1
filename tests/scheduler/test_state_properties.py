"""Whatever happens in whatever order, the state machine does what a simple model says it must."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from simulation.choices import Histories

TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
