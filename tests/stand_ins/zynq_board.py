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

from device_runtime.fpga.bitstream import Bank
from device_runtime.fpga.board import EmulatedDevice
from device_runtime.fpga.circuit import load
from device_runtime.fpga.emulation import EmulatedBank, EmulatedUnit
from device_runtime.fpga.hwh import PS

try:
    from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
except ImportError:
    from pynqmetadata.views.runtime import RuntimeMetadataParser

_MEMORY = Bank(PS, "DRAM", 0x1000_0000, 1 << 24)  # what the kernel of the system keeps for buffers


class _Registers:
    """Registers of a unit, as a mapped page of words."""

    def __init__(self, unit: EmulatedUnit) -> None:
        self._unit = unit

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._unit.read(4 * place, 4), "little")

    def __setitem__(self, place: int, value: int) -> None:
        self._unit.write(4 * place, int(value).to_bytes(4, "little"))


class ZynqBoard(EmulatedDevice):
    """What pynq's EmbeddedDevice is to it, on a board."""

    name = "edge"
    _probe_priority_ = 49

    @classmethod
    def _probe_(cls) -> list[ZynqBoard]:
        return [cls()]

    def __init__(self) -> None:
        pynq.Device.__init__(self, "zynq")
        self.capabilities = {"MEMORY_MAPPED": True}
        self._memories = {PS: EmulatedBank(_MEMORY)}

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = RuntimeMetadataParser(Metadata(input=Path(bitfile_name).with_suffix(".hwh")))
        parser.clock_dict = {}  # there are no clocks to be set
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:
        data = Path(bitstream.bitfile_name).read_bytes()
        kernels, circuit = pickle.loads(data.partition(b"\0e")[2])
        models, faults = load(circuit)
        self._units = {
            unit.address: EmulatedUnit(
                kernel, unit, self._memories, models[kernel.name], faults.get(unit.name)
            )
            for kernel in kernels
            for unit in kernel.units
        }
        Path("loaded.xclbin").touch()  # as pynq 4 does
        self.post_download(bitstream, parser)

    def mmap(self, base: int, length: int) -> _Registers:
        if "STAND_IN_NO_ROOT" in os.environ:
            raise OSError("Root permissions required.")
        return _Registers(self._units[base])

    @property
    def default_memory(self) -> Any:
        return self.get_memory_by_name(PS)
