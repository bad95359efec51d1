"""Cards and boards: what is said where there is none, and what pynq's own device for cards does with one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address, stand_in_for_xrt
from hardware_kernels import add, scale

import offload as of
from offload import offload
from offload.testing import Xclbin

PYNQ = importlib.metadata.version("pynq") if importlib.util.find_spec("pynq") else ""
pytestmark = [
    pytest.mark.timeout(100),  # an owner takes its time to start
    pytest.mark.skipif(not PYNQ, reason="needs pynq"),
]
has_cards = pytest.mark.skipif(PYNQ != "3.0.1", reason="needs pynq 3.0.1, the last one to drive cards")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a bitstream in the current directory, and no XRT."""
    monkeypatch.chdir(tmp_path)
    for name in ("XILINX_XRT", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    Xclbin([add], units=2).write("a.xclbin")
    return tmp_path


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have a card."""
    stand_in_for_xrt(monkeypatch)
    return monkeypatch


def added() -> Any:
    one = np.ones(2, "float32")
    return add(one, one, np.empty(2, "float32"), 2)[0].tolist()


def test_no_card() -> None:
    told = (
        "source XRT's setup.sh"
        if PYNQ == "3.0.1"
        else "no Alveo cards any more: pip install 'offload.alveo.'"
    )
    with pytest.raises(of.DeviceUnavailable, match=f"finds 0 devices, and number 0 is asked for; .*{told}"):
        of.connect("pynq:a.xclbin")


@has_cards
def test_an_xrt_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_XRT", "/opt/gone")
    with pytest.raises(
        of.DeviceUnavailable, match=r"XRT cannot be loaded .*XILINX_XRT is '/opt/gone': source"
    ):
        of.connect("pynq:a.xclbin")


@has_cards
def test_a_card_that_is_not_there(card: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        of.DeviceUnavailable, match=r"finds 16 devices, and number 16 is asked for; they are counted"
    ):
        of.connect("pynq:a.xclbin?device=16")


@has_cards
def test_a_card_that_this_user_may_not_open(card: pytest.MonkeyPatch) -> None:
    card.setenv("XRT_REFUSES", "open")
    with pytest.raises(of.DeviceUnavailable, match=r"device 0 is there, but .* may not open it: .*'render'"):
        of.connect("pynq:a.xclbin")


@has_cards
def test_a_bitstream_for_another_board(card: pytest.MonkeyPatch) -> None:
    card.setenv("XRT_PLATFORM", "xilinx_u250_gen3x16")
    told = (
        r"a.xclbin, made for emulated, .* on device 0, xilinx_u250_gen3x16: .*95.*build it for the platform"
    )
    with pytest.raises(of.DeviceUnavailable, match=told):
        of.connect("pynq:a.xclbin")


@has_cards
def test_a_card_that_another_program_has(card: pytest.MonkeyPatch) -> None:
    card.setenv("XRT_REFUSES", "16")
    with pytest.raises(of.DeviceUnavailable, match=r"in use by another program; end that program first"):
        of.connect("pynq:a.xclbin")


@has_cards
def test_a_unit_that_another_program_has(card: pytest.MonkeyPatch) -> None:
    card.setenv("XRT_REFUSES", "context")
    with pytest.raises(
        of.DeviceUnavailable, match=r"unit vadd_1 cannot be reached: .*another program may have"
    ):
        of.connect("pynq:a.xclbin")


@has_cards
def test_an_error_that_pynq_does_not_know(card: pytest.MonkeyPatch) -> None:
    card.setenv("XRT_REFUSES", "4242")
    with pytest.raises(of.DeviceUnavailable, match=r"could not be loaded on device 0, emulated: .*4242"):
        of.connect("pynq:a.xclbin")


@has_cards
@pytest.mark.parametrize("version", ["2.5.309", "2.15.225"])  # contexts by number, and by name
def test_the_second_card(card: pytest.MonkeyPatch, here: Path, version: str) -> None:
    """And units that are opened as this version of XRT has it."""
    xrt = here / "xrt"
    xrt.mkdir()
    xrt.joinpath("version.json").write_text(json.dumps({"BUILD_VERSION": version}))
    card.setenv("XILINX_XRT", str(xrt))
    card.setenv("XRT_CARDS", "2")
    with of.connect("pynq:a.xclbin?device=1"):
        assert added() == [2, 2]


@has_cards
def test_memory_is_given_back(card: pytest.MonkeyPatch) -> None:
    """A bank of three buffers' size has room for any number, one after the other; and of none, too."""
    Xclbin([add], banks={"DDR0": "12M"}).write("b.xclbin")
    with of.connect(address("emu:b.xclbin")):
        for value in range(5):
            given = np.full(1 << 20, value, "float32")
            assert add(given, given, np.empty_like(given), 1)[0][0] == 2 * value
        nothing = np.empty((3, 0), "float32")
        assert add(nothing, nothing, nothing.copy(), 0)[0].shape == (3, 0)
        large = np.empty(4 << 20, "float32")
        told = "bank DDR0 has no room for 16,777,216 bytes: 12,582,912 of its 12,582,912 are free"
        with pytest.raises(of.DeviceMemoryError, match=told):
            add(large, large, large.copy(), 1)


@has_cards
def test_a_file_that_has_become_another(card: pytest.MonkeyPatch) -> None:
    with of.connect(address("emu:a.xclbin")):
        assert added() == [2, 2]
        Xclbin([add], units=3).write("a.xclbin")
        with pytest.raises(of.WorkerDied):
            offload(os._exit, target=0)(3)
        with pytest.raises(of.NoUnitsError, match=r"a\.xclbin was another bitstream \(.*open it again"):
            added()


@has_cards
def test_bitstreams_have_a_card_in_turn(card: pytest.MonkeyPatch) -> None:
    Xclbin([scale]).write("b.xclbin")
    with of.connect("pynq:a.xclbin"):
        for _ in range(2):
            assert added() == [2, 2]
            product = scale.launch(np.ones(2), 3.0, device="pynq:b.xclbin")
            assert product.result().tolist() == [3, 3]
            assert product.timing[0].loading
