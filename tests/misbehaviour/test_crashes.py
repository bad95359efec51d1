"""Cores that die, hang or are lost: only the launch that did it fails, and the core is back."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from gates import Gate
from programs import Program

import offload as of
from device_runtime import registry
from device_runtime.device import Device
from device_runtime.launch import Event, Gone, Message
from device_runtime.process import arena, memory
from offload import offload, offload_single
from offload.core import coreid, probe, recv, send

resident = 0


@offload
def whoami() -> int:
    return coreid()


@pytest.fixture(autouse=True)
def the_device_stays_well(local: str) -> Any:
    """Check after every test that both cores answer."""
    yield
    assert whoami() == [0, 1]


def noted(path: str) -> None:
    """Add a line to a file, as a kernel with effects does."""
    with open(path, "a") as file:
        file.write("ran\n")


def each_core(handle: of.Handle[Any]) -> dict[int, Any]:
    """Return for each core its value, or the class of its error."""
    found: dict[int, Any] = {}
    for timing in handle.timing:
        assert timing.core is not None
        try:
            found.update(handle.wait_any())
        except of.OffloadError as error:
            found[next(core for core in range(2) if f"core {core}" in str(error))] = type(error)
    return found


def times_run(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


WAYS = {
    "os._exit": (lambda: os._exit(3), 3, "3"),
    "exit code 0": (lambda: os._exit(0), 0, "0"),
    "segfault": (lambda: ctypes.string_at(0), -signal.SIGSEGV, "SIGSEGV"),
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL, "SIGKILL"),
    "abort": (lambda: os.abort(), -signal.SIGABRT, "SIGABRT"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM, "SIGTERM"),
}


@pytest.mark.parametrize(("die", "code", "said"), WAYS.values(), ids=WAYS)
def test_the_launch_fails_with_code_and_last_output(
    capfd: pytest.CaptureFixture[str], die: Any, code: int, said: str
) -> None:
    def kernel() -> None:
        print("the last words")
        die()

    handle = offload(kernel, target=1).launch()
    with pytest.raises(of.WorkerDied, match=said) as raised:
        handle.wait()
    error = raised.value
    assert (type(error), error.exit_code, error.begun) == (of.WorkerDied, code, True)
    assert "the last words" in error.output and "the last words" in str(error)
    assert "core 1" in str(error)
    assert "[core 1] the last words" in capfd.readouterr().out


def test_a_core_is_not_said_to_have_lacked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have, if the system has ended some process for that since the last death."""
    for kills, said in (0, "cause unknown"), (1, "maybe this one"), (1, "cause unknown"):
        monkeypatch.setattr("device_runtime.process.cores.count_oom_kills", lambda kills=kills: kills)
        with pytest.raises(of.WorkerDied, match=f"signal 9, SIGKILL.*{said}"):
            offload(os.kill, target=0)(offload(os.getpid, target=0)()[0], signal.SIGKILL)


def last_output(*said: tuple[int, bytes]) -> str:
    """Return what is told of the output of a core that writes this to its descriptors, and dies."""

    def kernel() -> None:
        for descriptor, text in said:
            os.write(descriptor, text)
        os._exit(1)

    with pytest.raises(of.WorkerDied) as raised:
        offload(kernel, target=0)()
    return raised.value.output


def test_the_last_output_is_made_of_whole_lines(capfd: pytest.CaptureFixture[str]) -> None:
    lines = [f"    line {number:4}" for number in range(1000)]
    assert last_output((1, "\n".join(lines).encode())).splitlines() == lines[-20:]
    long = [letter * 600 for letter in "abcdef"]
    assert last_output((1, "\n".join(long).encode() + b"\n")).splitlines() == long[-3:]
    assert last_output((1, b"first\n" + b"x" * 1993 + b"\n")) == "first\n" + "x" * 1993
    assert last_output((1, b"first\n" + b"x" * 1994 + b"\n")) == "x" * 1994
    assert last_output((1, b"x" * 9000)) == "x" * 2000
    capfd.readouterr()


