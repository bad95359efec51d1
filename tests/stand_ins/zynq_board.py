"""A Zynq board, stood in for: pynq finds it, reads the .hwh file itself, and maps registers and memory.

What the circuit really is, is in the .bit file that `zynq.written` makes; so
what our own reader takes from the .hwh file has to agree with that.
"""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pynq
from pynqmetadata.frontends import Metadata

from device_runtime.fpga.board import EmulatedDevice
from device_runtime.fpga.hwh import PS

try:
    from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
except ImportError:
    from pynqmetadata.views.runtime import RuntimeMetadataParser


class _Registers:
    """Registers of a unit, as mapped words."""

    def __init__(self, device: EmulatedDevice, base: int) -> None:
        self._device = device
        self._base = base

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._device.read_registers(self._base + 4 * place, 4), "little")

    def __setitem__(self, place: int, value: int) -> None:
        self._device.write_registers(self._base + 4 * place, int(value).to_bytes(4, "little"))


class ZynqBoard(pynq.Device):  # type: ignore[misc, unused-ignore]
    """What pynq's EmbeddedDevice is to it, on a board."""

    name = "edge"
    _probe_priority_ = 49

    @classmethod
    def _probe_(cls) -> list[ZynqBoard]:
        return [cls()]

    def __init__(self) -> None:
        super().__init__("zynq")
        self.capabilities = {"MEMORY_MAPPED": True}

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = RuntimeMetadataParser(Metadata(input=Path(bitfile_name).with_suffix(".hwh")))
        parser.clock_dict = {}  # there are no clocks to be set
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:
        data = Path(bitstream.bitfile_name).read_bytes()
        self._circuit = EmulatedDevice(pickle.loads(data.partition(b"\0e")[2]))
        Path("loaded.xclbin").touch()  # as pynq 4 does
        self.post_download(bitstream, parser)

    def mmap(self, base: int, length: int) -> _Registers:
        if "STAND_IN_NO_ROOT" in os.environ:
            raise OSError("Root permissions required.")
        return _Registers(self._circuit, base)

    @property
    def default_memory(self) -> Any:
        return self._circuit.get_memory_by_name(PS)
