"""What a kernel may call: where it runs, and messages between the cores of its launch.

    from offload.core import coreid, send, recv

Values are anything that pickles; what is received is the receiver's own.
Calls that wait for a core raise PeerEnded where that core will never answer.
On the host all but `ishost`, `isdevice` and `numcores` raise NotOnDevice.

`bcast`, `reduce` and `sync` are calls that every core of the launch makes, in
the same order; their messages never mix with those of `send`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from device_runtime.context import Context, current
from device_runtime.errors import NotOnDevice, OptionError

T = TypeVar("T")

_COLLECTIVE = 1  # the tag of messages of bcast, reduce and sync


def coreid() -> int:
    """Return the number of this core on its device; cores are numbered from 0."""
    return _here("coreid").core


def numcores() -> int:
    """Return the number of cores of the device; on the host, of the default device, which it opens."""
    context = current()
    if context is not None:
        return context.numcores
    from offload.session import session

    return session().pool().units


def rank() -> int:
    """Return this core's place within the launch, from 0, in core order."""
    return _here("rank").rank


def size() -> int:
    """Return on how many cores this launch runs."""
    return _here("size").size


def instance() -> Any:
    """Return the instance of an FPGA that this kernel has to itself: its units and memory.

    Its kernels are called as methods, `instance().vadd(a, b, out, n)`; `array` and `empty` give
    buffers that stay on the device. Raises NotOnDevice on the host, and on devices that are no FPGA.
    """
    found = _here("instance").instance
    if found is None:
        raise NotOnDevice("offload.core.instance() is for kernels on an FPGA; this core is none")
    return found.shown


def ishost() -> bool:
    """Tell whether the caller runs on the host."""
    return current() is None


def isdevice() -> bool:
    """Tell whether the caller runs on a core."""
    return current() is not None


def send(data: Any, core: int) -> None:
    """Send a value to a core of this launch; it may be changed afterwards.

    Waits until the core has begun to run the kernel and there is room on the
    way to it. Raises PeerEnded if the core is not in the launch, or where the
    wait would be in vain since its shard has ended.

    Several threads of a kernel may send, but only one at a time may wait, here
    or in `recv`: RuntimeError for another.
    """
    _here("send").mesh.put(operator.index(core), data)


def recv(core: int) -> Any:
    """Return the next value that a core of this launch sent here, waiting for it.

    Raises PeerEnded if the core will never send one, and RuntimeError if
    another thread of the kernel waits for a value, or to send one.
    """
    return _here("recv").mesh.get(operator.index(core))


def sendrecv(data: Any, core: int) -> Any:
    """Send a value to a core and return the next one that it sent here."""
    mesh, other = _here("sendrecv").mesh, operator.index(core)
    mesh.put(other, data)
    return mesh.get(other)


def probe(core: int) -> bool:
    """Tell whether `recv(core)` would return at once.

    Raises PeerEnded once it is known that nothing will come, which may be some milliseconds after that.
    """
    return _here("probe").mesh.probe(operator.index(core))


def bcast(data: T, root: int) -> T:
    """Return core `root`'s value of `data` on every core of the launch.

    Raises OptionError if `root` is not in the launch.
    """
    context = _here("bcast")
    root = operator.index(root)
    if root not in context.cores:
        raise OptionError(f"bcast: core {root} is not in this launch, which runs on {list(context.cores)}")
    value: T = _bcast(context, data, context.cores.index(root))
    return value


def reduce(data: T, op: str | Callable[[T, T], T] = "sum") -> T:
    """Combine the values of all cores of the launch and return the result on each.

    `op` is "sum", "min", "max", "prod" or a function of two values. Values are
    combined in core order, always in the same grouping, so the result is the
    same every time; arrays are combined element by element.

    Raises OptionError for another `op`.
    """
    context = _here("reduce")
    combine = op if callable(op) else _OPERATIONS.get(op)
    if combine is None:
        raise OptionError(f"reduce: op={op!r} is not one of {', '.join(_OPERATIONS)}, nor a function")
    value: T = _bcast(context, _gather(context, data, combine), 0)
    return value


def sync() -> None:
    """Wait until every core of the launch has come to this call."""
    context = _here("sync")
    if len(context.cores) == 2:  # each way at once, instead of there and back
        other = context.cores[1 - context.rank]
        context.mesh.put(other, None, _COLLECTIVE)
        context.mesh.get(other, _COLLECTIVE)
        return
    _bcast(context, _gather(context, None, lambda a, b: None), 0)


def _here(name: str) -> Context:
    context = current()
    if context is None:
        raise NotOnDevice(
            f"{name}() was called on the host; it belongs inside a kernel: a function decorated "
            "with @offload, called as it is and not through .fn"
        )
    return context


def _bcast(context: Context, data: Any, root: int) -> Any:
    """Send the root's value down a binomial tree; `root` is a rank.

    Ranks are counted from the root. Rank r gets the value from r without its
    lowest set bit, and hands it on to r + b for every bit b below that one.
    """
    mesh, cores, count = context.mesh, context.cores, len(context.cores)
    mine = (context.rank - root) % count
    bit = 1
    while bit < count and not mine & bit:
        bit <<= 1
    if mine:
        data = mesh.get(cores[(mine - bit + root) % count], _COLLECTIVE)
    while bit := bit >> 1:
        if mine + bit < count:
            mesh.put(cores[(mine + bit + root) % count], data, _COLLECTIVE)
    return data


def _gather(context: Context, data: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine values up the same tree, always left with right; rank 0 has the result."""
    mesh, cores, count, mine = context.mesh, context.cores, len(context.cores), context.rank
    bit = 1
    while bit < count:
        if mine & bit:
            mesh.put(cores[mine - bit], data, _COLLECTIVE)
            break
        if mine + bit < count:
            data = combine(data, mesh.get(cores[mine + bit], _COLLECTIVE))
        bit <<= 1
    return data


def _elementwise(name: str, plain: Callable[[Sequence[Any]], Any]) -> Callable[[Any, Any], Any]:
    def combine(a: Any, b: Any) -> Any:
        if hasattr(a, "dtype") or hasattr(b, "dtype"):
            import numpy

            return getattr(numpy, name)(a, b)
        return plain((a, b))

    return combine


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": operator.add,
    "min": _elementwise("minimum", min),
    "max": _elementwise("maximum", max),
    "prod": operator.mul,
}
