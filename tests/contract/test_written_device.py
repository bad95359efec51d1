"""The device that docs/writing_a_device.md shows is complete, short, and keeps the contract."""

from __future__ import annotations

import configparser
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from device_contract import DeviceContract
from launch_contract import LaunchContract
from programs import Program

from device_runtime import registry
from device_runtime.device import Device

PAGE = Path(__file__).parents[2].joinpath("docs", "writing_a_device.md").read_text()


def code(language: str, start: str) -> str:
    """Return the page's piece of code that begins so."""
    pieces = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(next(piece for piece in pieces if piece.startswith(start)))


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the page's device as a package of its own would be."""
    folder = tmp_path_factory.mktemp("written")
    folder.joinpath("thread_device.py").write_text(code("python", '"""Compute units'))
    settings = configparser.ConfigParser()
    settings.read_string(code("ini", "[options.entry_points]"))
    metadata = folder / "thread_device-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: thread-device\nVersion: 1.0\n")
    points = settings["options.entry_points"]["offload.devices"].strip()
    metadata.joinpath("entry_points.txt").write_text(f"[offload.devices]\n{points}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.known.cache_clear()
        yield
    registry.known.cache_clear()
    sys.modules.pop("thread_device")


def test_it_is_short() -> None:
    assert len(code("python", '"""Compute units').splitlines()) < 60


def test_a_script_stays_as_it_is(program: Callable[..., Program]) -> None:
    folder = str(Path(importlib.import_module("thread_device").__file__ or "").parent)
    text = "from offload import offload\nfrom offload.core import coreid\nprint(offload(coreid)())"
    ended = program("-c", text, device="threads:3", PYTHONPATH=folder).end()
    assert (ended.out, ended.err) == ("[0, 1, 2]\n", "")


class TestWritten(DeviceContract):
    def make(self) -> Device:
        device: Device = importlib.import_module("thread_device").ThreadDevice(2)
        return device


class TestWrittenLaunches(LaunchContract):
    address = "threads:2"
