"""Gates: places in a kernel where it tells the test that it has come, and waits to be let on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Gate(NamedTuple):
    """A pair of named pipes; opening either waits for the other side, so nobody polls."""

    here: str
    open: str

    @classmethod
    def make(cls, path: Path) -> Gate:
        """Make the pipes of a gate."""
        gate = cls(f"{path}.here", f"{path}.open")
        for pipe in gate:
            os.mkfifo(pipe)
        return gate

    def come(self) -> None:
        """Tell the test that the kernel is here; called in a kernel."""
        with open(self.here, "w"):
            pass

    def stay(self) -> None:
        """Wait until the test opens the gate; called in a kernel."""
        with open(self.open) as pipe:
            pipe.read()

    def pass_through(self) -> None:
        """Come and stay; called in a kernel."""
        self.come()
        self.stay()

    def wait(self) -> None:
        """Wait until a kernel has come; called by the test."""
        with open(self.here) as pipe:
            pipe.read()

    def let_on(self) -> None:
        """Let the kernel on; called by the test."""
        with open(self.open, "w"):
            pass

    def remove(self) -> None:
        """Let on who is still at the gate; who comes later finds none. Called when the test has ended."""
        for pipe in self:
            both_ends = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
            os.unlink(pipe)
            os.close(both_ends)


def gated(gate: Gate, value: object = None) -> object:
    """Pass through a gate, in a kernel, and return the value."""
    gate.pass_through()
    return value
