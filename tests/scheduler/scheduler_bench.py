"""A state machine that is told in few words what happens."""

from __future__ import annotations

from simulation.model import Model

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Action, Kill, Placed, Settle
from scheduler.state import State

SHORT, LONG = 100e-6, 1.0


class Bench:
    """A state machine with one pool, told in few words what happens; the model checks along."""

    def __init__(self, units: int = 2, depth: int = 1) -> None:
        self.state = State()
        self.model = Model(self.state)
        self.launches = 0
        self.now = 0.0
        self.actions: list[Action] = []  # of the last event
        self._tell(events.PoolOpened(0, units, depth))

    def submit(self, *units: int, auto: int = 0, needs: tuple[int, ...] = (), **options: object) -> int:
        self.launches += 1
        asked = None if auto else units
        self._tell(
            events.Submit(self.launches, 0, asked, auto or len(units), depends=needs, **options)  # type: ignore[arg-type]
        )
        return self.launches

    def begin(self, unit: int) -> None:
        self._tell(events.ShardBegun(0, unit, self.held(unit)[0], self.now))

    def end(self, unit: int, ok: bool = True, seconds: float = LONG) -> None:
        self._tell(events.ShardEnded(0, unit, self.held(unit)[0], ok, seconds))

    def lose(self, unit: int, begun: bool = True, own: bool = True, served: bool = True) -> None:
        ran = self.held(unit)[0] if begun else None
        self._tell(events.UnitLost(0, unit, ran, self.now, own, served))

    def ready(self, unit: int) -> None:
        self._tell(events.UnitReady(0, unit))

    def gone(self, unit: int) -> None:
        self._tell(events.UnitGone(0, unit))

    def cancel(self, launch: int, kill: bool = False) -> None:
        self._tell(events.Cancel(launch, kill))

    def tick(self, now: float) -> None:
        self.now = now
        self._tell(events.Tick(now))

    def close(self) -> None:
        self._tell(events.PoolClosed(0))

    def held(self, unit: int) -> list[ShardId]:
        """What a unit holds, as far as the model saw."""
        return self.model.pools[0][unit].held

    def runs(self, unit: int) -> list[int]:
        """The launches whose shards a unit holds."""
        return [shard.launch for shard in self.held(unit)]

    @property
    def ends(self) -> list[tuple[int, int, str]]:
        """The shards that the last event settled: launch, rank, how."""
        return [(one.launch, one.rank, one.how) for one in self.actions if isinstance(one, Settle)]

    @property
    def kills(self) -> list[int]:
        return [one.unit for one in self.actions if isinstance(one, Kill)]

    @property
    def placed(self) -> dict[int, tuple[int, ...]]:
        return {one.launch: one.units for one in self.actions if isinstance(one, Placed)}

    def _tell(self, event: events.Event) -> None:
        self.actions = self.model.step(event)
