"""A unit by its registers: arguments in, start, wait until it is done (`ap_ctrl_hs`, `ap_ctrl_chain`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from device_runtime.errors import DeviceError
from device_runtime.fpga.bitstream import KernelSpec
from device_runtime.fpga.emulation import CONTINUE, DONE, IDLE, START
from device_runtime.fpga.habit import Habit

_LOOKS = 50  # reads of the status before the reader sleeps between them
_FAILED = 0xFFFFFFFF  # what is read where no device answers
_RESERVED = 4  # bytes that Vitis HLS leaves between arguments, at most
_GAP = 64  # bytes between arguments whose registers are told as one
_NAP = 0.001  # seconds it sleeps at most: there is no event to wait for on this path


class Control:
    """Start a unit, and wait for its end; `hangs` is told of a unit that has none."""

    def __init__(
        self, unit: str, spec: KernelSpec, registers: Any, habit: Habit, hangs: Callable[[], None]
    ) -> None:
        self._unit = unit
        self._spec = spec
        self._registers = registers
        self._habit = habit
        self._hangs = hangs

    def run(self, words: list[tuple[int, bytes]]) -> float:
        """Write registers, run the unit, and return how many seconds it took.

        Raises DeviceError, with the registers, for a unit that does not end, or does not answer.
        """
        self._set(words)
        took = self._start()
        self._habit.learn(took)
        return took

    def _set(self, words: list[tuple[int, bytes]]) -> None:
        """Write registers, those that lie together at once, and zeros to what is reserved between them.

        So do pynq's own drivers (`pynq.overlay.DefaultIP`).
        """
        if not words:
            return
        words.sort()
        first, data = words[0]
        for offset, more in words[1:]:
            gap = offset - first - len(data)
            if 0 <= gap <= _RESERVED:
                data += bytes(gap) + more
            else:
                self._registers.write(first, data)
                first, data = offset, more
        self._registers.write(first, data)

    def _start(self) -> float:
        registers = self._registers
        begun = time.monotonic()
        registers.write(0, START)
        looks = 0
        while not (status := registers.read(0)) & (DONE | IDLE):
            looks += 1
            if looks > _LOOKS:
                passed = time.monotonic() - begun
                if passed > self._habit.limit:
                    self._hangs()
                    raise DeviceError(
                        f"unit {self._unit} has not ended after {passed:.3g} s "
                        f"(its limit is {self._habit}); {self._dump()}"
                    )
                time.sleep(min(_NAP, passed / 8))
        if status == _FAILED:
            self._hangs()
            raise DeviceError(
                f"unit {self._unit} does not answer: an error of the bus, or the device is gone; "
                + self._dump()
            )
        took = time.monotonic() - begun
        if status & DONE and self._spec.protocol == "ap_ctrl_chain":
            registers.write(0, CONTINUE)
        return took

    def _dump(self) -> str:
        """Return what its registers hold, without large gaps between them."""
        parts = [[0, 4]]
        for one in sorted(self._spec.arguments, key=lambda one: one.offset):
            if one.kind == "stream":
                continue
            if one.offset > parts[-1][1] + _GAP:
                parts.append([one.offset, one.offset])
            parts[-1][1] = one.offset + one.nbytes
        told = []
        for first, end in parts:
            words = " ".join(f"{self._registers.read(offset):08x}" for offset in range(first, end, 4))
            told.append(f"from {first:#x} on: {words}")
        return f"its registers {', '.join(told)}"
