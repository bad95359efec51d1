"""Pools that share a card have it in turn."""

from __future__ import annotations

from simulation.model import Model

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Action, Load, Send, Settle, Unload
from scheduler.state import State

A, B, OTHER = 0, 1, 2


class Card:
    """Two pools of two units on one card, A loaded, and one that shares nothing; the model checks along."""

    def __init__(self, fair: int = 3) -> None:
        self.model = Model(State(fair), fair)
        self.launches = 0
        self.held: dict[int, list[tuple[int, ShardId]]] = {A: [], B: [], OTHER: []}
        self.tell(events.PoolOpened(A, 2, 1, "card 0"))
        self.tell(events.PoolOpened(B, 2, 1, "card 0", loaded=False))
        self.tell(events.PoolOpened(OTHER, 2))

    def tell(self, event: events.Event) -> list[Action]:
        actions = self.model.step(event)
        for action in actions:
            if isinstance(action, Send):
                self.held[action.pool].append((action.unit, action.shard))
        return actions

    def submit(self, pool: int, *units: int, **options: object) -> list[Action]:
        self.launches += 1
        return self.tell(events.Submit(self.launches, pool, units or None, len(units) or 1, **options))  # type: ignore[arg-type]

    def end(self, pool: int) -> list[Action]:
        """Let the pool's oldest shard end."""
        unit, shard = self.held[pool].pop(0)
        return self.tell(events.ShardEnded(pool, unit, shard, True, 1.0))


def sent(actions: list[Action]) -> list[tuple[int, int]]:
    """Return the pools and launches of what is sent."""
    return [(action.pool, action.shard.launch) for action in actions if isinstance(action, Send)]


def test_what_is_loaded_goes_on_while_nobody_else_has_anything() -> None:
    card = Card()
    for number in range(1, 20):
        assert sent(card.submit(A)) == [(A, number)]
        card.end(A)


def test_another_is_loaded_once_the_first_has_nothing_to_do() -> None:
    card = Card()
    card.submit(A)
    assert sent(card.submit(B)) == []
    assert Unload(A) in card.end(A)
    assert sent(card.submit(A)) == []

    actions = card.tell(events.PoolUnloaded(A))
    assert Load(B) in actions
    assert sent(actions) == [(B, 2)]
    assert Unload(B) in card.end(B)
    assert sent(card.tell(events.PoolUnloaded(B))) == [(A, 3)]


def test_one_that_was_never_loaded_leaves_the_others_alone() -> None:
    card = Card()
    card.submit(B)
    assert sent(card.submit(OTHER)) == [(OTHER, 2)]


def test_so_many_go_first_while_another_waits() -> None:
    card = Card(fair=3)
    card.submit(A)  # not counted: nobody waits yet
    card.submit(B)
    for _ in range(6):
        card.submit(A)
    gone, told = [], False
    while not told:
        actions = card.end(A)
        gone += sent(actions)
        told = Unload(A) in actions
    assert gone == [(A, 4), (A, 5)]  # behind the third, which was sent when it was made

    assert sent(card.tell(events.PoolUnloaded(A))) == [(B, 2)]
    card.end(B)
    assert sent(card.tell(events.PoolUnloaded(B))) == [(A, 6), (A, 7)]


def test_it_goes_on_if_the_others_wait_no_longer() -> None:
    card = Card(fair=1)
    card.submit(A, 0)
    card.submit(B)
    card.submit(A, 1)
    card.submit(A, 1)
    assert sent(card.tell(events.Cancel(2))) == []
    card.end(A)
    assert sent(card.end(A)) == [(A, 4)]


def test_a_bitstream_that_waits_for_a_launch_of_another_has_no_use_of_the_card() -> None:
    card = Card()
    card.submit(B)
    card.submit(A, 0, depends=(1,))
    card.submit(B, depends=(2,))
    for pool, number in ((B, 1), (A, 2), (B, 3)):
        before = A if pool == B else B
        actions = card.tell(events.PoolUnloaded(before))
        assert sent(actions) == [(pool, number)]
        ended = card.end(pool)
        assert (Unload(pool) in ended) == (number < 3)


def test_a_unit_that_comes_back_too_late_is_sent_nothing() -> None:
    card = Card()
    card.submit(A, 0)
    unit, shard = card.held[A].pop()
    card.submit(B)
    lost = card.tell(events.UnitLost(A, unit, shard, 0.0))
    assert any(isinstance(action, Settle) and action.how == "died" for action in lost)
    assert Unload(A) in lost
    card.submit(A, 0)
    assert sent(card.tell(events.UnitReady(A, unit))) == []
    card.tell(events.PoolUnloaded(A))
    card.end(B)
    assert sent(card.tell(events.PoolUnloaded(B))) == [(A, 3)]


def test_launches_in_line_are_taken_in_where_nothing_is_loaded() -> None:
    card = Card()
    assert card.model.state.room_for(B, 0, 10) > 0


def test_closed_pools_are_loaded_no_more() -> None:
    card = Card()
    card.submit(A)
    card.submit(B)
    closed = card.tell(events.PoolClosed(A))
    closed += card.tell(events.PoolClosed(B))
    assert not any(isinstance(action, (Load, Unload)) for action in closed)
    assert sum(isinstance(action, Settle) and action.how == "closed" for action in closed) == 2


def test_what_has_not_left_as_it_was_told_is_noted() -> None:
    card = Card()
    for pool in (A, OTHER, 7):
        card.tell(events.PoolUnloaded(pool))
    assert card.model.state.stale == 3
