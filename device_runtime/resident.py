"""Keep values on a core from launch to launch: where, and the kernels that do it."""

from __future__ import annotations

import copy
import sys
from typing import Any

from device_runtime.context import Context, current
from device_runtime.errors import NotOnDevice, ResidentDataLost, ResidentNameError


class Resident(dict[tuple[str, str], Any]):
    """Hold the values of a core by module and name, and say why one is not there any more.

    Looking up one that is missing raises ResidentDataLost, or ResidentNameError
    where a kernel deleted it.
    """

    def __init__(self, core: int) -> None:
        self._core = core
        self._deleted: set[tuple[str, str]] = set()

    def delete(self, key: tuple[str, str]) -> None:
        """Forget a value that a kernel deleted."""
        del self[key]
        self._deleted.add(key)

    def __missing__(self, key: tuple[str, str]) -> Any:
        module, name = key
        if key in self._deleted:
            raise ResidentNameError(
                f"{name!r} of module {module!r} is not defined on core {self._core} any more: "
                "a kernel deleted it; call define_on_device for it again"
            )
        raise ResidentDataLost(
            f"core {self._core} was restarted and has lost its resident data: {name!r} of module "
            f"{module!r} is gone; call define_on_device for it again"
        )


def store(module: str, name: str, value: Any) -> None:
    """Keep a value on this core, under the name of a module's variable."""
    _here().resident[module, name] = _own(value)


def load(module: str, name: str) -> Any:
    """Return the value kept on this core.

    Raises ResidentDataLost or ResidentNameError if it is not there any more.
    """
    return _here().resident[module, name]


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
