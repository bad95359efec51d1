"""A world in which hypothesis chooses what happens next, and finds short histories that break a promise."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .world import Core, Kind, Weather, World

ANY = st.integers(0, 1 << 16)


class Histories(RuleBasedStateMachine):
    """Let hypothesis choose what happens next; the world checks each step, and that all of it ends."""

    world: World

    @initialize(
        sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=2),
        weather=st.builds(
            Weather,
            delay=st.sampled_from((0.0, 0.1)),
            lost=st.sampled_from((0.0, 0.2)),
            doubled=st.sampled_from((0.0, 0.2)),
            overtaken=st.sampled_from((0.0, 0.2)),
            unfit=st.sampled_from((0.0, 0.5)),
        ),
        shared=st.booleans(),
        seed=ANY,
    )
    def open(self, sizes: list[tuple[int, int]], shared: bool, weather: Weather, seed: int) -> None:
        self.world = World(Random(seed), weather, fair=2)
        for units, depth in sizes:
            self.world.open(units, depth, "card" if shared else "", loaded=not shared)

    @rule(
        pool=ANY,
        picks=st.sets(st.integers(0, 3), min_size=1),
        auto=st.booleans(),
        kind=st.builds(
            Kind,
            gang=st.booleans(),
            hangs=st.sampled_from((False, False, False, True)),
            ok=st.sampled_from((True, True, True, False)),
            seconds=st.sampled_from((1e-4, 2e-4, 1.0)),
        ),
        needs=st.sets(ANY, max_size=2),
        may_fail=st.booleans(),
        ahead=st.booleans(),
        options=st.fixed_dictionaries(
            {
                "kernel": st.integers(0, 2),
                "priority": st.integers(-1, 1),
                "retries": st.integers(0, 3),
                "timeout": st.sampled_from((None, 1.0)),
            }
        ),
    )
    def submit(
        self,
        pool: int,
        picks: set[int],
        auto: bool,
        kind: Kind,
        needs: set[int],
        may_fail: bool,
        ahead: bool,
        options: dict[str, object],
    ) -> None:
        world = self.world
        if not world.cores:
            return
        pool = sorted(world.cores)[pool % len(world.cores)]
        units = tuple(sorted({pick % len(world.cores[pool]) for pick in picks}))
        unfinished = sorted(world.model.launches)
        depends = {unfinished[need % len(unfinished)] for need in needs} if unfinished else set()
        world.submit(
            pool,
            None if auto else units,
            len(units),
            kind,
            ahead=ahead,
            **{"behind" if may_fail else "depends": tuple(sorted(depends))},
            **options,
        )

    @rule(steps=st.integers(1, 8))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.world.advance()

    @rule(core=ANY)
    def lose(self, core: int) -> None:
        found = self._core(core)
        if found is not None:
            self.world.lose(found)

    @rule(core=ANY, sure=st.integers(0, 4))
    def remove(self, core: int, sure: int) -> None:
        found = self._core(core)
        if found is not None and not sure:
            self.world.remove(found)

    @rule(pool=ANY, sure=st.integers(0, 9))
    def close(self, pool: int, sure: int) -> None:
        if self.world.cores and not sure:
            self.world.close(sorted(self.world.cores)[pool % len(self.world.cores)])

    @precondition(lambda self: self.world.model.launches)
    @rule(launch=ANY, kill=st.booleans())
    def cancel(self, launch: int, kill: bool) -> None:
        unfinished = sorted(self.world.model.launches)
        self.world.cancel(unfinished[launch % len(unfinished)], kill)

    def teardown(self) -> None:
        self.world.finish()

    def _core(self, number: int) -> Core | None:
        cores = [core for _, units in sorted(self.world.cores.items()) for core in units]
        return cores[number % len(cores)] if cores else None
