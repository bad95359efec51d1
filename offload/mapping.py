"""Run a kernel once per element of a stream: chunked, lazy, in order."""

from __future__ import annotations

import itertools
import operator
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from device_runtime import codec
from device_runtime.errors import OptionError
from offload.body import Body
from offload.handle import Handle
from offload.launching import launch
from offload.options import Options
from offload.session import Session

CHUNK_SECONDS = 0.002  # of work in a chunk: enough to make the cost of a launch small
CHUNK_BYTES = 4 << 20  # of arguments
CHUNK_MOST = 4096  # elements
CHUNK_GROWTH = 8  # times that a chunk may be longer than the one before

_NUMBERS = frozenset({int, float, bool, complex, type(None)})


def map_kernel(
    here: Session,
    body: Body,
    bound: tuple[Any, ...],
    options: Options,
    iterables: tuple[Iterable[Any], ...],
    chunksize: int | None,
    window: int | None,
) -> Iterator[Any]:
    """Return the iterator that `Kernel.map` promises; wrong arguments are refused at once."""
    if not iterables:
        raise TypeError(f"{body.name}.map() needs at least one iterable")
    check_counts(body.name, chunksize=chunksize, window=window)
    body.signature.check((*bound, *itertools.repeat(None, len(iterables))), {})
    pool = here.pool(options.device)
    cores, (units, _) = pool.units, options.place(pool.units, body.name, pool.device.names)
    if options.target is not None and units is not None:
        placed = [replace(options, target=(core,), single=True) for core in units]
    else:
        placed = [replace(options, auto=1)] * cores
    elements = Elements(iterables, len(placed), chunksize)
    turns = itertools.cycle(placed)

    def start(chunk: tuple[list[Any], ...]) -> Handle[Any]:
        return launch(here, body, (bound, chunk), {}, next(turns), mapped=True)

    def values(handle: Handle[Any]) -> Iterator[Any]:
        found, error = handle.wait()[0]
        timing = handle.timing[0]
        if timing.begun is not None and timing.ended is not None:
            elements.learn(max(1, len(found)), timing.ended - timing.begun)
        yield from found
        if error is not None:
            raise codec.decode_error(error)

    return stream(elements, window or 2 * len(placed), start, values)


def check_counts(name: str, **given: int | None) -> None:
    """Raise OptionError, naming the kernel, for what its `map` is given that is no integer of at least 1."""
    for what, value in given.items():
        try:
            right = value is None or (not isinstance(value, bool) and operator.index(value) >= 1)
        except TypeError:
            right = False
        if not right:
            raise OptionError(f"{name}.map: {what}={value!r} must be an integer of at least 1")


class Elements:
    """Cut a stream of elements into chunks; how long they are follows how long they took."""

    def __init__(self, iterables: tuple[Iterable[Any], ...], cores: int, chunksize: int | None) -> None:
        self._left = min(map(_length, iterables))
        self._cores = cores
        self._fixed = chunksize
        self._size = 1
        self.slow = False  # whether the source takes its time
        self.ended = False
        self.error: BaseException | None = None  # the source's own, due after the elements before it
        self._sequences: tuple[Sequence[Any], ...] | None = None  # whose elements are there already
        if all(type(i) in (list, tuple, range) for i in iterables):
            self._sequences = cast("tuple[Sequence[Any], ...]", iterables)
            self._at = 0
        else:
            self._source = zip(*iterables)

    def chunk(self) -> tuple[list[Any], ...]:
        """Return the next elements, a list for each iterable; none when the source has ended or failed."""
        # Shorter ones at the end, so that all cores end together; but not much shorter: each has its cost.
        share = max(self._left // (2 * self._cores), self._size // 8)
        size = self._fixed or max(1, min(self._size, share))
        if self._sequences is not None:
            columns = self._cut(self._sequences, size)
        else:
            columns = tuple([list(column) for column in zip(*self._take(size))])
        self._left = max(0, self._left - (len(columns[0]) if columns else 0))
        return columns

    def _cut(self, sequences: tuple[Sequence[Any], ...], size: int) -> tuple[list[Any], ...]:
        """Take the next elements out of sequences."""
        columns = tuple([list(each[self._at : self._at + size]) for each in sequences])
        count = min(map(len, columns))
        self.ended = count < size
        if self._fixed is None and not all([_NUMBERS.issuperset(map(type, column)) for column in columns]):
            volume = 0
            for place, element in enumerate(zip(*columns)):
                volume += sum(map(_volume, element))
                if volume > CHUNK_BYTES and place + 1 < count:
                    count, self.ended = place + 1, False
                    break
        self._at += count
        return tuple([column[:count] for column in columns]) if count else ()

    def _take(self, size: int) -> list[tuple[Any, ...]]:
        """Take the next elements as the source gives them."""
        found: list[tuple[Any, ...]] = []
        volume, begun = 0, time.monotonic()
        try:
            while len(found) < size:
                element = next(self._source)
                found.append(element)
                volume += sum(map(_volume, element))
                self.slow = time.monotonic() - begun > CHUNK_SECONDS
                if self._fixed is None and (self.slow or volume > CHUNK_BYTES):
                    break
        except StopIteration:
            self.ended = True
        except Exception as error:
            self.ended, self.error = True, error
        return found

    def learn(self, count: int, seconds: float) -> None:
        """Take note of how long a chunk of `count` elements took."""
        wanted = CHUNK_SECONDS * count / max(seconds, 1e-9)
        self._size = int(max(1, min(wanted, CHUNK_GROWTH * self._size, CHUNK_MOST)))


def _length(iterable: Iterable[Any]) -> int:
    """Return how many elements there are, as far as that can be told."""
    try:
        return operator.length_hint(iterable, sys.maxsize)
    except OverflowError:
        return sys.maxsize


def _volume(value: Any) -> int:
    """Return about how many bytes a value has."""
    return getattr(value, "nbytes", 0) or sys.getsizeof(value, 0)


def stream(
    elements: Elements,
    window: int,
    start: Callable[[tuple[list[Any], ...]], Handle[Any]],
    values: Callable[[Handle[Any]], Iterable[Any]],
) -> Iterator[Any]:
    """Launch what a source gives, chunk by chunk, and give the values in its order.

    `start` launches a chunk, and `values` are those of its launch. At most
    `window` of them are under way. Where the source fails, or a chunk cannot be
    launched, the values of what came before it are given first.
    """
    pending: deque[Handle[Any]] = deque()
    try:
        while True:
            while not elements.ended and len(pending) < window:
                chunk = elements.chunk()
                if chunk:
                    try:
                        pending.append(start(chunk))
                    except Exception as error:
                        elements.ended, elements.error = True, error
                if elements.slow and pending and pending[0].done():
                    break  # deliver what is there rather than wait for the source
            if not pending:
                break
            yield from values(pending.popleft())
        if elements.error is not None:
            try:
                raise elements.error
            finally:
                elements.error = None  # its traceback holds this frame
    finally:
        for handle in pending:
            handle.cancel()
