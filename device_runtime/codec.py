"""Encode values to travel between host and cores, and decode them there.

A value is a pickle (protocol 5) with its large buffers out of band. What a
kernel gets is its own: lists, dicts and objects are copies, NumPy arrays are
read-only views. What the host gets back is writable and its own.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from device_runtime.errors import (
    ArgsDecodeError,
    ArgsNotSerializable,
    KernelError,
    RemoteTraceback,
    SerializationError,
    context_of,
    set_cause,
    trace_of,
)
from device_runtime.flat import OUT_OF_BAND, SCALARS, flatten, is_flat, unflatten
from device_runtime.launch import Buffer, Encoded, Payload, Place, view_of
from device_runtime.pickling import dumps, dumps_plain
from device_runtime.reducing import loading
from device_runtime.traces import name_of, reason, relieve, text_of, traceback_text

# What one launch has placed already: (address, size) to the buffer, and the
# view it was taken from, which keeps the address from being used again.
Memo = dict[tuple[int, int], tuple[Buffer, memoryview]]


class _Encoding(threading.local):
    handles: list[Any] | None = None


_encoding = _Encoding()


def encode(
    value: Any,
    place: Place,
    *,
    memo: Memo | None = None,
    dependencies: list[Any] | None = None,
    error: type[SerializationError] = ArgsNotSerializable,
) -> Encoded:
    """Take a snapshot of a value.

    `place` copies what is large to where units can read it; `memo` is shared by
    the shards of one launch, so that what they all get is placed once. Handles
    within the value are appended to `dependencies`, each once.

    Raises `error`, saying what does not pickle and why.
    """
    if type(value) in SCALARS:
        plain: bytes | None = pickle.dumps(value, 5)
    elif type(value) is tuple and len(value) == 2:
        plain = plain_call(*value)
    else:
        plain = None
    if plain is not None:
        return plain if len(plain) < OUT_OF_BAND else Payload(place(memoryview(plain)))
    views: list[memoryview] = []
    flat = flatten(value, views)
    if flat is not None:
        return Payload(_placed_pickle(flat, place), tuple([_placed(view, place, memo) for view in views]))
    before, _encoding.handles = _encoding.handles, dependencies
    try:
        data = _dump(value, views)
    except KeyboardInterrupt:
        raise
    except BaseException as cause:
        relieve(cause)
        named = _culprit(value) if error is ArgsNotSerializable else f"a value of type {name_of(value)}"
        raise error(f"{named} does not pickle: {reason(cause)}") from cause
    finally:
        _encoding.handles = before
    return Payload(_placed_pickle(data, place), tuple([_placed(view, place, memo) for view in views]))


def plain_call(args: Any, kwargs: Any) -> bytes | None:
    """Return arguments, positional and by name, encoded, if they are few immutable scalars; None if not."""
    if type(args) is not tuple or type(kwargs) is not dict:
        return None
    for arg in args:
        if type(arg) not in SCALARS:
            return None
    if kwargs and not SCALARS.issuperset(map(type, (*kwargs, *kwargs.values()))):
        return None
    data = pickle.dumps((args, kwargs), 5)
    return data if len(data) < OUT_OF_BAND else None


def decode(
    payload: Encoded,
    *,
    writable: bool = False,
    dependencies: Sequence[Any] = (),
    error: type[SerializationError] = ArgsDecodeError,
) -> Any:
    """Load a value; `dependencies` are the values of the handles that were found in it.

    Arrays are read-only, or with `writable` private and writable: over the
    payload's own memory where that is writable, else copied. Raises `error`
    with the original exception as its cause, whatever the value's classes do.
    """
    if type(payload) is bytes:
        return pickle.loads(payload)
    assert type(payload) is Payload
    data = view_of(payload.data)
    buffers = [_lend(b, writable) for b in payload.buffers]
    if is_flat(data):
        return unflatten(data, buffers, writable)
    before = loading.writable, loading.values
    try:
        loading.writable, loading.values = writable, dependencies
        return pickle.loads(data, buffers=buffers)
    except KeyboardInterrupt:
        raise
    except BaseException as cause:
        relieve(cause)
        raise error(f"a value does not load here: {reason(cause)}") from cause
    finally:
        loading.writable, loading.values = before


def depend(handle: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    """Return what a handle's `__reduce__` returns: a reference to the value it will have."""
    handles = _encoding.handles
    if handles is None:
        raise TypeError(
            "a handle can only be pickled as an argument of a launch; pass on its value, handle.result()"
        )
    for index, known in enumerate(handles):
        if known is handle:
            return resolve, (index,)
    handles.append(handle)
    return resolve, (len(handles) - 1,)


def resolve(index: int) -> Any:
    """Return the value of the handle that was given this index."""
    return loading.values[index]


# ---- exceptions ---------------------------------------------------------------