def test_the_last_output_of_two_streams_is_not_run_together(capfd: pytest.CaptureFixture[str]) -> None:
    assert last_output((1, b"50 %"), (2, b"Fatal error\n")) == "50 %\nFatal error"
    assert last_output((1, b"done\n"), (2, b"Fatal error\n")) == "done\nFatal error"
    capfd.readouterr()


def test_neighbours_notice_nothing(gate: Gate) -> None:
    @offload_single
    def value(i: int) -> int:
        return i

    @offload_single
    def die() -> None:
        os._exit(1)

    handles = [die() if i % 6 == 5 else value(i) for i in range(30)]
    for i, handle in enumerate(handles):
        if i % 6 == 5:
            assert isinstance(handle.exception(), of.WorkerDied)
        else:
            assert handle.result() == i


def test_one_core_of_a_launch_dies_and_the_other_gives_its_value() -> None:
    def half() -> int:
        if coreid() == 0:
            os._exit(1)
        return coreid()

    assert each_core(offload(half).launch()) == {0: of.WorkerDied, 1: 1}


class KillsItsReader:
    """An argument that ends the core which loads it, a number of times."""

    def __init__(self, ledger: Path, deaths: int) -> None:
        self.ledger, self.deaths = str(ledger), deaths

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        noted(self.ledger)
        if times_run(Path(self.ledger)) <= self.deaths:
            os._exit(9)


