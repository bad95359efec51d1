"""However the host ends, it leaves no process, no shared memory and no temporary file.

`Program.end` looks at processes and temporary files; memory that other programs
could see is looked for among what the processes have open.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program, descriptors

Start = Callable[..., Program]

# Prints "ready" with the cores idle, or with kernels that run and others queued behind them.
BEGIN = """
    import os, signal, sys, time
    import offload as of
    from offload import offload, offload_single

    @offload
    def core(x):
        return os.getpid()

    @offload
    def hold(path):
        with open(path, "w"):
            pass
        signal.pause()

    core(bytes(100_000))
    if sys.argv[1] == "busy":
        paths = [f"begun{i}" for i in range(2)]
        for path in paths:
            os.mkfifo(path)
        handles = [hold.options(target=i).launch(os.path.abspath(path)) for i, path in enumerate(paths)]
        for path in paths:
            open(path).read()
        handles += [core.launch(0) for _ in range(10)]
    print("ready", flush=True)
"""

ENDS = {
    "falls off its end": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("1 / 0", 1),
    "os._exit": ("os._exit(4)", 4),
    "shutdown": ("of.shutdown(wait=False)", 0),
    "an abort": ("os.abort()", -signal.SIGABRT),
}


def visible_memory(program: Program) -> set[str]:
    """Return what the program's processes have open or mapped in places that others can look into."""
    found = set()
    for process in program.processes():
        found.update(descriptors(process).values())
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            found.add(line.partition("/")[1] + line.partition("/")[2])
    return {name for name in found if name.startswith(("/dev/shm", "/tmp", "/run"))}


def is_own(name: str, program: Program) -> bool:
    return name.startswith(str(program.folder))


SHORT = "    import offload.session\n    offload.session.DRAIN_AT_EXIT = 0.1\n"


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize(("last", "code"), ENDS.values(), ids=ENDS)
def test_the_program_ends(program: Start, state: str, last: str, code: int) -> None:
    script = f"{BEGIN}{SHORT}    sys.stdin.readline()\n    {last}\n"
    started = program("script.py", state, files={"script.py": script})
    assert started.line() == "ready"
    assert len(started.processes()) >= 4  # host, zygote, cores
    assert not {name for name in visible_memory(started) if not is_own(name, started)}
    ended = started.end("go\n")
    assert ended.code == code, ended.err


def test_pending_launches_are_cut_off_with_a_warning_that_counts_them(program: Start) -> None:
    started = program("script.py", "busy", files={"script.py": BEGIN + SHORT})
    assert started.line() == "ready"
    ended = started.end()
    assert ended.code == 0
    assert "10 queued cancelled" in ended.err and "2 running ended" in ended.err


def test_what_runs_at_the_end_is_let_finish(program: Start) -> None:
    script = (
        BEGIN
        + """
    @offload_single
    def last(path):
        with open(path, "w"):
            pass
        print("finished")

    os.mkfifo("last")
    handle = last(os.path.abspath("last"))
    open("last").read()
    """
    )
    ended = program("script.py", "idle", files={"script.py": script}).end()
    assert ended.code == 0
    assert ended.out.endswith("finished\n")
    assert ended.err == ""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_the_program_is_ended_by_a_signal(program: Start, state: str, number: signal.Signals) -> None:
    script = BEGIN + SHORT + "    print('set', flush=True)\n    sys.stdin.readline()\n"
    started = program("script.py", state, files={"script.py": script})
    assert [started.line(), started.line()] == ["ready", "set"]
    started.signal(number)
    assert started.end().code == -number


def test_the_host_is_killed_while_its_cores_start(program: Start) -> None:
    script = """
        import os, signal
        import offload as of

        of.connect("local:4")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert program("script.py", files={"script.py": script}).end().code == -signal.SIGKILL


def test_processes_that_kernels_started_go_with_the_cores(program: Start) -> None:
    script = """
        import os, subprocess, sys
        from offload import offload

        @offload
        def start():
            return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid

        print(len(start()), flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), 9)
    """
    started = program("script.py", files={"script.py": script})
    assert started.line() == "2"
    started.end("go\n")


@pytest.mark.parametrize("last", ["os.kill(os.getpid(), 9)", "os.kill(core, 9); call(1)", "of.shutdown()"])
def test_processes_in_sessions_of_their_own_go_with_the_device(program: Start, last: str) -> None:
    """Also those that such a process has started, and those of a core that is no more."""
    script = f"""
        import os, subprocess, sys
        import offload as of
        from offload import offload

        INNER = "import signal; print(flush=True); signal.pause()"
        OUTER = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"

        @offload(target=0)
        def start():
            command = [sys.executable, "-c", OUTER, sys.executable, "-c", INNER]
            started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
            started.stdout.readline()
            return os.getpid(), started.pid

        @offload(target=0)
        def call(x):
            return x

        [(core, outer)] = start()
        os.kill(outer, 0)  # it lives on when the launch has ended
        print("started", flush=True)
        sys.stdin.readline()
        {last}
    """
    started = program("script.py", files={"script.py": script})
    assert started.line() == "started"
    assert len(started.processes()) == 6  # host, zygote, cores, and both that the kernel started
    started.end("go\n")


def test_a_thread_of_the_host_that_waits_at_the_end_holds_nothing_up(program: Start) -> None:
    script = (
        BEGIN
        + SHORT
        + """
    import threading
    threading.Thread(target=handles[0].exception, daemon=True).start()
    """
    )
    started = program("script.py", "busy", files={"script.py": script})
    assert started.line() == "ready"
    assert started.end().code == 0


def test_several_programs_at_once_do_not_disturb_each_other(program: Start) -> None:
    started = [
        program("script.py", "busy", files={"script.py": BEGIN + "    sys.stdin.readline()\n"}) for _ in "ab"
    ]
    assert [each.line() for each in started] == ["ready", "ready"]
    started[0].signal(signal.SIGKILL)
    started[0].end()
    assert len(started[1].processes()) >= 4
    started[1].signal(signal.SIGKILL)
    started[1].end()


def test_a_device_that_was_shut_down_is_gone_at_once(program: Start) -> None:
    script = """
        import sys
        import offload as of
        from offload import offload

        of.connect("local:2")
        offload(abs)(-1)
        of.shutdown()
        print("down", flush=True)
        sys.stdin.readline()
    """
    started = program("script.py", files={"script.py": script})
    assert started.line() == "down"
    assert len(started.processes()) == 1
    started.end("go\n")
