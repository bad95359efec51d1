"""Programs that type checkers must accept."""

from __future__ import annotations

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
stream: list[float] = list(find_pi.map([1, 2, 3]))

pairs: list[float] = pair(1, scale=2.0)
asynchronous: Handle[str] = later(1)
blocking_again: list[str] = later.options(async_=False)(1)
single: str = one(1).result()
single_again: str = one_again.options(timeout=3).launch(1).result()
multiple: list[str] = two(1).wait()
turned: Handle[float] = find_pi.options(async_=True)(3)

bound: list[int] = Simulation().step(0.5)
bound_handle: Handle[int] = Simulation().step.launch(0.5)
nothing: list[None] = Simulation.reset(3)

wrapped = offload(plain)
sliced: list[float] = wrapped(scatter([1.0, 2.0]))

everything: list[list[float]] = wait_all(handle, with_options, timeout=3)
first, found = wait_any(handle, with_options)
for done in as_completed(handle, with_options):
    pis: list[float] = done.wait()


loose: Any = one.launch(1)
piped: str = one.launch(loose).result()


async def main() -> None:
    awaited: str = await one(3)
    listed: float | list[float] = await handle
    print(awaited, listed)


with connect("inline:2") as session:
    address: str = session.device
