"""`offload doctor`: what it says of each device, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bitstreams import vadd, written
from typer.testing import CliRunner, Result

from offload.cli import app
from offload.doctor import child, examine, machine

pytest.importorskip("tomllib", reason="Python 3.10 needs tomli")
pytestmark = pytest.mark.timeout(100)  # devices are opened in processes of their own

DEVICES = """
import os
import resource
from device_runtime.errors import DeviceUnavailable
from device_runtime.inline import open_inline

def absent(rest):
    raise DeviceUnavailable("no board here: plug it in")

def crashing(rest):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()

def wrong(rest):
    raise ZeroDivisionError("a mistake of its author's")

working = open_inline
"""
KINDS = ("absent", "crashing", "uninstalled", "working", "wrong")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make an environment with devices of another package's, and names in the user's settings."""
    folder = tmp_path_factory.mktemp("world")
    about = folder / "others-1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    points = [f"{kind} = others:{kind}" for kind in KINDS if kind != "uninstalled"]
    points.append("uninstalled = no_such_module:open")
    about.joinpath("entry_points.txt").write_text("\n".join(["[offload.devices]", *points]))
    folder.joinpath("others.py").write_text(DEVICES)
    written(folder, vadd(units=2))
    folder.joinpath("config.toml").write_text(
        'device = "two"\n[devices]\ntwo = "inline:2"\ncard = "pynq:test.xclbin?device=1"\n'
        'lost = "pynq:lost.xclbin"\n'
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "OFFLOAD_CONFIG": str(folder / "config.toml"), "COLUMNS": "300"}


