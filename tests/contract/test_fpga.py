"""The emulated FPGA keeps the contract: its units run what others run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bitstreams import address, vadd, written
from device_contract import DeviceContract, LostUnits
from launch_contract import LaunchContract

from device_runtime.device import Device
from device_runtime.registry import open_device

pytest.importorskip("pynq")
pytestmark = pytest.mark.timeout(200)  # an owner takes its time to start


@pytest.fixture(autouse=True, scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the bitstream in the current directory."""
    folder = tmp_path_factory.mktemp("bitstreams")
    written(folder, vadd(units=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


class TestEmulated(DeviceContract, LostUnits):
    def make(self) -> Device:
        return open_device(address("emu:test.xclbin"))


class TestEmulatedLaunches(LaunchContract):
    address = "emu:test.xclbin?units=2"
