"""Kernels whose threads have much to say, also when nobody asks them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gates import Gate

from offload import offload
from offload.core import coreid, recv, send

MANY = 300  # records of a kilobyte: more than host and core keep for each other


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, local: str) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING):
        yield caplog


def numbers(heard: pytest.LogCaptureFixture) -> list[int]:
    """Return which records have been heard, in order."""
    return [int(record.getMessage().split()[0]) for record in heard.records if record.name == "flood"]


def flood() -> None:
    """Log more than there is room for on the way to the host."""
    for number in range(MANY):
        logging.getLogger("flood").warning("%d %s", number, "x" * 1000)


def begin(function: Callable[[], object]) -> None:
    """Leave a thread behind, in a kernel."""
    thread = threading.Thread(target=function)
    vars(sys)["left_behind"] = thread
    thread.start()


def end() -> bool:
    """Wait for the thread that was left behind, in a kernel."""
    vars(sys)["left_behind"].join()
    return True


def test_a_thread_that_outlives_its_kernel(heard: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        offload(begin, target=0)(flood)
        assert offload(end, target=0)() == [True]
    assert numbers(heard) == [*range(MANY)] * 5


def test_a_thread_beside_a_kernel_that_waits_for_a_message(heard: pytest.LogCaptureFixture) -> None:
    def kernel() -> Any:
        if coreid() != 0:
            return send("message", 0)
        begin(flood)
        found = recv(1)
        end()
        return found

    for _ in range(3):
        assert offload(kernel)() == ["message", None]
    assert numbers(heard) == [*range(MANY)] * 3


def test_an_idle_core_is_heard(heard: pytest.LogCaptureFixture, gate: Gate) -> None:
    def later() -> None:
        gate.pass_through()
        logging.getLogger("flood").warning("1 of an idle core")
        gate.come()

    offload(begin, target=0)(later)
    gate.wait()
    offload(coreid, target=1)()
    gate.let_on()
    gate.wait()
    offload(coreid, target=1, async_=True)().wait()
    assert numbers(heard) == [1]
    offload(end, target=0)()
