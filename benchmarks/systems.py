"""What runs functions on cores: one small class for each, with the same few verbs.

Each verb uses the best idiom that a system offers for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar

from benchmarks.declare import Measure, Setting, Subject

Function = Callable[..., Any]
Many = Callable[[Sequence[tuple[Any, ...]]], "list[Any]"]


class System(ABC):
    """Run functions on `cores` processes, as long as the `with` block lasts."""

    title: ClassVar[str]
    package: ClassVar[str]  # what must be importable
    module: ClassVar[str]  # what its users import
    heavy: ClassVar[bool] = False

    def __init__(self, cores: int) -> None:
        self.cores = cores

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start the processes."""

    @abstractmethod
    def stop(self) -> None:
        """End them."""

    def restart(self) -> None:
        """Do what a user must do after a process died under a call; nothing, at best."""

    @abstractmethod
    def blocking(self, fn: Function) -> Function:
        """Return a function that makes a call on one core and waits for its value."""

    @abstractmethod
    def many(self, fn: Function) -> Many:
        """Return a function that starts a call for each tuple of arguments, and gathers the values."""

    def everywhere(self, fn: Function) -> Function:
        """Return a function that makes one call for each core, with the same arguments, and gathers."""
        many = self.many(fn)
        return lambda *args: many([args] * self.cores)


class Submits(System):
    """A system with which calls can be started one by one."""

    @abstractmethod
    def submitting(self, fn: Function) -> Function:
        """Return a function that starts a call on one core, for `gather`."""

    @abstractmethod
    def gather(self, started: Sequence[Any]) -> list[Any]:
        """Return the values of calls that were started."""

    def many(self, fn: Function) -> Many:
        submit = self.submitting(fn)
        return lambda calls: self.gather([submit(*call) for call in calls])


class Maps(System):
    """A system that has a `map`."""

    @abstractmethod
    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        """Return `map` with so many elements at a time, None being the system's own choice."""


class Offload(Submits, Maps):
    """Run kernels; `placement` is an option of theirs."""

    title, package, module = "offload", "offload", "offload"

    def __init__(self, cores: int, placement: dict[str, Any] | None = None, depth: int | None = None) -> None:
        super().__init__(cores)
        self._placement = placement or {"auto": 1}
        self._depth = depth  # how far ahead a core is fed at most

    def start(self) -> None:
        import offload

        if self._depth is not None:
            from device_runtime.process.cores import ProcessDevice

            ProcessDevice.depth = self._depth
        self.session = offload.connect(f"local:{self.cores}")

    def stop(self) -> None:
        import offload

        offload.shutdown()

    def blocking(self, fn: Function) -> Function:
        kernel = self._kernel(fn)
        return lambda *args: kernel(*args)[0]

    def submitting(self, fn: Function) -> Function:
        launch: Function = self._kernel(fn).launch
        return launch

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in started]

    def everywhere(self, fn: Function) -> Function:
        from offload import offload

        kernel: Function = offload(fn)
        return kernel

    def mapping(self, fn: Function, chunk: int | None) -> Callable[[Iterable[Any]], list[Any]]:
        kernel = self._kernel(fn)
        return lambda elements: list(kernel.map(elements, chunksize=chunk))

    def _kernel(self, fn: Function) -> Any:
        from offload import offload

        return offload(fn).options(**self._placement)


Workload = Callable[[Any, Setting], Measure]  # a system, ready to run, to one round on it


def on(make: Callable[[int], System], workload: Workload, cores: int | None = None) -> Any:
    """Return what opens a subject: a system, and a workload on it."""

    def open(setting: Setting) -> AbstractContextManager[Measure]:
        @contextmanager
        def opened() -> Iterator[Measure]:
            with make(cores or setting.cores) as system:
                yield workload(system, setting)

        return opened()

    return open


def ours(workload: Workload, name: str = "offload", cores: int | None = None, **more: Any) -> Subject:
    """Return offload as a subject; `more` are the options of `Offload`, and `environ`."""
    environ = more.pop("environ", {})
    return Subject(name, on(lambda count: Offload(count, **more), workload, cores), environ=environ)


def seconds_per_call(call: Function, calls: int, limit: float = 0.1) -> float:
    """Return the mean time of so many calls, fewer if they take longer than the limit together."""
    call()  # what other subjects have pushed out of the caches comes back
    done, begun = 0, perf_counter()
    now = begun
    while done < calls and now - begun < limit:
        call()
        done += 1
        now = perf_counter()
    return (now - begun) / done
