"""What the doctor says of pynq, cards and boards: of made-up systems, in folders."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
from pathlib import Path

import pytest

from offload.doctor import child, fpga
from offload.doctor.finding import Finding

XRT = {"XILINX_XRT": "/nowhere"}


def shown(findings: list[Finding]) -> list[tuple[str, bool | None]]:
    return [(finding.what, finding.ok) for finding in findings]


# ---- cards and boards ----------------------------------------------------------


def plug_in(root: Path, driver: str = "xocl", node: str = "renderD128", vendor: str = "0x10ee") -> Path:
    """Put a card into a made-up system; return its device file."""
    function = root / "sys/bus/pci/devices/0000:01:00.1"
    function.mkdir(parents=True)
    function.joinpath("vendor").write_text(f"{vendor}\n")
    if driver:
        drivers = root / "sys/bus/pci/drivers" / driver
        drivers.mkdir(parents=True)
        function.joinpath("driver").symlink_to(drivers)
    drawing = root / "sys/class/drm" / node
    drawing.mkdir(parents=True)
    drawing.joinpath("device").symlink_to(function)
    file = root / "dev/dri" / node
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def install_xrt(root: Path, version: str = '{"BUILD_VERSION": "2.13.466"}') -> dict[str, str]:
    """Put XRT into a made-up system; return the environment that its setup.sh makes."""
    place = root / "opt/xilinx/xrt"
    (place / "lib").mkdir(parents=True)
    (place / "lib/libxrt_core.so").touch()
    (place / "version.json").write_text(version)
    (place / "setup.sh").touch()
    return {"XILINX_XRT": str(place)}


@pytest.fixture(autouse=True)
def pynq_for_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fpga, "version", {"pynq": "3.0.1"}.get)


def test_a_card_with_all_that_it_needs(tmp_path: Path) -> None:
    plug_in(tmp_path)
    found = fpga.look_at_boards(str(tmp_path), install_xrt(tmp_path))
    assert shown(found) == [("card", True), ("/dev/dri/renderD128", True), ("XRT", True)]
    assert "0000:01:00.1 (xocl)" in found[0].told and "2.13.466" in found[2].told


def test_no_card_and_no_xrt(tmp_path: Path) -> None:
    card, xrt = fpga.look_at_boards(str(tmp_path), {})
    assert (card.ok, xrt.ok) == (False, False)
    assert "no card" in card.told and "`emu:`" in card.todo
    assert xrt.told == "XILINX_XRT is not set" and xrt.todo.startswith("install XRT")


def test_a_graphics_card_is_none(tmp_path: Path) -> None:
    plug_in(tmp_path, driver="nouveau", vendor="0x10de")
    assert shown(fpga.look_at_boards(str(tmp_path), install_xrt(tmp_path))) == [
        ("card", False),
        ("XRT", True),
    ]


@pytest.mark.parametrize(
    ("driver", "todo"), [("", "sudo modprobe xocl"), ("vfio-pci", "give it back to the host")]
)
def test_a_card_without_its_driver(tmp_path: Path, driver: str, todo: str) -> None:
    plug_in(tmp_path, driver)
    card = fpga.look_at_boards(str(tmp_path), XRT)[0]
    assert card.ok is False and todo in card.todo and (driver or "no driver") in card.told


def test_a_card_that_the_container_was_not_given(tmp_path: Path) -> None:
    plug_in(tmp_path).unlink()
    node = fpga.look_at_boards(str(tmp_path), XRT)[1]
    assert node.ok is False and node.todo.endswith("--device /dev/dri/renderD128")


def test_a_card_that_this_user_may_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = plug_in(tmp_path)
    os.chown(file, -1, os.getgid())
    # Whoever runs the tests may be root, who may open everything.
    monkeypatch.setattr(os, "access", lambda path, mode: path != file)
    node = fpga.look_at_boards(str(tmp_path), XRT)[1]
    assert node.ok is False and f"usermod -aG {fpga._group(file)} $USER" in node.todo


def test_xrt_that_was_not_sourced(tmp_path: Path) -> None:
    install_xrt(tmp_path)
    assert fpga.look_at_boards(str(tmp_path), {})[-1].todo == "source /opt/xilinx/xrt/setup.sh"


@pytest.mark.parametrize(
    ("version", "ok", "told"),
    [
        ('{"BUILD_VERSION": "2.15.225"}', True, "2.15.225 in "),
        ('{"BUILD_VERSION": "2.16.204"}', False, "2.16.204 in "),
        ('{"VERSION": 1}', True, "of a version that it does not say"),
        ("[]", True, "of a version that it does not say"),
        ("{", True, "of a version that it does not say"),
    ],
)
def test_versions_of_xrt(tmp_path: Path, version: str, ok: bool, told: str) -> None:
    plug_in(tmp_path)
    xrt = fpga.look_at_boards(str(tmp_path), install_xrt(tmp_path, version))[-1]
    assert xrt.ok is ok and told in xrt.told


def test_an_environment_that_does_not_fit(tmp_path: Path) -> None:
    plug_in(tmp_path)
    xrt = fpga.look_at_boards(str(tmp_path), XRT)[-1]
    assert xrt.ok is False and "there is no /nowhere/lib/libxrt_core.so" in xrt.told
    emulating = {**install_xrt(tmp_path), "XCL_EMULATION_MODE": "sw_emu"}
    assert fpga.look_at_boards(str(tmp_path), emulating)[-1].todo == "unset XCL_EMULATION_MODE"


def test_a_pynq_that_drives_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path)
    monkeypatch.setattr(fpga, "version", {"pynq": "4.0.0"}.get)
    found = fpga.look_at_boards(str(tmp_path), install_xrt(tmp_path))[-1]
    assert found.ok is False and "4.0.0 drives no cards" in found.told and "offload[alveo]" in found.todo


@pytest.mark.parametrize(("user", "ok"), [(0, True), (1000, False)])
def test_a_zynq_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, ok: bool) -> None:
    (tmp_path / "sys/class/fpga_manager/fpga0").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(fpga, "version", {"pynq": "4.0.0"}.get)
    board, xrt = fpga.look_at_boards(str(tmp_path), {"XILINX_XRT": "/usr"})
    assert (board.what, board.ok, xrt.ok) == ("board", ok, True)
    assert ok or board.todo.startswith("sudo -E")
    assert "xrt_setup.sh" in fpga.look_at_boards(str(tmp_path), {})[1].todo


def test_a_board_with_an_old_image(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/xlnk").touch()
    board = fpga.look_at_boards(str(tmp_path), {})[1]
    assert (board.what, board.ok) == ("board", False) and "PYNQ 3.1" in board.todo


# ---- the package pynq ------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Install a made-up pynq, before any other: its version, and what its import does."""

    def made(version: str, code: str = "", **others: str) -> None:
        (tmp_path / "pynq").mkdir()
        (tmp_path / "pynq/__init__.py").write_text(code)
        for name, number in {"pynq": version, **others}.items():
            about = tmp_path / f"{name}-{number}.dist-info"
            about.mkdir()
            about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(fpga, "version", importlib.metadata.version)

    return made


