"""Launches that go to a unit together, and what becomes of them when something happens to one."""

from __future__ import annotations

import pytest
from scheduler_bench import SHORT, Bench

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Send
from scheduler.pace import AHEAD, BUNDLE


class Bundling(Bench):
    """A bench whose units have run the kernel before, and found it short; the last of them idles."""

    def __init__(self, units: int = 1, depth: int = 16, seconds: float = SHORT) -> None:
        super().__init__(units, depth)
        for unit in range(units):
            self.submit(unit)
            self.end(unit, seconds=seconds)
            if unit < units - 1:
                self.submit(unit)  # so that it does not idle

    def together(self, launches: int) -> range:
        """Make some launches at once, and return their numbers."""
        first = self.launches + 1
        self.launches += launches
        self._tell(events.Submit(self.launches, 0, None, 1, launches=launches))
        return range(first, self.launches + 1)

    def advance(self, unit: int, *seconds: float) -> None:
        """Let the first launches of the bundle that a unit runs end."""
        self._tell(events.BundleAdvanced(0, unit, self.held(unit)[0].launch, seconds))

    @property
    def sent(self) -> list[tuple[int, int]]:
        """To which units what was sent with the last event, and how many launches at once."""
        return [(one.unit, one.launches) for one in self.actions if isinstance(one, Send)]


def test_launches_that_are_alike_are_sent_together() -> None:
    bench = Bundling()

    launches = bench.together(4)

    assert bench.sent == [(0, 4)] and bench.runs(0) == list(launches)
    assert all(bench.state.running(launch) == 1 for launch in launches)
    assert not any(bench.state.can_cancel(launch) for launch in launches)


def test_each_of_them_ends_by_itself() -> None:
    bench = Bundling()
    launches = bench.together(4)

    bench.advance(0, SHORT)
    assert bench.runs(0) == list(launches[1:]) and bench.state.pending == 3
    bench.advance(0, SHORT, SHORT, SHORT)

    assert bench.state.pending == 0
    assert bench.submit(auto=1) and bench.sent == [(0, 1)]


def test_others_that_idle_get_their_share() -> None:
    bench = Bundling(units=2)
    bench.end(0, seconds=SHORT)
    assert not bench.held(0) and not bench.held(1)

    assert bench.state.room_for(0, 0, 4) == 1
    launches = bench.together(4)

    assert bench.runs(0) == [*launches[::2]] and bench.runs(1) == [*launches[1::2]]


def test_of_a_kernel_that_nobody_knows_one_is_sent_to_each_unit() -> None:
    bench = Bundling()
    bench.launches += 4

    bench._tell(events.Submit(bench.launches, 0, None, 1, kernel=1, launches=4))

    assert bench.sent == [(0, 1)]
    assert bench.state.room_for(0, 1, 4) == 1, "others wait, and are to keep their order"


@pytest.mark.parametrize("seconds", [AHEAD / 5, AHEAD / 2, AHEAD])
def test_no_more_work_is_sent_together_than_is_good(seconds: float) -> None:
    bench = Bundling(depth=1000, seconds=seconds)
    most = round(BUNDLE / seconds)

    assert bench.state.room_for(0, 0, 1000) == most
    bench.together(most)
    assert bench.state.room_for(0, 0, 1000) == most
    bench.together(most)

    assert bench.state.room_for(0, 0, 1000) == 0


def test_none_is_sent_behind_much_that_others_could_do() -> None:
    bench = Bundling(depth=64, seconds=AHEAD / 5)
    while bench.state.room_for(0, 0, 1):
        bench.submit(auto=1)

    assert AHEAD < bench.state._pools[0].units[0].load <= AHEAD * 1.2 + 1e-9


def test_what_is_lost_with_its_unit_is_sent_again_by_itself() -> None:
    bench = Bundling()
    _, second, third, fourth = bench.together(4)
    bench.advance(0, SHORT)

    bench.lose(0)
    assert bench.ends == [(second, 0, "died")]
    bench.ready(0)

    assert bench.actions[:2] == [Send(0, 0, ShardId(third, 0, 1)), Send(0, 0, ShardId(fourth, 0, 1))]


def test_one_of_them_can_be_killed() -> None:
    bench = Bundling()
    _, second, third = bench.together(3)

    bench.cancel(second)
    assert not bench.actions, "it is on its unit"
    bench.cancel(second, kill=True)
    assert not bench.kills, "it does not run yet"
    bench.end(0, seconds=SHORT)
    assert bench.kills == [0]
    bench.lose(0)
    bench.ready(0)

    assert bench.ends == [] and bench.runs(0) == [third]


def test_a_launch_may_need_one_of_them() -> None:
    bench = Bundling()
    _, second, _ = bench.together(3)

    dependant = bench.submit(0, needs=(second,))
    bench.end(0, seconds=SHORT)
    assert dependant not in bench.runs(0)
    bench.end(0, ok=False, seconds=SHORT)

    assert bench.ends == [(second, 0, "ended"), (dependant, 0, "dependency")]


def test_one_may_end_before_its_turn() -> None:
    """What cannot be handed to a unit ends at once."""
    bench = Bundling()
    first, second, third = bench.together(3)

    bench._tell(events.ShardEnded(0, 0, ShardId(second, 0), False, 0.0))

    assert bench.ends == [(second, 0, "ended")] and bench.runs(0) == [first, third]
    bench.end(0, seconds=SHORT)
    bench.end(0, seconds=SHORT)
    assert bench.state.pending == 0


def test_a_unit_that_goes_ends_all_of_them() -> None:
    bench = Bundling()
    launches = bench.together(3)
    bench.advance(0, SHORT)

    bench.gone(0)

    assert bench.ends == [(launch, 0, "no units") for launch in launches[1:]]


def test_closing_ends_them() -> None:
    bench = Bundling()
    launches = bench.together(3)
    bench.advance(0, SHORT)

    bench.close()

    assert sorted(bench.ends) == [(launch, 0, "closed") for launch in launches[1:]]
    bench.model.check_empty()


def test_reports_of_what_is_no_bundle_any_more_are_stale() -> None:
    bench = Bundling()
    first, second, third = bench.together(3)
    bench.cancel(second, kill=True)

    bench.model.stale += 2
    assert bench.state.step(events.BundleAdvanced(0, 0, first, (SHORT, SHORT))) == []

    assert bench.state.stale == 2 and bench.runs(0) == [first, second, third]


@pytest.mark.parametrize(
    "wrong",
    [
        events.Submit(9, 0, (0,), 1, launches=2),
        events.Submit(9, 0, None, 2, launches=2),
        events.Submit(9, 0, None, 1, launches=0),
        events.Submit(9, 0, None, 1, priority=1, launches=2),
        events.Submit(9, 0, None, 1, retries=1, launches=2),
        events.Submit(9, 0, None, 1, timeout=1.0, launches=2),
        events.Submit(9, 0, None, 1, depends=(1,), launches=2),
        events.Submit(2, 0, None, 1, launches=2),
    ],
)
def test_what_cannot_go_together_is_refused(wrong: events.Submit) -> None:
    bench = Bundling()
    bench.submit(0)

    with pytest.raises(ValueError, match="queued"):
        bench.state.step(wrong)
