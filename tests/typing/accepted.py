"""Programs that type checkers must accept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from offload import (
    Handle,
    as_completed,
    connect,
    offload,
    offload_multiple,
    offload_single,
    scatter,
    wait_all,
    wait_any,
)


@offload
def find_pi(darts: int) -> float:
    return darts / 2


@offload(auto=2, timeout=3.0)
def pair(x: int, *, scale: float = 1.0) -> float:
    return x * scale


@offload(async_=True, target=[0, 1])
def later(x: int) -> str:
    return str(x)


@offload_single
def one(x: int) -> str:
    return str(x)


@offload_single(retries=1)
def one_again(x: int) -> str:
    return str(x)


@offload_multiple(cores=2)
def two(x: int) -> str:
    return str(x)


class Simulation:
    @offload
    def step(self, dt: float) -> int:
        return int(dt)

    @staticmethod
    @offload
    def reset(seed: int) -> None: ...

    @offload
    @staticmethod
    def seeds(count: int) -> list[int]:
        return list(range(count))

    @offload(async_=True)
    def later(self, dt: float) -> int:
        return int(dt)

    @offload_single
    def once(self, dt: float) -> int:
        return int(dt)

    @offload
    @classmethod
    def named(cls, number: int) -> str:
        return cls.__name__ * number


class Child(Simulation): ...


def plain(x: list[float]) -> float:
    return sum(x)


values: list[float] = find_pi(10)
handle: Handle[float] = find_pi.launch(10)
waited: list[float] = handle.wait()
any_core: dict[int, float] = handle.wait_any()
either: float | list[float] = handle.result()
for core, value in handle.as_completed():
    number: int = core
    pi: float = value
with_options: Handle[float] = find_pi.options(auto=1, timeout=30, retries=2).launch(100_000)
at_the_call: Handle[float] = find_pi(10, async_=True, target=[0, 1])
chosen: list[float] = find_pi(10, target=[0, 1])
some: list[float] = find_pi(10, auto=2)
some_later: Handle[str] = later(10, auto=2)
here_and_now: float = find_pi.fn(10)

by_device: list[float] = find_pi(10, device="local:2")
by_timeout: list[float] = find_pi(10, timeout=0.5)
without_limit: list[float] = find_pi(10, timeout=None)
by_retries: list[float] = find_pi(10, retries=2)
by_priority: list[float] = find_pi(10, priority=1)
by_when_full: list[float] = find_pi(10, when_full="raise")
by_all: list[float] = find_pi(10, all=True)
by_name: list[float] = find_pi(darts=10, target="vadd_2", device="emu:vadd.xclbin")
waits: list[float] = find_pi(10, async_=False)
waits_after_all: list[str] = later(10, async_=False, timeout=3)
handle_by_device: Handle[str] = later(10, device="local:2", priority=1)
handle_with_limits: Handle[float] = find_pi(10, async_=True, timeout=3)

launch_by_device: Handle[float] = find_pi.launch(10, device="local:2")
launch_by_timeout: Handle[float] = find_pi.launch(10, timeout=0.5)
launch_by_retries: Handle[float] = find_pi.launch(10, retries=2)
launch_by_priority: Handle[float] = find_pi.launch(10, priority=1)
launch_by_when_full: Handle[float] = find_pi.launch(10, when_full="raise")
launch_by_all: Handle[float] = find_pi.launch(10, all=True)
launch_by_auto: Handle[float] = find_pi.launch(10, auto=2)
launch_by_target: Handle[float] = find_pi.launch(10, target=1)
launch_whatever: Handle[float] = find_pi.launch(10, async_=False)

stream: list[float] = list(find_pi.map([1, 2, 3]))

pairs: list[float] = pair(1, scale=2.0)
asynchronous: Handle[str] = later(1)
blocking_again: list[str] = later.options(async_=False)(1)
single: str = one(1).result()
single_again: str = one_again.options(timeout=3).launch(1).result()
multiple: list[str] = two(1).wait()
single_by_timeout: str = one(1, timeout=3, device="local").result()
single_launch_by_timeout: str = one.launch(1, timeout=3).result()
single_no_more: Handle[str] = one(1, target=[0, 1])
single_launch_no_more: Handle[str] = one.launch(1, auto=2)
turned: Handle[float] = find_pi.options(async_=True)(3)

bound: list[int] = Simulation().step(0.5)
bound_handle: Handle[int] = Simulation().step.launch(0.5)
bound_with_options: list[int] = Simulation().step(0.5, target=0)
bound_later: Handle[int] = Simulation().later(0.5)
bound_once: int = Simulation().once(0.5, timeout=3).result()
not_bound: list[int] = Simulation.step(Simulation(), 0.5)
nothing: list[None] = Simulation.reset(3)
nothing_again: list[None] = Simulation().reset(3)
static: list[list[int]] = Simulation.seeds(3) + Simulation().seeds(3)
of_class: list[str] = Simulation.named(1) + Simulation().named(2) + Child.named(3) + Child().named(4)
of_class_later: Handle[str] = Child.named.launch(1, auto=1)

wrapped = offload(plain)
sliced: list[float] = wrapped(scatter([1.0, 2.0]))

everything: list[list[float]] = wait_all(handle, with_options, timeout=3)
first, found = wait_any(handle, with_options)
for done in as_completed(handle, with_options):
    pis: list[float] = done.wait()


called: Callable[[int], list[float]] = find_pi
started: Callable[[int], Handle[float]] = find_pi.launch
given_ahead: list[float] = functools.partial(find_pi, 3)()

loose: Any = one.launch(1)
piped: str = one.launch(loose).result()


async def main() -> None:
    awaited: str = await one(3)
    listed: float | list[float] = await handle
    print(awaited, listed)


with connect("inline:2") as session:
    address: str = session.device
