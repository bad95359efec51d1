"""Bugs to be planted in the scheduler and the dispatcher, one at a time.

Each is what somebody could write by mistake, and breaks a promise. A text of
a file is replaced by another one; it must stand there exactly once.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """A bug: what goes wrong with it, where it is, and the tests that are to find it.

    Without `tests`, the simulation is. `hangs`: it makes them hang, and their time-out finds it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    hangs: bool = False

    def plant(self, root: Path) -> None:
        """Write the bug into a copy of the project.

        Raises LookupError if its place is not to be found, or not only once.
        """
        path = root / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise LookupError(
                f"{self.name}: {self.file} has this text {text.count(self.old)} times: {self.old}"
            )
        path.write_text(text.replace(self.old, self.new))


_CARDS = "scheduler/cards.py"
_STATE, _PLACING, _LEDGER = "scheduler/state.py", "scheduler/placing.py", "scheduler/ledger.py"
_DISPATCHER, _DIRECT, _PUMP = "scheduler/dispatcher.py", "scheduler/direct.py", "scheduler/pump.py"

MUTANTS = (
    Mutant(
        "what any unit could run ends with the one that it was given to",
        _STATE,
        "if launch.any_unit and launch.count == 1 and",
        "if False and",
    ),
    Mutant(
        "what goes from a unit that is gone to another one does not wait for others any more",
        _PLACING,
        "        if not launch.waits():\n            self.pools",
        "        if True:\n            self.pools",
    ),
    Mutant(
        "what comes back from a unit that is gone is put behind what waits for it",
        _PLACING,
        "        if not launch.waits():\n            self.pools[launch.pool].push_auto(launch)\n",
        "        if launch.waits():\n            self._place(self.pools[launch.pool], launch)\n"
        "        else:\n            self.pools[launch.pool].push_auto(launch)\n",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "what comes back from a unit that is gone is sent behind what waits for it",
        _PLACING,
        "                    if auto.extra is not None and auto.extra.moved:",
        "                    if False:",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "what came back from a unit that is gone goes behind all others",
        _PLACING,
        "        if not launch.key:  # else it comes back from a unit that is gone\n            self",
        "        if True:  # else it comes back from a unit that is gone\n            self",
    ),
    Mutant(
        "a card is taken from units that are at work",
        _CARDS,
        "if not loaded.is_busy() and (",
        "if (",
    ),
    Mutant(
        "what is loaded keeps the card for ever",
        _CARDS,
        "                card.sent += action.launches\n",
        "                pass\n",
    ),
    Mutant(
        "a bitstream that was held is never sent anything again",
        _CARDS,
        "            if loaded.held:\n                self._let_on(loaded)\n                return True\n",
        "",
    ),
    Mutant(
        "no dedupe: the report of an attempt that is over ends the shard",
        _STATE,
        "            self.stale += 1\n            return\n        if unit.crashes",
        "            self.stale += 1\n"
        "            late = self._launches.get(shard.launch)\n"
        "            if late is not None and not late.has_settled(shard.rank):\n"
        "                self._settle_queued(late, shard.rank, 'ended')\n"
        "            return\n        if unit.crashes",
    ),
    Mutant(
        "no fence: a value that comes after the end was decided counts",
        _STATE,
        '        if fate is None:\n            self._settle(launch, shard.rank, "ended", ok)',
        '        if True:\n            self._settle(launch, shard.rank, "ended", ok)',
    ),
    Mutant(
        "a kernel that had begun runs again, unasked",
        _STATE,
        "return extra.deaths[rank] <= extra.retries",
        "return extra.deaths[rank] <= extra.retries + 1",
    ),
    Mutant(
        "retries are not granted",
        _STATE,
        "return extra.deaths[rank] <= extra.retries",
        "return extra.deaths[rank] < extra.retries",
    ),
    Mutant(
        "a unit's death ends what it holds behind the launch that brought it down",
        _STATE,
        "elif begun and not _may_retry(extra, rank):",
        "elif (begun or held[0] == event.begun) and not _may_retry(extra, rank):",
        ("tests/promises/test_crash_matrix.py",),
    ),
    Mutant(
        "a launch is to blame for a unit that ends before it serves",
        _STATE,
        "suspect = begun or (crashed and event.served and place == 0)",
        "suspect = begun or (crashed and place == 0)",
    ),
    Mutant(
        "a launch may kill units for ever",
        _STATE,
        "            elif suspect and extra.lost >= MAX_UNITS_LOST:",
        "            elif suspect and extra.lost >= 5 * MAX_UNITS_LOST:",
    ),
    Mutant(
        "ignored epoch: a second attempt has the name of the first",
        _STATE,
        "extra.attempts[rank] = shard.attempt + 1",
        "extra.attempts[rank] = shard.attempt",
    ),
    Mutant(
        "what a lost unit held comes back in reverse",
        _STATE,
        "unit.resumed.extendleft(reversed(again))",
        "unit.resumed.extendleft(again)",
    ),
    Mutant(
        "lost wake-up: a unit that is back is not looked at",
        _STATE,
        "            pool.set_alive(unit, True)\n            self._placing.touch(unit)",
        "            pool.set_alive(unit, True)",
    ),
    Mutant(
        "lost wake-up: a launch whose dependencies have ended is not looked at",
        _STATE,
        "                        self._placing.touch(self._pools[dependant.pool].units[number])",
        "                        pass",
    ),
    Mutant(
        "a launch runs although what it depends on has failed",
        _STATE,
        "            if not extra.ok and launch.number not in other.behind:\n                other.cause",
        "            if not extra.ok and launch.number not in other.behind and extra.cause >= 0:\n"
        "                other.cause",
    ),
    Mutant(
        "a failure ends what only had to come after it",
        _STATE,
        "            if not extra.ok and launch.number not in other.behind:\n                other.cause",
        "            if not extra.ok:\n                other.cause",
    ),
    Mutant(
        "what comes behind a launch that never ran does not wait for what that one waited for",
        _STATE,
        "                for needed in late:\n                    _note_dependant(needed, dependant)\n",
        "",
    ),
    Mutant(
        "what fails in one step hands on only what the first of them has not waited for",
        _STATE,
        "                for needed in late:\n",
        "                for needed in late if extra.ok or launch.number in other.behind else ():\n",
        ("tests/scheduler/test_state.py",),  # one history in a million shows it
    ),
    Mutant(
        "what comes behind a launch that fails with another does not wait for what that one waited for",
        _STATE,
        "            if late:\n",
        "            if late and dependant.left and (extra.ok or launch.number in other.behind):\n",
    ),
    Mutant(
        "cancel without kill ends what runs",
        _STATE,
        "        if not (event.kill or self.can_cancel(event.launch)):\n            return\n",
        "",
    ),
    Mutant(
        "a shard that is doomed behind another one is not killed when its turn comes",
        _STATE,
        "            if self._launches[first.launch].doom(first.rank) is not None:",
        "            if self._launches[first.launch].doom(first.rank) == 'timeout':",
    ),
    Mutant(
        "the deadline of a shard that has ended stays",
        _STATE,
        "        self._deadlines.drop(shard)\n        self._placing.land(unit, shard, launch)",
        "        self._placing.land(unit, shard, launch)",
    ),
    Mutant(
        "a unit that died often and worked in between is given up",
        _STATE,
        "        if unit.crashes:\n            unit.crashes.clear()\n        if seconds:",
        "        if unit.crashes and ok:\n            unit.crashes.popleft()\n        if seconds:",
    ),
    Mutant(
        "launches too large for the units that are left wait for ever",
        _STATE,
        '        for launch in too_large:\n            self._settle_rest(launch, "no units")',
        '        for launch in too_large[1:]:\n            self._settle_rest(launch, "no units")',
    ),
    Mutant(
        "what waits when its device is closed never ends",
        _STATE,
        "        for launch in [one for one in self._launches.values() if one.pool == event.pool]:",
        "        for launch in [one for one in self._launches.values() if one.key]:",
    ),
    Mutant(
        "what a launch depends on is not placed before it",
        _STATE,
        "        if extra.waits and launch.units is not None:\n            self._place_needed(launch)",
        "        if extra.waits > 1 and launch.units is not None:\n            self._place_needed(launch)",
    ),
    Mutant(
        "a unit that is about to be killed is sent more",
        _PLACING,
        "        while unit.up and unit.killed is None:\n            head",
        "        while unit.up:\n            head",
    ),
    Mutant(
        "long kernels are sent ahead",
        _PLACING,
        "if cost > AHEAD or unit.held + size > pool.depth:",
        "if unit.held + size > pool.depth:",
    ),
    Mutant(
        "a unit is sent more than it may hold",
        _PLACING,
        "if cost > AHEAD or unit.held + size > pool.depth:",
        "if cost > AHEAD or unit.held + size > pool.depth + 1:",
    ),
    Mutant(
        "a bundle that a unit holds when it dies is one launch",
        _STATE,
        "        again = []\n        self._take_apart(unit)\n",
        "        again = []\n",
    ),
    Mutant(
        "one of a bundle is killed, and all of it with it",
        _STATE,
        "        launch = self._placing.single(event.launch)\n",
        "        launch = self._launches.get(event.launch)\n",
    ),
    Mutant(
        "one of a bundle that others depend on is waited for until all have ended",
        _STATE,
        "[self._placing.single(number) for number in launch.extra.needs]",
        "[self._launches.get(number) for number in launch.extra.needs]",
    ),
    Mutant(
        "a bundle is sent to a unit while others idle",
        _PLACING,
        "1 if most > 1 and pool.idle_besides(idle) else most",
        "most",
    ),
    Mutant(
        "a bundle is sent behind more work than is good",
        _PLACING,
        "unit.load + size * cost <= 2 * BUNDLE",
        "unit.load <= 2 * BUNDLE",
        ("tests/scheduler/test_bundles.py",),
    ),
    Mutant(
        "a bundle goes before what waits",
        _PLACING,
        "        if pool.autos.queued or not self.order.is_plain(bundle):",
        "        if not self.order.is_plain(bundle):",
    ),
    Mutant(
        "the values of a bundle are each other's",
        _LEDGER,
        "enumerate(outcomes, action.launch)",
        "enumerate(reversed(outcomes), action.launch)",
        ("tests/offload/test_line.py",),
    ),
    Mutant(
        "the end of another launch is taken for one of a bundle's",
        _LEDGER,
        "                    if following.shard.launch != shard.launch + len(outcomes):\n"
        "                        break  # another's, that could not be sent\n",
        "",
        ("tests/offload/test_line.py", "tests/scheduler/test_ledger.py"),
        hangs=True,  # or fails, by which of the launches comes first
    ),
    Mutant(
        "the end of a launch is not heard of until the bundle's last",
        "device_runtime/process/channel_device.py",
        "            self._alarm.set(patient)\n",
        "",
        ("tests/device_runtime/test_process_device.py",),
        hangs=True,
    ),
    Mutant(
        "only one of the units that idle is given what waits for any",
        _PLACING,
        "            self.eager[auto.pool] = None  # and so may others",
        "            pass",
    ),
    Mutant(
        "launches go before one of which a part runs",
        "scheduler/order.py",
        "bound = max(bound, self._frontier, last)",
        "bound = max(bound, last)",
    ),
    Mutant(
        "launches go before earlier ones of their own priority",
        "scheduler/order.py",
        "bound = max(bound, self._frontier, last)",
        "bound = max(bound, self._frontier)",
    ),
    Mutant(
        "lost wake-up: what joins the line when there is room again is not taken in",
        _DISPATCHER,
        "            if pool.line or pool.full:",
        "            if pool.full:",
        ("tests/offload/test_line.py", "tests/offload/test_threads.py"),
        hangs=True,
    ),
    Mutant(
        "what was decided for a core that has died reaches the one in its place",
        _LEDGER,
        "            self._outbox.pop((pool, event.unit), None)\n",
        "",
        ("tests/scheduler/test_ledger.py",),
    ),
    Mutant(
        "a core is sent something before the death of the one before it is handled",
        _DISPATCHER,
        "                self._ledger.lose(index, event.unit)\n",
        "",
        ("tests/scheduler/test_ledger.py",),
    ),
    Mutant(
        "a kill that was meant for a core that has died strikes the one in its place",
        _LEDGER,
        "                if (action.pool, action.unit) in self._lost:\n                    continue",
        "                if not self.pools:\n                    continue",
        ("tests/scheduler/test_ledger.py",),
    ),
    Mutant(
        "outcomes are taken for those of other shards",
        _LEDGER,
        "self.settle(ticket, action.rank, told)",
        "self.settle(ticket, ticket.count - 1 - action.rank, told)",
        ("tests/contract/test_launches.py",),
    ),
    Mutant(
        "a launch is made although what it was given has failed before",
        _LEDGER,
        "                failed = failed or not (ticket.ok or wants == END)",
        "                pass",
        ("tests/contract/test_launches.py", "tests/offload/test_handle.py"),
    ),
    Mutant(
        "nobody is told that the one it waits for has ended",
        _LEDGER,
        "                if core == ended:",
        "                if core == ended and outcome.error is not None:",
        ("tests/misbehaviour/test_crashes.py",),
        hangs=True,
    ),
    Mutant(
        "a core that was asked for an answer late is told nothing",
        _LEDGER,
        "        elif ticket.outcomes[units.index(event.core)] is not None:",
        "        elif ticket.done:",
        ("tests/misbehaviour/test_crashes.py",),
        hangs=True,
    ),
    Mutant(
        "what could not be sent has no end",
        _DISPATCHER,
        "            self._events.extend(unsent)\n            self._pump.ring()",
        "            self._pump.ring()",
        ("tests/misbehaviour/test_crashes.py", "tests/device_runtime"),
        hangs=True,
    ),
    Mutant(
        "callbacks of what was cancelled are not called",
        _DISPATCHER,
        "        self._call(calls)\n        return True",
        "        return True",
        (
            "tests/offload/test_handle.py",
            "tests/misbehaviour/test_callbacks.py",
            "tests/offload/test_executor.py",
        ),
    ),
    Mutant(
        "lost wake-up: nobody takes over from the thread that received events",
        _PUMP,
        "            self._waiters[0].rouse()",
        "            pass",
        ("tests/offload/test_threads.py", "tests/offload/test_handle.py"),
        hangs=True,
    ),
    Mutant(
        "a unit is sent what also waits for others",
        _PLACING,
        "        return found if len(found) == extra.waits else []",
        "        return found",
    ),
    Mutant(
        "all that wait for one launch go where that is",
        _PLACING,
        "        if not awaited or awaited[-1].number != next(reversed(unit.flight)).launch:",
        "        if not awaited:",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "a chain goes before launches that the state machine does not know",
        _PLACING,
        "        if pool.outside or not",
        "        if not",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "a unit is killed for what it could not have begun",
        _STATE,
        "                if shard in unit.flight and launch.waits():",
        "                if False:",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "what waited for others goes with the unit that had it already",
        _STATE,
        "                if fate is None and launch.waits() and launch.any_unit:",
        "                if False:",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "a unit is sent what needs a value of what it runs",
        _PLACING,
        "extra is None or not extra.ahead or launch.count > 1",
        "extra is None or launch.count > 1",
    ),
    Mutant(
        "of several shards one is sent behind what all wait for",
        _PLACING,
        "not extra.ahead or launch.count > 1 or",
        "not extra.ahead or",
    ),
    Mutant(
        "what waits for what a unit holds goes before all others",
        _PLACING,
        "            if unit.is_open and unit.flight and not pool.autos.queued:",
        "            if unit.is_open and unit.flight:",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "what a unit has already counts although what it needs has failed",
        "scheduler/launches.py",
        "        return self.doom(rank) or waived",
        "        return self.doom(rank)",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "what a unit has already ends before the unit says so",
        _STATE,
        "                if not dependant.flying:  # else",
        "                if True:  # else",
        ("tests/scheduler/test_state.py",),
    ),
    Mutant(
        "a unit is not told what must have ended well",
        _LEDGER,
        "if need.wants == SUCCESS for one in need.tickets if not one.done]",
        "if False for one in need.tickets if not one.done]",
        ("tests/scheduler/test_ledger.py",),
    ),
    Mutant(
        "a unit runs what comes after a work that failed",
        "device_runtime/runner.py",
        "        if work.after and not all(one in self._well for one in work.after):",
        "        if False:",
        ("tests/contract",),
    ),
    Mutant(
        "nobody is on call while nobody waits",
        _PUMP,
        "                self._call.modify(self._poll, select.EPOLLIN | select.EPOLLONESHOT)",
        "                pass",
        ("tests/offload/test_executor.py",),
        hangs=True,
    ),
    Mutant(
        "a deadline that is new wakes nobody",
        _PUMP,
        "                os.eventfd_write(self._rouser, 1)",
        "                pass",
        ("tests/misbehaviour/test_callbacks.py",),
        hangs=True,
    ),
    Mutant(
        "a launch of another thread does not see the one that goes the short way",
        _DIRECT,
        "            guard.visitor = self._visitor\n",
        "",
        ("tests/offload/test_direct_sleep.py",),
        hangs=True,
    ),
)