FITTING = {"numpy": "1.26.4", "pycparser": "2.23", "setuptools": "80.0"}
WORKING = "class Device:\n    class card:\n        name = 'a card'\n    devices = [card]\n"


def test_a_pynq_that_works(install) -> None:  # type: ignore[no-untyped-def]
    install("3.0.1", WORKING, **FITTING)
    package, devices = fpga.ask_for_pynq()
    assert shown(package) == [("pynq", True), ("import pynq", True)]
    assert devices == [Finding("devices", True, "pynq finds a card")]


def test_without_pynq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fpga, "version", lambda name: None)
    [missing], devices = fpga.ask_for_pynq()
    assert (missing.ok, missing.told, devices) == (False, "it is not installed", [])
    assert "offload[alveo]" in missing.todo and "offload[zynq]" in missing.todo


@pytest.mark.parametrize(
    ("version", "works"),
    [
        ("2.7.0", False),
        ("3.0.0", False),
        ("3.0.1", True),
        ("3.1.1", False),
        ("3.1.2", True),
        ("3.2.0rc1", True),
        ("4.0.0", True),
        ("5.0", False),
    ],
)
def test_versions_of_pynq(install, version: str, works: bool) -> None:  # type: ignore[no-untyped-def]
    install(version, **FITTING)
    found = fpga.look_at_pynq()[0]
    assert (found.ok, "offload[alveo]" in found.todo) == (works, not works)


def test_packages_that_are_too_new_for_pynq(install) -> None:  # type: ignore[no-untyped-def]
    install("3.0.1", **{**FITTING, "numpy": "2.1.0", "setuptools": "81.0.0"})
    assert [(one.what, one.todo) for one in fpga.look_at_pynq() if not one.ok] == [
        ("numpy", "pip install 'numpy<2'"),
        ("setuptools", "pip install 'setuptools<81'"),
    ]


def test_the_pins_are_those_of_the_extras() -> None:
    extras = configparser.ConfigParser()
    extras.read(Path(__file__).parents[2] / "setup.cfg")
    for extra in ("alveo", "zynq"):
        pins = extras["options.extras_require"][extra]
        assert "numpy>=1.26,<2\n" in pins and "pycparser<3\n" in pins and pins.endswith("setuptools<=80")
    assert fpga.TOO_NEW == {"numpy": 2, "pycparser": 3, "setuptools": 81}


def test_a_pynq_whose_import_fails(install) -> None:  # type: ignore[no-untyped-def]
    install("3.0.1", "print('much\\nado')\nraise OSError('libxrt_core.so: no such file')\n", **FITTING)
    package, devices = fpga.ask_for_pynq()
    assert shown(package) == [("pynq", True), ("import pynq", False)] and devices == []
    assert package[1].told == "its process ended by exit code 1: OSError: libxrt_core.so: no such file"
    assert "offload[alveo]" in package[1].todo


CRASH = """
import os, resource, signal

def __getattr__(name):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_pynq_that_crashes_while_it_looks_for_devices(install) -> None:  # type: ignore[no-untyped-def]
    install("3.0.1", CRASH, **FITTING)
    package, [found] = fpga.ask_for_pynq()
    assert all(one.ok for one in package)
    assert (found.ok, found.told) == (False, "its process ended by signal 11, SIGSEGV")
    assert "dmesg" in found.todo


HANG = "import signal\nsignal.pause()\n"


@pytest.mark.parametrize("deaf", ["", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"])
def test_a_pynq_that_hangs_is_ended(  # type: ignore[no-untyped-def]
    install, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    monkeypatch.setattr(fpga, "_PATIENCE", 0.3)
    monkeypatch.setattr(child, "_GRACE", 0.3)
    install("3.0.1", f"{deaf}print('looking', flush=True)\n{HANG}", **FITTING)
    package, devices = fpga.ask_for_pynq()
    assert shown(package)[1:] == [("import pynq", False)] and devices == []
    assert package[1].told.startswith("there was no answer within 0.3 s")


def test_nothing_is_loaded_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("json.py").write_text("raise SystemExit('json of the current folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in os.sys.path if entry])  # type: ignore[attr-defined]
    answer = child.ask("offload.doctor.fpga:ask_pynq", "", 30)
    assert "current folder" not in answer.failure