def encode_error(error: BaseException, place: Place) -> Payload:
    """Take down a kernel's exception: itself if it pickles, and its type, text and traceback.

    It raises nothing, whatever the exception does, and however little memory there is: what the kernel
    had in its frames is given up for that, and at last all but the exception's type.
    """
    with contextlib.suppress(BaseException):
        return _told(error, place)
    with contextlib.suppress(BaseException):
        _clear_frames(error)
        return _told(error, place)
    with contextlib.suppress(BaseException):
        return Payload(pickle.dumps((name_of(error), text_of(error)[:_SHORT], _NO_TRACE, None), 5))
    return _NO_MEMORY if isinstance(error, MemoryError) else _NOTHING_TOLD


def _told(error: BaseException, place: Place) -> Payload:
    data: bytes | None = None
    with contextlib.suppress(BaseException):
        data = _dump(error, None)
    told = (name_of(error), text_of(error), traceback_text(error), data)
    return Payload(_placed_pickle(pickle.dumps(told, 5), place))


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of an exception hold, and of those that it came from."""
    found: BaseException | None = error
    seen = set[int]()  # an exception may be its own context
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        traceback.clear_frames(trace_of(found))
        found = context_of(found)


_SHORT = 1000  # characters of a text for which there is always memory
_NO_TRACE = "there was no memory for a traceback\n"
_NO_MEMORY = Payload(pickle.dumps(("MemoryError", "", _NO_TRACE, pickle.dumps(MemoryError())), 5))
_NOTHING_TOLD = Payload(pickle.dumps(("exception", "there was no memory to say which", _NO_TRACE, None), 5))


def decode_error(payload: Encoded) -> BaseException:
    """Return the exception, its cause a RemoteTraceback; a KernelError if it cannot be rebuilt here."""
    assert type(payload) is Payload
    type_name, text, trace, data = pickle.loads(view_of(payload.data))
    loaded: Any = None
    if data is not None:
        with contextlib.suppress(SerializationError):
            loaded = decode(Payload(data), writable=True)
    error = loaded if isinstance(loaded, BaseException) else KernelError(type_name, text, trace)
    set_cause(error, RemoteTraceback(trace))
    return error


# ---- insides ------------------------------------------------------------------


def _dump(value: Any, views: list[memoryview] | None) -> bytes:
    """Pickle a value, its large buffers to `views`; with None, all in one."""

    def keep(buffer: pickle.PickleBuffer) -> None:
        assert views is not None
        views.append(buffer.raw())

    callback = None if views is None else keep
    try:
        return dumps_plain(value, callback)
    except MemoryError:
        raise
    except Exception:
        if views:
            views.clear()
        return dumps(value, callback)


def _placed_pickle(data: bytes, place: Place) -> Buffer:
    return data if len(data) < OUT_OF_BAND else place(memoryview(data))


def _placed(view: memoryview, place: Place, memo: Memo | None) -> Buffer:
    if view.nbytes < OUT_OF_BAND:
        return bytes(view)
    numpy = sys.modules.get("numpy")
    if memo is None or numpy is None:
        return place(view)
    key = numpy.frombuffer(view, numpy.uint8).__array_interface__["data"][0], view.nbytes
    if key not in memo:
        memo[key] = place(view), view
    return memo[key][0]


def _lend(buffer: Buffer, writable: bool) -> Any:
    """Return a buffer for pickle to build on; whatever is built on it keeps a stored block alive."""
    view = view_of(buffer)
    if writable and view.readonly:
        return bytearray(view)
    if not isinstance(buffer, bytes) and view.nbytes and not getattr(buffer, "lasting", False):
        view = memoryview(_held(buffer, view))
    return view if writable else view.toreadonly()


def _held(buffer: Any, view: memoryview) -> Any:
    """Return an array over a view that also holds the block: its memoryviews then do, too."""
    import numpy

    held = numpy.frombuffer(view, numpy.uint8).view(_held_class())
    held.block = buffer
    return held[:]  # numpy passes over a base whose own base is a plain array, as that of `held` is


@lru_cache(maxsize=1)
def _held_class() -> Any:
    import numpy

    class Held(numpy.ndarray[Any, Any]):
        block: Any

    return Held


def _culprit(value: Any) -> str:
    """Name the argument that does not pickle on its own, if there is one."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is tuple:
        args, more = value
        named = [(f"argument {i + 1}", [arg]) for i, arg in enumerate(args)]
        if type(more) is dict:
            named += [(f"argument {name!r}", [arg]) for name, arg in more.items()]
        elif type(more) is tuple:  # as a mapped launch has them
            named += [(f"argument {len(args) + i + 1}", column) for i, column in enumerate(more)]
        for name, column in named:
            for arg in column:
                try:
                    _dump(arg, [])
                except KeyboardInterrupt:
                    raise
                except BaseException:
                    return f"{name} (of type {name_of(arg)})"
    return f"a value of type {name_of(value)}"
