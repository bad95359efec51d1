"""Peers with a scheduler of their own, made for clusters; here they have this machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.systems import Function, Many, Submits


class Dask(Submits):
    """Dask's distributed scheduler with worker processes on this machine."""

    title, package, module, heavy = "Dask", "distributed", "distributed", True

    def start(self) -> None:
        import dask
        from distributed import Client

        dask.config.set({"distributed.scheduler.worker-saturation": "inf"})
        self._client = Client(n_workers=self.cores, threads_per_worker=1, dashboard_address=None)

    def stop(self) -> None:
        self._client.shutdown()

    def blocking(self, fn: Function) -> Function:
        submit = self._client.submit
        return lambda *args: submit(fn, *args, pure=False).result()

    def submitting(self, fn: Function) -> Function:
        return partial(self._client.submit, fn, pure=False)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(started))

    def many(self, fn: Function) -> Many:
        return lambda calls: self.gather(self._client.map(lambda call: fn(*call), calls, pure=False))


class Ray(Submits):
    """Ray's actors, one for each core, which answer about three times sooner than its remote functions."""

    title, package, module, heavy = "Ray", "ray", "ray", True

    def start(self) -> None:
        import ray

        class Runner:
            """Keep functions, so that a call sends a number only."""

            def __init__(self) -> None:
                self.functions: list[Function] = []

            def keep(self, fn: Function) -> int:
                self.functions.append(fn)
                return len(self.functions) - 1

            def run(self, number: int, *args: Any) -> Any:
                return self.functions[number](*args)

        self._ray = ray
        # With a store that is large enough for the arrays that are on their way.
        ray.init(
            num_cpus=self.cores, include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30
        )
        self._actors = [ray.remote(Runner).remote() for _ in range(self.cores)]

    def stop(self) -> None:
        self._ray.shutdown()

    def blocking(self, fn: Function) -> Function:
        (call, *_), get = self._calls(fn), self._ray.get
        return lambda *args: get(call(*args))

    def submitting(self, fn: Function) -> Function:
        calls = itertools.cycle(self._calls(fn))
        return lambda *args: next(calls)(*args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return list(self._ray.get(list(started)))

    def everywhere(self, fn: Function) -> Function:
        calls, ray = self._calls(fn), self._ray

        def run(*args: Any) -> list[Any]:
            stored = [ray.put(arg) for arg in args]
            return list(ray.get([call(*stored) for call in calls]))

        return run

    def _calls(self, fn: Function) -> list[Function]:
        """Return what calls the function on each actor."""
        numbers = self._ray.get([actor.keep.remote(fn) for actor in self._actors])
        return [partial(actor.run.remote, number) for actor, number in zip(self._actors, numbers)]
