"""Launches and handles after a session was shut down, and in a process that was forked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from programs import Program

import offload as of
from offload import offload


def plain(x: int) -> int:
    return x


@pytest.mark.parametrize("address", ["local:1", "inline:1"])
def test_launches_after_shutdown(address: str) -> None:
    session = of.connect(address)
    kernel = offload(plain)
    handle = kernel.launch(1)
    stream = kernel.map(iter(range(10**9)))
    assert next(stream) == 0
    of.shutdown()
    of.shutdown()
    session.shutdown()
    for launch in (
        lambda: kernel(1),
        lambda: kernel.launch(1),
        lambda: next(kernel.map([1])),
        lambda: of.define_on_device(a=1),
        lambda: of.copy_from_device("a"),
        lambda: list(stream),
    ):
        with pytest.raises(of.SessionClosed, match="connect"):
            launch()
    assert handle.wait() == handle.result() == [1]
    assert handle.done() and handle.test() and not handle.cancel()
    assert (handle.number_running(), handle.number_outstanding()) == (0, 0)
    with of.connect(address):
        assert kernel(1) == [1]


def test_shutdown_waits_for_everything_that_was_launched() -> None:
    of.connect("local:2")
    handles = [offload(plain).launch(i) for i in range(50)]
    of.shutdown()
    assert all(handle.done() for handle in handles)
    assert [handle.wait() for handle in handles] == [[i, i] for i in range(50)]


def test_shutdown_without_waiting_ends_everything() -> None:
    """What runs for ever, and what is queued behind it, fails with an error that says so."""
    import signal
    from concurrent.futures import CancelledError

    of.connect("local:1")
    running = offload(lambda: signal.pause()).launch()
    queued = offload(plain).launch(1)
    of.shutdown(wait=False)
    with pytest.raises((of.SessionClosed, CancelledError)):
        running.wait()
    with pytest.raises((of.SessionClosed, CancelledError)):
        queued.wait()


FORKS = """
    import os, sys
    import offload as of
    from offload import offload

    @offload
    def k(x):
        return x

    done, early = k.launch(1), k.launch(2)
    done.wait()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        for use in (done.wait, done.result, done.test, done.done, early.wait, early.cancel, early.wait_any,
                    done.exception, early.number_running, lambda: of.wait_all(done)):
            try:
                use()
            except of.ForkedHandleError:
                pass
            else:
                print("not refused", use)
        print("the child launches", k(5))
        sys.stdout.flush()
        os._exit(0) if LEAVE else sys.exit(0)
    os.waitpid(child, 0)
    print("the parent goes on", early.wait(), k(3))
"""


@pytest.mark.parametrize("leave", ["True", "False"])
@pytest.mark.parametrize("device", ["local:2", "inline:2"])
def test_a_forked_child(program: Callable[..., Program], device: str, leave: str) -> None:
    """The child's handles say what they are, its launches are its own, and the parent notices nothing."""
    started = program(
        "-W", "ignore", "script.py", files={"script.py": FORKS.replace("LEAVE", leave)}, device=device
    )
    ended = started.end()
    assert ended.out.splitlines() == ["the child launches [5, 5]", "the parent goes on [2, 2] [3, 3]"]
    assert ended.code == 0, ended.err


SHARES = """
    import os
    import numpy as np
    import offload as of
    from offload import offload

    def first(a):
        return float(a[0])

    def hold(gate):
        open(gate).read()

    gates = "one", "other"
    for gate in gates:
        os.mkfifo(gate)
    executor = of.Executor(1)
    executor.submit(first, np.zeros(100_000)).result()
    kernel = offload(first)
    stream = kernel.map([np.full(100_000, 6.0)] * 9, chunksize=1, window=1)
    next(stream)
    held = executor.submit(hold, "one"), offload(hold).launch("other")
    placed, leave = os.pipe()
    child = os.fork()
    if not child:
        os.read(placed, 1)
        for use in (lambda: executor.submit(first, np.full(100_000, 6.0)), lambda: next(stream)):
            try:
                print("not refused:", use())
            except of.ForkedHandleError as error:
                print("refused", flush=True)
        os._exit(0)
    mine = executor.submit(first, np.full(100_000, 1.0)), kernel.launch(np.full(100_000, 1.0))
    os.write(leave, b"!")
    os.waitpid(child, 0)
    for gate in gates:
        open(gate, "w").close()
    print(*(called.result() for called in mine))
"""


def test_a_forked_child_writes_to_no_argument_of_its_parents(program: Callable[..., Program]) -> None:
    """They share the memory that arguments lie in; what the parent has queued there stays as it was."""
    ended = program("-W", "ignore", "script.py", files={"script.py": SHARES}, device="local:1").end()
    assert ended.out.splitlines() == ["refused", "refused", "1.0 [1.0]"], ended.err


GUARDED = """
    import os
    import offload as of
    from offload import offload
    from offload.session import session

    @offload
    def k(x):
        return x

    handles = [k.launch(1) for _ in range(3)]
    of.wait_all(*handles)
    handles[2].wait_any()
    guard = session().dispatcher._guard
    guard._lock.acquire()  # as if another thread were just inside
    if not os.fork():
        first, _, last = handles
        for use in (first.wait_any, lambda: list(first.as_completed()), first.test, first.future,
                    lambda: last.append(first), lambda: first.add_done_callback(print),
                    lambda: of.wait_any(first), lambda: list(of.as_completed(first))):
            try:
                print("not refused", use())
            except of.ForkedHandleError:
                pass
        os._exit(0)
    os.wait()
    guard._lock.release()
    print("the parent goes on", k(3))
"""


def test_a_fork_while_another_thread_is_inside(program: Callable[..., Program]) -> None:
    ended = program("-W", "ignore", "script.py", files={"script.py": GUARDED}, device="inline:2").end()
    assert ended.out == "the parent goes on [3, 3]\n", ended.err


def test_a_fork_does_not_keep_the_cores_alive(program: Callable[..., Program]) -> None:
    script = """
        import os
        from offload import offload

        @offload
        def core():
            return os.getpid()

        print(*core(), flush=True)
        if not os.fork():
            os.read(0, 1)
            os._exit(0)
    """
    started = program("-W", "ignore", "script.py", files={"script.py": script})
    cores = {int(number) for number in started.line().split()}
    started.wait()
    assert cores.isdisjoint(started.processes())
    assert len(started.processes()) == 1
    started.end("x")
