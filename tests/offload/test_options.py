"""Options: what is accepted, what is refused and where, and how layers merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload import OptionError, offload, offload_multiple, offload_single
from offload.options import Options, check
from offload.settings import Settings, read


def merged(*layers: dict[str, object]) -> Options:
    options = Options()
    for layer in layers:
        options = options.merged(check(layer, "here"))
    return options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timeot": 3}, "did you mean 'timeout'"),
        ({"verfy": 0.1}, "did you mean 'verify'"),
        ({"verify": 0.1}, "verify= is for hardware kernels"),
        ({"nonsense": 3}, "there is no option 'nonsense'"),
        ({"async_": 1}, "async_=1 must be True or False"),
        ({"async": "yes"}, "async='yes' must be True or False"),
        ({"async_": True, "async": True}, "the same option"),
        ({"all": None}, "all=None must be True or False"),
        ({"auto": True}, "auto=True must be an integer, not bool"),
        ({"auto": 2.0}, "auto=2.0 must be an integer, not float"),
        ({"auto": 0}, "auto=0 must be at least 1"),
        ({"auto": -3}, "auto=-3 must be at least 1"),
        ({"target": "1"}, "target='1' must be an integer or a sequence"),
        ({"target": [0, "1"]}, "target='1' must be an integer"),
        ({"target": ["vadd_1", 0]}, "target=['vadd_1', 0] has names and numbers of cores: give one or the"),
        ({"target": []}, "names no core"),
        ({"target": [0, 1, 0]}, "names core 0 more than once"),
        ({"target": -1}, "core -1"),
        ({"target": True}, "target=True must be an integer, not bool"),
        ({"auto": 1, "target": 0}, "auto and target are two placements"),
        ({"auto": 1, "all": True}, "auto and all are two placements"),
        ({"target": 1, "all": True}, "target and all are two placements"),
        ({"device": 3}, "device=3 must be an address"),
        ({"device": ""}, "device='' must be an address"),
        ({"timeout": -1}, "timeout=-1 must be more than 0 seconds"),
        ({"timeout": 0}, "timeout=0 must be more than 0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan must be a number of seconds"),
        ({"timeout": "3"}, "timeout='3' must be a number of seconds, not str"),
        ({"timeout": True}, "not bool"),
        ({"retries": -1}, "retries=-1 must be at least 0"),
        ({"retries": 1.5}, "retries=1.5 must be an integer"),
        ({"priority": "high"}, "priority='high' must be an integer"),
    ],
)
def test_a_bad_option_is_refused_at_decoration_and_at_options(given: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError) as decorating:
        offload(**given)
    assert said in str(decorating.value)

    @offload
    def kernel() -> None: ...

    with pytest.raises(OptionError) as changing:
        kernel.options(**given)
    assert said in str(changing.value)


def test_a_later_layer_wins() -> None:
    assert merged({"timeout": 3, "retries": 1}, {"timeout": None}) == Options(timeout=None, retries=1)
    assert merged({"async": True}).async_
    assert not merged({"async_": True}, {"async": False}).async_


def test_a_placement_replaces_the_lower_one_as_a_whole() -> None:
    assert merged({"auto": 2}, {"target": [3, 1]}) == Options(target=(1, 3))
    assert merged({"target": 2}, {"auto": 2}) == Options(auto=2)
    assert merged({"target": 2}, {"all": True}) == Options()
    assert merged({"target": 2}, {"timeout": 1.0}) == Options(target=(2,), single=True, timeout=1.0)
    assert merged({"auto": 2}, {"auto": None, "target": None}) == Options(auto=2)
    assert merged({"auto": 2, "all": False}) == Options(auto=2, all=False)


def test_the_result_is_bare_where_one_unit_was_asked_for() -> None:
    assert merged({"auto": 1}).bare
    assert merged({"target": 1}).bare
    assert merged({"target": np.int64(1)}).bare
    assert not merged({"target": [1]}).bare
    assert not merged({"target": 1}, {"target": [1]}).bare
    assert not merged({"auto": 2}).bare


def test_numpy_integers_and_any_iterable_are_cores() -> None:
    assert merged({"auto": np.int32(3)}) == Options(auto=3)
    assert merged({"target": np.array([2, 0])}) == Options(target=(0, 2))
    assert merged({"target": range(2)}) == Options(target=(0, 1))
    assert merged({"target": (i for i in (5, 4))}) == Options(target=(4, 5))


def test_placement_needs_the_number_of_cores() -> None:
    assert Options().place(3, "k") == ((0, 1, 2), 3)
    assert Options(auto=3).place(3, "k") == (None, 3)
    assert merged({"target": [2, 0]}).place(3, "k") == ((0, 2), 2)
    with pytest.raises(OptionError, match="auto=9 asks for more cores than the device's 3"):
        Options(auto=9).place(3, "k")
    with pytest.raises(OptionError, match=r"target=\[1, 3\] names core 3.*numbered 0 to 2"):
        merged({"target": [3, 1]}).place(3, "k")
    with pytest.raises(OptionError, match="target=1 names core 1"):
        merged({"target": 1}).place(1, "k")
    with pytest.raises(OptionError, match="needs auto= or target="):
        merged({"all": False}).place(3, "k")


def test_offload_multiple_wants_to_know_how_many() -> None:
    with pytest.raises(OptionError, match=r"offload_multiple\(cores=4\)"):
        offload_multiple(print)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="auto=0 must be at least 1"):
        offload_multiple(cores=0)


@pytest.mark.parametrize(
    "given", [{"auto": 1}, {"auto": 2}, {"target": 0}, {"target": [0, 1]}, {"all": True}]
)
def test_single_and_multiple_are_placements_themselves(given: dict[str, Any]) -> None:
    said = f"{next(iter(given))} are two placements"
    with pytest.raises(OptionError, match=rf"^@offload_multiple: cores=2 and {said}"):
        offload_multiple(cores=2, **given)
    with pytest.raises(OptionError, match=rf"^@offload_single: its own auto=1 and {said}"):
        offload_single(**given)


@pytest.mark.parametrize("given", [{"auto": None}, {"target": None}, {"all": False}])
def test_what_is_no_placement_is_none_besides_single_and_multiple(given: dict[str, Any]) -> None:
    assert merged(offload_multiple(print, cores=2, **given)._layer).place(4, "k") == (None, 2)
    assert merged(offload_single(print, **given)._layer).place(4, "k") == (None, 1)


def test_who_waits_for_single_and_multiple_is_the_users_choice() -> None:
    for name in ("async_", "async"):
        kernel = offload_single(print, **{name: False})  # type: ignore[call-overload]
        assert kernel._layer == {"async_": False, "auto": 1}


def test_options_in_the_environment(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert read(home).options == {}
    assert read(
        {**home, "OFFLOAD_TIMEOUT": "2.5", "OFFLOAD_RETRIES": "3", "OFFLOAD_PRIORITY": ""}
    ).options == {
        "timeout": 2.5,
        "retries": 3,
    }
    assert read({**home, "OFFLOAD_DEVICE": "local:3"}).options == {"device": "local:3"}
    with pytest.raises(OptionError, match="OFFLOAD_TIMEOUT: timeout='soon'"):
        read({**home, "OFFLOAD_TIMEOUT": "soon"})
    with pytest.raises(OptionError, match=r"OFFLOAD_RETRIES: retries=1\.5"):
        read({**home, "OFFLOAD_RETRIES": "1.5"})


def test_options_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tomllib", reason="Python 3.10 needs tomli")
    folder = tmp_path / "offload"
    folder.mkdir()
    file = folder / "config.toml"
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    file.write_text('device = "inline:2"\ntimeout = 3\n')
    assert read(home).options == {"device": "inline:2", "timeout": 3.0}
    assert read({**home, "OFFLOAD_TIMEOUT": "4"}).options["timeout"] == 4.0
    assert read({"OFFLOAD_CONFIG": str(file)}).options["timeout"] == 3.0
    for text, said in [
        ("timeout = ", "not valid TOML"),
        ("timeout = 'x'", "must be a number of seconds"),
        ("auto = 3", "'auto' cannot be set there"),
    ]:
        file.write_text(text)
        with pytest.raises(OptionError, match=said):
            read(home)
    with pytest.raises(OptionError, match="there is no such file"):
        read({"OFFLOAD_CONFIG": str(tmp_path / "missing.toml")})
    # Nothing is read from the current folder, and a relative XDG path is no path.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert read({"XDG_CONFIG_HOME": "."}).options == {}


@pytest.mark.parametrize("home", [".", "~", "elsewhere/.."])
def test_a_relative_home_is_not_looked_at(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file would be in the current folder, and whose that is nobody knows."""
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / home / ".config" / "offload"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('device = "inline:2"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", home)
    assert read({}) == Settings({}, {}, "")
