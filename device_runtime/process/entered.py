"""A shard that runs, and what becomes of the processes that it forks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from device_runtime.context import Context, NoMesh
from device_runtime.errors import NotOnDevice

_NO_MESSAGES = "a process that a kernel forked can neither send nor receive: only the core can"


class Entered:
    """Within the block, a shard is what `enter` makes it; a process that a kernel forked ends with it."""

    def __init__(self, enter: Callable[[Context | None], object]) -> None:
        self._enter = enter
        self._context: Context | None = None  # of the last shard
        self._forked = False  # this is a process that a kernel forked

    def __call__(self, entered: Context) -> Entered:
        self._context = entered
        return self

    def __enter__(self) -> None:
        self._enter(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forked:
            _end(error)
        self._enter(None)

    def fork(self) -> None:
        """Note that this is a process that the kernel forked: it is no core."""
        self._forked = True
        running = self._context
        if running is not None:
            running.mesh = NoMesh(NotOnDevice, _NO_MESSAGES)
            running.leave()  # its own launches make a session of its own
            running.instance = None


def _end(error: BaseException | None) -> NoReturn:
    """End as a program ends: with an exit code, or its error's traceback."""
    code: Any = error.code if isinstance(error, SystemExit) else error
    if isinstance(code, BaseException):
        sys.excepthook(type(code), code, code.__traceback__)
        code = 1
    elif not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # it has closed them
    os._exit((code or 0) & 0xFF)
