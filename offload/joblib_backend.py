"""joblib on the cores of a device: `with joblib.parallel_config("offload"): …`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import joblib
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from offload.executor import Executor, address_for
from offload.joblib_entry import register_joblib


class OffloadBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc, unused-ignore]
    """Run joblib's batches on an `Executor`.

    `device` is an address such as `local:4`. The cores stay from one `Parallel`
    call to the next, as long as the `parallel_config` lasts, and `n_jobs` stays
    the same. By default all cores are used.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        device: str | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._device = device
        self._executor: Executor | None = None
        self._asked_for = 0  # cores of the executor

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many cores are used when `n_jobs` are asked for; -1 is all, -2 all but one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        kind, _, rest = address_for(None, self._device).partition(":")
        if kind == "inline":
            return 1
        named = int(rest) if rest.isdigit() else 0
        if n_jobs < 0:
            return max((named or joblib.cpu_count()) + 1 + n_jobs, 1)
        return min(n_jobs, named) if named and self._device is not None else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Open the device for a `Parallel` call; one core needs none, and runs in the caller."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        if self._executor is None or self._asked_for != count:
            self._release()
            rest = address_for(None, self._device).partition(":")[2]
            # Only some addresses say how many cores; a device of another kind has what it has.
            self._executor = Executor(count if rest.isdigit() or not rest else None, self._device)
            self._asked_for = count
        return self._executor._max_workers

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Queue a batch of calls."""
        assert self._executor is not None
        future = self._executor.submit(run_batch, func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what a batch gave, or raise its exception."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what is queued and end what runs."""
        if self._executor is not None:
            self._executor._submissions.cancel(kill=True)
        if not ensure_ready:
            self._release()

    def terminate(self) -> None:
        """Forget the call that has ended; the cores stay for the next."""
        self.reset_batch_stats()
        self.parallel = None  # it refers to this object: the cores go when the last of both goes

    def __getstate__(self) -> dict[str, Any]:
        # joblib sends backends along to nested calls; cores do not travel.
        return {**self.__dict__, "_executor": None, "parallel": None}

    def _release(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def run_batch(batch: Callable[[], Any]) -> Any:
    """Make a batch of calls, on a core, where joblib knows of this backend, too."""
    register_joblib()
    return batch()
