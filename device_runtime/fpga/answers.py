"""Known answers: what a kernel has given once, for its units to give again when their device was set up anew.

They outlive the owner of the device in a file in memory, one record after the
other; what an owner that was ended has not written to its end is left out.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from device_runtime.fpga.interface import Interface

MOST = 1 << 16  # bytes of arrays that an answer may have
_HEAD = struct.Struct("<II")  # size, checksum


class Answer(NamedTuple):
    """A launch of a hardware kernel: what went in, and what came out."""

    interface: Interface
    args: tuple[Any, ...]
    outs: tuple[Any, ...]


class Answers:
    """Those of a device's kernels, by name: of each the first one that is small."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._known: dict[str, Answer] = {}
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        while len(data) > _HEAD.size:
            size, checksum = _HEAD.unpack_from(data)
            record, data = data[_HEAD.size : _HEAD.size + size], data[_HEAD.size + size :]
            if len(record) < size or zlib.crc32(record) != checksum:
                break
            answer = Answer(*pickle.loads(record))
            self._known[answer.interface.kernel] = answer

    def get(self, kernel: str) -> Answer | None:
        """Return that of a kernel, if there is one."""
        return self._known.get(kernel)

    def learn(self, interface: Interface, args: Sequence[Any], outs: Sequence[Any]) -> None:
        """Take note of a launch, if it is the first of its kernel, and small. Threads may do so at once."""
        if interface.kernel in self._known:
            return
        if sum(getattr(one, "nbytes", 0) for one in (*args, *outs)) > MOST:
            return
        # Copies: the memory that they are in is for others when this launch has ended.
        answer = Answer(interface, _copies(args), _copies(outs))
        if self._known.setdefault(interface.kernel, answer) is answer:
            record = pickle.dumps(tuple(answer), 5)
            os.write(self._descriptor, _HEAD.pack(len(record), zlib.crc32(record)) + record)


def _copies(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([np.array(one) if isinstance(one, np.ndarray) else one for one in values])