def run(world: dict[str, str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offload", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **world, **environment},
        timeout=90,
    )


@pytest.fixture(scope="module")
def told(world: dict[str, str]) -> dict[str, Any]:
    """Return what it says of all devices there are."""
    ended = run(world, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def of(told: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [one for one in told["reports"] if one["name"] == name]
    return dict(found)


def finding(report: dict[str, Any], what: str) -> tuple[bool | None, str]:
    [found] = [one for one in report["findings"] if one["what"] == what]
    return found["ok"], found["told"] + found["todo"]


def test_every_device_is_reported_on_once(told: dict[str, Any]) -> None:
    names = [report["name"] for report in told["reports"]]
    assert names[:2] == ["this machine", "two"]  # the default
    assert sorted(names[2:]) == sorted(["emu", "inline", "local", "pynq", *KINDS, "card", "lost"])
    assert told["works"] is True
    assert [report["name"] for report in told["reports"] if report["default"]] == ["two"]


def test_devices_that_work_have_answered(told: dict[str, Any]) -> None:
    for name, units in (("two", "2 units"), ("local", "unit"), ("inline", "1 unit"), ("working", "1 unit")):
        report = of(told, name)
        assert report["works"] is True
        (opened, how), (answered, answer) = finding(report, "open"), finding(report, "launch")
        assert opened and answered and units in how and answer.startswith("the right answer")
    assert of(told, "two")["address"] == "inline:2"


@pytest.mark.parametrize(
    ("name", "what", "why"),
    [
        ("absent", "open", "no board here: plug it in"),
        ("crashing", "answer", "signal 6, SIGABRT"),
        ("wrong", "answer", "ZeroDivisionError: a mistake of its author's"),
        ("uninstalled", "open", "No module named 'no_such_module'"),
        ("lost", "bitstream", "lost.xclbin"),
    ],
)
def test_devices_that_do_not_say_why(told: dict[str, Any], name: str, what: str, why: str) -> None:
    report = of(told, name)
    ok, said = finding(report, what)
    assert (report["works"], ok) == (False, False) and why in said


def test_a_card_that_nobody_asked_for_is_looked_at_and_left_alone(told: dict[str, Any]) -> None:
    report = of(told, "card")
    ok, said = finding(report, "bitstream")
    assert ok and said.endswith("test.xclbin: vadd")
    assert finding(report, "open") == (None, "not tried: that would load the bitstreamoffload doctor card")
    assert report["works"] is False  # there is no card where this is tested


def test_the_machine_is_reported_on(told: dict[str, Any]) -> None:
    report = of(told, "this machine")
    assert report["works"] is True
    assert finding(report, "Python")[1].startswith("{}.{}.{}".format(*sys.version_info))
    assert "numpy" in finding(report, "packages")[1]
    assert "two, card, lost" in finding(report, "settings")[1]


def test_the_emulated_fpga_is_opened_with_a_bitstream_of_its_own(told: dict[str, Any]) -> None:
    pytest.importorskip("pynq")
    report = of(told, "emu")
    assert report["works"] is True
    assert finding(report, "kernel add")[0] and finding(report, "launch")[0]


def test_a_named_device_says_what_is_on_it(world: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("pynq")
    path = written(tmp_path, vadd(units=2))
    ended = run(world, "--json", f"emu:{path}?clock=200")
    assert ended.returncode == 0, ended.stdout
    told = json.loads(ended.stdout)
    [report] = told["reports"]
    assert (report["works"], told["works"]) == (True, True)
    assert finding(report, "kernel vadd")[1] == (
        "(float* a, float* b, float* out, int n); 2 units: vadd_1, vadd_2; a in HBM0, b in HBM0, out in HBM1"
    )
    assert finding(report, "instances")[1] == "2: vadd_1, vadd_2"
    assert finding(report, "clocks")[1] == "DATA_CLK 200 MHz"
    assert "HBM0 16 MiB" in finding(report, "memory")[1]
    assert finding(report, "launch")[0]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "300"})


def test_a_table_for_people(world: dict[str, str]) -> None:
    ended = run(world, "two", "absent")
    assert (ended.returncode, ended.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert lines[0] == "two = inline:2: works"
    assert lines[1].startswith("open yes 2 units, ")
    assert lines[2].startswith("launch yes the right answer")
    assert lines[4:6] == ["absent: does not work", "open no no board here: plug it in"]


def test_an_address_that_cannot_be_meant(world: dict[str, str]) -> None:
    ended = run(world, "nowhere:3", "local:0")
    assert ended.returncode == 1 and "Traceback" not in ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "nowhere:3: does not work"
    assert "'two', 'card', 'lost'" in lines[1] and "'emu', 'inline', 'local', 'pynq'" in lines[1]
    assert lines[3] == "local:0: does not work" and "the number of cores is 1 to 1024" in lines[4]


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the kinds of devices that there are."""
    monkeypatch.setattr("device_runtime.registry.known", dict)


@pytest.mark.usefixtures("no_devices")
def test_it_ends_with_1_if_the_default_device_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke().exit_code == 0
    monkeypatch.setenv("OFFLOAD_DEVICE", "emu")  # which needs a file
    result = invoke()
    assert result.exit_code == 1
    assert "emu (the default): does not work" in result.stdout
    assert "behind the colon stands a bitstream" in result.stdout


def test_settings_that_cannot_be_meant_are_told_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_TIMEOUT", "soon")
    monkeypatch.setattr(child, "ask", None)
    result = invoke()
    assert result.exit_code == 1
    assert "OFFLOAD_TIMEOUT: timeout='soon' must be" in result.stdout and "correct it" in result.stdout
    named = invoke("local")
    assert named.exit_code == 2 and "OFFLOAD_TIMEOUT" in named.stderr


@pytest.mark.usefixtures("no_devices")
def test_a_device_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_OPENING", 0.1)  # no device is opened within that
    monkeypatch.setattr(child, "_GRACE", 0.1)
    result = invoke()
    assert result.exit_code == 1
    assert "there was no answer within 0.1 s" in result.stdout


# ---- the machine -----------------------------------------------------------------


def look(root: str = "/") -> dict[str, Any]:
    return {one.what: one for one in machine.look(root)}


def test_what_process_cores_need_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    assert look()["process cores"].ok
    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.delattr(os, "memfd_create")
    found = look(str(tmp_path))["process cores"]
    assert found.ok is False and "`inline`" in found.todo
    assert found.told == (
        "memfd: this system has none; pidfd: Operation not permitted; /proc: No such file or directory"
    )


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", {"numpy": "2.1", "cloudpickle": "3.1"}.get)
    found = look()["packages"]
    assert (found.ok, found.told) == (False, "numpy 2.1, cloudpickle 3.1, pyzmq is missing")
    assert found.todo == "pip install pyzmq"


def test_a_bound_of_memory_that_cannot_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look()["memory"].ok
    monkeypatch.setenv("OFFLOAD_ARENA", "much")
    assert look()["memory"].ok is False and "OFFLOAD_ARENA='much'" in look()["memory"].told
