"""Sessions in programs: which device is used, what happens at the end, and after a fork."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from programs import Program

import offload

KERNEL = """
import os, sys
import offload
from offload import offload_single
from offload.core import numcores

@offload.offload
def where():
    return numcores()
"""


def run(program: Callable[..., Program], code: str, **options: str) -> tuple[int, str, str]:
    return program("script.py", files={"script.py": KERNEL + code}, **options).end()


def test_the_device_is_the_environments_unless_connected(program: Callable[..., Program]) -> None:
    code = "print(where(), offload.connect('inline:3').device, where())"
    assert run(program, code, device="inline:2").out == "[2, 2] inline:3 [3, 3, 3]\n"  # type: ignore[attr-defined]


def test_without_any_choice_there_is_a_core_for_each_cpu(program: Callable[..., Program]) -> None:
    code = "print(set(where()) == {len(os.sched_getaffinity(0))}, numcores() == len(where()))"
    assert run(program, code, device=None).out == "True True\n"  # type: ignore[attr-defined, arg-type]


def test_settings_reach_launches(program: Callable[..., Program]) -> None:
    ended = run(program, "where()", OFFLOAD_TIMEOUT="never")
    assert "OptionError: OFFLOAD_TIMEOUT: timeout='never'" in ended[2]


def test_a_launch_after_shutdown_is_refused_until_connected_again() -> None:
    def seven() -> int:
        return 7

    kernel = offload.offload(seven)
    with offload.connect("inline:1"):
        handle = kernel.launch()
        offload.shutdown()
        with pytest.raises(offload.SessionClosed, match=r"offload\.connect"):
            kernel()
        assert handle.wait() == [7]
        with offload.connect("inline:1"):
            assert kernel() == [7]


def test_what_is_queued_at_the_end_is_cancelled_and_counted(program: Callable[..., Program]) -> None:
    code = """
from offload import session
session.DRAIN_AT_EXIT = 0.01  # seconds

@offload_single
def hold():
    with open("begun", "w"):
        pass
    with open("never") as pipe:
        pipe.read()

@offload_single
def visit(number):
    pass

os.mkfifo("begun")
os.mkfifo("never")
offload.connect("local:1")
held = hold()
open("begun").close()
handles = [visit(number) for number in range(3)]
"""
    ended = run(program, code)
    assert ended[0] == 0
    assert "3 queued cancelled, 1 running ended" in ended[2]


def test_a_forked_child_opens_devices_of_its_own(program: Callable[..., Program]) -> None:
    code = """
handle = where.launch()
handle.wait()
child = os.fork()
if child == 0:
    print("child", where(), flush=True)
    try:
        handle.wait()
    except offload.ForkedHandleError:
        print("refused", flush=True)
    sys.exit(0)
os.waitpid(child, 0)
print("parent", where())
"""
    ended = run(program, code)
    assert ended[1].splitlines() == ["child [2, 2]", "refused", "parent [2, 2]"], ended[2]
