"""Cards that are shared: by programs, one after the other, and by bitstreams of one program, in turn."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gates import Gate
from hardware_kernels import add, scale
from programs import children

import offload as of
from device_runtime import claims
from device_runtime.fpga import device as fpga_device
from offload import offload
from offload.testing import Fault, Xclbin

pytestmark = [
    pytest.mark.timeout(100),  # an owner takes its time to start
    pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq"),
]
OTHER = """
import sys
from device_runtime import claims
from device_runtime.fpga import device as fpga_device
claims.SPACE = sys.argv[1]
import offload
try:
    offload.connect(sys.argv[2])
except offload.DeviceUnavailable as error:
    print(error, flush=True)
else:
    print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have two bitstreams in the current directory."""
    monkeypatch.chdir(tmp_path)
    Xclbin([add], units=2).write("add.xclbin")
    Xclbin([scale], units={"scale": 2}).write("scale.xclbin")
    yield tmp_path
    of.shutdown()


def sums(device: str) -> tuple[list[float], float | None]:
    """Return what the circuit gives, and how long the launch has waited for its bitstream."""
    ones = np.ones(2, "float32")
    handle = add.launch(ones, ones, np.empty(2, "float32"), 2, device=device)
    return handle.result().tolist(), handle.timing[0].loading


def products(device: str) -> tuple[list[float], float | None]:
    handle = scale.launch(np.ones(2), 3.0, device=device)
    return handle.result().tolist(), handle.timing[0].loading


@contextmanager
def another_program(address: str) -> Iterator[subprocess.Popen[str]]:
    """Run one that connects to a device, says what came of it, and stays until its input ends."""
    command = [sys.executable, "-c", OTHER, claims.SPACE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield other
        finally:
            other.kill()


def said(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


# ---- bitstreams of one program ---------------------------------------------------------


def test_bitstreams_have_a_card_in_turn() -> None:
    of.connect("emu:add.xclbin?device=0")
    both = "emu:add.xclbin?device=0", "emu:scale.xclbin?device=0"
    assert sums(both[0]) == ([2.0, 2.0], 0.0)  # it was loaded before

    for _ in range(2):
        value, loading = products(both[1])
        assert value == [3.0, 3.0]
        assert loading is not None and loading > 0.01
        assert len(children()) == 1
        value, loading = sums(both[0])
        assert value == [2.0, 2.0]
        assert loading is not None and loading > 0.01


def test_launches_of_both_at_once() -> None:
    of.connect("emu:add.xclbin?device=0")
    a, out = np.ones(8, "float32"), np.zeros((200, 8), "float32")
    sums = [add.launch(a, a, row, 8) for row in out]
    products = [scale.launch(np.ones(2), float(n), device="emu:scale.xclbin?device=0") for n in range(100)]
    of.wait_all(*sums, *products)
    assert (out == 2).all()
    assert [handle.result()[0] for handle in products] == list(range(100))
    assert sum(handle.timing[0].loading > 0 for handle in products) <= 2 * (1 + 100 // 64)


def test_a_pipeline_over_both() -> None:
    of.connect("emu:add.xclbin?device=0")
    found = scale.launch(np.full(4, 2.0), 4.0, device="emu:scale.xclbin?device=0")

    @offload(device="local:1", auto=1)
    def single(x: object) -> object:
        return np.asarray(x, "float32")

    ones = np.ones(4, "float32")
    assert add.launch(single.launch(found), ones, np.empty(4, "float32"), 4).result().tolist() == [9.0] * 4


def test_to_free_what_is_lost_costs_others_nothing() -> None:
    """What went with its bitstream needs no freeing; to load that again would take what is there now."""
    session = of.connect("emu:add.xclbin?device=0")
    lost = session.array(np.ones(4, "float32"))
    products("emu:scale.xclbin?device=0")
    lost.free()
    value, loading = products("emu:scale.xclbin?device=0")
    assert (value, loading) == ([3.0, 3.0], 0.0)


def test_arrays_do_not_outlast_another_bitstream() -> None:
    session = of.connect("emu:add.xclbin?device=0")
    array = session.array(np.ones(4, "float32"))
    products("emu:scale.xclbin?device=0")
    with pytest.raises(of.ResidentDataLost, match="its card was given to another bitstream; make it anew"):
        np.asarray(array)


def test_the_one_that_runs_is_not_disturbed(gate: Gate) -> None:
    of.connect("emu:add.xclbin?device=0")

    @offload(auto=1)
    def busy() -> str:
        gate.pass_through()
        return "not disturbed"

    handle = busy.launch()
    gate.wait()
    other = scale.launch(np.ones(2), 3.0, device="emu:scale.xclbin?device=0")
    assert not other.test()
    gate.let_on()
    assert handle.result() == "not disturbed"
    assert other.result().tolist() == [3.0, 3.0]


def test_one_that_was_never_loaded_is_closed() -> None:
    with of.connect("emu:add.xclbin?device=0") as session:
        session.pool("emu:scale.xclbin?device=0")
    assert not children()


def test_emulated_devices_have_cards_of_their_own_where_none_is_named() -> None:
    of.connect("emu:add.xclbin")
    assert sums("emu:add.xclbin") == ([2.0, 2.0], 0.0)
    assert products("emu:scale.xclbin") == ([3.0, 3.0], 0.0)
    assert len(children()) == 2


def test_both_are_opened_at_once() -> None:
    session = of.Session("emu:add.xclbin?device=0")
    pools: list[object] = []
    addresses = ("emu:add.xclbin?device=0", "emu:scale.xclbin?device=0", "emu:add.xclbin?device=0&timeout=5")
    openers = [threading.Thread(target=lambda a=a: pools.append(session.pool(a))) for a in addresses]  # type: ignore[misc]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert len(pools) == 3
    assert len(children()) == 1
    session.shutdown()


def test_another_one_is_loaded_where_the_first_cannot_be_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    of.connect("emu:add.xclbin?device=0")
    with monkeypatch.context() as patch:
        patch.setattr(fpga_device, "_BOOT", "import sys; sys.exit(3)")
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(3)
        with pytest.raises(of.NoUnitsError, match="exit code 3"):
            sums("emu:add.xclbin?device=0")
    assert products("emu:scale.xclbin?device=0")[0] == [3.0, 3.0]


def test_one_that_cannot_be_loaded_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    of.connect("emu:add.xclbin?device=0")
    assert sums("emu:add.xclbin?device=0")[0] == [2.0, 2.0]
    with monkeypatch.context() as patch:
        patch.setattr(fpga_device.FpgaDevice, "_start_owner", refuse)
        with pytest.raises(of.NoUnitsError, match=r"could not be loaded: .*Too many open files"):
            products("emu:scale.xclbin?device=0")
    assert sums("emu:add.xclbin?device=0")[0] == [2.0, 2.0]


def test_a_unit_that_hung_is_checked_also_after_another_bitstream_had_the_card() -> None:
    Xclbin([add], units=2, faults={"vadd_2": Fault("hang")}).write("hangs.xclbin")
    address, ones = "emu:hangs.xclbin?device=0&timeout=0.2", np.ones(2, "float32")
    of.connect(address)
    assert add(ones, ones, np.empty(2, "float32"), 2, target=0)[0].tolist() == [2, 2]
    hangs = add.launch(ones, ones, np.empty(2, "float32"), 2, target=1)
    other = scale.launch(np.ones(2), 3.0, device="emu:scale.xclbin?device=0")
    assert isinstance(hangs.exception(), of.DeviceError)
    assert other.result().tolist() == [3, 3]
    with pytest.raises(of.NoUnitsError, match="vadd_2 has not ended"):
        add(ones, ones, np.empty(2, "float32"), 2, target=1)
    assert sums(address)[0] == [2.0, 2.0]


# ---- programs --------------------------------------------------------------------------


def test_the_second_program_is_told_who_has_the_card() -> None:
    of.connect("emu:add.xclbin?device=0")
    with another_program("emu:scale.xclbin?device=0") as other:
        told = said(other)
    assert f"scale.xclbin?device=0: process {os.getpid()} (" in told
    assert "has emulated card 0 of user" in told
    assert "wait=60 in the address" in told
    with another_program("emu:scale.xclbin?device=1") as other:
        assert said(other) == "connected\n"


def test_it_waits_if_it_is_asked_to() -> None:
    of.connect("emu:add.xclbin?device=0")
    with another_program("emu:scale.xclbin?device=0&wait=60") as other:
        of.shutdown()
        assert said(other) == "connected\n"
        with pytest.raises(of.DeviceUnavailable, match=f"process {other.pid} "):
            of.connect("emu:add.xclbin?device=0&wait=0.01")
        assert other.stdin is not None
        other.stdin.close()
        of.connect("emu:add.xclbin?device=0&wait=60")
        assert sums("emu:add.xclbin?device=0&wait=60") == ([2.0, 2.0], 0.0)


def test_a_program_that_is_killed_lets_go() -> None:
    with another_program("emu:scale.xclbin?device=0") as other:
        assert said(other) == "connected\n"
        other.send_signal(signal.SIGKILL)
        of.connect("emu:add.xclbin?device=0&wait=60")


def test_a_child_that_was_forked_does_not_keep_the_card() -> None:
    of.connect("emu:add.xclbin?device=0")
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    of.shutdown()
    of.connect("emu:scale.xclbin?device=0")
    os.close(theirs)
    os.waitpid(child, 0)


def test_a_child_that_was_just_forked_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    of.connect("emu:add.xclbin?device=0")
    ours, theirs = os.pipe()
    child = ctypes.PyDLL(None).fork()  # unknown to Python, as if it had come to nothing yet
    if not child:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    left = iter([theirs])

    def give_way() -> None:
        for descriptor in left:
            os.close(descriptor)
            os.waitpid(child, 0)

    monkeypatch.setattr(claims.os, "sched_yield", give_way)
    try:
        of.shutdown()
        of.connect("emu:scale.xclbin?device=0")
        assert not list(left)
    finally:
        give_way()


def test_a_child_that_was_forked_leaves_the_card_to_its_parent() -> None:
    claim = claims.claim("a card", "emu:add.xclbin", 0.0)
    try:
        child = os.fork()
        if not child:
            claim.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(of.DeviceUnavailable, match="this program has a card"):
            claims.claim("a card", "emu:add.xclbin", 0.0)
    finally:
        claim.close()


def test_what_a_kernel_has_started_does_not_keep_the_card() -> None:
    @offload(auto=1)
    def start() -> int:
        return subprocess.Popen(["sleep", "60"], close_fds=False).pid

    of.connect("emu:add.xclbin?device=0")
    process = start()[0]
    try:
        of.shutdown()
        of.connect("emu:scale.xclbin?device=0")
    finally:
        os.kill(process, signal.SIGKILL)


def test_another_session_of_the_same_program() -> None:
    with of.connect("emu:add.xclbin?device=0"):
        with pytest.raises(of.DeviceUnavailable, match=r"this program has .* in another session or executor"):
            of.connect("emu:scale.xclbin?device=0")
        with pytest.raises(of.DeviceUnavailable, match="this program has"):
            of.Executor(device="emu:scale.xclbin?device=0").submit(int)
    of.connect("emu:scale.xclbin?device=0")


def test_one_that_cannot_be_loaded_leaves_the_card_to_others(here: Path) -> None:
    here.joinpath("bad.xclbin").write_bytes(b"not a bitstream")
    with pytest.raises(of.BitstreamError):
        of.connect("emu:bad.xclbin?device=0")
    with another_program("emu:scale.xclbin?device=0") as other:
        assert said(other) == "connected\n"