def test_a_crash_before_the_kernel_began_is_not_the_launchs_fault(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert offload(lambda x: "fine", target=0)(KillsItsReader(ledger, 2)) == ["fine"]
    assert times_run(ledger) == 3


def test_a_launch_that_keeps_killing_cores_is_poisoned(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with pytest.raises(of.PoisonedKernel) as raised:
        offload(lambda x: "never", target=0)(KillsItsReader(ledger, 100))
    assert times_run(ledger) == 3
    assert raised.value.exit_code == 9
    assert not raised.value.begun


def test_a_kernel_that_had_begun_is_not_run_again(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")

    def kernel() -> None:
        noted(ledger)
        os._exit(1)

    with pytest.raises(of.WorkerDied):
        offload(kernel, target=0)()
    assert times_run(Path(ledger)) == 1


def test_retries_run_it_again(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")

    def kernel() -> str:
        noted(ledger)
        if times_run(Path(ledger)) < 3:
            os._exit(1)
        return "at last"

    assert offload(kernel, target=0, retries=2)() == ["at last"]
    assert times_run(Path(ledger)) == 3


def test_retries_end(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")

    def kernel() -> None:
        noted(ledger)
        os._exit(1)

    with pytest.raises(of.WorkerDied, match="while it ran the kernel, in attempt 2 of 2;"):
        offload(kernel, target=0, retries=1)()
    assert times_run(Path(ledger)) == 2
    with pytest.raises(of.PoisonedKernel):
        offload(kernel, target=0, retries=10)()
    assert times_run(Path(ledger)) == 5


def test_retries_are_for_cores_that_die_not_for_exceptions(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")

    def kernel() -> None:
        noted(ledger)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        offload(kernel, target=0, retries=5)()
    assert times_run(Path(ledger)) == 1


def test_a_timeout_ends_the_kernel_and_nothing_else(gate: Gate) -> None:
    stuck = offload(lambda: signal.pause(), target=0, timeout=0.05).launch()
    behind = whoami.launch()
    with pytest.raises(of.LaunchTimeout, match=r"0\.05"):
        stuck.result()
    assert behind.wait() == [0, 1]


def test_a_timeout_tells_the_attempt() -> None:
    stuck = offload(lambda: signal.pause(), target=0, timeout=0.05, retries=2)
    with pytest.raises(of.LaunchTimeout, match=r"its timeout, 0\.05 s, in attempt 1 of 3, and was ended"):
        stuck()


def test_a_timeout_ends_arguments_that_do_not_load() -> None:
    class Hangs:
        def __reduce__(self) -> Any:
            return signal.pause, ()

    with pytest.raises(of.LaunchTimeout):
        offload(len, target=0, timeout=0.05)(Hangs())


def test_a_value_that_memory_cannot_hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(nbytes: int) -> None:
        raise of.DeviceMemoryError(f"no {nbytes} bytes")

    size = arena.CHECKED + 1
    made = offload_single(lambda: bytearray(size)).launch(target=0)
    made.wait()
    monkeypatch.setattr(memory, "check", refuse)
    handed_on = offload_single(len).launch(made, target=1)
    with pytest.raises(of.DeviceMemoryError, match="handed to core 1"):
        handed_on.result()


def test_messages_that_memory_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise of.DeviceMemoryError("no memory")

    def seven(text: str) -> int:
        return len(words) - len(words) + len(text)

    words = ["word" * 2000] * 10 + [str(number) for number in range(20_000)]
    kernel = offload_single(seven)
    with monkeypatch.context() as patch:
        patch.setattr(arena.Arena, "store", refuse)
        with pytest.raises(of.DeviceMemoryError, match="no memory"):
            kernel("word", target=0).result()
    assert kernel("word", target=0).result() == 4


def test_a_timeout_ends_a_kernel_that_ignores_signals() -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()

    with pytest.raises(of.LaunchTimeout):
        offload(stubborn, target=0, timeout=0.05)()


def test_a_timeout_counts_from_the_beginning_not_from_the_queue(gate: Gate) -> None:
    first = offload(gate.pass_through, target=0).launch()
    second = whoami.options(target=0, timeout=20).launch()
    gate.wait()
    gate.let_on()
    assert (first.wait(), second.wait()) == ([None], [0])


def test_a_timed_out_wait_changes_nothing(gate: Gate) -> None:
    handle = offload(gate.pass_through, target=0).launch()
    gate.wait()
    for wait in (handle.wait, handle.wait_any, handle.result, handle.exception):
        with pytest.raises(TimeoutError, match="pass_through"):
            wait(timeout=0.001)
    assert (handle.done(), handle.test(), handle.number_running()) == (False, False, 1)
    gate.let_on()
    assert handle.wait() == [None]


def test_cancel_what_is_queued_and_not_what_runs(gate: Gate) -> None:
    running = offload(gate.pass_through, target=0).launch()
    queued = whoami.options(target=0).launch()
    gate.wait()
    assert not running.cancel()
    assert queued.cancel()
    with pytest.raises(CancelledError):
        queued.wait()
    gate.let_on()
    assert running.wait() == [None]
    assert not running.cancel()


def test_cancel_with_kill_ends_what_runs(gate: Gate) -> None:
    running = offload(gate.pass_through, target=0).launch()
    behind = whoami.launch()
    gate.wait()
    assert running.cancel(kill=True)
    with pytest.raises(CancelledError):
        running.wait()
    assert behind.wait() == [0, 1]


def test_a_restarted_core_has_lost_its_resident_data_and_says_so() -> None:
    @offload
    def read() -> int:
        return resident

    of.define_on_device(resident)
    of.copy_to_device("resident", 5)
    assert read() == [5, 5]
    with pytest.raises(of.WorkerDied):
        offload(lambda: os._exit(1), target=0)()
    with pytest.raises(of.ResidentDataLost, match=r"(?s)resident.*define_on_device"):
        read()
    with pytest.raises(of.ResidentDataLost):
        of.copy_from_device("resident", target=0)
    assert read(target=1) == [5]
    assert of.copy_from_device("resident", target=1) == [5]
    of.define_on_device(resident)
    assert read() == [0, 0]


def fill(core: int) -> str:
    """Send to a core until it is told that nobody will take any more, and return what it is told."""
    while True:
        try:
            send(b"x" * 50_000, core)
        except of.PeerEnded as error:
            return str(error)


@pytest.mark.parametrize("ending", ["returns", "raises", "dies", "is killed"])
def test_a_send_does_not_wait_for_a_core_that_has_ended(ending: str) -> None:
    def kernel() -> Any:
        if coreid() == 0:
            return fill(1)
        if ending == "raises":
            raise of.OffloadError("core 1 gives up")
        if ending == "dies":
            os._exit(1)
        if ending == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    assert each_core(offload(kernel).launch())[0] == "core 0 waits for core 1 in vain: its shard has ended"


def test_what_nobody_took_does_not_hold_up_the_next_launch(gate: Gate) -> None:
    def late() -> None:
        if coreid() == 0:
            send(b"x" * 50_000, 1)
            gate.come()
        else:
            gate.stay()

    offload(lambda: coreid() or fill(1))()
    handle = offload(late).launch()
    gate.wait()
    gate.let_on()
    assert handle.wait() == [None, None]


def dies_at_packet(number: int, call: str) -> None:
    """End this core where it calls a method of sockets for its n-th packet of a long message."""
    import socket

    real, left = getattr(socket.socket, call), iter(range(1, number))

    def counted(*args: Any) -> Any:
        done = real(*args)
        long = (len(done) if call == "recv" else done) > 50_000
        if long and next(left, None) is None:
            os._exit(1)
        return done

    setattr(socket.socket, call, counted)


def test_a_message_that_was_cut_off_is_sent_again_whole(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    whole = [bytes([i]) * 50_000 for i in range(20)]

    def kernel() -> Any:
        if coreid() == 1:
            return recv(0) == whole
        noted(str(ledger))
        if times_run(ledger) == 1:
            dies_at_packet(3, "sendmsg")
        return send(whole, 1)

    assert offload(kernel, retries=1)() == [None, True]
    assert times_run(ledger) == 2


def test_who_took_messages_is_told_that_their_sender_was_restarted(gate: Gate) -> None:
    def kernel(ledger: str) -> Any:
        if coreid() == 1:
            assert recv(0) == "first"
            gate.let_on()
            return recv(0)
        send("first", 1)
        noted(ledger)
        if times_run(Path(ledger)) == 1:
            gate.stay()
            os._exit(1)
        return send("second", 1)

    error = offload(kernel, retries=1).launch(f"{gate.open}.ledger").exception()
    assert isinstance(error, of.PeerEnded) and "core 1 waits for core 0 in vain: it died" in str(error)


def test_a_core_that_waits_for_what_its_predecessor_took_is_told(tmp_path: Path) -> None:
    """Both wait: the one for a message that is lost, the other for the answer."""
    ledger = tmp_path / "ledger"

    def kernel() -> Any:
        if coreid() == 0:
            send("question", 1)
            return recv(1)
        noted(str(ledger))
        question = recv(0)
        if times_run(ledger) == 1:
            os._exit(1)
        return send(question, 0)

    error = offload(kernel, retries=1).launch().exception()
    assert isinstance(error, of.PeerEnded) and "core 0 waits for core 1 in vain: it died" in str(error)


def test_a_death_in_an_earlier_launch_takes_no_messages(tmp_path: Path) -> None:
    gates = [Gate.make(tmp_path / name) for name in "ab"]

    def earlier() -> None:
        if coreid() == 1:
            gates[0].pass_through()
            probe(0)
            os._exit(1)

    def later() -> Any:
        if coreid() == 0:
            gates[1].come()
            return send("message", 1)
        return recv(0)

    dying, handle = offload(earlier).launch(), offload(later).launch()
    gates[0].wait()
    gates[1].wait()
    gates[0].let_on()
    assert handle.wait() == [None, "message"]
    assert isinstance(dying.exception(), of.WorkerDied)


@pytest.mark.parametrize("size", [10, 500_000])
def test_who_sent_messages_is_told_that_their_receiver_was_restarted(tmp_path: Path, size: int) -> None:
    ledger = tmp_path / "ledger"

    def kernel() -> Any:
        if coreid() == 0:
            for value in range(3):
                send(bytes([value]) * size, 1)
            return recv(1)
        noted(str(ledger))
        if times_run(ledger) == 1:
            if size > 50_000:
                dies_at_packet(2, "recv")
            recv(0)
            os._exit(1)
        return recv(0)

    error = offload(kernel, retries=1).launch().exception()
    assert isinstance(error, of.PeerEnded) and "core 0 waits for core 1 in vain" in str(error)


@pytest.mark.parametrize("ending", ["returns", "raises", "dies", "is killed", "never runs"])
def test_a_receive_from_a_core_that_will_never_send_raises(ending: str) -> None:
    def kernel() -> Any:
        if coreid() == 0:
            return recv(1)
        if ending == "raises":
            raise ValueError("no message")
        if ending == "dies":
            os._exit(1)
        if ending == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    cores = [0] if ending == "never runs" else [0, 1]
    error = offload(kernel, target=cores).launch().exception()
    assert isinstance(error, of.PeerEnded) and "core 1" in str(error)


def test_a_probe_for_what_a_dead_core_will_never_send_says_so() -> None:
    def kernel() -> None:
        if coreid() == 1:
            os._exit(1)
        while not probe(1):
            pass

    assert each_core(offload(kernel).launch()) == {0: of.PeerEnded, 1: of.WorkerDied}


def test_what_was_sent_before_the_end_is_received() -> None:
    def kernel() -> Any:
        if coreid() == 1:
            send("the last message", 0)
            os._exit(1)
        return recv(1)

    assert each_core(offload(kernel).launch()) == {0: "the last message", 1: of.WorkerDied}


def test_a_core_outside_the_launch_is_no_partner() -> None:
    for call in (
        lambda: send(1, 1),
        lambda: recv(1),
        lambda: probe(1),
        lambda: recv(77),
        lambda: send(1, -1),
    ):
        with pytest.raises(of.PeerEnded, match="not in this launch"):
            offload(call, target=0)()


def test_cores_that_wait_for_each_other_for_ever_can_be_ended(gate: Gate) -> None:
    stuck = offload(lambda: recv(1 - coreid()), timeout=0.1).launch()
    assert isinstance(stuck.exception(), (of.LaunchTimeout, of.PeerEnded))


def test_the_process_that_starts_cores_is_killed() -> None:
    """All cores go with it; a new one is started, and the next launches run."""
    zygote = offload(os.getppid, target=0)()[0]
    descriptor = os.pidfd_open(zygote)
    os.kill(zygote, signal.SIGKILL)
    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)
    assert whoami() == [0, 1]
    assert offload(os.getppid, target=0)()[0] != zygote


def test_what_kernels_have_started_ends_with_that_process(tmp_path: Path) -> None:
    gate = Gate.make(tmp_path / "gate")

    def kernel() -> None:
        started = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "process").write_text(f"{started.pid} {os.getppid()}")
        gate.come()
        started.wait()

    handle = offload_single(kernel).launch()
    gate.wait()
    started, zygote = map(int, (tmp_path / "process").read_text().split())
    descriptor = os.pidfd_open(started)
    os.kill(zygote, signal.SIGKILL)
    with pytest.raises(of.WorkerDied):
        handle.result()
    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)


def test_idle_cores_are_not_given_up_for_what_happens_to_that_process() -> None:
    @offload(target=0)
    def kill() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    for _ in range(7):
        with pytest.raises(of.WorkerDied):
            kill()
    assert whoami() == [0, 1]


def test_a_launch_whose_argument_kills_that_process_ends(tmp_path: Path) -> None:
    class Kills:
        def __setstate__(self, state: Any) -> None:
            noted(state["ledger"])
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()

    argument = Kills()
    argument.ledger = str(tmp_path / "ledger")  # type: ignore[attr-defined]
    with pytest.raises(of.PoisonedKernel):
        offload(lambda x: "never", target=0)(argument)
    assert times_run(tmp_path / "ledger") == 3


def test_a_kernel_that_floods_its_output_can_be_ended(capsys: pytest.CaptureFixture[str]) -> None:
    def flood() -> None:
        while True:
            os.write(1, b"water\n" * 10_000)

    with pytest.raises(of.LaunchTimeout):
        offload(flood, target=0, timeout=0.05)()
    assert capsys.readouterr().out.startswith("[core 0] water\n[core 0] water\n")


def test_a_core_killed_from_outside_while_idle_is_back() -> None:
    for core, process in enumerate(offload(os.getpid)()):
        os.kill(process, signal.SIGKILL)
        assert whoami(target=core) == [core]


def test_memory_that_is_not_there() -> None:
    def gulp() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        bytearray(1 << 31)

    try:
        with pytest.raises(MemoryError):
            offload(gulp, target=0)()
    finally:
        with pytest.raises(of.WorkerDied):
            offload(lambda: os._exit(0), target=0)()


def space(nbytes: int) -> Any:
    """Return an array of addresses without memory behind them."""
    np = pytest.importorskip("numpy")
    reserve_nothing = 0x4000  # mmap.MAP_NORESERVE, from Python 3.11 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_nothing
    try:
        return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), np.uint8)
    except OSError:
        pytest.skip("this machine gives out no more addresses than it has memory")


@pytest.mark.parametrize("size", [1 << 36, 1 << 39])
def test_an_argument_that_memory_cannot_hold_is_refused_at_the_call(size: int) -> None:
    with pytest.raises(of.DeviceMemoryError, match=f"{size:,} bytes"):
        offload(len).launch(space(size))


def test_a_value_that_memory_cannot_hold() -> None:
    size = 1 << 39
    space(size)
    with pytest.raises(of.DeviceMemoryError, match=f"{size:,} bytes"):
        offload(space, target=0)(size)


@pytest.mark.parametrize("what", ["arguments", "value"])
@pytest.mark.parametrize("where", ["host", "core"])
def test_shared_memory_that_cannot_be_mapped(program: Callable[..., Program], where: str, what: str) -> None:
    """Where a process may have no more addresses, the launch says so, and the next one runs."""
    script = """
        import resource, sys
        from pathlib import Path

        import numpy as np
        import offload as of
        from offload import offload

        def limit():
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + 250_000_000
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

        @offload
        def kernel(argument, size, limited):
            value = np.zeros(size, "u1")
            if limited:
                limit()
            return value

        where, what = sys.argv[1:]
        argument, size = (np.zeros(300_000_000, "u1"), 0) if what == "arguments" else (b"", 300_000_000)
        kernel(b"", 0, where == "core" and what == "arguments")
        if where == "host":
            limit()
        try:
            kernel(argument, size, where == "core" and what == "value")
        except of.DeviceMemoryError as error:
            print(error)
        print(len(kernel(b"", 0, False)))
    """
    ended = program("script.py", where, what, files={"script.py": script}, device="local:1").end()
    told, then = ended.out.splitlines()
    assert "memory that host and cores share cannot be mapped" in told and then == "1", ended.err


class BurntOut(Device):
    """A device whose units are gone for good as soon as they are used."""

    address = "burnt"

    def open(self) -> int:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._events: list[Event] = []
        return 2

    def send(self, unit: int, messages: Sequence[Message]) -> None:
        self._events.append(Gone(unit, "burnt out"))
        os.eventfd_write(self._bell, 1)

    def fileno(self) -> int:
        return self._bell

    def receive(self) -> list[Event]:
        events, self._events = self._events, []
        if events:
            os.eventfd_read(self._bell)
        return events

    def kill(self, unit: int) -> None:
        pass

    def close(self) -> None:
        os.close(self._bell)


def open_burnt_out(_rest: str) -> Device:
    return BurntOut()


def test_no_core_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a core that is gone fails, what was queued and what comes later."""
    kinds = dict(registry.known())
    kinds["burnt"] = EntryPoint("burnt", f"{__name__}:open_burnt_out", registry.GROUP)
    monkeypatch.setattr(registry, "known", lambda: kinds)
    with of.connect("burnt"):
        for options in ({"target": 0}, {}, {"auto": 1}):
            handles = [whoami.options(**options).launch() for _ in range(3)]  # type: ignore[arg-type]
            for handle in handles:
                with pytest.raises(of.NoUnitsError, match=r"(?s)whoami.*burnt"):
                    handle.wait()


def test_crashes_of_many_launches_in_a_row() -> None:
    """A core that dies again and again under its kernels is a kernel's fault, not the core's."""
    for _ in range(8):
        with pytest.raises(of.WorkerDied):
            offload(lambda: os._exit(1), target=0)()


def test_a_broken_handler_of_the_interpreter_is_no_crash() -> None:
    def kernel() -> int:
        sys.excepthook = None  # type: ignore[assignment]
        sys.setrecursionlimit(2000)
        return 1

    assert offload(kernel)() == [1, 1]
