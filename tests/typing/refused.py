"""Programs that type checkers must refuse: each line marked `# refused`."""

from __future__ import annotations

from offload import Handle, offload, offload_multiple, offload_single


@offload
def find_pi(darts: int) -> float:
    return darts / 2


@offload_single
def one(x: int) -> str:
    return str(x)


class Simulation:
    @offload
    def step(self, dt: float) -> int:
        return int(dt)

    @offload
    @classmethod
    def named(cls, number: int) -> str:
        return cls.__name__ * number


find_pi("x")  # refused
find_pi()  # refused
find_pi(1, 2)  # refused
find_pi.launch("x")  # refused
strings: list[str] = find_pi(10)  # refused
bare: float = find_pi(10)  # refused
handle: Handle[str] = find_pi.launch(10)  # refused
listed: list[str] = one(1)  # refused
find_pi.options(timeot=3)  # refused
find_pi.options(retries="x")  # refused
offload_multiple(len)  # refused
offload_multiple(len, cores=2, auto=1)  # refused
offload_single(target=1)  # refused
find_pi.launch(10).wait_all()  # refused
one.launch(one.launch(1))  # refused
find_pi(10, timeot=3)  # refused
find_pi(10, device=3)  # refused
find_pi(10, timeout="x")  # refused
find_pi(10, retries="x")  # refused
find_pi(10, priority=None)  # refused
find_pi(10, when_full="wiat")  # refused
find_pi(10, all=1)  # refused
find_pi(10, auto="x")  # refused
find_pi(10, target=1.5)  # refused
find_pi(10, async_=1)  # refused
find_pi.launch(10, timeot=3)  # refused
find_pi.launch(10, device=3)  # refused
find_pi.launch(10, timeout="x")  # refused
find_pi.launch(10, target=1.5)  # refused
later: list[float] = find_pi(10, async_=True, timeout=3)  # refused
started: Handle[str] = find_pi.launch(10, device="local")  # refused
several: str = one(1, target=[0, 1]).result()  # refused
Simulation.named("x")  # refused
Simulation().step("x")  # refused
Simulation.step(0.5)  # refused
