"""Standard output and error of kernels, as they go to the host."""

from __future__ import annotations

import io
from typing import Any


class KernelStream(io.TextIOWrapper):
    """Standard output or error of kernels, which they cannot close for those that come after."""

    def __init__(self, descriptor: int) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )

        self.written = False  # since it was last flushed

    def write(self, text: str) -> int:
        self.written = True
        size = super().write(text)
        self.written = True  # a flush by another thread may have been between
        return size

    @property
    def buffer(self) -> Any:
        """What is below; whoever has it may write there at any time."""
        self.written = self._lent = True
        return super().buffer

    _lent = False

    def finish(self) -> None:
        """Hand on what was written."""
        if self.written and not self.closed:
            self.written = self._lent
            self.flush()

    def close(self) -> None:
        if not self.closed:
            self.flush()
