"""What the scheduler promises, one promise at a time."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from scheduler_bench import LONG, SHORT, Bench

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Send, Settle
from scheduler.state import MAX_UNITS_LOST, State

# ---- order -----------------------------------------------------------------------------


def test_a_launch_starts_at_once_on_all_its_units() -> None:
    bench = Bench(units=3)

    launch = bench.submit(0, 2)

    assert bench.actions == [
        Send(0, 0, ShardId(launch, 0)),
        Send(0, 2, ShardId(launch, 1)),
    ]


def test_a_unit_runs_its_launches_in_the_order_they_were_made() -> None:
    bench = Bench(units=1)
    first, second, third = bench.submit(0), bench.submit(0), bench.submit(0)

    seen = [bench.runs(0)]
    for _ in range(2):
        bench.end(0)
        seen.append(bench.runs(0))

    assert seen == [[first], [second], [third]]


def test_launches_run_in_the_order_they_were_made_whatever_their_numbers() -> None:
    bench = Bench(units=1)
    bench.launches = 10
    bench.submit(0)
    first = bench.submit(0)
    bench.launches = 2
    second = bench.submit(0)

    bench.end(0)
    assert bench.runs(0) == [first]
    bench.end(0)

    assert bench.runs(0) == [second]


def test_a_launch_does_not_wait_behind_launches_on_other_units() -> None:
    bench = Bench(units=2)
    bench.submit(0)
    bench.submit(0)

    launch = bench.submit(1)

    assert bench.runs(1) == [launch]


def test_a_higher_priority_goes_first() -> None:
    bench = Bench(units=1)
    bench.submit(0)
    bench.submit(0)
    urgent = bench.submit(0, priority=1)

    bench.end(0)

    assert bench.runs(0) == [urgent]


def test_a_higher_priority_does_not_come_between_the_shards_of_a_launch_that_has_begun() -> None:
    bench = Bench(units=2)
    bench.submit(1)
    begun = bench.submit(0, 1)
    bench.submit(0, 1, priority=9)

    bench.end(1)

    assert bench.runs(0) == bench.runs(1) == [begun]


def test_a_launch_with_priority_goes_behind_what_it_depends_on() -> None:
    bench = Bench(units=1)
    bench.submit(0)
    needed = bench.submit(0, priority=-1)
    bench.submit(0, priority=5, needs=(needed,))

    bench.end(0)

    assert bench.runs(0) == [needed]


# ---- auto ------------------------------------------------------------------------------


def test_auto_takes_idle_units_with_the_lowest_numbers() -> None:
    bench = Bench(units=4)
    bench.submit(0)

    launch = bench.submit(auto=2)

    assert bench.placed == {launch: (1, 2)}
    assert bench.runs(1) == bench.runs(2) == [launch]


def test_auto_takes_the_rest_from_the_units_with_the_least_to_do() -> None:
    bench = Bench(units=4)
    for unit in (0, 0, 1, 2, 2):
        bench.submit(unit)

    launch = bench.submit(auto=2)

    assert bench.placed == {launch: (1, 3)}


def test_auto_sees_that_units_have_less_to_do_than_before() -> None:
    bench = Bench(units=3)
    for unit in (1, 1, 1, 1, 1, 2, 2, 2):
        bench.submit(unit)
    bench.submit(auto=2)
    for unit in (1, 1, 1, 1, 0):
        bench.end(unit)

    launch = bench.submit(auto=2)

    assert bench.placed == {launch: (0, 1)}


def test_auto_waits_for_the_first_unit_that_is_free() -> None:
    bench = Bench(units=2)
    bench.submit(0, 1)
    launch = bench.submit(auto=1)

    assert not bench.placed
    bench.end(1)

    assert bench.placed == {launch: (1,)}


def test_auto_goes_behind_an_earlier_launch_that_named_the_unit() -> None:
    bench = Bench(units=1)
    bench.submit(0)
    earlier, later = bench.submit(0), bench.submit(auto=1)

    bench.end(0)
    assert bench.runs(0) == [earlier]
    bench.end(0)

    assert bench.runs(0) == [later]


def test_several_auto_launches_that_one_end_sets_free_all_start() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    first = bench.submit(auto=1, needs=(needed,))
    second = bench.submit(auto=1, needs=(needed,))

    bench.end(0)

    assert bench.placed == {first: (0,), second: (1,)}


def test_auto_avoids_units_that_are_down() -> None:
    bench = Bench(units=3)
    bench.lose(0, begun=False)
    for unit in (1, 1, 2):
        bench.submit(unit)

    bench.submit(auto=2)
    bench.end(2)

    assert list(bench.placed.values()) == [(1, 2)]


def test_a_unit_that_died_while_its_next_launch_waited_is_not_given_more() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    bench.submit(1, needs=(needed,))
    bench.lose(1, begun=False)

    urgent = bench.submit(auto=1, priority=1)
    assert not bench.placed
    bench.end(0)

    assert bench.placed == {urgent: (0,)}


def test_auto_of_more_units_than_are_left_ends() -> None:
    bench = Bench(units=2)
    bench.gone(1)

    launch = bench.submit(auto=2)

    assert bench.ends == [(launch, 0, "no units"), (launch, 1, "no units")]


# ---- dependencies ----------------------------------------------------------------------


def test_a_launch_waits_for_what_it_depends_on() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    launch = bench.submit(1, needs=(needed,))

    assert bench.runs(1) == []
    bench.end(0)

    assert bench.runs(1) == [launch]


def test_a_waiting_launch_is_not_overtaken_on_its_unit() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    bench.submit(1, needs=(needed,))
    bench.submit(1)

    assert bench.runs(1) == []


def test_a_higher_priority_may_use_a_unit_whose_next_launch_waits() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    bench.submit(1, needs=(needed,))

    urgent = bench.submit(auto=1, priority=1)

    assert bench.runs(1) == [urgent]


def test_a_waiting_auto_launch_claims_no_unit() -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    bench.submit(auto=2, needs=(needed,))

    other = bench.submit(1)

    assert bench.runs(1) == [other]


def test_a_launch_that_names_its_units_may_depend_on_an_auto_launch_that_waits() -> None:
    bench = Bench(units=1)
    first = bench.submit(0)
    second = bench.submit(auto=1, needs=(first,))
    third = bench.submit(0, needs=(second,))

    bench.end(0)
    assert bench.runs(0) == [second]
    bench.end(0)

    assert bench.runs(0) == [third]


def _known(units: int = 1) -> Bench:
    """Return a bench whose units may hold several shards, of a kernel that is known to be short."""
    bench = Bench(units, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    return bench


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("wants", ["needs", "behind"])
def test_a_unit_may_have_what_waits_for_what_it_holds(wants: str, named: bool) -> None:
    bench, held = _known(units=2), []
    where: dict[str, Any] = {} if named else {"auto": 1}
    for _ in range(6):
        held.append(bench.submit(*[1] * named, **where, **{wants: tuple(held[-1:])}, ahead=True))  # type: ignore[arg-type]

    unit = 1 if named else 0
    assert bench.runs(unit) == held[:4]
    assert bench.runs(1 - unit) == []
    bench.end(unit, seconds=SHORT)
    assert bench.runs(unit) == held[1:5]


def test_what_needs_a_value_waits_for_it() -> None:
    bench = _known()
    first = bench.submit(0)
    bench.submit(0, needs=(first,), ahead=False)

    assert bench.runs(0) == [first]


def test_of_what_waits_for_one_launch_only_the_first_goes_where_that_is() -> None:
    bench = _known(units=3)
    first = bench.submit(0)
    readers = [bench.submit(auto=1, needs=(first,), ahead=True) for _ in range(3)]

    assert bench.runs(0) == [first, readers[0]]
    bench.end(0, seconds=SHORT)
    assert [bench.runs(unit) for unit in range(3)] == [[one] for one in readers]


def test_what_waits_for_two_units_is_sent_to_none() -> None:
    bench = _known(units=2)
    first, second = bench.submit(0), bench.submit(1)
    launch = bench.submit(auto=1, needs=(first, second), ahead=True)

    assert (bench.runs(0), bench.runs(1)) == ([first], [second])
    bench.end(0, seconds=SHORT)
    bench.end(1, seconds=SHORT)
    assert bench.runs(0) == [launch]


def test_what_waits_for_what_a_unit_holds_overtakes_nobody() -> None:
    bench = _known()
    first = bench.submit(0)
    unknown = bench.submit(auto=1, kernel=1)  # nothing is known of how long it takes
    last = bench.submit(auto=1, behind=(first,), ahead=True)

    assert bench.runs(0) == [first]
    bench.end(0, seconds=SHORT)
    assert bench.runs(0) == [unknown]
    bench.end(0)
    assert bench.runs(0) == [last]


def test_what_a_unit_has_already_ends_there_when_what_it_needs_has_failed() -> None:
    bench = _known()
    failing = bench.submit(0)
    second = bench.submit(0, needs=(failing,), ahead=True)
    third = bench.submit(0, needs=(second,), ahead=True)
    fourth = bench.submit(0, behind=(third,), ahead=True)
    assert bench.runs(0) == [failing, second, third, fourth]

    bench.end(0, ok=False, seconds=SHORT)
    assert bench.ends == [(failing, 0, "ended")]  # the unit does not run the others, and says so
    bench.end(0, ok=False, seconds=0.0)
    assert bench.ends == [(second, 0, "dependency")]
    bench.end(0, ok=True, seconds=SHORT)  # however it ended: what it has read was not written
    assert bench.ends == [(third, 0, "dependency")]
    bench.end(0, seconds=SHORT)
    assert bench.ends == [(fourth, 0, "ended")]
    assert bench.kills == []


def test_what_a_lost_unit_had_already_is_not_run_again_when_what_it_needs_has_failed() -> None:
    bench = _known()
    failing = bench.submit(0)
    second = bench.submit(0, needs=(failing,), ahead=True)
    third = bench.submit(0)
    bench.end(0, ok=False, seconds=SHORT)

    bench.lose(0, begun=False)
    assert bench.ends == [(second, 0, "dependency")]
    bench.ready(0)
    assert bench.runs(0) == [third]


def test_what_a_lost_unit_had_already_is_sent_again_behind_what_it_waits_for() -> None:
    bench = _known()
    first = bench.submit(0, retries=1)
    second = bench.submit(0, needs=(first,), ahead=True)

    bench.lose(0)
    bench.ready(0)
    assert bench.runs(0) == [first, second]


def test_what_a_unit_has_already_and_could_not_have_begun_is_cancelled_without_a_kill() -> None:
    bench = _known()
    first = bench.submit(0)
    second = bench.submit(0, needs=(first,), ahead=True)
    third = bench.submit(0, needs=(second,), ahead=True)

    bench.cancel(second)
    assert (bench.ends, bench.kills) == ([], [])  # only what no unit has is cancelled so
    bench.cancel(second, kill=True)
    assert (bench.ends, bench.kills) == ([], [])
    bench.end(0, seconds=SHORT)
    assert (bench.ends, bench.kills) == ([(first, 0, "ended")], [])
    bench.end(0, seconds=SHORT)
    assert bench.ends == [(second, 0, "cancelled")]
    bench.cancel(third, kill=True)  # it waits for nothing any more, and may have begun
    assert bench.kills == [0]


@pytest.mark.parametrize("wants", ["needs", "behind"])
def test_what_a_unit_has_already_that_goes_is_where_it_would_be_had_it_waited(wants: str) -> None:
    bench = _known(units=2)
    first = bench.submit(0)
    second = bench.submit(auto=1, **{wants: (first,)}, ahead=True)  # type: ignore[arg-type]
    assert bench.runs(0) == [first, second]

    bench.gone(0)
    if wants == "needs":
        assert bench.ends == [(first, 0, "no units"), (second, 0, "dependency")]
    else:
        assert bench.ends == [(first, 0, "no units")]
        assert bench.runs(1) == [second]


def test_a_chain_does_not_go_before_launches_that_found_no_room() -> None:
    bench = _known()
    chain = [bench.submit(0)]
    for _ in range(6):
        chain.append(bench.submit(auto=1, behind=(chain[-1],), ahead=True))
    assert bench.runs(0) == chain[:4]
    assert bench.state.room_for(0, 0, 1) == 0

    bench.end(0, seconds=SHORT)
    assert bench.runs(0) == chain[1:4]
    assert bench.state.room_for(0, 0, 1) == 1
    other = bench.submit(auto=1)
    assert bench.runs(0) == [*chain[1:4], other]


def test_a_failure_ends_all_that_depends_on_it() -> None:
    bench = Bench(units=2)
    failing = bench.submit(0)
    second = bench.submit(1, needs=(failing,))
    third = bench.submit(auto=1, needs=(second,))
    other = bench.submit(1)

    bench.end(0, ok=False)

    assert bench.ends == [(failing, 0, "ended"), (second, 0, "dependency"), (third, 0, "dependency")]
    assert [one.cause for one in bench.actions if isinstance(one, Settle)] == [-1, failing, failing]
    assert bench.runs(1) == [other]


def test_what_only_has_to_come_behind_a_launch_runs_after_its_failure() -> None:
    bench = Bench(units=2)
    failing = bench.submit(0)
    behind = bench.submit(1, behind=(failing,))

    assert bench.runs(1) == []
    bench.end(0, ok=False)

    assert bench.ends == [(failing, 0, "ended")]
    assert bench.runs(1) == [behind]


def test_what_comes_behind_a_launch_that_never_ran_waits_for_what_that_one_waited_for() -> None:
    bench = Bench(units=3)
    first = bench.submit(0)
    second = bench.submit(1, behind=(first,))
    third = bench.submit(2, behind=(second,))
    fourth = bench.submit(2, behind=(third,))

    bench.cancel(second)
    bench.cancel(third)
    assert bench.runs(2) == []
    bench.end(0)

    assert bench.runs(2) == [fourth]


def test_what_comes_behind_a_launch_that_lacks_what_it_needs_waits_for_the_rest_of_that() -> None:
    bench = Bench(units=4)
    slow, failing = bench.submit(0), bench.submit(1)
    second = bench.submit(2, needs=(failing,), behind=(slow,))
    third = bench.submit(3, behind=(second,))

    bench.end(1, ok=False)
    assert (second, 0, "dependency") in bench.ends
    assert bench.runs(3) == []
    bench.end(0, ok=False)

    assert bench.runs(3) == [third]


def test_what_comes_behind_a_launch_that_fails_with_a_cancelled_one_waits_for_the_rest() -> None:
    bench = Bench(units=4)
    slow = bench.submit(0)
    cancelled = bench.submit(1, needs=(slow,))
    failing = bench.submit(2, needs=(cancelled,))
    last = bench.submit(3, behind=(failing,))

    bench.cancel(cancelled)
    assert (failing, 0, "dependency") in bench.ends
    assert bench.runs(3) == []
    bench.end(0)

    assert bench.runs(3) == [last]


def test_what_comes_behind_launches_that_fail_together_waits_for_the_rest() -> None:
    bench = Bench(units=4)
    bench.submit(0)
    failing = bench.submit(1)
    second = bench.submit(2, needs=(failing,), behind=(1,))
    third = bench.submit(2, needs=(failing,), behind=(second,))
    last = bench.submit(3, behind=(third,))

    bench.end(1, ok=False)
    assert bench.runs(3) == []
    bench.end(0)

    assert bench.runs(3) == [last]


def test_what_comes_behind_a_chain_of_failures_in_one_step_waits_for_the_rest() -> None:
    bench = Bench(units=4)
    slow = bench.submit(0)
    second = bench.submit(1, behind=(slow,))
    third = bench.submit(2, needs=(second,))
    fourth = bench.submit(1, behind=(third,))
    fifth = bench.submit(2, needs=(fourth,))
    last = bench.submit(3, behind=(fifth,))

    bench.gone(1)
    assert {(third, 0, "dependency"), (fifth, 0, "dependency")} < set(bench.ends)
    assert bench.runs(3) == []
    bench.end(0)

    assert bench.runs(3) == [last]


def test_what_comes_behind_launches_that_go_with_a_unit_waits_for_the_rest() -> None:
    bench = Bench(units=3)
    slow = bench.submit(0)
    second = bench.submit(1, behind=(slow,))
    third = bench.submit(1, behind=(second,))
    last = bench.submit(2, behind=(third,))

    bench.gone(1)
    assert bench.runs(2) == []
    bench.end(0)

    assert bench.runs(2) == [last]


def test_what_becomes_free_at_once_comes_in_the_order_in_which_it_was_made() -> None:
    bench = Bench(units=2)
    bench.submit(0)
    running, queued = bench.submit(1), bench.submit(1, priority=1)
    earlier = bench.submit(auto=1, behind=(queued,))
    later = bench.submit(auto=1, behind=(running,))

    bench.gone(1)
    bench.end(0)
    assert bench.runs(0) == [earlier]
    bench.end(0)
    assert bench.runs(0) == [later]


def test_what_needs_one_launch_and_comes_behind_another_waits_for_both() -> None:
    bench = Bench(units=3)
    needed, other = bench.submit(0), bench.submit(1)
    launch = bench.submit(2, needs=(needed,), behind=(other,))

    bench.end(1, ok=False)
    assert bench.runs(2) == []
    bench.end(0)

    assert bench.runs(2) == [launch]


def test_dependants_end_only_when_all_shards_of_a_failed_launch_have_ended() -> None:
    bench = Bench(units=3)
    failing = bench.submit(0, 1)
    bench.submit(2, needs=(failing,))

    bench.end(0, ok=False)

    assert bench.ends == [(failing, 0, "ended")]


# ---- feeding ahead ---------------------------------------------------------------------


def test_a_unit_is_fed_ahead_with_short_kernels() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)

    launches = [bench.submit(0) for _ in range(6)]

    assert bench.runs(0) == launches[:4]


def test_a_unit_is_not_fed_ahead_while_it_holds_more_than_a_millisecond() -> None:
    bench = Bench(units=1, depth=8)
    bench.submit(0)
    bench.end(0, seconds=400e-6)

    launches = [bench.submit(0) for _ in range(6)]

    assert bench.runs(0) == launches[:3]  # the third when the others were 800 µs


@pytest.mark.parametrize("seconds", [None, 1001e-6, LONG])
def test_a_unit_is_not_fed_ahead_with_kernels_that_are_long_or_unknown(seconds: float | None) -> None:
    bench = Bench(units=1, depth=4)
    if seconds is not None:
        bench.submit(0)
        bench.end(0, seconds=seconds)

    launch = bench.submit(0)
    bench.submit(0)

    assert bench.runs(0) == [launch]


def test_a_long_kernel_is_not_sent_ahead_though_all_would_take_little() -> None:
    bench = Bench(units=1, depth=4)
    for kernel, seconds in ((1, SHORT), (2, 1010e-6)):
        bench.submit(0, kernel=kernel)
        bench.end(0, seconds=seconds)

    launch = bench.submit(0, kernel=1)
    bench.submit(0, kernel=2)

    assert bench.runs(0) == [launch]


def test_a_short_kernel_does_not_wait_on_a_unit_behind_a_long_one() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0, kernel=1)
    bench.end(0, seconds=SHORT)

    long = bench.submit(0, kernel=2)
    bench.submit(0, kernel=1)

    assert bench.runs(0) == [long]


def test_an_outcome_without_a_run_does_not_make_a_kernel_short() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, ok=False, seconds=0.0)

    launch = bench.submit(0)
    bench.submit(0)

    assert bench.runs(0) == [launch]


def test_one_long_run_stops_feeding_ahead() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    bench.submit(0)
    bench.end(0, seconds=LONG)

    launch = bench.submit(0)
    bench.submit(0)

    assert bench.runs(0) == [launch]


# ---- lost units ------------------------------------------------------------------------


def test_a_shard_that_had_begun_dies_with_its_unit() -> None:
    bench = Bench(units=2)
    launch = bench.submit(0, 1)

    bench.lose(0)

    assert bench.ends == [(launch, 0, "died")]
    assert bench.runs(1) == [launch]


def test_a_shard_that_had_not_begun_is_sent_again() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0)

    bench.lose(0, begun=False)
    bench.ready(0)

    assert bench.held(0) == [ShardId(launch, 0, attempt=1)]


def test_retries_are_counted_for_each_shard() -> None:
    bench = Bench(units=2)
    launch = bench.submit(0, 1, retries=1)

    for unit in (0, 1):
        bench.lose(unit)
        assert not bench.ends
        bench.ready(unit)
    assert bench.held(0) + bench.held(1) == [ShardId(launch, 0, 1), ShardId(launch, 1, 1)]
    bench.lose(0)

    assert bench.ends == [(launch, 0, "poisoned")], "three units are as many as one launch may end"


def test_a_launch_that_has_ended_many_units_is_not_tried_again() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0, retries=99)

    for _ in range(MAX_UNITS_LOST - 1):
        bench.lose(0)
        bench.ready(0)
    bench.lose(0)

    assert bench.ends == [(launch, 0, "poisoned")]


def test_a_launch_is_not_to_blame_for_units_that_end_before_they_serve() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0)

    for _ in range(3 * MAX_UNITS_LOST):
        bench.lose(0, begun=False, served=False)
        bench.ready(0)

    assert bench.runs(0) == [launch] and not bench.ends


def test_what_was_fed_ahead_behind_a_crash_is_sent_again_in_order() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    crashing, second, third = (bench.submit(0) for _ in range(3))

    bench.lose(0)
    assert bench.ends == [(crashing, 0, "died")]
    bench.ready(0)

    assert bench.held(0) == [ShardId(second, 0, 1), ShardId(third, 0, 1)]


def test_what_comes_back_to_a_unit_goes_before_a_later_launch_of_higher_priority() -> None:
    bench = Bench(units=2)
    gang = bench.submit(0, 1)
    bench.submit(0, 1, priority=9)

    bench.lose(1, begun=False)
    bench.ready(1)

    assert bench.runs(0) == bench.runs(1) == [gang]


def test_what_comes_back_to_a_unit_is_not_overtaken_by_a_shorter_kernel() -> None:
    bench = Bench(units=2, depth=4)
    for kernel in (1, 2):
        bench.submit(0, kernel=kernel)
        bench.end(0, seconds=SHORT)
    first, second = bench.submit(0, kernel=1), bench.submit(0, kernel=2)
    bench.lose(0, begun=False)
    bench.submit(1, kernel=2)
    bench.end(1, seconds=LONG)
    bench.ready(0)
    assert bench.runs(0) == [first]

    bench.submit(0, kernel=1)
    assert bench.runs(0) == [first]
    bench.end(0, seconds=SHORT)

    assert bench.runs(0) == [second]


def test_the_outcome_of_an_earlier_attempt_is_dropped_and_counted() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0)
    bench.lose(0, begun=False)
    bench.ready(0)

    bench._tell(events.ShardEnded(0, 0, ShardId(launch, 0, attempt=0), True, LONG))

    assert not bench.actions
    assert bench.state.stale == 1
    assert bench.state.outstanding(launch) == 1


def test_a_unit_that_dies_again_and_again_while_idle_is_given_up() -> None:
    bench = Bench(units=1)
    for _ in range(5):
        bench.lose(0, begun=False)
        bench.ready(0)
        bench.now += 1

    launch = bench.submit(0)
    assert bench.ends == [(launch, 0, "no units")]


def test_launches_that_kill_a_unit_while_they_are_loaded_do_not_cost_the_unit() -> None:
    bench = Bench(units=1)
    for _ in range(3):
        launch = bench.submit(0)
        for _ in range(2):
            bench.lose(0, begun=False)
            bench.ready(0)
        bench.lose(0, begun=False)
        assert bench.ends == [(launch, 0, "poisoned")]
        bench.ready(0)

    assert bench.state.running(bench.submit(0)) == 1


def test_a_unit_that_dies_now_and_then_is_not_given_up() -> None:
    bench = Bench(units=1)
    for _ in range(9):
        bench.lose(0, begun=False)
        bench.ready(0)
        bench.now += 3

    launch = bench.submit(0)

    assert bench.runs(0) == [launch]


def test_units_brought_down_with_what_they_stand_on_are_not_given_up() -> None:
    bench = Bench(units=1)
    for _ in range(9):
        bench.lose(0, begun=False, own=False)
        bench.ready(0)

    launch = bench.submit(0)

    assert bench.runs(0) == [launch]


def test_units_that_we_end_ourselves_are_not_given_up() -> None:
    bench = Bench(units=1)
    for _ in range(9):
        launch = bench.submit(0)
        bench.cancel(launch, kill=True)
        bench.lose(0, begun=False)
        assert bench.ends == [(launch, 0, "cancelled")]
        bench.ready(0)

    launch = bench.submit(0)

    assert bench.runs(0) == [launch]


def test_what_any_unit_could_run_goes_to_another_one_if_its_own_is_gone() -> None:
    """It has not begun; it keeps its place before those that came later."""
    bench = Bench(units=2)
    bench.submit(0)
    moved, later = bench.submit(auto=1), bench.submit(auto=1)
    assert bench.runs(1) == [moved]
    bench.lose(1, begun=False)

    bench.gone(1)
    assert bench.ends == []

    for launch in (moved, later):
        bench.end(0)
        assert bench.runs(0) == [launch]


def test_what_waits_for_others_on_a_unit_that_is_gone_goes_to_another_one() -> None:
    """It has its unit already, as a launch that names its own waits for it."""
    bench = Bench(units=3)
    needed = bench.submit(2)
    auto = bench.submit(auto=1, needs=(needed,))
    last = bench.submit(1, needs=(auto,))
    (held,) = bench.placed[auto]

    bench.gone(held)

    bench.end(2)
    (unit,) = bench.placed[auto]
    assert bench.runs(unit) == [auto]
    bench.end(unit)
    assert bench.runs(1) == [last]


def test_what_comes_back_from_a_unit_that_is_gone_is_not_put_behind_what_waits_for_it() -> None:
    bench = Bench(units=4)
    needed = bench.submit(0)
    auto = bench.submit(auto=1, needs=(needed,))
    last = bench.submit(3, needs=(auto,))  # has unit 3 kept for it, as for all that comes before
    (held,) = bench.placed[auto]
    gang = bench.submit(2, 3)
    assert (bench.runs(2), bench.runs(3)) == ([gang], [])  # it waits for its other half, behind that

    bench.gone(held)
    bench.end(0)
    (unit,) = bench.placed[auto]
    assert bench.runs(unit) == [auto]
    bench.end(unit)
    assert bench.runs(3) == [last]
    bench.end(3)
    assert bench.runs(3) == [gang]


def test_what_comes_back_from_a_unit_that_is_gone_is_not_sent_behind_what_waits_for_it() -> None:
    bench = Bench(units=3, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)  # so that units are fed ahead
    first, second, auto = (bench.submit(auto=1) for _ in range(3))
    assert [bench.runs(unit) for unit in range(3)] == [[first], [second], [auto]]
    last = bench.submit(1, needs=(auto,))
    gang = bench.submit(0, 1)
    assert bench.runs(0) == [first, gang]  # its other half is behind what waits for `auto`

    bench.lose(2, begun=False)
    bench.gone(2)
    bench.end(0, seconds=SHORT)
    bench.end(1, seconds=SHORT)

    assert (bench.runs(0), bench.runs(1)) == ([gang], [auto])
    bench.end(1, seconds=SHORT)
    assert bench.runs(1) == [last, gang]


@pytest.mark.parametrize("how", ["cancelled", "dependency", "no units", "closed"])
def test_what_came_back_from_a_unit_that_is_gone_may_end_before_it_has_another_one(how: str) -> None:
    bench = Bench(units=2)
    needed = bench.submit(0)
    if how == "no units":  # else it fails because of what it needs
        auto = bench.submit(auto=1, behind=(needed,))
    else:
        auto = bench.submit(auto=1, needs=(needed,))
    bench.submit(0, behind=(auto,))
    assert bench.placed[auto] == (1,)
    bench.gone(1)

    if how == "cancelled":
        bench.cancel(auto)
    elif how == "dependency":
        bench.end(0, ok=False)
    elif how == "no units":
        bench.gone(0)
    else:
        bench.close()

    assert (auto, 0, how) in bench.ends
    bench.submit(auto=1)  # the account is right


def test_a_unit_that_is_gone_takes_along_what_only_it_could_run() -> None:
    bench = Bench(units=2)
    running = bench.submit(0, 1)
    queued, auto = bench.submit(0, 1), bench.submit(auto=2)

    bench.gone(1)

    assert sorted(bench.ends) == [
        (running, 1, "no units"),
        (queued, 1, "no units"),
        (auto, 0, "no units"),
        (auto, 1, "no units"),
    ]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_shards_end_tells_how_many_units_died_under_it(lost: int) -> None:
    bench = Bench(units=1)
    bench.submit(0, retries=2, timeout=2.0)
    for _ in range(lost):
        bench.begin(0)
        bench.lose(0)
        bench.ready(0)
        bench.lose(0, begun=False)  # not under it
        bench.ready(0)
    bench.begin(0)
    bench.tick(10.0)
    bench.lose(0)
    assert [(one.how, one.deaths) for one in bench.actions if isinstance(one, Settle)] == [("timeout", lost)]


# ---- timeouts and cancelling -----------------------------------------------------------


def test_a_timeout_counts_from_the_begin() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0, timeout=2.0)
    assert bench.state.next_deadline() is None
    bench.now = 10.0
    bench.begin(0)
    assert bench.state.next_deadline() == 12.0

    bench.tick(11.9)
    assert not bench.kills
    bench.tick(12.0)
    assert bench.kills == [0]
    bench.lose(0)

    assert bench.ends == [(launch, 0, "timeout")]
    assert bench.state.next_deadline() is None


def test_an_outcome_that_comes_when_the_end_was_decided_does_not_count() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0, timeout=2.0)
    bench.begin(0)
    bench.tick(2.0)

    bench.end(0)

    assert bench.ends == [(launch, 0, "timeout")]


def test_a_shard_that_timed_out_is_not_retried() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0, timeout=2.0, retries=3)
    bench.begin(0)
    bench.tick(2.0)
    bench.lose(0)

    assert bench.ends == [(launch, 0, "timeout")]


def test_a_queued_launch_can_be_cancelled() -> None:
    bench = Bench(units=2)
    bench.submit(0, 1)
    launch, next_one = bench.submit(0, 1), bench.submit(0)
    assert bench.state.can_cancel(launch)

    bench.cancel(launch)
    assert bench.ends == [(launch, 0, "cancelled"), (launch, 1, "cancelled")]
    bench.end(0)

    assert bench.runs(0) == [next_one]


def test_a_launch_that_has_begun_is_not_cancelled_without_kill() -> None:
    bench = Bench(units=2)
    bench.submit(1)
    launch = bench.submit(0, 1)
    assert not bench.state.can_cancel(launch)

    bench.cancel(launch)

    assert not bench.actions


def test_cancelling_with_kill_ends_what_runs_and_what_is_queued() -> None:
    bench = Bench(units=2)
    bench.submit(1)
    launch = bench.submit(0, 1, retries=5)

    bench.cancel(launch, kill=True)
    assert bench.ends == [(launch, 1, "cancelled")]
    assert bench.kills == [0]
    bench.lose(0)

    assert bench.ends == [(launch, 0, "cancelled")]


def test_cancelling_with_kill_spares_the_shard_that_runs_before() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    first, second = bench.submit(0), bench.submit(0)
    assert bench.runs(0) == [first, second]

    bench.cancel(second, kill=True)
    assert not bench.kills
    bench.end(0, seconds=SHORT)

    assert bench.kills == [0]


def test_a_unit_that_was_spared_goes_on_with_what_it_holds() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    _, second = bench.submit(0, timeout=2.0), bench.submit(0)
    bench.begin(0)
    bench.tick(2.0)
    assert bench.kills == [0]
    bench.end(0, seconds=SHORT)
    third = bench.submit(0)
    assert bench.runs(0) == [second]

    bench.ready(0)

    assert bench.runs(0) == [second, third]


def test_a_unit_that_was_spared_is_asked_again_if_what_it_runs_now_is_to_end() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    first, second = bench.submit(0), bench.submit(0)
    bench.cancel(first, kill=True)
    bench.cancel(second, kill=True)
    bench.end(0, seconds=SHORT)
    assert not bench.kills

    bench.ready(0)

    assert bench.kills == [0]


def test_a_unit_that_cannot_end_what_it_runs_is_asked_once() -> None:
    bench = Bench(units=1)
    launch = bench.submit(0)
    bench.cancel(launch, kill=True)
    assert bench.kills == [0]

    bench.ready(0)

    assert not bench.kills
    bench.end(0)
    assert bench.ends == [(launch, 0, "cancelled")]


def test_a_cancelled_shard_does_not_come_back_when_another_loses_the_unit() -> None:
    bench = Bench(units=1, depth=4)
    bench.submit(0)
    bench.end(0, seconds=SHORT)
    first, second = bench.submit(0), bench.submit(0)
    bench.cancel(second, kill=True)

    bench.lose(0)

    assert bench.ends == [(first, 0, "died"), (second, 0, "cancelled")]


def test_cancelling_ends_those_that_depend_on_it() -> None:
    bench = Bench(units=1)
    bench.submit(0)
    launch = bench.submit(0)
    dependant = bench.submit(0, needs=(launch,))

    bench.cancel(launch)

    assert bench.ends == [(launch, 0, "cancelled"), (dependant, 0, "dependency")]


# ---- the rest --------------------------------------------------------------------------


def test_closing_ends_all_that_has_not_ended() -> None:
    bench = Bench(units=1)
    running, queued = bench.submit(0), bench.submit(0)

    bench.close()
    assert sorted(bench.ends) == [(running, 0, "closed"), (queued, 0, "closed")]
    later = bench.submit(0)

    assert bench.ends == [(later, 0, "closed")]
    bench.model.check_empty()


def test_questions_are_answered() -> None:
    bench = Bench(units=3)
    bench.submit(2)
    launch = bench.submit(0, 1, 2)
    assert (bench.state.running(launch), bench.state.outstanding(launch)) == (2, 3)

    bench.end(0)

    assert (bench.state.running(launch), bench.state.outstanding(launch)) == (1, 2)
    assert bench.state.pending == 2


def test_two_pools_do_not_disturb_each_other() -> None:
    bench = Bench(units=1)
    bench._tell(events.PoolOpened(1, 1))
    bench.submit(0)

    bench._tell(events.Submit(7, 1, (0,), 1))

    assert bench.actions == [Send(1, 0, ShardId(7, 0))]


@pytest.mark.parametrize(
    "asked",
    [
        events.Submit(9, 0, (), 0),
        events.Submit(9, 0, None, 0),
        events.Submit(9, 0, (2,), 1),
        events.Submit(9, 0, (-1,), 1),
        events.Submit(9, 0, (0, 0), 2),
        events.Submit(9, 0, (1, 0), 2),
        events.Submit(9, 0, (0,), 2),
        events.Submit(1, 0, (0,), 1),
        events.Submit(9, 0, (0,), 1, depends=(9,)),
    ],
)
def test_a_launch_that_cannot_be_meant_is_refused_and_changes_nothing(asked: events.Submit) -> None:
    state = State()
    state.step(events.PoolOpened(0, 2))
    state.step(events.Submit(1, 0, (0,), 1))

    with pytest.raises(ValueError, match=f"launch {asked.launch}"):
        state.step(asked)

    assert state.pending == 1


def test_cancelled_launches_leave_nothing_behind_a_long_one() -> None:
    state = State()
    state.step(events.PoolOpened(0, 1))
    state.step(events.Submit(0, 0, (0,), 1, timeout=1e9))
    state.step(events.ShardBegun(0, 0, ShardId(0, 0), 0.0))

    for number in range(1, 3000):
        units, needs = (0,) if number % 2 else None, (0,) if number % 3 else ()
        state.step(events.Submit(number, 0, units, 1, depends=needs))
        state.step(events.Cancel(number))

    pool = state._pools[0]
    assert state.pending == 1
    for line in (pool.units[0], pool.autos):
        assert line.queued <= len(line._fifo) + len(line._heap) == line.queued + line._dropped < 200
    assert len(pool.ranking) < 200
    assert not state._launches[0].more().dependants


def test_what_is_known_of_kernels_and_units_does_not_add_up() -> None:
    state = State()
    state.step(events.PoolOpened(0, 2))
    state.step(events.Submit(0, 0, (0,), 1))
    state.step(events.Submit(1, 0, None, 2))  # now the units are ranked
    for number in range(2, 10_000):
        state.step(events.Submit(number, 0, (1,), 1, kernel=number))
        state.step(events.ShardEnded(0, 1, ShardId(number - (number > 2), 0), True, LONG))
    state.step(events.PoolOpened(1, 1))
    for number in range(10_000, 20_000):
        state.step(events.Submit(number, 1, (0,), 1, kernel=number))
        state.step(events.ShardEnded(1, 0, ShardId(number, 0), True, LONG))

    pace = state._placing.pace
    assert len(pace._estimates) == len(pace.costs) <= 4096
    assert len(state._pools[0].ranking) < 200


def test_deadlines_of_shards_that_have_ended_are_forgotten() -> None:
    state = State()
    state.step(events.PoolOpened(0, 1))
    for number in range(3000):
        state.step(events.Submit(number, 0, (0,), 1, timeout=1e9))
        state.step(events.ShardBegun(0, 0, ShardId(number, 0), 0.0))
        state.step(events.ShardEnded(0, 0, ShardId(number, 0), True, LONG))

    assert len(state._deadlines._heap) < 200


# ---- cost --------------------------------------------------------------------------------


def bytecodes(run: Callable[[], object]) -> int:
    """Count the instructions of Python that a call takes: a measure of cost that is no clock."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def cost(units: int, queued: int) -> int:
    """Return what 300 launches of all kinds cost where so many are queued before them."""
    state = State()
    state.step(events.PoolOpened(0, units))
    for unit in range(units):
        state.step(events.Submit(unit, 0, (unit,), 1))
    first = units + queued
    for number in range(units, first):
        where = (number % units,) if number % 2 else None
        needs = (number - 1,) if number % 3 == 0 else ()
        state.step(events.Submit(number, 0, where, 1, depends=needs, timeout=1.0, priority=number % 5))

    def work() -> None:
        running = 0  # on unit 0
        for number in range(first, first + 300):
            where = (0, 1) if number % 2 else None
            state.step(events.Submit(number, 0, where, 2, depends=(number - 1,) * (number % 3 == 1)))
            if number % 5 == 0:
                state.step(events.Cancel(number))
            if number % 7 == 0:
                state.step(events.UnitLost(0, units - 1, None, 0.0))
                state.step(events.UnitReady(0, units - 1))
            shard = ShardId(running, 0)
            state.step(events.ShardBegun(0, 0, shard, 0.0))
            following = [
                action.shard
                for action in state.step(events.ShardEnded(0, 0, shard, True, LONG))
                if isinstance(action, Send) and action.unit == 0
            ]
            running = following[0].launch if following else running
            state.step(events.Tick(0.5))

    count = bytecodes(work)
    assert not state.stale, "every report was of a shard under way"
    return count


def test_an_event_costs_the_same_however_many_launches_are_queued() -> None:
    assert cost(units=4, queued=10_000) < 1.2 * cost(units=4, queued=1000)


@pytest.mark.parametrize("units", [(0,), None])
def test_a_queued_launch_takes_little_memory(units: tuple[int, ...] | None) -> None:
    state = State()
    state.step(events.PoolOpened(0, 1))
    launches = list(range(1000, 6000))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for number in launches:
        state.step(events.Submit(number, 0, units, 1))

    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / len(launches) < 260, "bytes, without what its handle keeps, too"


def test_an_event_costs_at_most_the_logarithm_of_the_number_of_units() -> None:
    assert cost(units=512, queued=1000) < 1.5 * cost(units=4, queued=1000)
