"""Outcomes arrive as they were sent."""

from __future__ import annotations

from typing import Any

import pytest

from device_runtime.launch import Costs, Outcome, Payload
from device_runtime.process import wire

COSTS = {
    "none": None,
    "of a card": Costs(4096, 8, 1e-5, 0.25, 0.5, None, None),
    "predicted in part": Costs(4096, 8, 1e-5, 0.25, 0.5, 1e-3, None),
    "of an emulated one": Costs(1 << 40, 0, 0.0, 0.25, 0.0, 1e-3, 2e-3),
    "nothing predicted": Costs(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
PAYLOADS: dict[str, Any] = {
    "plain": b"plain",
    "in one": Payload(b"in one"),
    "in parts": Payload(b"data", (b"one", b"two")),
}


@pytest.mark.parametrize("returned", [[], [64, 128]], ids=["", "returned"])
@pytest.mark.parametrize("failed", [False, True], ids=["ended", "failed"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_an_outcome(costs: Costs | None, payload: Any, failed: bool, returned: list[int]) -> None:
    sent = Outcome(payload, failed, None, 1.5, 2.25, costs)
    record = wire.outcome_out(sent, lambda buffer: buffer, returned)
    found, offsets = wire.outcome_in(record, None, 0)  # type: ignore[arg-type]
    if returned and type(payload) is bytes:
        sent = sent._replace(payload=Payload(payload))  # nobody else needs to know that it was plain
    assert (found, list(offsets)) == (sent, returned)
    assert wire.duration(record) == 0.75
