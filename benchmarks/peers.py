"""The systems a user might take instead, each loaded when it is started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks.clusters import Dask, Ray
from benchmarks.declare import Subject
from benchmarks.systems import Function, Many, Maps, Submits, System, Workload, on


class Applies(Submits, Maps):
    """What has the methods of `multiprocessing.Pool`."""

    _pool: Any

    def stop(self) -> None:
        self._pool.terminate()

    def blocking(self, fn: Function) -> Function:
        apply = self._pool.apply
        return lambda *args: apply(fn, args)

    def submitting(self, fn: Function) -> Function:
        submit = self._pool.apply_async
        return lambda *args: submit(fn, args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [answer.get() for answer in started]


class Pool(Applies):
    """`multiprocessing.Pool`."""

    title, package, module = "Pool", "multiprocessing", "multiprocessing.pool"

    def start(self) -> None:
        import multiprocessing

        self._pool = multiprocessing.Pool(self.cores)

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        return lambda elements: self._pool.map(fn, elements, chunk)


class Futures(Submits, Maps):
    """What gives futures of the standard library's kind."""

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [future.result() for future in started]


class ProcessPool(Futures):
    """`concurrent.futures.ProcessPoolExecutor`."""

    title, package, module = "ProcessPoolExecutor", "concurrent.futures", "concurrent.futures.process"

    def start(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor: Any = ProcessPoolExecutor(self.cores)

    def stop(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def restart(self) -> None:
        self.stop()
        self.start()

    def blocking(self, fn: Function) -> Function:
        # Asked for anew in each call, since `restart` may have replaced the executor.
        return lambda *args: self._executor.submit(fn, *args).result()

    def submitting(self, fn: Function) -> Function:
        return partial(self._executor.submit, fn)

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        return lambda elements: list(self._executor.map(fn, elements, chunksize=chunk or 1))


class Loky(ProcessPool):
    """joblib's executor, reused."""

    title, package, module = "loky", "joblib", "joblib.externals.loky"

    def start(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self._executor = get_reusable_executor(self.cores, timeout=None)

    def stop(self) -> None:
        self._executor.shutdown(kill_workers=True)


class Joblib(Maps):
    """`joblib.Parallel` in a `with` block, so that its processes and memory maps are kept."""

    title, package, module = "joblib", "joblib", "joblib"

    def start(self) -> None:
        from joblib import Parallel, delayed

        self._delayed = delayed
        self._parallel = Parallel(n_jobs=self.cores)
        self._parallel.__enter__()

    def stop(self) -> None:
        self._parallel.__exit__(None, None, None)

    def blocking(self, fn: Function) -> Function:
        one = self._delayed(fn)
        return lambda *args: self._parallel([one(*args)])[0]

    def many(self, fn: Function) -> Many:
        one = self._delayed(fn)
        return lambda calls: list(self._parallel(one(*call) for call in calls))

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        one = self._delayed(fn)
        return lambda elements: list(self._parallel(one(element) for element in elements))


class Mpire(Applies):
    """mpire's pool of workers, kept alive."""

    title, package, module = "mpire", "mpire", "mpire"

    def start(self) -> None:
        from mpire import WorkerPool

        self._pool = WorkerPool(self.cores, keep_alive=True)

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        return lambda elements: list(self._pool.map(fn, elements, chunk_size=chunk))


class Pebble(Futures):
    """pebble's pool, which survives the death of a process."""

    title, package, module = "pebble", "pebble", "pebble"

    def start(self) -> None:
        from pebble import ProcessPool

        self._pool = ProcessPool(self.cores)

    def stop(self) -> None:
        self._pool.stop()
        self._pool.join()

    def blocking(self, fn: Function) -> Function:
        schedule = self._pool.schedule
        return lambda *args: schedule(fn, args).result()

    def submitting(self, fn: Function) -> Function:
        schedule = self._pool.schedule
        return lambda *args: schedule(fn, args)

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        return lambda elements: list(self._pool.map(fn, elements, chunksize=chunk or 100).result())


PEERS: dict[str, type[System]] = {
    "pool": Pool,
    "processpool": ProcessPool,
    "joblib": Joblib,
    "loky": Loky,
    "dask": Dask,
    "ray": Ray,
    "mpire": Mpire,
    "pebble": Pebble,
}


def peers(workload: Workload, *names: str) -> tuple[Subject, ...]:
    """Return peers as subjects of a workload; all of them if none is named."""
    return tuple(peer(workload, name) for name in names or PEERS)


def peer(workload: Workload, name: str, suffix: str = "") -> Subject:
    """Return a peer as a subject; `suffix` tells two ways to use it apart."""
    kind = PEERS[name]
    return Subject(kind.title + suffix, on(kind, workload), "peer", name, kind.heavy, (kind.package,))
