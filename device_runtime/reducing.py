"""How single objects are taken apart and put together again: arrays, exceptions, cached functions."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from device_runtime.flat import OUT_OF_BAND
from device_runtime.origin import is_importable

if TYPE_CHECKING:
    import numpy as np

LruCached = type(functools.lru_cache(lambda: None))
_generic: Any = functools.singledispatch(lambda _: None)
_HEAP_TYPE = 1 << 9


class Loading(threading.local):
    """What the reconstructors below need to know of the load they are part of."""

    writable: bool = False
    values: Any = ()


loading = Loading()


def reduce(value: Any) -> Any:
    """Return how a value is taken apart in both picklers, NotImplemented for pickle's own way."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
        return _reduce_array(cast(Any, value))
    if isinstance(value, BaseException):
        return _reduce_error(value)
    if type(value) is LruCached and not is_importable(value):
        return reduce_cached(value)
    if isinstance(value, (functools.cached_property, functools.singledispatchmethod)):
        return _reduce_descriptor(value)
    if hasattr(type(value), "__offload_reduce__"):  # a kernel, which other picklers take by name
        return value.__offload_reduce__()
    return NotImplemented


# ---- arrays -------------------------------------------------------------------


def _reduce_array(array: np.ndarray[Any, Any]) -> Any:
    import numpy

    kind: Any = type(array)
    plain = numpy.ndarray
    if array.dtype.hasobject or not (
        kind is plain
        or (
            kind.__reduce__ is plain.__reduce__
            and kind.__reduce_ex__ is plain.__reduce_ex__
            and kind.__setstate__ is plain.__setstate__
        )
    ):
        reduced = array.__reduce__()
        if len(reduced) == 3 and reduced[2] is not None:
            return (*reduced, None, None, _set_array_state)
        return reduced
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    if kind is not plain:
        array = array.view(plain)
    if not array.flags.forc:
        array = array.copy(order="C")
    dtype = array.dtype
    data: bytes | pickle.PickleBuffer = b""
    if array.nbytes:
        # Seen as bytes, since not every dtype has a buffer to give (datetimes have none).
        flat = (array.T if order == "F" else array).reshape(-1).view(numpy.uint8)
        data = flat.tobytes() if array.nbytes < OUT_OF_BAND else pickle.PickleBuffer(cast(Any, flat))
    args = (
        data,
        dtype.str if dtype.isbuiltin == 1 and dtype.kind in "biufc" else dtype,
        array.shape,
        order,
    )
    return rebuild_array, args if kind is plain else (*args, kind)


def rebuild_array(
    data: Any, dtype: Any, shape: tuple[int, ...], order: Any = "C", kind: Any = None
) -> np.ndarray[Any, Any]:
    """Make an array over `data`, read-only unless the value is loaded to be written to."""
    import numpy

    if not data:
        array: np.ndarray[Any, Any] = numpy.ndarray(shape, dtype, order=order)
    else:
        if loading.writable and isinstance(data, bytes):
            data = bytearray(data)
        array = numpy.ndarray(shape, dtype, data, order=order)
    if not loading.writable:
        array.flags.writeable = False
    elif not array.flags.writeable:  # pickle keeps it so for the buffer of a read-only array
        array = array.copy(order="K")
    return array if kind is None else array.view(kind)


def _set_array_state(array: np.ndarray[Any, Any], state: Any) -> None:
    array.__setstate__(state)  # type: ignore[attr-defined, unused-ignore]
    if not loading.writable:
        array.flags.writeable = False


# ---- exceptions, cached functions ---------------------------------------------


def _layout(kind: type) -> type:
    """Return the built-in exception class whose layout a class has."""
    while kind.__flags__ & _HEAP_TYPE and kind.__base__ is not None:
        kind = kind.__base__
    return kind


def _reduce_error(error: BaseException) -> Any:
    """Take an exception apart so that its own `__init__` is not run on arguments it never saw.

    pickle calls `type(error)(*error.args)`, which fails, or doubles the text,
    for every class whose `__init__` makes a message out of other arguments.
    """
    kind = type(error)
    base = _layout(kind)
    own = kind.__mro__[: kind.__mro__.index(base)]
    if any(name in cls.__dict__ for cls in own for name in ("__reduce__", "__reduce_ex__", "__new__")):
        return NotImplemented
    reduced = error.__reduce__()
    if not isinstance(reduced, tuple) or len(reduced) < 2:
        return NotImplemented
    made = rebuild_error, (kind, *reduced[1])
    if len(reduced) == 3 and kind.__setstate__ is BaseException.__setstate__:
        return *made, reduced[2], None, None, set_error_state
    return *made, *reduced[2:]


def rebuild_error(kind: type[BaseException], *args: Any) -> BaseException:
    """Make an exception with these arguments without running its class's own `__init__`."""
    error = kind.__new__(kind, *args)
    _layout(kind).__init__(error, *args)  # type: ignore[misc]
    return error


def set_error_state(error: BaseException, state: dict[str, Any]) -> None:
    """Give an exception its attributes, also where its class lets none be set."""
    for name, value in state.items():
        object.__setattr__(error, name, value)


def reduce_cached(value: Any) -> Any:
    """Take apart a function that `lru_cache` wraps; its copy begins with an empty cache."""
    kept = value.cache_parameters()
    return _rebuild_cached, (value.__wrapped__, kept["maxsize"], kept["typed"])


def _rebuild_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_descriptor(value: Any) -> Any:
    """Take a descriptor of functools apart without its lock (up to Python 3.11) or cache (from 3.13 on)."""
    kind = type(value)
    if kind.__init__ not in (functools.cached_property.__init__, functools.singledispatchmethod.__init__):
        return NotImplemented
    kept = {name: held for name, held in vars(value).items() if name not in ("func", "lock", "_method_cache")}
    return kind, (value.func,), kept


def is_generic(function: FunctionType) -> bool:
    """Tell whether `functools.singledispatch` made this function."""
    return function.__code__ is _generic.__code__


def reduce_generic(function: Any) -> Any:
    """Take apart a function that `singledispatch` made; its copy finds implementations anew."""
    return (
        functools.singledispatch,
        (function.__wrapped__,),
        dict(function.registry),
        None,
        None,
        register_all,
    )


def register_all(function: Any, registry: dict[type, Callable[..., Any]]) -> None:
    """Give a function that `singledispatch` made its implementations."""
    for kind, implementation in registry.items():
        function.register(kind, implementation)
