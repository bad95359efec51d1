"""Devices that the user's settings give a name: where it can be used, and what a name cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from bitstreams import vadd, written
from typer.testing import CliRunner

import offload
from device_runtime import registry
from offload.cli import app
from offload.core import numcores
from offload.session import session
from offload.settings import read

pytest.importorskip("tomllib", reason="Python 3.10 needs tomli")


@offload.offload
def cores() -> int:
    return numcores()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the user's settings are, which give three devices a name."""
    path = tmp_path / "settings" / "mine.toml"
    path.parent.mkdir()
    path.write_text(
        '[devices]\nthree = "inline:3"\nsame = "inline:3"\nlab-2.board = "inline:2"\n'.replace(
            "lab-2.board", '"lab-2.board"'
        )
    )
    monkeypatch.setenv("OFFLOAD_CONFIG", str(path))
    return path


@pytest.mark.usefixtures("config")
def test_a_name_stands_for_its_address() -> None:
    with offload.connect("three") as connected:
        assert (connected.device, numcores()) == ("inline:3", 3)
        assert cores(device="lab-2.board") == [2, 2]
    with offload.Executor(device="three") as executor:
        assert executor.submit(numcores).result() == 3


def test_a_name_in_the_environment_and_in_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_DEVICE", "three")
    with offload.connect():
        assert cores() == [3, 3, 3]
    monkeypatch.delenv("OFFLOAD_DEVICE")
    config.write_text('device = "three"\n' + config.read_text())
    with offload.connect() as connected:
        assert connected.device == "inline:3"


@pytest.mark.usefixtures("config")
def test_all_names_of_an_address_share_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = registry.open_device

    def count(address: str) -> object:
        opened.append(address)
        return real(address)

    monkeypatch.setattr("offload.session.open_device", count)
    with offload.connect("three") as first:
        here = session()
        assert here.pool("same") is here.pool("three") is here.pool("inline:3") is here.pool()
        offload.define_on_device("held", 5)
        with offload.connect("same") as second:
            assert second is first
    assert opened == ["inline:3"]


def test_a_file_is_looked_for_where_the_settings_are(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path))
    config.write_text(
        """
        device = "emu:default.xclbin"
        [devices]
        fast = "emu:bits/vadd.xclbin?units=4&clock=200"
        up = "emu:../vadd.xclbin"
        absolute = "pynq:/opt/bits/vadd.xclbin?device=1"
        home = "emu:~/vadd.xclbin"
        no_file = "local:4"
        """
    )
    folder = config.parent
    addresses = {
        "fast": f"emu:{folder}/bits/vadd.xclbin?units=4&clock=200",
        "up": f"emu:{tmp_path}/vadd.xclbin",
        "absolute": "pynq:/opt/bits/vadd.xclbin?device=1",
        "home": f"emu:{tmp_path}/vadd.xclbin",
        "no_file": "local:4",
    }
    assert read().devices == addresses
    assert read().options == {"device": f"emu:{folder}/default.xclbin"}
    # A shell's paths are as they always are, and so are those in a script.
    monkeypatch.setenv("OFFLOAD_DEVICE", "emu:default.xclbin")
    assert read().options == {"device": "emu:default.xclbin"}
    monkeypatch.setenv("OFFLOAD_CONFIG", "../settings/mine.toml")
    assert read().devices == addresses


def test_a_named_bitstream_is_what_is_opened(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("pynq")
    written(config.parent, vadd())
    config.write_text('[devices]\nfast = "emu:test.xclbin?units=3&clock=200"\n')
    with offload.connect("fast") as connected:
        device = connected.pool().device
        assert device.bitstream is not None
        assert device.bitstream.clocks == (("DATA_CLK", 200),)
        assert list(device.names) == ["vadd_1", "vadd_2", "vadd_3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices = 3", "devices=3 must be a table of names and addresses"),
        ("[devices]\nboard = 3", r"\[devices\] board = 3: an address is a string such as 'local:4'"),
        ("[devices]\nboard = ''", "board = '': an address is a string"),
        ("[devices]\nlab.board = 'local'", "lab = {'board': 'local'}: an address is a string"),
        ("[devices]\nlocal = 'inline:2'", "'local' is a kind of device; choose another name"),
        ("[devices]\npynq = 'emu:a.xclbin'", "'pynq' is a kind of device"),
        ("[devices]\n'a:b' = 'local'", "a:b = 'local': a name has letters, digits"),
        ("[devices]\n'' = 'local'", "a name has letters, digits"),
        ("[devices]\na = 'local'\nb = 'a'", "b = 'a': 'a' is a name, too; give the address"),
        ("[devices]\na = 'b'\nb = 'a'", "a = 'b': 'b' is a name, too"),
        ("[devices]\na = 'a'", "a = 'a': 'a' is a name, too"),
        ("[device]\na = 'local'", "device={'a': 'local'} must be an address"),
        ("auto = 3", "device, timeout, retries, priority and devices can"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_its_place(config: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(offload.OptionError, match=said) as raised:
        offload.connect("inline")
    assert str(config) in str(raised.value)


@pytest.mark.parametrize("device", ["bord", "three:2", "three?units=2"])
def test_an_unknown_device_is_told_with_the_names_and_kinds_there_are(config: Path, device: str) -> None:
    with pytest.raises(offload.UnknownDeviceError) as raised:
        offload.connect(device)
    told = str(raised.value)
    for part in (
        repr(device),
        str(config),
        "'three', 'same', 'lab-2.board'",
        "'emu', 'inline', 'local', 'pynq'",
    ):
        assert part in told
    with offload.connect("inline"), pytest.raises(offload.UnknownDeviceError, match="it has 'three'"):
        cores(device=device)
    with pytest.raises(offload.UnknownDeviceError, match="it has 'three'"):
        offload.Executor(device=device)


@pytest.mark.usefixtures("config")
def test_names_on_the_command_line(tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
        return f"{result.exit_code} {result.output}"

    shown = invoke("devices", "three")
    assert shown.startswith("0 ") and shown.splitlines()[1].split()[:2] == ["three", "3"]
    script = tmp_path / "script.py"
    script.touch()
    refused = invoke("run", str(script), "--device", "bord")
    assert refused.startswith("2 ") and "it has 'three'" in refused
