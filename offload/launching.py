"""The way of a launch from a call to the scheduler."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from device_runtime import codec
from device_runtime.errors import ArgsNotSerializable, ResultDecodeError
from device_runtime.launch import Encoded, Outcome
from offload.handle import Handle, SingleHandle
from offload.scattering import Scatter
from scheduler.ticket import Depends, Failure, Finish, Route, Ticket, Turn, finish_value

if TYPE_CHECKING:
    from offload.body import Body
    from offload.options import Options
    from offload.session import Session
    from scheduler.ticket import Pool


_ROUTES = 1024  # that a pool keeps, one for each function


def call(
    session: Session,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    finish: Finish | None = None,
    turn: Turn | None = None,
) -> list[Any]:
    """Run a kernel and return its values, in core order; `finish` and `turn` are as `launch` takes them.

    Raises what `launch` and the `wait` of its handle raise.
    """
    pool = session.pool(options.device)
    after = session.burials(pool, waits=False) if session.arrays else ()
    if after or options.timeout is not None or _scatters(args, kwargs):
        return launch(
            session, body, args, kwargs, options, attended=True, finish=finish, after=after, turn=turn
        ).wait()
    route = route_of(pool, body, options)
    image = body.capture.image(session.resident(pool, body.module))
    handles: list[Handle[Any]] = []
    data = codec.plain_call(args, kwargs)
    payload = _encoded((args, kwargs), session, pool, body, handles) if data is None else data
    dispatcher = session.dispatcher
    finished: list[tuple[Any, Failure | None]] = []
    found = None if handles else dispatcher.call(route, image, payload, finish, turn)
    if found is None:
        ticket = Ticket(route, image, payload, _depends(handles, body), finish=finish, turn=turn)
        dispatcher.submit(ticket, attended=True)
    elif isinstance(found, Ticket):
        ticket = found
    else:
        values = _values(found)
        if values is not None and finish is None:
            return values
        if values is not None and finish is not None:
            finished = [finish_value(finish, rank, value) for rank, value in enumerate(values)]
            if all(failed is None for _, failed in finished):
                return [value for value, _ in finished]
        ticket = dispatcher.settled(route, image, payload, found, finish)
        if finished:
            ticket.more.values.update(enumerate(finished))
    return Handle[Any](dispatcher, ticket, route.bare).wait()


def _values(outcomes: Sequence[bytes | Outcome]) -> list[Any] | None:
    """Return what shards gave; None where one gave an error, which the ticket will tell."""
    values = []
    for outcome in outcomes:
        if isinstance(outcome, bytes):
            values.append(pickle.loads(outcome))
            continue
        if outcome.failed or outcome.payload is None:
            return None
        try:
            values.append(codec.decode(outcome.payload, writable=True, error=ResultDecodeError))
        except ResultDecodeError:
            return None  # the ticket says whose it is
    return values


def launch(
    session: Session,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    attended: bool = False,
    mapped: bool = False,
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
    finish: Finish | None = None,
    after: Sequence[Depends] | None = None,
    turn: Turn | None = None,
) -> Handle[Any]:
    """Take a snapshot of a kernel and its arguments, and queue it.

    `attended`: the caller waits at once. `mapped`: calls are made one after
    another; `args` holds what all begin with, and a list for each argument
    that follows. `calls` holds the arguments of each shard, or the same for
    all, in the place of `args` and `kwargs`; `finish` makes of a shard's rank
    and value what the handle gives; `after` are launches that it waits for,
    by default those that free memory of the device, and `turn` tells of
    others, once those before it are known.

    Raises, with nothing queued, OptionError, KernelNotSerializable,
    ArgsNotSerializable, SessionClosed, and what opening the device raises.
    """
    pool = session.pool(options.device)
    if after is None:
        waits = not attended and options.when_full == "wait"
        after = session.burials(pool, waits) if session.arrays else ()
    route = route_of(pool, body, options)
    image = body.capture.image(session.resident(pool, body.module))
    dispatcher = session.dispatcher
    if calls is None and _scatters(args, kwargs):
        calls = _per_shard(args, kwargs, route.count, body.name)
    data = None if mapped or calls is not None else codec.plain_call(args, kwargs)
    if data is not None:
        ticket = Ticket(route, image, data, after, finish=finish, turn=turn)
    else:
        handles: list[Handle[Any]] = []
        if mapped:
            encoded: Encoded | list[Encoded] = _encoded(args, session, pool, body, handles)
        elif calls is not None and len(calls) == route.count:
            memo: Any = {}
            encoded = [_encoded(call, session, pool, body, handles, memo) for call in calls]
        elif calls is not None:
            encoded = _encoded(calls[0], session, pool, body, handles)
        else:
            encoded = _encoded((args, kwargs), session, pool, body, handles)
        ticket = Ticket(route, image, encoded, [*_depends(handles, body), *after], mapped, finish, turn)
    dispatcher.submit(ticket, attended)
    if route.bare:
        return SingleHandle(dispatcher, ticket, True)
    return Handle(dispatcher, ticket)


def route_of(pool: Pool, body: Body, options: Options) -> Route:
    """Return the way that launches of a kernel with these options go.

    Raises OptionError for a placement that the device cannot give.
    """
    last = pool.routes.get(body.number)
    if last is not None and last[0] is options:
        return last[1]
    units, count = options.place(pool.units, body.name, pool.device.names)
    name, number = body.name, body.number
    retries = body.retries if options.retries is None else options.retries
    limits = options.priority, retries, options.timeout, options.when_full
    route = Route(pool, units, count, name, number, *limits, options.bare)
    if len(pool.routes) >= _ROUTES:
        pool.routes.clear()
    pool.routes[number] = options, route
    return route


def _encoded(
    value: Any, session: Session, pool: Pool, body: Body, handles: list[Handle[Any]], memo: Any = None
) -> Encoded:
    place = partial(session.dispatcher.place, pool.device)
    try:
        return codec.encode(value, place, memo=memo, dependencies=handles)
    except ArgsNotSerializable as error:
        raise ArgsNotSerializable(f"kernel {body.name}: {error}") from error.__cause__


def _depends(handles: list[Handle[Any]], body: Body) -> Sequence[Depends]:
    for handle in handles:
        handle._check_process()
        for ticket in handle._tickets:
            finish: Any = ticket.more.finish
            if getattr(finish, "stays", False):
                one = "" if len(finish.outs) == 1 else "[0]"
                raise ArgsNotSerializable(
                    f"kernel {body.name}: a handle of kernel {ticket.name} stands for what stays on its "
                    f"device; only hardware kernels there take it: give numpy.asarray(handle.result(){one})"
                )
    return [Depends(handle._tickets, handle._bare) for handle in handles] if handles else ()


def _scatters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args and Scatter in map(type, args)) or bool(kwargs and Scatter in map(type, kwargs.values()))


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
