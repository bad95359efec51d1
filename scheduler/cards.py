"""Whose turn it is to have a card: pools that share one are bitstreams of which one at a time can be loaded.

Launches for the loaded one go first, until so many of its shards were sent while
another one waited (FAIR). Then it is sent nothing more, and when it holds nothing the
next one takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.events import Action, Load, Send, Unload
from scheduler.placing import Placing
from scheduler.pools import Pool

FAIR = 64  # shards that go before another bitstream's


class _Card:
    """Pools in the order in which they have their turns, the loaded one last."""

    __slots__ = ("leaving", "loaded", "pools", "sent")

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.loaded: Pool | None = None
        self.leaving = False  # it was told so, and has not left yet
        self.sent = 0  # shards sent to it while others waited


class Cards:
    """Those that several pools may share."""

    def __init__(self, placing: Placing, fair: int) -> None:
        self._placing = placing
        self._fair = fair
        self._cards: dict[str, _Card] = {}

    def add(self, name: str, pool: Pool, loaded: bool) -> None:
        """Take in a pool that shares a card of this name; one at most of them is loaded."""
        card = self._cards.setdefault(name, _Card())
        if loaded:
            card.pools.append(pool)
            card.loaded = pool
        else:
            card.pools.insert(0, pool)
            pool.hold()

    def drop(self, pool: Pool) -> None:
        """Load nothing more on a card: a pool of it was closed, and so are the others."""
        for name in [name for name, card in self._cards.items() if pool in card.pools]:
            del self._cards[name]

    def unloaded(self, pool: Pool) -> bool:
        """Take note that a pool has left its card; return whether it was to."""
        for card in self._cards.values():
            if card.loaded is pool and card.leaving:
                card.loaded, card.leaving = None, False
                return True
        return False

    def turn(self, decided: Sequence[Action]) -> bool:
        """Decide whose turn it is, from what is queued now and was just sent.

        Return whether units may be sent something that they could not be before.
        """
        found = False
        for card in self._cards.values():
            if card.loaded is None:
                found |= self._load(card)
            elif not card.leaving:
                found |= self._serve(card, card.loaded, decided)
        return found

    def _load(self, card: _Card) -> bool:
        """Load the first one that has something to run."""
        pool = next(filter(self._placing.has_work, card.pools), None)
        if pool is None:
            return False
        card.pools.remove(pool)
        card.pools.append(pool)
        card.loaded, card.sent = pool, 0
        self._placing.actions.append(Load(pool.number))
        self._let_on(pool, new=True)
        return True

    def _serve(self, card: _Card, loaded: Pool, decided: Sequence[Action]) -> bool:
        """Let the loaded one go on, hold it, or have it leave."""
        if not any(self._placing.has_work(pool) for pool in card.pools if pool is not loaded):
            card.sent = 0
            if loaded.held:
                self._let_on(loaded)
                return True
            return False
        for action in decided:
            if type(action) is Send and action.pool == loaded.number:
                card.sent += action.launches
        if card.sent >= self._fair and not loaded.held:
            loaded.hold()
        if not loaded.is_busy() and (loaded.held or not self._placing.has_work(loaded)):
            loaded.hold()
            card.leaving = True
            self._placing.actions.append(Unload(loaded.number))
        return False

    def _let_on(self, pool: Pool, new: bool = False) -> None:
        """Send a pool again what it may take; its units are `new` where it has just been loaded."""
        for unit in pool.let_on(new):
            self._placing.touch(unit)
