"""The devices that come with offload keep the contract."""

from __future__ import annotations

from device_contract import DeviceContract, LostUnits, Messages

from device_runtime.device import Device
from device_runtime.registry import open_device


class TestLocal(DeviceContract, LostUnits, Messages):
    def make(self) -> Device:
        return open_device("local:2")


class TestInline(DeviceContract, Messages):
    def make(self) -> Device:
        return open_device("inline:2")
