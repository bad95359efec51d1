"""Shared by all tests: a clean environment, devices, programs, and a look at what is left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bitstreams import stand_in_for_xrt
from gates import Gate
from programs import Program, children, descriptors

import offload
from device_runtime import claims

DEVICES = ("local:2", "inline:2")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--xrt", action="store_true", help="FPGAs: cards of pynq 3.0.1, whose XRT is stood in for"
    )


@pytest.fixture(autouse=True, scope="session")
def xrt(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the tests of emulated FPGAs on cards, if that was asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "SPACE", f"offload's tests {os.getpid()}")  # others may run them, too
        if request.config.getoption("--xrt"):
            stand_in_for_xrt(patch)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide OFFLOAD_* variables and the user's configuration file from the tests.

    But for those that choose between ways of doing the same: all tests hold for each of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OFFLOAD_")]:
            if name not in ("OFFLOAD_SPIN", "OFFLOAD_CHANNEL"):
                patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_signal_is_ignored() -> Iterator[None]:
    """Undo what a shell, or `nohup`, does to programs in the background; all they start would inherit it."""
    ignored = [n for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, own)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a module's tests leave no thread, no child process and no open file."""
    threads, processes, files = set(threading.enumerate()), children(), _open_files()
    failed = request.session.testsfailed
    yield
    _end_default_sessions()
    gc.collect()
    if request.session.testsfailed > failed:
        return  # pytest keeps what failed tests held, for its report
    # Those of a class of their own are other libraries': a progress bar's, which it keeps.
    left = {thread for thread in threading.enumerate() if type(thread) is threading.Thread} - threads
    for thread in left:
        thread.join(5)
    assert not [thread for thread in left if thread.is_alive()], "threads are left"
    assert children() == processes, "child processes are left"
    assert not _open_files().items() - files.items(), (
        "open files are left"
    )  # one that failed may have had some


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make each device the default one in turn, for a module's tests."""
    with offload.connect(request.param):
        yield request.param


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    """Make two process cores the default device, for a module's tests."""
    with offload.connect("local:2"):
        yield "local:2"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Make a place in a kernel where it waits for the test, at most until the test's end."""
    gate = Gate.make(tmp_path / "gate")
    yield gate
    gate.remove()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start programs in a folder of their own; at the end none of their processes may be left."""
    started: list[Program] = []

    def start(*arguments: str, **options: object) -> Program:
        started.append(Program(tmp_path / f"program{len(started)}", arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.close()


def _open_files() -> dict[str, str]:
    """Return sockets, pipes, shared memory and the like that are open, by descriptor."""
    kinds = ("socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/shm/")
    return {entry: target for entry, target in descriptors(os.getpid()).items() if target.startswith(kinds)}


def _end_default_sessions() -> None:
    """Shut down what tests have left to the end of the program, and let the next ones start afresh."""
    sessions = sys.modules.get("offload.session")
    if sessions is not None:
        for session in list(sessions._started):
            session.shutdown()
        sessions._defaults.clear()
        sessions._first.clear()
