"""Launches give the same on every device that comes with offload."""

from __future__ import annotations

from launch_contract import LaunchContract


class TestLocal(LaunchContract):
    address = "local:2"


class TestInline(LaunchContract):
    address = "inline:2"
