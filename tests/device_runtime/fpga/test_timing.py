"""Predicted seconds: what they are made of."""

from __future__ import annotations

from typing import Any

import pytest

from device_runtime.errors import OptionError
from device_runtime.fpga.bitstream import Bank, Bitstream
from device_runtime.fpga.timing import Predictor, TimingModel

BANKS = (Bank("HBM0", "HBM", 0, 1 << 20), Bank("DDR0", "DDR4", 1 << 20, 1 << 20))


def predictor(clocks: Any = (("DATA_CLK", 200),), **timing: Any) -> Predictor:
    return Predictor(TimingModel(**timing), Bitstream(b"", "", BANKS, (), clocks))


@pytest.mark.parametrize(
    ("timing", "cycles"),
    [
        ({}, 1000),
        ({"interval": 2, "depth": 50}, 50 + 2 * 999),
        ({"interval": 1 / 16}, 1 + 999 / 16),
        ({"interval": {"vadd": 3}, "depth": {"vadd": 7}}, 7 + 3 * 999),
        ({"interval": {"vmul": 3}}, 1000),
    ],
)
def test_passes_through_a_pipeline(timing: dict[str, Any], cycles: float) -> None:
    found = predictor(**timing).run("vadd", 1000, {})
    assert found == pytest.approx(cycles / 200e6)


def test_a_pass_takes_its_depth() -> None:
    made = predictor(depth=40)
    assert made.run("vadd", 1, {}) == made.run("vadd", 0, {}) == 40 / 200e6


def test_memory_that_is_slower_than_the_pipeline() -> None:
    """Banks are used at the same time; the one that takes longest counts."""
    traffic = {"HBM0": 1 << 20, "DDR0": 1 << 20}
    assert predictor().run("vadd", 1, traffic) == (1 << 20) / 14.375e9
    assert predictor(bandwidth=1e6).run("vadd", 1, {"HBM0": 500, "DDR0": 300}) == 500e-6
    assert predictor(bandwidth={"DDR0": 1e6}).run("vadd", 1, traffic) == (1 << 20) / 1e6


def test_a_launch_and_the_way_there() -> None:
    made = predictor(link=1e6, launch=0.5)
    assert made.transfer(2000) == pytest.approx(0.002)
    assert made.run("vadd", 1, {}) == made.counted(1) == pytest.approx(0.5)


def test_which_clock_it_is() -> None:
    def cycle(*clocks: Any) -> float:
        return predictor(clocks).run("vadd", 1, {})

    assert cycle(("KERNEL_CLK", 500), ("DATA_CLK", 250)) == 1 / 250e6
    assert cycle(("KERNEL_CLK", 500)) == 1 / 500e6
    assert cycle() == 1 / 300e6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"interval": 0}, "interval=0 must be a number above 0"),
        ({"interval": None}, "interval=None must be"),
        ({"depth": True}, "depth=True must be"),
        ({"depth": {"vadd": "2"}}, "depth={'vadd': '2'} must be a number above 0, or a dict of such"),
        ({"bandwidth": {"HBM0": float("nan")}}, "bandwidth={'HBM0': nan} must be"),
        ({"link": 0}, "link=0 must be a number of bytes/s"),
        ({"launch": -1}, "launch=-1 must be a number of seconds"),
    ],
)
def test_what_is_no_number_of_such(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        TimingModel(**given)
