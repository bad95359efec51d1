"""The pump's background thread sleeps while there is nothing for it to do."""

from __future__ import annotations

import threading

from device_runtime.interrupts import Guard
from scheduler.pump import Pump


class Engine:
    """One that has been late ever since, and has launches under way or not."""

    def __init__(self) -> None:
        self.under_way = True
        self.turns = threading.Semaphore(0)
        self.deadlines = 0  # asked for while it is not busy

    def busy(self) -> bool:
        return self.under_way

    def next_deadline(self) -> float | None:
        self.deadlines += not self.under_way
        return 0.0

    def receive(self, descriptors: set[int]) -> None:
        """Take in nothing."""

    def receive_ends(self) -> bool:
        return True

    def work(self) -> None:
        """Do nothing."""

    def handle(self) -> None:
        self.under_way = False  # the last launch has ended, and the deadline is still there
        self.turns.release()


def test_a_deadline_that_is_left_over_wakes_nobody() -> None:
    guard, engine = Guard(), Engine()
    pump = Pump(guard, engine)
    with guard:
        pump.attend()
    assert engine.turns.acquire(timeout=30)
    with guard:
        engine.under_way = True
        pump.attend()
    assert engine.turns.acquire(timeout=30)
    pump.stop()
    assert engine.deadlines == 0
    assert not engine.turns.acquire(blocking=False)
