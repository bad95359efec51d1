"""What a unit's registers are told for a run."""

from __future__ import annotations

import pytest

from device_runtime.fpga.bitstream import KernelSpec
from device_runtime.fpga.control import Control
from device_runtime.fpga.emulation import DONE, IDLE, START
from device_runtime.fpga.habit import Habit


class Registers:
    """Be done at once, and note what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes | int]] = []

    def write(self, offset: int, data: bytes | int) -> None:
        self.written.append((offset, data))

    def read(self, offset: int) -> int:
        return DONE | IDLE


def one(offset: int, size: int) -> tuple[int, bytes]:
    return offset, bytes([offset]) * size


NEXT, NEIGHBOUR, FAR = one(0x14, 4), one(0x1C, 8), one(0x24, 4)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        pytest.param([], [], id="none"),
        pytest.param([one(0x10, 4), NEXT], [(0x10, b"\x10" * 4 + NEXT[1])], id="together"),
        pytest.param([NEXT, one(0x10, 4)], [(0x10, b"\x10" * 4 + NEXT[1])], id="in another order"),
        pytest.param(
            [one(0x10, 8), NEIGHBOUR],
            [(0x10, b"\x10" * 8 + bytes(4) + NEIGHBOUR[1])],
            id="with a reserved word between, as Vitis HLS leaves one",
        ),
        pytest.param([one(0x10, 8), FAR], [one(0x10, 8), FAR], id="apart"),
        pytest.param([one(0x10, 8), NEXT], [one(0x10, 8), NEXT], id="over each other"),
    ],
)
def test_what_lies_together_is_written_at_once(
    words: list[tuple[int, bytes]], written: list[tuple[int, bytes]]
) -> None:
    registers = Registers()
    control = Control("add_1", KernelSpec("add", "ap_ctrl_hs", (), ()), registers, Habit(None), pytest.fail)
    control.run(list(words))
    assert registers.written == [*written, (0, START)]
