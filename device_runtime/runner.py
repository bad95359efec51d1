"""Run shards on a core: the same on every device whose units run Python."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from device_runtime import capture, codec, walk
from device_runtime.context import Context, Mesh
from device_runtime.errors import ArgsDecodeError, DependencyError, ResultNotSerializable, add_note
from device_runtime.launch import RECENT, Encoded, Image, Outcome, Payload, Place, ShardId, Work, make
from device_runtime.resident import Resident
from device_runtime.traces import relieve, text_of

# The host keeps the same account of what each unit remembers: see `Remembered`.
IMAGES_KEPT = 128


class Remembered(OrderedDict[int, Any]):
    """Images by number, the least recently used forgotten.

    Host and core hold one each for a core. As both see the same works in the
    same order, the host knows what the core remembers without asking.
    """

    def use(self, number: int, image: Any = None) -> Any:
        """Return what is remembered under a number, None if nothing is; remember `image` if given."""
        if image is not None:
            self[number] = image
            if len(self) > IMAGES_KEPT:
                self.popitem(last=False)
            return image
        found = self.get(number)
        if found is not None:
            self.move_to_end(number)
        return found


class Kept(dict[int, Any]):
    """What was sent by number, the oldest forgotten. Host and core hold one each for a core, as above."""

    def keep(self, number: int, value: Any) -> None:
        """Hold a value under a number."""
        self[number] = value
        if len(self) > IMAGES_KEPT:
            del self[next(iter(self))]


class Runner:
    """Run the shards of one core, one at a time.

    `enter` gives a context manager that makes a context current; `begin` is
    called just before user code runs, with the time.
    """

    def __init__(
        self,
        core: int,
        numcores: int,
        mesh: Mesh,
        place: Place,
        enter: Callable[[Context], AbstractContextManager[None]],
        begin: Callable[[ShardId, float], None] = lambda shard, at: None,
        depth: int = 0,
    ) -> None:
        self.core = core
        self.numcores = numcores
        self.mesh = mesh
        self.resident = Resident(core)
        self._place = place
        self._enter = enter
        self._begin = begin
        self._depth = depth
        self._well: deque[int] = deque(maxlen=RECENT)  # the last launches that have ended well
        # By image: the function, and the globals among which it reads resident values.
        self._functions: OrderedDict[int, tuple[Callable[..., Any], dict[str, Any]]] = OrderedDict()

    def run(self, work: Work) -> Outcome:
        """Run one shard; whatever goes wrong in it becomes its outcome."""
        begun = 0.0
        plan, shard = work.plan, work.shard
        image = plan.image
        if work.after and not all(one in self._well for one in work.after):
            error = DependencyError(f"kernel {image.name} was not run: what it comes after has failed")
            return Outcome(_told(error, self._place), True)
        try:
            function, shared = self._functions.get(image.number) or self._load(image)
            calls = self._arguments(work)
            for name in image.resident:
                shared[name] = self.resident[image.module, name]
            context = Context(
                self.core, self.numcores, shard, plan.cores, self.mesh, self.resident, self._depth
            )
            try:
                with self._enter(context):
                    begun = time.monotonic()
                    self._begin(shard, begun)
                    try:
                        if plan.mapped:
                            value: Any = _run_columns(function, *calls)
                        else:
                            value = function(*calls[0], **calls[1])
                    except MemoryError as error:
                        relieve(error)
                        raise
            finally:
                if image.resident:
                    self._take_resident(image, shared)
                if context.nested is not None:
                    context.nested.shutdown()
            ended = time.monotonic()
            del function, calls
            encoded = self._encoded(image, value)
            self._well.append(shard.launch)
            return make(Outcome, (encoded, False, None, begun, ended, None))
        except BaseException as error:
            ended = time.monotonic()
            return Outcome(_told(error, self._place), True, None, begun, ended)

    def _load(self, image: Image) -> tuple[Callable[..., Any], dict[str, Any]]:
        for file, lines in image.sources.items():
            import linecache

            linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
        try:
            function: Callable[..., Any] = capture.load_image(image.data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            relieve(error)
            raise ArgsDecodeError(
                f"kernel {image.name}, or a value it captures, did not load on core {self.core}: {error!r}"
            ) from error
        plain = walk.plain_function(function)
        loaded = function, {} if plain is None else plain.__globals__
        if not image.fresh:
            self._functions[image.number] = loaded
            if len(self._functions) > IMAGES_KEPT:
                self._functions.popitem(last=False)
        return loaded

    def _arguments(self, work: Work) -> Any:
        if type(work.args) is bytes:
            return pickle.loads(work.args)
        values = []
        for need in work.dependencies:
            found = [codec.decode(payload) for payload in need.payloads]
            values.append(found[0] if need.bare else found)
        try:
            return codec.decode(work.args, dependencies=values, error=ArgsDecodeError)
        except ArgsDecodeError as error:
            raise ArgsDecodeError(
                f"kernel {work.plan.image.name} on core {self.core}: {error}"
            ) from error.__cause__

    def _encoded(self, image: Image, value: Any) -> Encoded:
        try:
            return codec.encode(value, self._place, error=ResultNotSerializable)
        except ResultNotSerializable as error:
            told = f"the value of kernel {image.name} on core {self.core}: {error}"
            raise ResultNotSerializable(told) from error.__cause__

    def _take_resident(self, image: Image, shared: dict[str, Any]) -> None:
        """Keep what a kernel made of resident values."""
        for name in image.resident:
            if name in shared:
                self.resident[image.module, name] = shared[name]
            else:
                self.resident.delete((image.module, name))


def run_calls(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
) -> tuple[list[Any], Payload | None]:
    """Make calls one after another, on a core.

    Return their values up to the first that raised, and its error as
    `codec.decode_error` takes it, None if there is none.
    """
    values: list[Any] = []
    before = _generation
    try:
        for args in calls:
            values.append(function(*args))
            if _generation != before:
                break  # a process that the call has forked: the other calls are not its business
    except BaseException as error:
        if _generation != before:
            raise
        relieve(error)
        return values, _told(error, bytes)
    return values, None


def _run_columns(
    function: Callable[..., Any], bound: tuple[Any, ...], columns: tuple[list[Any], ...]
) -> tuple[list[Any], Payload | None]:
    """Do the same for calls whose arguments begin alike, and then are the rows of some columns."""
    return run_calls(partial(function, *bound) if bound else function, zip(*columns, strict=True))


_generation = 0  # how many forks this process is away from the one it was


def _after_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_after_fork)


def _told(error: BaseException, place: Place) -> Payload:
    """Take down a kernel's exception, whatever that does."""
    with contextlib.suppress(BaseException):
        _explain(error)
    return codec.encode_error(error, place)


def _explain(error: BaseException) -> None:
    """Add to a kernel's own error what its author may not know."""
    if issubclass(type(error), ValueError) and "read-only" in text_of(error):
        add_note(error, "Arrays arrive in a kernel as read-only views; x = x.copy() makes one to write to.")
    elif type(error).__name__ in ("BdbQuit", "EOFError"):
        add_note(error, "A core has no terminal; run with OFFLOAD_DEVICE=inline to debug, or to type input.")
