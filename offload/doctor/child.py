"""Ask a process of its own: what is looked at there may hang, or crash, and the doctor does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from device_runtime.process.control import search_path
from device_runtime.process.deaths import describe
from offload.doctor.finding import Finding

Tell = Callable[[Finding], None]

_GRACE = 5.0  # seconds in which a child that takes too long may close what it has opened
# The first entry of sys.path, the current folder, goes before anything is imported from there.
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import json
told = json.loads(sys.argv[1])
sys.path[:] = told["path"]
from offload.doctor.child import main
main(told)
"""


class Answer(NamedTuple):
    """What a child has found, and how it ended, if that was not well."""

    findings: list[Finding]
    failure: str


def ask(task: str, given: str, seconds: float) -> Answer:
    """Have a child do a task, "module:function", with a string; it is ended after so many seconds.

    The function gets the string, and what it calls with each `Finding`.
    """
    # Files, not pipes: whoever holds the other end of one might never let go of it.
    with tempfile.TemporaryFile() as findings, tempfile.TemporaryFile() as output:
        told = {"path": search_path(), "task": task, "given": given, "findings": findings.fileno()}
        child = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(told)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[findings.fileno()],
            start_new_session=True,
        )
        try:
            code = child.wait(seconds)
            failure = "" if code == 0 else f"its process ended by {describe(code)}"
        except subprocess.TimeoutExpired:
            failure = f"there was no answer within {seconds:g} s"
        finally:
            # Before it is told to end, of which it may say something. No seek: that would move it, too.
            said = os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0)
            _end(child)
        findings.seek(0)
        told_of = [Finding(*json.loads(line)) for line in findings]
    lines = said.decode(errors="replace").strip().splitlines()
    if failure and lines:
        failure += f": {lines[-1].strip()}"
    return Answer(told_of, failure)


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, _GRACE), (signal.SIGKILL, None)):
        if child.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)


def main(told: dict[str, Any]) -> None:
    """Be the child."""
    import importlib

    module, _, name = told["task"].partition(":")
    with open(told["findings"], "w", buffering=1) as findings:
        getattr(importlib.import_module(module), name)(
            told["given"], lambda finding: print(json.dumps(finding), file=findings)
        )
