"""Sessions in programs: which device is used, what happens at the end, and after a fork."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from programs import Program

import offload
from device_runtime.device import Device
from device_runtime.interrupts import Shield
from device_runtime.process.cpus import available
from offload import session
from offload.session import Once

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
    code = f"print(set(where()) == {{{available()}}}, numcores() == len(where()))"
    assert run(program, code, device=None).out == "True True\n"  # type: ignore[attr-defined, arg-type]


BLOCKS = {
    "the default": "",
    "connected": "offload.connect('inline:2')",
    "connected in a block": "before = offload.connect('inline:2').__enter__()",
}


@pytest.mark.parametrize("before", BLOCKS.values(), ids=BLOCKS)
def test_a_block_on_the_address_in_use_gives_the_one_before_it_back(
    program: Callable[..., Program], before: str
) -> None:
    code = f"""
{before}
print(where())
with offload.connect("inline:2") as inner:
    with inner:
        print(where())
    print(where())
print(where())
"""
    ended = run(program, code, device="inline:2")
    assert ended[1] == "[2, 2]\n" * 4, ended[2]


def test_what_is_opened_while_the_session_is_shut_down_is_closed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, over = threading.Event(), threading.Event()
    real = session.open_device

    def slow(address: str) -> Device:
        made = real(address)
        going.set()
        over.wait()
        return made

    def first_launch() -> None:
        try:
            offload.offload(abs, device="local:1")(1)
        except offload.SessionClosed as error:
            errors.append(error)

    errors: list[offload.SessionClosed] = []
    with offload.connect("inline"):
        monkeypatch.setattr(session, "open_device", slow)
        thread = threading.Thread(target=first_launch)
        thread.start()
        going.wait()
    over.set()
    thread.join()
    assert len(errors) == 1


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


def test_who_insists_is_not_told_of_anothers_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries for itself, as who waits longer for a card does."""
    once: Once[str] = Once()
    begun, let_on, found = threading.Event(), threading.Event(), []

    class Waiting(Shield):
        """What who waits for another is in."""

        def __enter__(self) -> None:
            super().__enter__()
            let_on.set()

    monkeypatch.setattr("offload.session.Shield", Waiting)

    def fail() -> str:
        begun.set()
        let_on.wait(30)
        raise ValueError("it could not wait so long")

    def first() -> None:
        with pytest.raises(ValueError, match="so long"):
            once.get("key", fail)

    threads = [
        threading.Thread(target=first),
        threading.Thread(target=lambda: found.append(once.get("key", lambda: "made", insist=True))),
    ]
    threads[0].start()
    begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert found == ["made"] and once.values == {"key": "made"}
