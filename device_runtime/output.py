"""Show on the host what kernels print and log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TextIO

from device_runtime import codec
from device_runtime.errors import SerializationError
from device_runtime.launch import Ended, Event, Logged, Lost, Payload, Printed

# Where the cursor stands behind an unfinished line, and the core and stream it is of.
_unfinished: tuple[TextIO, tuple[int, str]] | None = None
# The cores and streams whose line was ended here, for another core's to begin: theirs is still to come.
_cut: set[tuple[int, str]] = set()
# Its cache is emptied whenever any logger's level changes; see wanted_log_level.
_sentinel = logging.getLogger("offload.kernel")


def show(event: Event) -> None:
    """Write a `Printed` to the host's own stream, give a `Logged` to the logger of its name.

    An `Ended` or `Lost` ends the line that its core left unfinished.
    """
    if isinstance(event, Printed):
        out = getattr(sys, event.stream)
        if out is not None:  # a program without a console has none
            write_marked(out, event.unit, event.stream, event.text)
    elif isinstance(event, Logged):
        record = logging.makeLogRecord({name: _arrived(value) for name, value in event.record.items()})
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    elif isinstance(event, (Ended, Lost)):
        end_line(event.unit)


def _arrived(value: object) -> object:
    """Return what a record carries; of what does not load, why."""
    if not isinstance(value, Payload):
        return value
    try:
        return codec.decode(value, writable=True, error=SerializationError)
    except SerializationError as error:
        return str(error)


def write_marked(out: TextIO, unit: int, stream: str, text: str) -> None:
    """Write text, each line marked with its core; two cores' lines are never run together."""
    global _unfinished
    if os.environ.get("OFFLOAD_PREFIX", "1") == "0":
        _write(out, text)
        return
    prefix = f"[core {unit}] "
    start = prefix
    if _unfinished is not None:
        other, last = _unfinished
        if last == (unit, stream) and other is out:
            start = ""
        else:
            _cut.add(last)
            _finish_line()
    if (unit, stream) in _cut:
        _cut.remove((unit, stream))
        text = text.removeprefix("\n")
        if not text:
            return
    _write(out, start + text[:-1].replace("\n", "\n" + prefix) + text[-1])
    _unfinished = None if text.endswith("\n") else (out, (unit, stream))


def _write(out: TextIO, text: str) -> None:
    try:
        out.write(text)
    except UnicodeEncodeError:  # cores write UTF-8, whatever the host's stream can show
        encoding = out.encoding or "ascii"
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
    out.flush()


def line_is_open() -> bool:
    """Tell whether the end of a shard may have to finish a line, or ends one that was cut off."""
    return _unfinished is not None or bool(_cut)


def end_line(unit: int) -> None:
    """Finish the line that a core left unfinished when its shard ended."""
    _cut.difference_update([(unit, "stdout"), (unit, "stderr")])
    if _unfinished is not None and _unfinished[1][0] == unit:
        _finish_line()


def _finish_line() -> None:
    global _unfinished
    line, _unfinished = _unfinished, None
    if line is not None:
        with contextlib.suppress(Exception):  # a stream that is closed by now has no line to be finished
            _write(line[0], "\n")


_level = logging.WARNING


def wanted_log_level() -> int:
    """Return the lowest level that any logger of the host lets pass."""
    global _level
    # `_cache` is the logging module's own note of which levels are enabled; setLevel empties it.
    cache = getattr(_sentinel, "_cache", None)
    if not cache:
        loggers = list(logging.Logger.manager.loggerDict.values())
        levels = [log.level for log in loggers if isinstance(log, logging.Logger) and log.level]
        _level = min([logging.root.level, *levels])
        _sentinel.isEnabledFor(logging.CRITICAL)
    return _level
