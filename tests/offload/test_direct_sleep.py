"""Blocking launches whose thread sleeps until they have ended, by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gates import Gate, gated
from resting import rest

import offload as of
from device_runtime.process.ring import are_sound
from offload import offload, offload_single
from offload.core import coreid
from scheduler.dispatcher import Dispatcher
from scheduler.pump import Pump

pytestmark = pytest.mark.skipif(not are_sound(), reason="the processor may reorder stores")

at_gate = offload_single(gated).options(async_=False)


@pytest.fixture(autouse=True, scope="module")
def two_cores() -> Iterator[None]:
    """Have two cores, for which nobody looks on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLOAD_CHANNEL", "ring")
        patch.setenv("OFFLOAD_SPIN", "0")
        with of.connect("local:2"):
            yield


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate.make(tmp_path / "gate")
    yield gate
    gate.remove()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note who sleeps in the short way, and what becomes an ordinary launch."""
    noted: list[str] = []
    sleep, adopt = Pump.sleep, Dispatcher.adopt

    def sleeping(pump: Pump) -> None:
        noted.append("slept")
        sleep(pump)

    def adopted(dispatcher: Dispatcher, lone: Any) -> Any:
        noted.append("ordinary")
        return adopt(dispatcher, lone)

    rest()
    monkeypatch.setattr(Pump, "sleep", sleeping)
    monkeypatch.setattr(Dispatcher, "adopt", adopted)
    return noted


@offload
def whoami() -> int:
    return coreid()


def in_thread(act: Any) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_it_sleeps_and_takes_the_values_itself(slept: list[str], gate: Gate) -> None:
    whoami()  # the core is up
    rest()
    slept.clear()
    opener = in_thread(lambda: (gate.wait(), gate.let_on()))
    assert at_gate.options(target=1)(gate, "value") == ["value"]
    opener.join()
    assert set(slept) == {"slept"}


def test_all_cores(slept: list[str], gate: Gate) -> None:
    @offload
    def one_waits(gate: Gate) -> int:
        if coreid() == 1:
            gate.pass_through()
        return coreid()

    opener = in_thread(lambda: (gate.wait(), gate.let_on()))
    assert one_waits(gate) == [0, 1]
    opener.join()
    assert set(slept) == {"slept"}


def test_another_thread_makes_a_launch_meanwhile(slept: list[str], gate: Gate) -> None:
    found: list[int] = []

    def act() -> None:
        gate.wait()
        found.extend(whoami.options(target=1)())
        gate.let_on()

    other = in_thread(act)
    assert at_gate.options(target=0)(gate, "value") == ["value"]
    other.join()
    assert found == [1] and "ordinary" in slept


def test_anothers_timeout_is_kept_meanwhile(gate: Gate, tmp_path: Path) -> None:
    never = Gate.make(tmp_path / "never")

    def act() -> None:
        gate.wait()
        with pytest.raises(of.LaunchTimeout):
            at_gate.options(target=1, timeout=0.1)(never)
        gate.let_on()

    other = in_thread(act)
    threading.Thread(target=never.wait, daemon=True).start()
    assert at_gate.options(target=0)(gate, "value") == ["value"]
    other.join()
    never.remove()
    assert whoami() == [0, 1]


def test_the_core_dies(gate: Gate) -> None:
    with pytest.raises(of.WorkerDied):
        offload(lambda: os._exit(3)).options(target=0)()
    assert whoami() == [0, 1]


def test_what_it_prints_comes_before_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    offload(lambda: print("printed")).options(target=0)()
    assert capsys.readouterr().out.count("printed") == 1
