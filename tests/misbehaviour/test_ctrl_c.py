"""Ctrl-C while the host waits: KeyboardInterrupt at once, and the launch goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from programs import Program

Start = Callable[..., Program]

BEGIN = """
    import os, signal, sys
    import offload as of
    from offload import offload

    Interrupted = KeyboardInterrupt
    for name in ("begun", "go"):
        os.mkfifo(name)
    begun, go = os.path.abspath("begun"), os.path.abspath("go")

    @offload(target=0)
    def kernel(x):
        with open(begun, "w"):
            pass
        with open(go) as pipe:
            pipe.read()
        return x

    @offload
    def core():
        return os.getpid()

    def tell(frame, event, called):
        # Says so when the main thread is about to sleep, which is not where it enters a guard.
        sleeps = event == "c_call" and called.__name__ in ("poll", "acquire")
        if sleeps and frame.f_code.co_name != "__enter__":
            sys.setprofile(None)
            os.write(1, b"waiting\\n")

    cores = core()
"""
LAUNCH = """
    handle = kernel.launch(5)
    open(begun).read()
"""
WAIT = """
    try:
        sys.setprofile(tell)
        {}
    except Interrupted:
        print("interrupted", flush=True)
"""
# The kernel goes on only now, so it is certain that the wait did not end by itself.
GO_ON = """
    assert not handle.done()
    with open(go, "w"):
        pass
    print(handle.wait(), core() == cores)
