"""The short way of a launch that finds nothing else under way.

The thread that makes it hands it to the units itself, looks for its outcomes
for a short while, or sleeps until they are there, and takes them: no other
thread wakes, and the state machine need not know. Whoever enters the guard
meanwhile, and so could do something that the launch has a part in, first makes
it an ordinary one: it then is the first in the state machine, as it was the
first to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from device_runtime.device import DirectDevice
from device_runtime.interrupts import Guard
from device_runtime.launch import Encoded, Image, Outcome, Plan, make
from scheduler.plans import Plans
from scheduler.pump import Pump
from scheduler.ticket import Finish, Route, Ticket, Turn


class Lone(NamedTuple):
    """A launch that is under way, and that only its own thread knows of."""

    number: int
    route: Route
    image: Image
    args: Encoded
    plan: Plan
    finish: Finish | None
    turn: Turn | None


class Owner(Protocol):
    """Whoever keeps the launches that are under way."""

    def idle(self) -> bool:
        """Tell whether nothing is under way; called under the guard."""

    def number(self) -> int:
        """Return the number of a new launch."""

    def adopt(self, lone: Lone) -> Ticket:
        """Take in a launch whose shards are on their units already; called under the guard."""

    def fail(self, lone: Lone, outcomes: Sequence[bytes | Outcome]) -> Ticket:
        """Return the ticket of a launch that has ended badly, and take note of its turn; the same."""


class Direct:
    """Run launches from end to end, one at a time."""

    def __init__(self, owner: Owner, guard: Guard, pump: Pump, plans: Plans) -> None:
        self._owner = owner
        self._guard = guard
        self._pump = pump
        self._plans = plans
        self._lone: Lone | None = None
        self._ticket: Ticket | None = None
        self._visitor = self._make_ordinary

    def run(
        self,
        device: DirectDevice,
        route: Route,
        image: Image,
        args: Encoded,
        finish: Finish | None,
        turn: Turn | None,
    ) -> Sequence[bytes | Outcome] | Ticket | None:
        """Return a launch's outcomes, as `collect` does, or its ticket if it has become an ordinary one.

        Return None, with nothing done, if it cannot go this way.
        """
        guard, pool = self._guard, route.pool
        with guard:
            if pool.down or self._pump.pumper is not None or not self._owner.idle():
                return None
            if turn is not None and turn.waits():
                return None
            plan = self._plans.get(image, route.units or pool.first(route.count), False, False)
            number, self._ticket = self._owner.number(), None
            if not device.post(plan, number, args):
                return None
            self._lone = make(Lone, (number, route, image, args, plan, finish, turn))
            guard.visitor = self._visitor
            self._pump.take()
            left = True  # by an exception: nobody waits for it
            try:
                while not guard.aside(device.look, plan):
                    if guard.visitor is None or not device.rest(plan):
                        break
                    guard.aside(self._pump.sleep)
                    self._pump.hear()
                outcomes = device.collect(plan) if guard.visitor is not None else None
                left = False
                if outcomes is not None:
                    lone, guard.visitor, self._lone = self._lone, None, None
                    if turn is None or all(map(_is_well, outcomes)):
                        return outcomes
                    assert lone is not None
                    return self._owner.fail(lone, outcomes)
            finally:
                guard.visit()
                self._pump.leave()
                if left:
                    self._ticket = None  # it keeps what the launch was given
                    self._pump.attend()  # else whoever called waits for the ticket at once
            ticket, self._ticket = self._ticket, None  # it keeps what the launch gives
            return ticket

    def _make_ordinary(self) -> None:
        """Have the owner take in the launch; called under the guard."""
        lone, self._lone = self._lone, None
        assert lone is not None
        self._ticket = self._owner.adopt(lone)


def _is_well(outcome: bytes | Outcome) -> bool:
    return isinstance(outcome, bytes) or not (outcome.failed or outcome.error)
