"""Made-up devices that drive the real state machine, and histories drawn from a seed.

A seed always gives the same history; run this file with seeds as arguments to
see theirs, event by event.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from random import Random

from scheduler_model import Model

from device_runtime.launch import ShardId
from scheduler import events
from scheduler.events import Event, Kill, Placed, Send
from scheduler.state import State


@dataclass
class Core:
    """A unit of a made-up device."""

    held: list[ShardId] = field(default_factory=list)
    begun: bool = False  # it runs the first shard that it holds
    up: bool = True
    gone: bool = False
    dying: ShardId | None = None  # what it was asked to end


@dataclass
class Kind:
    """What the kernel of a launch does."""

    gang: bool = False  # a shard ends only when all the others have begun, or ended
    hangs: bool = False
    ok: bool = True
    seconds: float = 1.0


class World:
    """Devices, a state machine that uses them, and the model that watches it."""

    def __init__(self, trace: bool = False, random: Random | None = None) -> None:
        self.random = random or Random(0)
        self.state = State()
        self.model = Model(self.state)
        self.cores: dict[int, list[Core]] = {}
        self.kinds: dict[int, Kind] = {}
        self.units: dict[int, tuple[int, ...] | None] = {}
        self.now = 0.0
        self.launches = 0
        self.past: list[tuple[int, int, ShardId]] = []  # shards that have been on units
        self.trace = trace

    def tell(self, event: Event) -> None:
        """Hand an event to the state machine, and let the devices do what it says."""
        if self.trace:
            print(event)
        actions = self.model.step(event)
        for action in actions:
            if self.trace:
                print("    ", action)
            if isinstance(action, Placed):
                self.units[action.launch] = action.units
            elif isinstance(action, Send):
                self.cores[action.pool][action.unit].held.append(action.shard)
                self.past.append((action.pool, action.unit, action.shard))
            elif isinstance(action, Kill):
                self.cores[action.pool][action.unit].dying = action.shard

    # ---- what the host does ------------------------------------------------------------

    def open(self, units: int, depth: int) -> None:
        pool = len(self.cores)
        self.cores[pool] = [Core() for _ in range(units)]
        self.tell(events.PoolOpened(pool, units, depth))

    def submit(
        self,
        pool: int,
        units: tuple[int, ...] | None,
        count: int = 0,
        kind: Kind | None = None,
        **options: object,
    ) -> int:
        """Make a launch and return its number."""
        self.launches += 1
        self.kinds[self.launches] = kind or Kind()
        self.units[self.launches] = units
        count = count or len(units or ())
        self.tell(events.Submit(self.launches, pool, units, count, **options))  # type: ignore[arg-type]
        return self.launches

    def cancel(self, launch: int, kill: bool) -> None:
        self.tell(events.Cancel(launch, kill))

    def tick(self) -> None:
        due = self.state.next_deadline()
        if due is not None:
            self.now = max(self.now, due)
            self.tell(events.Tick(self.now))

    def close(self, pool: int) -> None:
        del self.cores[pool]
        self.tell(events.PoolClosed(pool))

    # ---- what devices do ---------------------------------------------------------------

    def step_core(self, pool: int, unit: int) -> bool:
        """Let a core do what comes next; return whether there was anything to do."""
        core = self.cores[pool][unit]
        if core.gone:
            return False
        if not core.up:
            self.ready(pool, unit)
        elif core.dying and self.random.random() < 0.7:  # else it goes on until the kill arrives
            self.kill(pool, unit)
        elif not core.held:
            return core.dying is not None
        elif not core.begun:
            core.begun = True
            shard = core.held[0]
            if self.model.launches[shard.launch].asked.timeout is not None:
                self.tell(events.ShardBegun(pool, unit, shard, self.now))
        elif self._may_end(core.held[0]):
            self.end(pool, unit)
        else:
            return core.dying is not None
        return True

    def _may_end(self, shard: ShardId) -> bool:
        kind = self.kinds[shard.launch]
        return not kind.hangs and (not kind.gang or self._gang_has_begun(shard.launch))

    def _gang_has_begun(self, number: int) -> bool:
        launch = self.model.launches[number]
        units = self.units[number]
        assert units is not None
        cores = self.cores[launch.pool]
        return all(
            rank in launch.settled or (cores[unit].begun and cores[unit].held[0][:2] == (number, rank))
            for rank, unit in enumerate(units)
        )

    def end(self, pool: int, unit: int) -> None:
        core = self.cores[pool][unit]
        shard = core.held.pop(0)
        core.begun = False
        kind = self.kinds[shard.launch]
        self.tell(events.ShardEnded(pool, unit, shard, kind.ok, kind.seconds))

    def lose(self, pool: int, unit: int, own: bool = True) -> None:
        """Let a core die, with all it holds."""
        core = self.cores[pool][unit]
        begun = core.held[0] if core.begun else None
        self.cores[pool][unit] = Core(up=False, gone=core.gone)
        self.tell(events.UnitLost(pool, unit, begun, self.now, own))

    def kill(self, pool: int, unit: int) -> None:
        """Let a core die if what it was asked to end has not ended, and live on otherwise."""
        core = self.cores[pool][unit]
        if core.dying in core.held:
            self.lose(pool, unit)
        else:
            core.dying = None
            self.ready(pool, unit)

    def ready(self, pool: int, unit: int) -> None:
        self.cores[pool][unit].up = True
        self.cores[pool][unit].gone = self.model.pools[pool][unit].gone
        self.tell(events.UnitReady(pool, unit))

    def remove(self, pool: int, unit: int) -> None:
        """Let a core go for good."""
        self.cores[pool][unit] = Core(gone=True)
        self.tell(events.UnitGone(pool, unit))

    def repeat(self, pool: int, unit: int, shard: ShardId) -> None:
        """Report the end of a shard that may have ended long ago, or be somewhere else."""
        if pool in self.cores and shard not in self.cores[pool][unit].held:
            self.tell(events.ShardEnded(pool, unit, shard, True, 1.0))

    # ---- the end -----------------------------------------------------------------------

    def drain(self) -> None:
        """Let the cores work until all launches have ended; fail if that never comes."""
        while self.model.launches:
            moved = False
            for pool, cores in self.cores.items():
                for unit in range(len(cores)):
                    moved = self.step_core(pool, unit) or moved
            if moved:
                continue
            if self.state.next_deadline() is not None:
                self.tick()
                continue
            running = {core.held[0].launch for cores in self.cores.values() for core in cores if core.held}
            hanging = [number for number in sorted(running) if self.kinds[number].hangs]
            assert hanging, f"launches wait for each other for ever: {sorted(self.model.launches)}"
            self.cancel(hanging[0], kill=True)

    def finish(self) -> None:
        """Let all launches end, close the pools and check that nothing is left."""
        self.drain()
        for pool in list(self.cores):
            self.close(pool)
        self.model.check_empty()


def simulate(seed: int, trace: bool = False) -> World:
    """Run the history of a seed to its end."""
    random = Random(seed)
    world = World(trace, random)
    for _ in range(random.choice((1, 1, 1, 2))):
        world.open(random.randint(1, 5), random.choice((1, 1, 2, 4)))
    launches = random.choice((4, 8, 8, 16, 30))
    faults = random.choice((0.0, 0.02, 0.1))
    while world.launches < launches:
        draw = random.random()
        if not world.cores:
            break
        pool = random.choice(list(world.cores))
        unit = random.randrange(len(world.cores[pool]))
        if draw < 0.35:
            _submit(world, random, pool)
        elif draw < 0.35 + faults:
            _harm(world, random, pool, unit)
        elif draw > 0.96 and world.model.launches:
            world.cancel(random.choice(list(world.model.launches)), kill=random.random() < 0.6)
        elif draw > 0.94:
            world.tick()
        elif draw > 0.92 and world.past:
            world.repeat(*random.choice(world.past))
        else:
            world.now += 0.1
            world.step_core(pool, unit)
    world.finish()
    return world


def _submit(world: World, random: Random, pool: int) -> None:
    size = len(world.cores[pool])
    count = random.choice((1, 1, 2, size, random.randint(1, size)))
    count = min(count, size)
    auto = random.random() < 0.45
    units = None if auto else tuple(sorted(random.sample(range(size), count)))
    unfinished = list(world.model.launches)
    needed = random.sample(unfinished, min(random.choice((0, 0, 0, 1, 1, 2)), len(unfinished)))
    kind = Kind(
        gang=random.random() < 0.6,
        hangs=random.random() < 0.04,
        ok=random.random() < 0.93,
        seconds=random.choice((0.0, 20e-6, 100e-6, 240e-6, 1.0)),
    )
    world.submit(
        pool,
        units,
        count,
        kind,
        kernel=random.randrange(4),
        priority=random.choice((0, 0, 0, 0, 1, 5, -1)),
        depends=tuple(sorted(needed)),
        retries=random.choice((0, 0, 1, 3)),
        timeout=random.choice((None, None, None, 0.5, 30.0)),
    )


def _harm(world: World, random: Random, pool: int, unit: int) -> None:
    """Let something go wrong with a core, or close a pool."""
    draw = random.random()
    core = world.cores[pool][unit]
    if draw < 0.03:
        world.close(pool)
    elif core.gone:
        world.tell(events.UnitLost(pool, unit, None, world.now))
    elif draw < 0.13:
        world.remove(pool, unit)
    else:
        world.lose(pool, unit, own=random.random() < 0.8)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        simulate(int(argument), trace=True)