"""

WAITS = {
    "wait": "handle.wait()",
    "wait with a timeout": "handle.wait(timeout=1000)",
    "result": "handle.result()",
    "wait_any": "handle.wait_any()",
    "as_completed": "list(handle.as_completed())",
    "wait_all": "of.wait_all(handle)",
    "another launch behind it": "core()",
    "map behind it": "list(offload(abs, target=0).map([1, 2, 3]))",
    "a future": "handle.future().result()",
}


def interrupted(program: Start, script: str) -> Program:
    """Start a script and interrupt it when it is about to sleep in a wait."""
    started = program("script.py", files={"script.py": script})
    assert started.line() == "waiting"
    started.signal(signal.SIGINT)
    return started


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_is_interrupted_and_the_handle_stays_good(program: Start, wait: str) -> None:
    started = interrupted(program, BEGIN + LAUNCH + WAIT.format(wait) + GO_ON)
    assert started.line() == "interrupted"
    ended = started.end()
    assert (ended.code, ended.out) == (0, "[5] True\n"), ended.err


def test_a_blocking_call_is_interrupted_and_the_cores_go_on(program: Start) -> None:
    script = (
        BEGIN
        + WAIT.format("kernel(5)")
        + """
    with open(go, "w"):
        pass
    print(core() == cores)
    """
    )
    started = program("script.py", files={"script.py": script})
    assert started.line() == "waiting"
    with open(started.folder / "begun") as pipe:
        pipe.read()  # the kernel has begun
    started.signal(signal.SIGINT)
    assert started.line() == "interrupted"
    ended = started.end()
    assert (ended.code, ended.out) == (0, "True\n"), ended.err


def test_ctrl_c_cuts_a_shutdown_short_and_leaves_nothing(program: Start) -> None:
    script = (
        BEGIN
        + LAUNCH
        + WAIT.format("of.shutdown()")
        + """
    assert handle.done() and isinstance(handle.exception(), of.SessionClosed)
    print("closed", flush=True)
    sys.stdin.readline()
    """
    )
    started = interrupted(program, script)
    assert [started.line(), started.line()] == ["interrupted", "closed"]
    assert len(started.processes()) == 1
    assert started.end("go").code == 0


def test_a_script_that_does_not_catch_it_ends_by_it(program: Start) -> None:
    script = (
        BEGIN
        + LAUNCH
        + """
    import offload.session

    offload.session.DRAIN_AT_EXIT = 0.1
    sys.setprofile(tell)
    handle.wait()
    """
    )
    ended = interrupted(program, script).end()
    assert ended.code == -signal.SIGINT
    assert "KeyboardInterrupt" in ended.err and "1 running ended" in ended.err


def test_ctrl_c_in_an_inline_kernel_is_raised_where_the_launch_was_made(program: Start) -> None:
    script = """
        import os, signal
        import offload as of
        from offload import offload

        of.connect("inline:2")

        @offload(target=0)
        def first():
            os.kill(os.getpid(), signal.SIGINT)

        @offload(target=1)
        def second(x):
            return x

        gathered = []
        try:
            gathered.append(first.launch())
        except KeyboardInterrupt:
            print("interrupted")
        print(gathered, second(2))
    """
    ended = program("script.py", files={"script.py": script}).end()
    assert (ended.code, ended.out) == (0, "interrupted\n[] [2]\n"), ended.err


LAUNCHES = {
    "a call": "assert kernel(7) == [7, 7]",
    "handles": "assert wait_all(kernel.launch(1), kernel.launch(2)) == [[1, 1], [2, 2]]",
    "map": "assert list(kernel.map(range(20))) == list(range(20))",
    "futures": "assert kernel.launch(3).future().result() == [3, 3]",
}


@pytest.mark.parametrize("device", ["local:2", "inline:2"])
@pytest.mark.parametrize("launch", LAUNCHES.values(), ids=LAUNCHES)
def test_interrupts_at_any_moment_break_nothing(program: Start, launch: str, device: str) -> None:
    script = """
        import os, signal
        from offload import connect, offload, wait_all

        connect("DEVICE")

        @offload
        def kernel(x):
            return x

        kernel(0)
        sky, ground = os.pipe()
        host = os.getpid()
        if not os.fork():
            os.close(ground)
            spin = 0
            while os.read(sky, 1):
                spin = (spin + 7919) % 50_000  # another moment each time
                for _ in range(spin):
                    pass
                os.kill(host, signal.SIGINT)
            os._exit(0)
        for _ in range(200):
            try:
                os.write(ground, b"x")
                while True:
                    LAUNCH
            except KeyboardInterrupt:
                pass  # the next one comes only when it is asked for
        os.close(ground)
        os.wait()
        print(kernel(8))
    """.replace("LAUNCH", launch).replace("DEVICE", device)
    ended = program("-W", "ignore", "script.py", files={"script.py": script}).end()
    assert (ended.code, ended.out) == (0, "[8, 8]\n"), ended.err


@pytest.mark.parametrize(
    ("first", "module"),
    [
        ("list(kernel.map(range(3)))", "offload.mapping"),
        ("kernel(1)", "offload.launching"),
        ("kernel.launch(1)", "offload.launching"),
    ],
)
def test_an_interrupt_while_a_call_imports_is_kept_until_that_is_done(
    program: Start, first: str, module: str
) -> None:
    script = f"""
        import os, signal, sys
        from offload import connect, offload

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)

        connect("inline")

        @offload
        def kernel(x):
            return x

        sys.meta_path.insert(0, Finder())
        try:
            {first}
        except KeyboardInterrupt:
            print("interrupted", {module!r} in sys.modules)
        {first}
    """
    ended = program("script.py", files={"script.py": script}).end()
    assert (ended.code, ended.out) == (0, "interrupted True\n"), ended.err


def test_a_handler_of_the_users_own_is_left_alone(program: Start) -> None:
    own = """
    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    """
    started = interrupted(program, BEGIN + own + LAUNCH + WAIT.format("handle.wait()") + GO_ON)
    assert started.line() == "interrupted"
    assert started.end().out == "[5] True\n"


def test_the_terminals_ctrl_c_reaches_the_host_only(program: Start) -> None:
    """The terminal signals the whole foreground group, and cores are not in it."""
    script = BEGIN + "    os.setpgid(0, 0)\n" + LAUNCH + WAIT.format("handle.wait()") + GO_ON
    started = program("script.py", files={"script.py": script})
    assert started.line() == "waiting"
    os.killpg(started.number, signal.SIGINT)
    assert started.line() == "interrupted"
    assert started.end().out == "[5] True\n"
