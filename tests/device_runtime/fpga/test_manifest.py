"""Which units work together: manifests, and what they cannot say. No pynq is needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hardware_kernels import bitstream as one_of_each

from device_runtime.errors import DeviceUnavailable, OptionError
from device_runtime.fpga import boards, manifest
from device_runtime.fpga.bitstream import Bitstream
from device_runtime.fpga.writing import pack, with_units
from offload import Manifest

UNITS = {"units": ["vadd_1", "scale_1"]}


def bitstream() -> Bitstream:
    return with_units(one_of_each(), 2)


def written(folder: Path, text: str) -> str:
    path = folder / "made.toml"
    path.write_text(text)
    return str(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first = {**UNITS, "banks": {"vadd.out": 'the "HBM1"'}, "batch": 5}
    made = Manifest(tmp_path / "bits" / "ü.xclbin", [first, {"units": ["vadd_2"]}])
    path = made.write(tmp_path / "made.toml")

    found = manifest.read(str(path))

    assert Path(found.bitstream).resolve() == tmp_path / "bits" / "ü.xclbin"
    assert found.members == (
        manifest.Member(("vadd_1", "scale_1"), (("vadd.out", 'the "HBM1"'),), 5),
        manifest.Member(("vadd_2",)),
    )


def test_instances_are_those_that_it_names() -> None:
    members = manifest.members([{"units": ["vadd_2"]}, UNITS], "here")

    groups = boards.instances(bitstream(), members)

    assert [[unit.name for _, unit in group] for group in groups] == [["vadd_2"], ["vadd_1", "scale_1"]]
    assert boards.names(bitstream(), members) == {"vadd_2": 0, "vadd_1": 1, "scale_1": 1}


def test_an_argument_is_in_the_bank_that_it_names() -> None:
    members = manifest.members([{"units": ["split_1"], "banks": {"split.low": "HBM2"}}], "here")

    made = manifest.wired(bitstream(), members, "made.toml")

    assert made.kernels[-1].units[0].banks == (("HBM0",), ("HBM2",), ("HBM2",))
    assert made.kernels[-1].units[1:] == bitstream().kernels[-1].units[1:]
    assert made.kernels[:-1] == bitstream().kernels[:-1]


@pytest.mark.parametrize("order", [1, -1])
def test_the_bank_of_a_unit_goes_before_that_of_its_kernel(order: int) -> None:
    banks = dict([("split.low", "HBM2"), ("split_2.low", "HBM1")][::order])
    members = manifest.members([{"units": ["split_1", "split_2"], "banks": banks}], "here")

    made = manifest.wired(bitstream(), members, "made.toml")

    assert [unit.banks[1] for unit in made.kernels[-1].units] == [("HBM2",), ("HBM1",)]


def test_kernels_with_different_numbers_of_units_need_one() -> None:
    with pytest.raises(DeviceUnavailable, match=r"different numbers of units .* offload.Manifest"):
        made = bitstream()
        short = made.kernels[-1]._replace(units=made.kernels[-1].units[:1])
        boards.instances(made._replace(kernels=(*made.kernels[:-1], short)))


@pytest.mark.parametrize(
    ("instances", "wrong"),
    [
        ([], "instances=.* must be a list of tables"),
        ("vadd_1", "instances='vadd_1' must be a list of tables"),
        (["vadd_1"], "instance 0 is 'vadd_1', and must be a table"),
        ([{}], "instance 0: units=None must be a list of names"),
        ([{"units": "vadd_1"}], "instance 0: units='vadd_1' must be a list of names"),
        ([{"units": [1]}], r"units=\[1\] must be different names"),
        ([{"units": ["a", "a"]}], r"units=\['a', 'a'\] must be different names"),
        ([{"units": ["a"]}, {"units": ["b", "a"]}], "unit a is named by instances 0 and 1"),
        ([{"units": ["a"], "bank": {}}], "there is no 'bank' to be set; there is units, banks, batch"),
        ([{"units": ["a"], "banks": {"a.x": 1}}], "banks=.* must be a table of arguments and their banks"),
        ([{"units": ["a"], "batch": 0}], "batch=0 must be a whole number above 0"),
        ([{"units": ["a"], "batch": True}], "batch=True must be a whole number above 0"),
    ],
)
def test_what_instances_cannot_be(instances: Any, wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong):
        Manifest("made.xclbin", instances)


@pytest.mark.parametrize(
    ("member", "wrong"),
    [
        (
            {"units": ["vadd_9"]},
            "^made.toml: instance 0: the bitstream has no unit 'vadd_9'; it has vadd_1",
        ),
        ({"units": ["vadd_1"], "banks": {"scale.x": "HBM0"}}, "'scale.x', which is no array of its units"),
        ({"units": ["vadd_1"], "banks": {"vadd.n": "HBM0"}}, "'vadd.n', which is no array of its units"),
        (
            {"units": ["split_1"], "banks": {"split_1.low": "HBM0"}},
            "in bank HBM0, .* wired to HBM1, HBM2",
        ),
    ],
)
def test_what_the_bitstream_has_not(member: Any, wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong):
        manifest.wired(bitstream(), manifest.members([member], "here"), "made.toml")


def test_a_share_may_be_a_number_of_numpys(tmp_path: Path) -> None:
    path = Manifest("made.xclbin", [{**UNITS, "batch": np.int64(5)}]).write(tmp_path / "made.toml")

    assert manifest.read(str(path)).members[0].batch == 5


def test_a_device_that_lacks_what_a_manifest_names_tells_its_file(tmp_path: Path) -> None:
    (tmp_path / "made.xclbin").write_bytes(pack(bitstream()))
    path = Manifest(tmp_path / "made.xclbin", [{"units": ["vadd_9"]}]).write(tmp_path / "made.toml")

    with pytest.raises(OptionError, match=rf"^{path}: instance 0: the bitstream has no unit 'vadd_9'"):
        boards.load(boards.configure("emu", str(path)))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "bitstream=None must be the name of a file"),
        ("bitstream = 'a.xclbin'\nunits = 3", "there is no 'units' to be set; there is bitstream, instances"),
        ("bitstream = 'a.xclbin'", "instances=None must be a list of tables"),
        ("bitstream = ", "is not valid TOML"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(OptionError, match=f"made.toml.*{wrong}"):
        boards.configure("emu", written(tmp_path, text))


def test_an_address_with_a_manifest(tmp_path: Path) -> None:
    path = Manifest(tmp_path / "a.xclbin", [UNITS]).write(tmp_path / "made.toml")

    config = boards.configure("emu", f"{path}?timeout=3")

    assert (config.path, config.timeout) == (str(tmp_path / "a.xclbin"), 3)
    assert config.members[0].units == ("vadd_1", "scale_1")
    with pytest.raises(OptionError, match="the manifest names the units"):
        boards.configure("emu", f"{path}?units=3")
    with pytest.raises(OptionError, match="cannot be read"):
        boards.configure("emu", str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000 + "]" * 3000])
def test_a_manifest_that_python_cannot_read(tmp_path: Path, value: str) -> None:
    path = tmp_path / "made.toml"
    path.write_text(f"bitstream = {value}")

    with pytest.raises(OptionError, match=f"{path} is not valid TOML|bitstream=9999"):
        boards.configure("emu", str(path))


def test_folders_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "a.xclbin").touch()

    path = Manifest(tmp_path / "a.xclbin", [UNITS]).write(tmp_path / "link" / "made.toml")
    (tmp_path / "other.toml").symlink_to(path)

    for way in (path, tmp_path / "other.toml"):
        assert Path(manifest.read(str(way)).bitstream).resolve() == tmp_path / "a.xclbin"
    with pytest.raises(OptionError, match=r"other.manifest' must end in .toml"):
        Manifest(tmp_path / "a.xclbin", [UNITS]).write(tmp_path / "other.manifest")
