"""Resident data: variables of a module that every core keeps its own copy of."""

from __future__ import annotations

import keyword
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from device_runtime import resident
from device_runtime.bytecode import argument_name
from device_runtime.errors import ArgsNotSerializable, OptionError, ResidentNameError
from device_runtime.traces import name_of, reason
from offload.body import Body
from offload.launching import launch
from offload.options import Options, check
from offload.session import Session, session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.handle import Handle

_store = Body(resident.store)
_load = Body(resident.load)


def define_on_device(*value: Any, **named: Any) -> None:
    """Give every core of the default device its own copy of a variable, in its current state.

        define_on_device(a)             # the variable's name is taken from the call
        define_on_device(a=1, b=2)
        define_on_device("a", 1)

    Kernels of the calling module then read and assign the name as a global;
    what they assign stays on their core. The host's variable is not touched.
    Returns once every core has its copy. Raises OptionError where no name can
    be had or it cannot be a variable's, or where the calling code has no
    `__name__`, and ArgsNotSerializable.
    """
    frame = sys._getframe(1)
    values = {**_named_by_call(value, frame), **named}
    if not values:
        raise OptionError("define_on_device needs a variable: define_on_device(a)")
    for name in values:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise OptionError(f"define_on_device: {name!r} cannot be the name of a variable")
    here, module = session(), _module(frame)
    pool = here.pool()
    handles = [
        _started("define_on_device", here, _store, (module, name, what), Options())
        for name, what in values.items()
    ]
    for name, handle in zip(values, handles):
        handle.wait()
        here.define(pool, module, name)


def copy_to_device(
    name: str, data: Any, target: int | Sequence[int] | None = None, async_: bool = False, **options: Any
) -> Any:
    """Replace the cores' copies of a resident variable, in launch order with kernels.

    `target` is the core or cores, all by default. Waits and returns None, or
    with `async_` (also as the key "async") returns a handle at once.

    Raises ResidentNameError for a name that is not defined on the device.
    """
    return _launch(_store, name, (data,), target, async_, options, sys._getframe(1))


def copy_from_device(
    name: str, target: int | Sequence[int] | None = None, async_: bool = False, **options: Any
) -> Any:
    """Return the cores' values of a resident variable, one per core in core order.

    `target` is the core or cores, all by default. Waits, or with `async_`
    (also as the key "async") returns a handle at once.

    Raises ResidentNameError for a name that is not defined on the device, or
    that a kernel deleted, and ResidentDataLost for a core that was restarted since.
    """
    return _launch(_load, name, (), target, async_, options, sys._getframe(1))


def _launch(
    body: Body,
    name: str,
    data: tuple[Any, ...],
    target: int | Sequence[int] | None,
    async_: bool,
    given: dict[str, Any],
    frame: FrameType,
) -> Any:
    where = "copy_from_device" if body is _load else "copy_to_device"
    if not isinstance(name, str):
        raise OptionError(f"{where}: the name of the variable is a string, not {type(name).__name__}")
    if given.keys() - {"async"}:
        raise OptionError(f"{where}: there is no option {min(given.keys() - {'async'})!r}")
    waits = given if given else {"async_": async_}
    options = Options().merged(check({"target": target, **waits}, where))
    here, module = session(), _module(frame)
    pool = here.pool(options.device)
    defined = here.resident(pool, module)
    if name not in defined:
        known = f"defined are {', '.join(sorted(defined))}" if defined else "none is"
        raise ResidentNameError(
            f"{where}: {name!r} is not defined on the device for module {module!r} ({known}); "
            f"define_on_device({name}) defines it"
        )
    handle = _started(where, here, body, (module, name, *data), options, attended=not options.async_)
    if options.async_:
        return handle
    values = handle.wait()
    return values if body is _load else None


def _started(
    where: str, here: Session, body: Body, args: tuple[Any, ...], options: Options, attended: bool = False
) -> Handle[Any]:
    """Launch one of our own kernels; an error names what the user called, and the variable."""
    try:
        return launch(here, body, args, {}, options, attended)
    except ArgsNotSerializable as error:
        assert error.__cause__ is not None
        _, name, value = args
        told = f"{where}: {name!r} (of type {name_of(value)}) does not pickle: {reason(error.__cause__)}"
        raise ArgsNotSerializable(told) from error.__cause__


def _named_by_call(value: tuple[Any, ...], frame: FrameType) -> dict[str, Any]:
    """Return the variable that the positional arguments of define_on_device name."""
    if len(value) == 2 and isinstance(value[0], str):
        return {value[0]: value[1]}
    if len(value) != 1:
        if not value:
            return {}
        raise OptionError('define_on_device takes one variable, or names: (a), (a=1, b=2), ("a", 1)')
    name = argument_name(frame)
    if name is None:
        raise OptionError(
            "define_on_device cannot tell the variable's name from this call; "
            'write define_on_device(a=value) or define_on_device("a", value)'
        )
    return {name: value[0]}


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    if not isinstance(name, str):
        raise OptionError(
            "resident data belongs to a module, and this code runs in a namespace that has none: "
            "give the dictionary for exec() a '__name__'"
        )
    return name
