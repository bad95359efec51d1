from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from device_runtime import registry
from device_runtime.errors import DeviceUnavailable
from device_runtime.process.cpus import available
from offload.cli import app


def invoke(*arguments: str | Path) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def python(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user would."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=50,
    )


SHOW = """\
import os, sys
print(__name__, __file__, sys.argv, sys.path, os.environ.get("OFFLOAD_DEVICE"))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "show.py"
    path.write_text(SHOW)
    return path


# ---- run ---------------------------------------------------------------------


def test_run_shows_the_script_what_python_would(script: Path) -> None:
    plain = python(script, "a", "--b=c", OFFLOAD_DEVICE="inline:3")
    ours = python("-m", "offload", "run", script, "--device", "inline:3", "a", "--b=c")
    assert ours.stdout == plain.stdout
    assert (ours.stderr, ours.returncode) == ("", 0)


def test_run_runs_the_launches_on_the_device(tmp_path: Path) -> None:
    path = tmp_path / "cores.py"
    path.write_text(
        "from offload import offload\nfrom offload.core import coreid\nprint(offload(coreid)())\n"
    )
    ran = python("-m", "offload", "run", path, "--device", "local:4", OFFLOAD_DEVICE="inline")
    assert (ran.stdout, ran.stderr) == ("[0, 1, 2, 3]\n", "")


@pytest.mark.parametrize(
    ("given", "device", "seen"),
    [
        (["{}", "--device", "inline:2", "--help"], "inline:2", ["--help"]),
        (["{}", "--device=inline:2", "x"], "inline:2", ["x"]),
        (["--device", "inline:2", "{}", "-x", "1"], "inline:2", ["-x", "1"]),
        (["{}", "x", "--device", "mine"], None, ["x", "--device", "mine"]),
        (["{}", "--", "--device", "mine"], None, ["--device", "mine"]),
        (["{}"], None, []),
    ],
)
def test_what_follows_the_device_is_the_scripts_own(
    script: Path, given: list[str], device: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    devices: list[str | None] = []

    def execv(_path: str, argv: list[str]) -> None:
        calls.append(argv[1:])
        devices.append(os.environ.get("OFFLOAD_DEVICE"))

    monkeypatch.setattr(os, "execv", execv)
    # Set first, so that monkeypatch takes back what the command line sets.
    monkeypatch.setenv("OFFLOAD_DEVICE", "")
    monkeypatch.delenv("OFFLOAD_DEVICE")
    result = invoke("run", *(part.format(script) for part in given))
    assert result.exit_code == 0, result.output
    assert (calls, devices) == ([[str(script), *seen]], [device])


def test_run_passes_on_the_scripts_traceback_and_exit_code(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text("def f():\n    raise ValueError('mine')\nf()\n")
    plain, ours = python(failing), python("-m", "offload", "run", failing)
    assert (ours.stderr, ours.returncode) == (plain.stderr, 1)
    leaving = tmp_path / "leaving.py"
    leaving.write_text("raise SystemExit(7)\n")
    assert python("-m", "offload", "run", leaving).returncode == 7


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--device", "nowhere:4"], "nowhere"),
        (["--device", "local:0"], "local:0"),
        (["--device"], "address"),
    ],
)
def test_run_refuses_a_bad_device_before_the_script_begins(
    script: Path, arguments: list[str], word: str
) -> None:
    result = invoke("run", script, *arguments)
    assert result.exit_code == 2
    assert word in result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr


def test_run_without_its_script_is_a_usage_error(tmp_path: Path) -> None:
    absent = tmp_path / "absent.py"
    result = invoke("run", absent)
    assert result.exit_code == 2
    assert str(absent) in result.stderr


# ---- devices -----------------------------------------------------------------


def open_absent(_rest: str) -> None:
    raise DeviceUnavailable("no board here; install the driver with: pip install 'offload[board]'")


def open_broken(_rest: str) -> None:
    raise TypeError("a bug of the board's own")


@pytest.fixture
def an_absent_board(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = dict(registry.known())
    kinds["board"] = EntryPoint("board", f"{__name__}:open_absent", registry.GROUP)
    kinds["uninstalled"] = EntryPoint("uninstalled", "no_such_module:open", registry.GROUP)
    kinds["broken"] = EntryPoint("broken", f"{__name__}:open_broken", registry.GROUP)
    monkeypatch.setattr(registry, "known", lambda: kinds)


@pytest.mark.usefixtures("an_absent_board")
def test_devices_shows_what_is_there_and_why_the_rest_is_not() -> None:
    result = invoke("devices")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    cores = str(available())
    assert rows["local"].split()[1] == cores and "GiB" in rows["local"]
    assert "available" in rows["inline"] and "GiB" in rows["inline"]
    assert "no board here; install the driver with: pip install 'offload[board]'" in rows["board"]
    assert "no_such_module" in rows["uninstalled"]
    assert "TypeError: a bug of the board's own" in rows["broken"]


@pytest.mark.usefixtures("an_absent_board")
def test_devices_fails_if_a_device_that_was_asked_for_is_broken() -> None:
    result = invoke("devices", "broken", "inline")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "a bug of the board's own" in result.stdout and "available" in result.stdout


def test_looking_at_the_devices_leaves_no_noise() -> None:
    result = python("-m", "offload", "devices")
    assert (result.stderr, result.returncode) == ("", 0)


def test_devices_opens_the_addresses_it_is_given() -> None:
    result = invoke("devices", "inline:3")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[:2] == ["inline:3", "3"]


def test_devices_fails_if_a_device_that_was_asked_for_is_not_there() -> None:
    result = invoke("devices", "nowhere:3")
    assert result.exit_code == 1
    assert "nowhere" in result.stdout and "Traceback" not in result.output


# ---- migrate -----------------------------------------------------------------

OLD = b"@offload(async=True)\r\ndef f(): print 'x'\r\n"
NEW = OLD.replace(b"async", b"async_")


def test_migrate_shows_a_diff_and_changes_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_bytes(OLD)
    result = invoke("migrate", old)
    assert result.exit_code == 0
    assert "\n-@offload(async=True)\n+@offload(async_=True)\n" in result.stdout
    assert old.read_bytes() == OLD


def test_migrate_writes_on_request(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_bytes(OLD)
    assert invoke("migrate", old, "--write").exit_code == 0
    assert old.read_bytes() == NEW


def test_what_migrate_has_written_runs(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_text(
        "from offload import offload\n@offload(async=True)\ndef f(x): return x + 1\n"
        "print(f(1).wait(), f(2, async=False))\n"
    )
    assert "SyntaxError" in python(old, OFFLOAD_DEVICE="inline:2").stderr
    assert python("-m", "offload", "migrate", "--write", old).returncode == 0
    assert python(old, OFFLOAD_DEVICE="inline:2").stdout == "[2, 2] [3, 3]\n"


def test_migrate_reports_what_it_cannot_read_and_does_the_rest(tmp_path: Path) -> None:
    broken, absent, good = (tmp_path / name for name in ("broken.py", "absent.py", "good.py"))
    broken.write_bytes(b"x = 1\ny = 'never closed\n")
    good.write_bytes(OLD)
    result = invoke("migrate", "--write", broken, absent, good)
    assert result.exit_code == 1
    assert f"{broken}:2: " in result.stderr and str(absent) in result.stderr
    assert good.read_bytes() == NEW


def test_migrate_points_at_names_it_must_not_change(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_bytes(b"x = 1\nasync = x\n")
    result = invoke("migrate", old)
    assert result.exit_code == 0
    assert f"{old}:2: " in result.stderr


# ---- version and the rest ------------------------------------------------------


def test_version_names_what_a_report_needs() -> None:
    result = python("-m", "offload", "version")
    assert (result.stderr, result.returncode) == ("", 0)
    for package in ("offload", "numpy", "cloudpickle", "pyzmq"):
        assert f"{package} {importlib.metadata.version(package)}\n" in result.stdout
    assert "python {}.{}.{}".format(*sys.version_info) in result.stdout


def test_the_installed_command_is_that_of_the_module() -> None:
    from offload.__main__ import main

    [point] = importlib.metadata.entry_points(group="console_scripts", name="offload")
    assert point.load() is main


def test_an_unknown_command_is_a_usage_error() -> None:
    assert invoke("fly").exit_code == 2
    assert invoke("run").exit_code == 2


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(missing: str) -> None:
    result = python(
        "-c", f"import sys; sys.modules[{missing!r}] = None; import offload.__main__ as m; m.main()"
    )
    assert result.returncode == 1
    assert missing in result.stderr and "offload[cli]" in result.stderr
    assert "Traceback" not in result.stderr
