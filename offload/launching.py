"""The way of a launch from a call to the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from device_runtime import codec
from device_runtime.errors import ArgsNotSerializable
from offload.handle import Handle, SingleHandle
from offload.scattering import Scatter
from scheduler.ticket import Depends, Request

if TYPE_CHECKING:
    from device_runtime.launch import Payload
    from offload.body import Body
    from offload.options import Options
    from offload.session import Session


def launch(
    session: Session,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    attended: bool = False,
    mapped: bool = False,
) -> Handle[Any]:
    """Take a snapshot of a kernel and its arguments, and queue it.

    `attended`: the caller waits at once. `mapped`: `args` holds a list of
    calls to be made one after another.

    Raises, with nothing queued, OptionError, KernelNotSerializable,
    ArgsNotSerializable, SessionClosed, and what opening the device raises.
    """
    pool = session.pool(options.device)
    units, count = options.place(pool.units, body.name)
    image = body.capture.image(session.resident(pool, body.module))
    handles: list[Handle[Any]] = []
    place = partial(session.dispatcher.place, pool.device)
    try:
        if mapped:
            payloads: Sequence[Payload] = (codec.encode(args[0], place, dependencies=handles),)
        elif _scatters(args, kwargs):
            memo: Any = {}
            payloads = [
                codec.encode(call, place, memo=memo, dependencies=handles)
                for call in _per_shard(args, kwargs, count, body.name)
            ]
        else:
            payloads = (codec.encode((args, kwargs), place, dependencies=handles),)
    except ArgsNotSerializable as error:
        raise ArgsNotSerializable(f"kernel {body.name}: {error}") from error.__cause__
    request = Request(
        pool,
        image,
        payloads,
        units,
        count,
        body.name,
        body.number,
        options.priority,
        options.retries,
        options.timeout,
        [Depends(tuple(handle._tickets), handle._bare) for handle in handles],
        mapped,
        attended,
    )
    dispatcher = session.dispatcher
    ticket = dispatcher.submit(request)
    if options.bare:
        return SingleHandle(dispatcher, ticket, True)
    return Handle(dispatcher, ticket)


def _scatters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return Scatter in map(type, args) or (bool(kwargs) and Scatter in map(type, kwargs.values()))


def _per_shard(
    args: tuple[Any, ...], kwargs: dict[str, Any], count: int, name: str
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the arguments of each shard, slices in the place of what is scattered."""

    def spread(value: Any) -> Sequence[Any]:
        return value.slices(count, name) if type(value) is Scatter else [value] * count

    columns = [spread(value) for value in args]
    named = {key: spread(value) for key, value in kwargs.items()}
    return [
        (tuple(column[rank] for column in columns), {key: values[rank] for key, values in named.items()})
        for rank in range(count)
    ]
