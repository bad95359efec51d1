"""Histories drawn from seeds: what users ask for, and what goes wrong. A seed always gives the same one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from .world import Core, Kind, Weather, World


def simulate(seed: int, trace: Callable[[str], object] | None = None) -> World:
    """Run the history of a seed to its end; raise AssertionError where a promise is broken."""
    random = Random(seed)
    world = World(random, _weather(random), trace, fair=random.choice((1, 3, 64)))
    bulk = random.random() < 0.25  # mostly short launches, many of them alike
    for _ in range(random.choice((1, 1, 1, 2))):
        world.open(random.randint(1, 3 if bulk else 5), random.choice((8, 16) if bulk else (1, 1, 2, 4)))
    if random.random() < 0.15:
        for number in range(random.randint(2, 3)):
            loaded = number == 0 and random.random() < 0.8
            world.open(random.randint(1, 3), random.choice((1, 4, 16)), "card", loaded)
    launches = random.choice((4, 8, 8, 16, 30))
    pause = random.choice((0.0, 1e-4, 0.05, 0.5))  # seconds between two things that happen
    faults = random.choice((0.0, 0.02, 0.1))
    time = 0.0
    while launches > 0:
        draw = random.random()
        if draw < faults:
            act = partial(_harm, world, random)
        elif draw > 0.85:
            act = partial(_cancel, world, random)
        else:
            submit, counts = _submit, 1
            if random.random() < (0.8 if bulk else 0.02):
                submit, counts = _submit_together, 2
            elif random.random() < 0.06:
                submit, counts = _submit_chain, 2
            act = partial(submit, world, random, faults)
            launches -= counts
        world.at(time, act)
        time += random.expovariate(1.0) * pause
    world.finish()
    return world


def _weather(random: Random) -> Weather:
    return Weather(
        delay=random.choice((0.0, 5e-5, 1e-3, 0.1)),
        lost=random.choice((0.0, 0.0, 0.05, 0.3)),
        doubled=random.choice((0.0, 0.0, 0.1)),
        overtaken=random.choice((0.0, 0.0, 0.2)),
        resend=random.choice((1e-3, 0.2)),
        restart=random.choice((0.0, 0.01, 2.0)),
        grace=random.choice((0.0, 0.05, 1.0)),
        early=random.choice((0.0, 0.0, 0.1)),
        unfit=random.choice((0.0, 0.0, 0.4)),
        idle=random.choice((0.0, 0.0, 0.8)),
        cut=random.choice((0.0, 0.5)),
        stuck=random.choice((0.0, 0.0, 0.1)),
        gather=random.choice((0.0, 1e-4, 0.05)),
    )


def _submit(world: World, random: Random, deadly: float) -> None:
    """Make a launch; `deadly` is the share of kernels that kill their cores."""
    if not world.cores:
        return
    pool = random.choice(list(world.cores))
    size = len(world.cores[pool])
    count = min(size, random.choice((1, 1, 2, size, random.randint(1, size))))
    units = None if random.random() < 0.45 else tuple(sorted(random.sample(range(size), count)))
    unfinished = list(world.model.launches)
    needed = random.sample(unfinished, min(random.choice((0, 0, 0, 1, 1, 2)), len(unfinished)))
    harmless = random.choice((len(needed), len(needed) // 2, 0))  # where those begin that may fail
    kind = Kind(
        gang=random.random() < 0.6,
        hangs=random.random() < 0.04,
        deadly=random.random() < deadly,
        ok=random.random() < 0.93,
        seconds=random.choice((0.0, 20e-6, 100e-6, 480e-6, 0.05, 1.0)),
        nested=random.choice((0,) * 15 + (1, 2)),
    )
    world.submit(
        pool,
        units,
        count,
        kind,
        kernel=random.randrange(4),
        priority=random.choice((0, 0, 0, 0, 1, 5, -1)),
        depends=tuple(sorted(needed[:harmless])),
        behind=tuple(sorted(needed[harmless:])),
        ahead=random.random() < 0.7,
        retries=random.choice((0, 0, 1, 3)),
        timeout=random.choice((None, None, None, 0.5, 30.0)),
    )


def _submit_together(world: World, random: Random, deadly: float) -> None:
    """Make some launches that are alike, and short."""
    if not world.cores:
        return
    seconds = random.choice((0.0, 20e-6, 100e-6, 450e-6, 900e-6))
    kinds = [
        Kind(hangs=random.random() < 0.01, deadly=random.random() < deadly / 4, seconds=seconds)
        for _ in range(random.randint(1, 8))
    ]
    pool = random.choice(list(world.cores))
    world.submit_together(pool, random.choice((0, 0, 2, 4)), random.randrange(2), kinds)


def _submit_chain(world: World, random: Random, deadly: float) -> None:
    """Make some launches of short kernels, each of which waits for one before it, or two."""
    if not world.cores:
        return
    pool = random.choice(list(world.cores))
    size = len(world.cores[pool])
    seconds, wrong = random.choice((20e-6, 100e-6, 450e-6)), random.choice((0.0, 0.0, 0.2))
    last: list[int] = []
    for _ in range(random.randint(2, 8)):
        needed = sorted({number for number in last[-2:] if number in world.model.launches})
        wants = random.choice(("depends", "behind"))
        last.append(
            world.submit(
                pool,
                None if random.random() < 0.7 else (random.randrange(size),),
                1,
                Kind(deadly=random.random() < deadly / 4, ok=random.random() >= wrong, seconds=seconds),
                kernel=4,
                ahead=random.random() < 0.9,
                retries=random.choice((0, 0, 1)),
                **{wants: tuple(needed[-random.randint(1, 2) :])},
            )
        )


def _cancel(world: World, random: Random) -> None:
    if world.model.launches:
        world.cancel(random.choice(list(world.model.launches)), kill=random.random() < 0.6)


def _harm(world: World, random: Random) -> None:
    """Let something go wrong with a core, or close a pool."""
    if not world.cores:
        return
    pool = random.choice(list(world.cores))
    core: Core = random.choice(world.cores[pool])
    draw = random.random()
    if draw < 0.03:
        world.close(pool)
    elif draw < 0.13:
        world.remove(core)
    else:
        world.lose(core, own=random.random() < 0.8)
