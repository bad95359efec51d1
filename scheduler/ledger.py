"""What is under way, and what was decided of it.

The state machine decides; here its decisions are carried out on launches and
devices, and what devices report is told to it. All of it happens under the
dispatcher's guard.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from device_runtime.device import SharedDevice
from device_runtime.errors import DeviceError, OptionError
from device_runtime.launch import (
    Begun,
    Dependency,
    Encoded,
    Ended,
    Event,
    Gone,
    Lost,
    Message,
    Outcome,
    PeerNotice,
    Ready,
    ShardId,
    Unloaded,
    Waiting,
    Work,
    make,
)
from scheduler import events
from scheduler.direct import Lone
from scheduler.plans import Plans
from scheduler.room import weight
from scheduler.state import State
from scheduler.ticket import END, SUCCESS, VALUE, Pool, Ticket
from scheduler.verdicts import dependency_error, verdict


class Ledger:
    """Hold the launches that have not ended."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.number = number  # gives a new launch its number
        self.state = State()
        self.pools: list[Pool] = []
        self.launches: dict[int, Ticket] = {}
        self.plans = Plans()
        self.settled = 0  # shards, so far
        self.bytes = 0  # of arguments, of launches that have not ended (see `room`)
        self.callbacks: deque[tuple[Callable[[Ticket], None], Ticket]] = deque()  # due, of what has ended
        self._outbox: dict[tuple[int, int], list[Message]] = {}
        self._lost: Counter[tuple[int, int]] = Counter()  # by pool and unit: losses, not handled yet

    def admit(self, pool: Pool) -> None:
        """Take in launches that stand in line, until enough wait for a unit."""
        pool.full = False  # first: whoever joins the line and finds it full can rely on being seen below
        line = pool.line
        while line:
            route = line[0].route
            count = 1
            if route.count == 1 and not route.retries and route.timeout is None:
                count = (len(line) - 1) // pool.units + 1
            most = self.state.room_for(pool.index, route.kernel, count)
            if not most:
                pool.full = True
                break
            self._enter_together(pool, most)

    def admit_all(self, pool: Pool) -> None:
        """Take in all launches that stand in line: something else is to come behind them, or end them."""
        while pool.line:
            self._enter(pool.line.popleft())

    def _enter_together(self, pool: Pool, most: int) -> None:
        """Take in the first launch of a line, and as many others as are alike, `most` in all."""
        line = pool.line
        first = line.popleft()
        route, image, mapped = first.route, first.image, first.more.mapped
        alike = [first]
        while len(alike) < most:
            other = line[0]
            if other.route is not route or other.image is not image or other.more.mapped != mapped:
                break
            alike.append(line.popleft())
        if len(alike) == 1:
            self._enter(first)
            return
        for ticket in alike:
            last = self._number(ticket)
        self.step(
            make(
                events.Submit,
                (last, pool.index, None, 1, route.kernel, 0, (), 0, None, len(alike), (), True, False),
            )
        )

    def enter(self, ticket: Ticket) -> None:
        """Take in a launch, behind all that stand in line.

        Raises OptionError for a dependency on a launch of another session.
        """
        needs, behind, failed = self.dependencies(ticket) if ticket.more.depends else ((), (), False)
        if ticket.more.turn is not None:
            ticket.more.depends = [*ticket.more.depends, *ticket.more.turn.take(ticket)]
            needs, behind, failed = self.dependencies(ticket)
        self.bytes += weight(ticket.args)
        self.admit_all(ticket.pool)
        if failed:
            self._number(ticket)
            error = Outcome(error=dependency_error(ticket))
            for rank in range(ticket.count):
                self.settle(ticket, rank, error)
        else:
            self._enter(ticket, needs, behind)

    def _number(self, ticket: Ticket) -> int:
        number = ticket.number = self.number()
        self.launches[number] = ticket
        return number

    def _enter(self, ticket: Ticket, needs: tuple[int, ...] = (), behind: tuple[int, ...] = ()) -> None:
        route, number = ticket.route, self._number(ticket)
        asked = (
            number,
            route.pool.index,
            route.units,
            route.count,
            route.kernel,
            route.priority,
            needs,
            route.retries,
            route.timeout,
            1,
            behind,
            route.units is None,
            bool(needs or behind) and all(need.wants != VALUE for need in ticket.more.depends),
        )
        self.step(make(events.Submit, asked))

    def lose(self, pool: int, unit: int) -> None:
        """Send a unit nothing until the state machine knows that it was lost.

        The device has another one in its place already. What the state machine
        means for the one that is gone it will send again.
        """
        self._lost[pool, unit] += 1

    def handle(self, received: deque[tuple[int, Event]]) -> None:
        """Tell the state machine of the first of the events that devices have reported, by pool.

        Ends of launches that are a bundle are taken together.
        """
        pool, event = received.popleft()
        if isinstance(event, Ended):
            unit, shard, outcome = event
            bundled = self.state.bundled(shard.launch)
            if bundled:
                outcomes = [outcome]
                while len(outcomes) < bundled and received:
                    other, following = received[0]
                    if other != pool or not isinstance(following, Ended):
                        break
                    if following.shard.launch != shard.launch + len(outcomes):
                        break  # another's, that could not be sent
                    outcomes.append(following.outcome)
                    del received[0]
                self._advance(pool, unit, shard.launch, outcomes)
                return
            ok = outcome.error is None and not outcome.failed
            ended = pool, unit, shard, ok, outcome.ended - outcome.begun
            self.step(make(events.ShardEnded, ended), outcome)
        elif isinstance(event, Begun):
            self.step(events.ShardBegun(pool, event.unit, event.shard, event.at))
        elif isinstance(event, Lost):
            self.pools[pool].down.add(event.unit)
            self._outbox.pop((pool, event.unit), None)
            self._lost[pool, event.unit] -= 1
            if self._lost[pool, event.unit] <= 0:
                del self._lost[pool, event.unit]
            lost = events.UnitLost(pool, event.unit, event.begun, time.monotonic(), event.own, event.served)
            self.step(lost, lost=event)
            if self.state.is_gone(pool, event.unit):
                why = f"it ended again and again with nothing to run; the last time, {event.why}"
                self.pools[pool].gone.setdefault(event.unit, why)
        elif isinstance(event, Ready):
            if not self.state.is_gone(pool, event.unit):
                self.pools[pool].down.discard(event.unit)
            self.step(events.UnitReady(pool, event.unit))
        elif isinstance(event, Gone):
            self.pools[pool].gone[event.unit] = event.why
            self.step(events.UnitGone(pool, event.unit))
        elif isinstance(event, Unloaded):
            self.step(events.PoolUnloaded(pool))
        elif isinstance(event, Waiting):
            self._listen(pool, event)

    def _advance(self, pool: int, unit: int, launch: int, outcomes: Sequence[Outcome]) -> None:
        """Let the first launches of a bundle, from `launch` on, end."""
        seconds = [outcome.ended - outcome.begun for outcome in outcomes]
        self.step(make(events.BundleAdvanced, (pool, unit, launch, seconds)), outcomes=outcomes)

    def step(
        self,
        event: events.Event,
        outcome: Outcome | None = None,
        lost: Lost | None = None,
        outcomes: Sequence[Outcome] = (),
    ) -> None:
        """Carry out what the state machine decides.

        `outcome`, `lost` and `outcomes` are what the device told with the event.
        """
        for action in self.state.step(event):
            if type(action) is events.Send:
                pool, unit, shard, launches = action
                outbox = self._outbox.get((pool, unit))
                if outbox is None:
                    outbox = self._outbox[pool, unit] = []
                if launches == 1:
                    outbox.append(self._work(shard))
                else:
                    self._send_together(outbox, shard.launch, launches)
            elif type(action) is events.Settle:
                ticket = self.launches[action.launch]
                told = outcome
                if action.how != "ended":
                    told = Outcome(error=verdict(ticket, action, lost))
                assert told is not None
                self.settle(ticket, action.rank, told)
            elif type(action) is events.Placed:
                last, units, launches = action
                for number in range(last - launches + 1, last + 1):
                    ticket = self.launches[number]
                    ticket.units, ticket.plan = units, None
            elif type(action) is events.Advance:
                for number, told in enumerate(outcomes, action.launch):
                    self.settle(self.launches[number], 0, told)
            elif type(action) is events.Kill:
                if (action.pool, action.unit) in self._lost:
                    continue  # it is dead already; a kill would strike the core in its place
                self.pools[action.pool].down.add(action.unit)
                self.pools[action.pool].device.kill(action.unit, action.shard)
            elif type(action) is events.Load or type(action) is events.Unload:
                device = self.pools[action.pool].device
                assert isinstance(device, SharedDevice)
                if type(action) is events.Load:
                    device.load()
                else:
                    device.unload()

    def flush(self) -> list[tuple[int, Ended]]:
        """Send what was decided, a batch to each unit; return the ends of what could not be sent, by pool."""
        ends: list[tuple[int, Ended]] = []
        if self._outbox:
            outbox, self._outbox = self._outbox, {}
            for (pool, unit), messages in outbox.items():
                if (pool, unit) in self._lost:
                    continue
                device = self.pools[pool].device
                try:
                    unsent = device.send(unit, messages)
                except Exception as error:  # what others are to be sent must not be lost with it
                    told = DeviceError(
                        f"core {unit} of {device.address} could not be sent a launch: {error!r}"
                    )
                    told.__cause__ = error.with_traceback(None)
                    shards = [message.shard for message in messages if isinstance(message, Work)]
                    unsent = [Ended(unit, shard, Outcome(error=told)) for shard in shards]
                if unsent:
                    ends.extend((pool, event) for event in unsent)
        return ends

    def adopt(self, lone: Lone) -> Ticket:
        """Take in a launch whose shards are on their units already."""
        route, plan = lone.route, lone.plan
        ticket = self.launches[lone.number] = Ticket(
            route, lone.image, lone.args, finish=lone.finish, turn=lone.turn
        )
        if lone.turn is not None:
            lone.turn.take(ticket)  # it waits for nobody: it found nothing under way
        ticket.number, ticket.units, ticket.plan = lone.number, plan.cores, plan
        self.bytes += weight(lone.args)
        actions = self.state.step(
            events.Submit(
                lone.number,
                route.pool.index,
                plan.cores,
                route.count,
                route.kernel,
                route.priority,
                (),
                route.retries,
                any_unit=route.units is None,
            )
        )
        sent = [
            events.Send(route.pool.index, unit, ShardId(lone.number, rank))
            for rank, unit in enumerate(plan.cores)
        ]
        assert actions == sent, "the state machine has another idea of where a launch is"
        return ticket

    def dependencies(self, asked: Ticket) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """Return the unfinished launches that a new one waits for, and whether one that it needs has failed.

        They are those that it needs, and those that may fail.
        """
        needs: dict[int, None] = {}
        behind: dict[int, None] = {}
        failed = False
        for wants, ticket in ((need.wants, ticket) for need in asked.depends for ticket in need.tickets):
            if not ticket.number and ticket.pool in self.pools:
                self.admit_all(ticket.pool)
            if ticket.done:
                failed = failed or not (ticket.ok or wants == END)
            elif ticket.number in self.launches and self.launches[ticket.number] is ticket:
                (behind if wants == END else needs)[ticket.number] = None
            else:
                raise OptionError(
                    f"kernel {asked.name} was given a handle of another session ({ticket.name}); "
                    "wait for it and pass its result"
                )
        return tuple(needs), tuple(one for one in behind if one not in needs), failed

    def _work(self, shard: ShardId) -> Work:
        ticket = self.launches[shard.launch]
        args, plan, depends = ticket.args, ticket.plan, ticket.more.depends
        assert args is not None
        if plan is None:
            assert ticket.image is not None and ticket.units is not None
            timed = ticket.route.timeout is not None
            plan = ticket.plan = self.plans.get(ticket.image, ticket.units, ticket.more.mapped, timed)
        if isinstance(args, list):
            args = args[shard.rank]
        if not depends:
            return make(Work, (shard, plan, args, (), ()))
        needs = [Dependency(need.bare, _payloads(need.tickets)) for need in depends if need.wants == VALUE]
        # What has not ended yet the unit has been sent before.
        wanted = [one for need in depends if need.wants == SUCCESS for one in need.tickets if not one.done]
        return Work(shard, plan, args, tuple(needs), tuple([one.number for one in wanted]))

    def _send_together(self, outbox: list[Message], last: int, launches: int) -> None:
        plan = self._work(ShardId(last, 0)).plan
        for number in range(last - launches + 1, last + 1):
            args = self.launches[number].args
            if isinstance(args, list):
                (args,) = args
            outbox.append(make(Work, (make(ShardId, (number, 0, 0)), plan, args, (), ())))

    def settle(self, ticket: Ticket, rank: int, outcome: Outcome) -> None:
        """Write down how a shard ended, and tell those that wait for messages of it."""
        self.settled += 1
        size = weight(ticket.args) if self.bytes else 0
        if ticket.settle(rank, outcome):
            self.bytes -= size
            del self.launches[ticket.number]
            if ticket.callbacks:
                self.callbacks.extend((callback, ticket) for callback in ticket.take_callbacks())
        if ticket.more.listeners and ticket.units is not None:
            ended = ticket.units[rank]
            still = []
            for unit, shard, core in ticket.listeners:
                if core == ended:
                    self._tell(ticket.pool.index, unit, PeerNotice(shard, core, "its shard has ended"))
                else:
                    still.append((unit, shard, core))
            ticket.listeners = still

    def _listen(self, pool: int, event: Waiting) -> None:
        """Answer a shard that waits for a message, now or when its peer ends."""
        ticket = self.launches.get(event.shard.launch)
        if ticket is None or ticket.units is None:
            return
        units, why = ticket.units, ""
        if event.core not in units:
            why = "it is not in this launch"
        elif ticket.outcomes[units.index(event.core)] is not None:
            why = "its shard has ended"
        if why:
            self._tell(pool, event.unit, PeerNotice(event.shard, event.core, why))
        else:
            ticket.listeners = [*ticket.listeners, (event.unit, event.shard, event.core)]

    def _tell(self, pool: int, unit: int, notice: PeerNotice) -> None:
        self._outbox.setdefault((pool, unit), []).append(notice)


def _payloads(tickets: tuple[Ticket, ...]) -> tuple[Encoded, ...]:
    """Return the values of finished launches, in core order."""
    found = []
    for ticket in tickets:
        for outcome in ticket.outcomes:
            assert outcome is not None and outcome.payload is not None
            found.append(outcome.payload)
    return tuple(found)
