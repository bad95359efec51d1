"""Encode scalars and plain arrays, alone or as arguments, without a pickler's hooks.

These cost more than a small array itself. An array is written down as a tuple
of dtype, shape, order and, if it is small, its bytes, and NumPy's scalars as
arrays without a shape; what stands for an array on a device, as a tuple of its
own with its kind before. Nothing else that is encoded here is a tuple.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from device_runtime.launch import Blank, Kept

SCALARS = frozenset({int, float, str, bool, type(None), complex, bytes})
# Smaller arrays travel inside the pickle: a buffer of their own would cost more than the copy.
OUT_OF_BAND = 1 << 14
_ARRAY, _CALL = b"A", b"C"  # what an encoded value begins with; a pickle begins with another byte
_MARKS = _ARRAY + _CALL
_KINDS = Blank, Kept


def flatten(value: Any, views: list[memoryview]) -> bytes | None:
    """Encode what is NumPy's, or a call's arguments; None for anything else. Large buffers go to `views`."""
    numpy = sys.modules.get("numpy")
    kind = getattr(numpy, "ndarray", None)
    if kind is None:
        return None
    if type(value) is kind or _is_scalar(value, numpy):
        described = _describe(value, views)
        return None if described is None else _ARRAY + pickle.dumps(described, 5)
    if type(value) is not tuple or len(value) != 2:
        return None
    args, kwargs = value
    if type(args) is not tuple or type(kwargs) is not dict or not all(type(key) is str for key in kwargs):
        return None
    seen: list[Any] = []
    flat: list[Any] = []
    for each in (*args, *kwargs.values()) if kwargs else args:
        if type(each) is kind:
            if any(each is other for other in seen):
                break  # it is to arrive as one
            seen.append(each)
            each = _describe(each, views)
            if each is None:
                break
        elif type(each) in _KINDS:
            each = _KINDS.index(type(each)), *each
        elif type(each) not in SCALARS:
            each = _describe(each, views) if _is_scalar(each, numpy) else None
            if each is None:
                break
        flat.append(each)
    else:
        return _CALL + pickle.dumps((flat, len(args), tuple(kwargs)), 5)
    views.clear()
    return None


def is_flat(data: memoryview) -> bool:
    """Tell whether `flatten` made this."""
    return data[0] in _MARKS


def unflatten(data: memoryview, buffers: Sequence[Any], writable: bool) -> Any:
    """Return the value that `flatten` encoded, arrays made over `buffers` where these are large."""
    content, rest = pickle.loads(data[1:]), iter(buffers)
    if data[0] == _MARKS[0]:
        return _made(content, rest, writable)
    flat, count, names = content
    values = [_made(each, rest, writable) if type(each) is tuple else each for each in flat]
    return tuple(values[:count]), dict(zip(names, values[count:]))


def _made(described: tuple[Any, ...], rest: Iterator[Any], writable: bool) -> Any:
    if type(described[0]) is int:
        return _KINDS[described[0]](*described[1:])
    import numpy

    dtype, shape, order, small = described
    if shape is None:
        return numpy.frombuffer(small, dtype)[0]
    if small is None:
        small = next(rest)
    elif writable:
        small = bytearray(small)
    return numpy.ndarray(shape, dtype, small, 0, None, order)


def _is_scalar(value: Any, numpy: Any) -> bool:
    """Tell whether this is a scalar of NumPy's own, not of a class made from one."""
    return isinstance(value, numpy.generic) and type(value) is value.dtype.type


def _describe(array: Any, views: list[memoryview]) -> tuple[Any, ...] | None:
    dtype, flags = array.dtype, array.flags
    nbytes = array.nbytes
    if dtype.isbuiltin != 1 or dtype.kind not in "biufc" or not flags.forc or not nbytes:
        return None
    if type(array) is dtype.type:
        return dtype.str, None, None, array.tobytes()
    order = "C" if flags.c_contiguous else "F"
    if nbytes < OUT_OF_BAND:
        return dtype.str, array.shape, order, array.tobytes(order)
    views.append(pickle.PickleBuffer(array).raw())
    return dtype.str, array.shape, order, None
