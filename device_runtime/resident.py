"""Keep values on a core from launch to launch: the kernels that do it."""

from __future__ import annotations

import copy
import sys
from typing import Any

from device_runtime.context import Context, current
from device_runtime.errors import NotOnDevice, ResidentDataLost


def store(module: str, name: str, value: Any) -> None:
    """Keep a value on this core, under the name of a module's variable."""
    _here().resident[module, name] = _own(value)


def load(module: str, name: str) -> Any:
    """Return the value kept on this core.

    Raises ResidentDataLost if it is not there any more.
    """
    context = _here()
    try:
        return context.resident[module, name]
    except KeyError:
        raise ResidentDataLost(
            f"core {context.core} was restarted and has lost its resident data: {name!r} of module "
            f"{module!r} is gone; call define_on_device for it again"
        ) from None


def _own(value: Any) -> Any:
    """Return a copy to write to: arrays arrive as read-only views, also those inside other values."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return value
    if type(value) is numpy.ndarray and not value.dtype.hasobject:
        return value.copy(order="K")
    return copy.deepcopy(value)


def _here() -> Context:
    context = current()
    if context is None:
        raise NotOnDevice("resident values are kept on a device; offload.define_on_device puts them there")
    return context
