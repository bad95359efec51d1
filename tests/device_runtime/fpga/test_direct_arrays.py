"""Blocking launches on an FPGA that find nothing else under way, and what may come in between."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address
from resting import rest

import offload as of
from device_runtime.process.channel_device import ChannelDevice
from device_runtime.process.ring import are_sound
from offload import In, InOut, Out, offload
from offload.testing import Xclbin

pytestmark = [
    pytest.mark.timeout(100),  # an owner takes its time to start
    pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq"),
    pytest.mark.skipif(not are_sound(), reason="the processor may reorder stores"),
]


@offload(kernel="double", retries=0)
def double(x: InOut("float32"), more: float):  # type: ignore[valid-type, no-untyped-def]
    if more < 0:
        raise ValueError("it does not shrink")
    x *= 2
    x += more


@offload(kernel="copy")
def copy(a: In("float32"), out: Out("float32")):  # type: ignore[valid-type, no-untyped-def]
    out[:] = a


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[of.Session]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLOAD_CHANNEL", "ring")
    Xclbin([double, copy], units=2).write("test.xclbin")
    with of.connect(address("emu:test.xclbin")) as session:
        yield session


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Return what does something, in another thread, when the next call's shard is on its unit."""
    reached = []

    def do(action: Callable[[], object]) -> None:
        real = ChannelDevice.look

        def look(device: ChannelDevice, plan: Any) -> bool:
            monkeypatch.setattr(ChannelDevice, "look", real)
            reached.append(action)
            thread = threading.Thread(target=action)
            thread.start()
            thread.join()
            return real(device, plan)

        rest()
        monkeypatch.setattr(ChannelDevice, "look", look)

    yield do
    assert reached


def test_calls_keep_the_order_of_arrays(device: of.Session, between: Any) -> None:
    x = device.array(np.zeros(4, "float32"))
    between(lambda: double.launch(x, 2.0, target=1))
    double(x, 1.0, target=0)
    assert np.array_equal(x, [4] * 4)


def test_a_call_fills_what_it_was_given(device: of.Session, between: Any) -> None:
    handles: list[of.Handle[Any]] = []
    first, second = np.empty(3, "float32"), np.empty(3, "float32")
    ones = np.ones(3, "float32")
    between(lambda: handles.append(copy.launch(2 * ones, second)))
    assert copy(ones, first)[0] is first
    assert handles[0].wait()[0] is second
    assert first.tolist() == [1, 1, 1]
    assert second.tolist() == [2, 2, 2]


def test_an_array_that_is_freed_in_the_midst_of_a_call(device: of.Session, between: Any) -> None:
    x = device.array(np.ones(4, "float32"))
    between(x.free)
    found = copy(x, np.empty(4, "float32"))[0]
    assert found.tolist() == [1, 1, 1, 1]


def test_the_error_of_a_call_keeps_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Xclbin([double], banks={"DDR0": 1 << 20}).write("test.xclbin")
    with of.connect(address("emu:test.xclbin")) as session:
        most = np.zeros(700 << 8, "float32")
        with pytest.raises(ValueError, match="it does not shrink") as caught, session.array(most) as x:
            double(x, -1.0)
        session.array(most).free()
        assert caught.value.__traceback__ is not None


def test_a_call_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls = []

    @offload(kernel="copy", verify=of.Verify(1.0))
    def checked(a: In("float32"), out: Out("float32")):  # type: ignore[valid-type, no-untyped-def]
        calls.append(1)
        out[:] = a + len(calls) - 1

    Xclbin([copy]).write("test.xclbin")
    ones = np.ones(2, "float32")
    with of.connect(address("emu:test.xclbin")):
        assert checked(ones, np.empty(2, "float32"))[0].tolist() == [1, 1]
        with pytest.raises(of.VerificationError):
            checked(ones, np.empty(2, "float32"))
    assert len(calls) == 3, "a difference is looked at twice: the function may leave places unwritten"


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_a_failed_call_was_to_write_is_not_read(
    device: of.Session, between: Any, interrupted: bool
) -> None:
    x, out = device.array(np.ones(4, "float32")), np.empty(4, "float32")
    between((lambda: copy.launch(out, out.copy())) if interrupted else (lambda: None))
    with pytest.raises(ValueError, match="it does not shrink"):
        double(x, -1.0)
    with pytest.raises(of.DependencyError, match="double failed, and so did not write"):
        copy(x, out)
    with pytest.raises(of.DependencyError):
        np.asarray(x)
    x.write(np.zeros(4, "float32"))
    assert copy(x, out)[0].tolist() == [0] * 4
