"""What a kernel may know about where it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from device_runtime.errors import MessageError
    from device_runtime.launch import ShardId

T = TypeVar("T")


class Mesh(Protocol):
    """Messages between the cores of one launch; those with different tags never mix.

    All raise PeerEnded for a core that is not in the launch. `put` and `get` do
    so instead of waiting for one whose shard has ended.
    """

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        """Send a value; it may be changed afterwards.

        What is sent to a core whose shard has ended may be lost without a word.
        """

    def get(self, core: int, tag: int = 0) -> Any:
        """Return the next value that `core` sent, waiting for it.

        Raises PeerEnded for a core whose shard has ended, once none of its messages is left.
        """

    def probe(self, core: int, tag: int = 0) -> bool:
        """Tell whether `get` would return at once.

        Raises PeerEnded for a core whose shard has ended, but not before it has been asked twice.
        """


class NoMesh:
    """Refuse messages with an error, where there is nobody to exchange them with."""

    def __init__(self, error: type[MessageError], why: str) -> None:
        self._error = error
        self._why = why

    def put(self, core: int, value: Any, tag: int = 0) -> None:
        raise self._error(self._why)

    def get(self, core: int, tag: int = 0) -> Any:
        raise self._error(self._why)

    def probe(self, core: int, tag: int = 0) -> bool:
        raise self._error(self._why)


class Context:
    """The shard that is being run.

    `cores` are the launch's, in rank order; `resident` is by module and name,
    and belongs to the core; `depth` is of launches nested in kernels, `outer` the
    shard that has launched this one there, and `nested` the session that
    launches made here go to, once there is one.
    """

    __slots__ = (
        "_instance",
        "_nested",
        "core",
        "cores",
        "depth",
        "mesh",
        "numcores",
        "outer",
        "resident",
        "shard",
    )

    def __init__(
        self,
        core: int,
        numcores: int,
        shard: ShardId,
        cores: tuple[int, ...],
        mesh: Mesh,
        resident: dict[tuple[str, str], Any],
        depth: int = 0,
    ) -> None:
        self.core = core
        self.numcores = numcores
        self.shard = shard
        self.cores = cores
        self.mesh = mesh
        self.resident = resident
        self.depth = depth
        self._nested: dict[str, Any] = {}
        self.outer: Context | None = None
        self._instance: Any = None

    @property
    def instance(self) -> Any:
        """What it has of an FPGA, that of the kernel which it is nested in; None elsewhere."""
        return self._instance if self.outer is None else self.outer.instance

    @instance.setter
    def instance(self, instance: Any) -> None:
        self._instance = instance

    @property
    def nested(self) -> Any:
        """The session that launches made here go to; None if there is none yet."""
        return self._nested.get("")

    def nest(self, session: Any) -> Any:
        """Have launches made here go to a session, and return it; to another thread's, if that was first."""
        return self._nested.setdefault("", session)

    def leave(self) -> None:
        """Forget that session, in a process that is none of the launch's."""
        self._nested.clear()

    @property
    def rank(self) -> int:
        return self.shard.rank

    @property
    def size(self) -> int:
        return len(self.cores)


# A process core runs one shard at a time, and all threads of its kernel belong to it.
_of_process: Context | None = None
# On a device that runs kernels in the host's process, the context is a thread's.
_of_thread = threading.local()
_threads = False  # whether any thread ever had one: to ask each costs as much as a small launch may


def current() -> Context | None:
    """Return the context of the kernel that calls, None on the host."""
    if not _threads:
        return _of_process
    found: Context | None = getattr(_of_thread, "context", None)
    return found if found is not None else _of_process


def without_instance(function: Callable[..., T], *args: Any) -> T:
    """Call a function that is to launch nothing on the instance that runs it: it stands for a circuit."""
    here = current()
    if here is None or here.instance is None:
        return function(*args)
    apart = Context(here.core, here.numcores, here.shard, here.cores, here.mesh, here.resident, here.depth)
    enter_thread(apart)
    try:
        return function(*args)
    finally:
        enter_thread(here)
        if apart.nested is not None:
            apart.nested.shutdown()


def enter_process(context: Context | None) -> None:
    """Make `context` that of every thread in this process."""
    global _of_process
    _of_process = context


def enter_thread(context: Context | None) -> Context | None:
    """Make `context` that of this thread; return the one it had."""
    global _threads
    _threads = True
    before: Context | None = getattr(_of_thread, "context", None)
    _of_thread.context = context
    return before
