"""Tell an exception in words, whatever its class does."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from device_runtime.errors import trace_of
from device_runtime.origin import OUR_PACKAGES

_HERE = os.path.dirname(os.path.dirname(__file__))
_OUR_FOLDERS = tuple(os.path.join(_HERE, name, "") for name in sorted(OUR_PACKAGES))


def name_of(thing: object) -> str:
    """Return the name of an object's class, with its module unless that is built in."""
    kind = type(thing)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """Return `str(error)`, or say that it raises."""
    try:
        return str(error)
    except BaseException:
        return "<its text cannot be shown: str() of it raises>"


def reason(error: BaseException) -> str:
    """Say in a few words why something did not pickle or load."""
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return "it is nested too deeply"
    return f"{text_of(error)} ({name_of(error)})"


def traceback_text(error: BaseException) -> str:
    """Format a traceback, with causes, without the frames of ours that called the kernel."""
    trace = _below_us(trace_of(error))
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:  # an exception may break its own formatting
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{name_of(error)}: {text_of(error)}\n"


def relieve(error: BaseException) -> None:
    """Let go of what frames hold because of which there is no memory, so that what follows has some."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(trace_of(error))


def _below_us(trace: TracebackType | None) -> TracebackType | None:
    found = trace
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_OUR_FOLDERS):
        found = found.tb_next
    return found or trace
