"""What an installation promises: devices found by name, types, and a README whose commands exist."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime import registry

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", ["local", "inline"])
def test_every_device_can_be_made_by_name(kind: str) -> None:
    assert registry.open_device(f"{kind}:2").address == f"{kind}:2"


def test_a_device_that_cannot_be_looked_up_is_not_said_to_be_missing() -> None:
    """With no descriptor left nothing is found; once there are some again, the device is."""
    script = """
import os, resource
from device_runtime import registry
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
try:
    registry.open_device("inline:2")
except registry.DeviceUnavailable as error:
    print(error)
for descriptor in taken:
    os.close(descriptor)
print(registry.open_device("inline:2").address)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stderr == ""
    told, address = ended.stdout.splitlines()
    assert "Too many open files" in told and address == "inline:2"


@pytest.mark.parametrize("package", ["offload", "scheduler", "device_runtime"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert ROOT.joinpath(package, "py.typed").exists()


def test_every_extra_that_a_message_or_a_page_names_is_there() -> None:
    extras = set(importlib.metadata.metadata("offload").get_all("Provides-Extra") or ())
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".ci" / "run"]
    pages += [path for floor in ("offload", "device_runtime") for path in ROOT.joinpath(floor).rglob("*.py")]
    named = set()
    for page in pages:
        for group in re.findall(r"(?:\boffload|'\.)\[([a-z,]+)\]", page.read_text()):
            named.update(group.split(","))
    assert {"cli", "examples", "test"} <= named <= extras


def test_the_readme_has_one_command_to_try_and_one_to_test() -> None:
    commands = re.findall(r"^python3 -m venv .*$", ROOT.joinpath("README.md").read_text(), re.MULTILINE)
    assert [command.rpartition("&& ")[2] for command in commands] == [
        ".venv/bin/python examples/pi/01_first_pi.py",
        ".venv/bin/python -m pytest",
    ]
