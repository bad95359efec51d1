"""Full waveform inversion: the models are found again, in NumPy and on the emulated FPGA."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

import offload as of
from device_runtime.fpga.xclbin import read
from examples.fwi import configuration, forward, kernels
from examples.fwi.__main__ import main
from examples.fwi.configuration import Configuration, ConfigurationError
from examples.fwi.inversion import InversionError, reconstruct, recover
from examples.fwi.model import layered
from examples.fwi.split import join, split
from offload import In, Out, offload
from offload.testing import Xclbin

SQUARE = {"ngrid": {"x": 10, "z": 10}, "Freq": {"nTotal": 20}, "nSources": 20, "nReceivers": 20}
SMALL = {"ngrid": {"x": 7, "z": 5}, "Freq": {"nTotal": 3}, "nSources": 4, "nReceivers": 3}
SPECK = {"reservoirTopLeft": {"x": 0, "z": 0}, "reservoirBottomRight": {"x": 1e-300, "z": 1e-300}}
needs_pynq = [
    pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq"),
    pytest.mark.timeout(100),
]


def inverted(asked: Configuration, dtype: Any = np.complex128) -> Any:
    """Return what is found from the layered model's own pressures, and that model."""
    matrix, truth = forward.matrix(asked, dtype), layered(asked)
    real = matrix.real.dtype
    found = reconstruct(
        asked,
        matrix @ truth.astype(real),
        lambda chi: matrix @ chi.astype(real),
        lambda rest: np.conj(np.conj(rest) @ matrix),
    )
    return found, truth


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_a_well_measured_ground_is_found(dtype: Any) -> None:
    found, truth = inverted(configuration.parse(SQUARE), dtype)
    assert found.converged and len(found.residuals) == 19
    assert np.abs(found.chi - truth).max() <= 2.5e-4


def test_a_ground_with_fewer_measurements_than_cells() -> None:
    found, truth = inverted(Configuration())
    assert found.converged and len(found.residuals) == 56
    assert np.linalg.norm(found.chi - truth) / np.linalg.norm(truth) == pytest.approx(0.09, abs=0.01)


def test_the_misfit_falls() -> None:
    found, _ = inverted(configuration.parse(SMALL))
    assert 1 > found.residuals[0] > 10 * found.residuals[-1] > 0


def test_a_whisper_is_heard() -> None:
    asked = configuration.parse(SMALL)
    matrix = forward.matrix(asked)
    quiet = (matrix @ layered(asked) * 1e-25).astype(np.complex64)
    found = reconstruct(
        asked,
        quiet,
        lambda chi: matrix @ chi.astype(np.float32),
        lambda rest: np.conj(np.conj(rest) @ matrix),
    )
    assert found.chi.any() and len(found.residuals) > 2


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
def test_a_ground_is_found_whatever_its_size(size: float) -> None:
    asked = Configuration()
    matrix, truth = forward.matrix(asked, np.complex128), layered(asked)
    found = recover(
        asked, size * truth, lambda chi: matrix @ chi, lambda rest: np.conj(np.conj(rest) @ matrix)
    )
    assert found.converged and len(found.residuals) == 56
    assert np.linalg.norm(found.chi / size - truth) / np.linalg.norm(truth) == pytest.approx(0.0925, abs=1e-4)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (1e-150, "the data vanish in single precision, .* the model is up to 2.44e-151"),
        (1e-40, "the data vanish in single precision"),
        (1e150, "the data overflow in single precision"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the overflow
def test_data_that_single_precision_does_not_hold(size: float, told: str) -> None:
    asked = configuration.parse(SMALL)
    matrix = forward.matrix(asked)

    def dotprod(chi: Any) -> Any:
        return matrix @ chi.astype(np.float32)

    with pytest.raises(InversionError, match=told):
        recover(asked, size * layered(asked), dotprod, lambda rest: np.conj(np.conj(rest) @ matrix))


def test_a_ground_that_makes_no_sound() -> None:
    asked = configuration.parse(SMALL)
    with pytest.raises(InversionError, match="no contrast can be heard"):
        reconstruct(asked, np.ones(asked.rows), lambda chi: chi, lambda rest: np.zeros(asked.cells, complex))


def test_silence_is_an_empty_ground() -> None:
    asked = configuration.parse(SMALL)
    nothing = np.zeros(asked.rows, complex)
    found = reconstruct(asked, nothing, lambda chi: nothing, lambda rest: np.zeros(asked.cells, complex))
    assert found.converged and not found.chi.any() and found.residuals == [0.0]


def test_what_is_no_number_does_not_pass() -> None:
    asked = configuration.parse(SMALL)
    matrix = forward.matrix(asked, np.complex128)
    data = matrix @ layered(asked)
    calls = iter(range(99))

    def broken(chi: Any) -> Any:
        return matrix @ chi * (np.nan if next(calls) == 3 else 1)

    with pytest.raises(InversionError):
        reconstruct(asked, data, broken, lambda rest: np.conj(np.conj(rest) @ matrix))
    with pytest.raises(InversionError, match="the data hold what is no number"):
        reconstruct(asked, data * np.nan, broken, broken)
    for told in (
        lambda: recover(asked, layered(asked), lambda chi: matrix @ chi * np.nan, broken),
        lambda: reconstruct(asked, data, broken, lambda rest: np.full(asked.cells, complex(np.nan, 0))),
    ):
        with pytest.raises(InversionError, match="multiplying with the matrix gives what is no number"):
            told()


def test_the_matrix_is_the_formula() -> None:
    from scipy.special import j0, y0

    asked = configuration.parse(SMALL)
    matrix = forward.matrix(asked, np.complex128)
    f, r, s, cell = 2, 1, 3, 17
    x = -300 + 600 / 7 * (cell % 7 + 0.5)
    z = 300 / 5 * (cell // 7 + 0.5)
    k = 2 * np.pi * 40 / 2000

    def green(px: float) -> complex:
        distance = k * np.hypot(x - px, z + 5)
        return complex(0.25 * (-y0(distance) + 1j * j0(distance)))

    wanted = 600 / 7 * 60 * k**2 * green(0.0) * green(480.0)
    assert matrix[(f * 3 + r) * 4 + s, cell] == pytest.approx(wanted, rel=1e-12)


def test_parts_make_the_whole() -> None:
    asked = configuration.parse({"ngrid": {"x": 11, "z": 4}})
    parts = split(asked, 3)
    assert [part.asked.ngrid.x for part in parts] == [4, 4, 3]
    assert np.allclose(
        np.concatenate([forward.centres(part.asked) for part in parts]),
        np.concatenate([forward.centres(asked)[part.cells] for part in parts]),
    )
    chi = np.arange(44.0)
    assert join(parts, [chi[part.cells] for part in parts]).tolist() == chi.tolist()
    assert [part.asked.ngrid.x for part in split(asked, 2, shares=[2, 1])] == [7, 4]
    with pytest.raises(ConfigurationError, match=r"which shares \[9, 1\] cut into \[9, 2\]"):
        split(asked, 2, shares=[9, 1])
    tall = split(configuration.parse({"ngrid": {"x": 4, "z": 9}}), 2)
    assert [(part.asked.ngrid.x, part.asked.ngrid.z) for part in tall] == [(4, 5), (4, 4)]


@pytest.mark.parametrize(
    ("count", "even", "told"),
    [(0, False, "1 to 3 parts"), (4, False, "not 4"), (2, True, "parts that are not alike")],
)
def test_parts_that_cannot_be(count: int, even: bool, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        split(configuration.parse({"ngrid": {"x": 11, "z": 4}}), count, even)


@pytest.mark.parametrize("shares", [[2, 1, 1], [1], [0.5, 0.5], [0, 0], [2, -1], ["2", "1"]])
def test_shares_that_cannot_be(shares: list[Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be 2 whole numbers of 1 or more, one for each part"):
        split(configuration.parse({"ngrid": {"x": 12, "z": 4}}), 2, shares=shares)


def test_shares_are_parts_of_the_whole() -> None:
    asked = configuration.parse({"ngrid": {"x": 12, "z": 4}})
    assert [part.asked.ngrid.x for part in split(asked, 2, shares=np.array([3, 1]))] == [9, 3]  # type: ignore[arg-type]
    assert len(split(asked, 2, even=True, shares=[2, 2])) == 2
    with pytest.raises(ConfigurationError, match=r"cut into \[9, 3\]: 2 parts that are not alike"):
        split(asked, 2, even=True, shares=[3, 1])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "must have the fields c_0"),
        ({"speed": 1}, "speed is not known"),
        ({"c_0": float("nan")}, "c_0 is nan, and must be finite"),
        ({"c_0": 2e9}, r"c_0 is 2000000000.0, and must be finite, from -1e\+09 to 1e\+09"),
        ({"Freq": 3}, "^Freq is 3, and must have the fields min"),
        ({"c_0": 0}, "c_0 is 0.0, and must be more than 0"),
        ({"c_0": "fast"}, "c_0 is 'fast', and must be a number"),
        ({"nSources": 2.5}, "nSources is 2.5, and must be a whole number"),
        ({"nReceivers": 0}, "nReceivers is 0, and must be at least 1"),
        ({"ngrid": {"x": 2}}, "ngrid.x is 2, and must be at least 3"),
        ({"ngrid": {"z": True}}, "ngrid.z is True"),
        ({"Freq": {"max": 5}}, "Freq.max is 5.0, and must be more than 10"),
        ({"reservoirTopLeft": {"x": 1}}, "reservoirTopLeft.z is missing"),
        ({"reservoirBottomRight": {"x": -300, "z": 9}}, "reservoirBottomRight.x is -300.0"),
        ({"max": 0}, "max is 0"),
    ],
)
def test_configurations_that_cannot_be(given: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        configuration.parse(given)


def test_one_frequency_needs_no_other() -> None:
    asked = configuration.parse({"Freq": {"nTotal": 1, "min": 50}})
    assert forward.wave_numbers(asked) * asked.c_0 / (2 * np.pi) == pytest.approx([50])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    asked = configuration.parse(SMALL)
    tmp_path.joinpath("config.json").write_text(json.dumps(SMALL))
    tmp_path.joinpath("model.txt").write_text("\n".join(map(str, layered(asked))))
    return tmp_path


@pytest.mark.parametrize("device", ["none", pytest.param("emu", marks=needs_pynq)])
def test_the_command_line(files: Path, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "result.npz"
    given = [str(files / "config.json"), str(files / "model.txt"), "--device", device, "--out", str(out)]
    assert main(given) == 0
    said = capsys.readouterr().out
    with np.load(out) as found:
        assert found["chi"].dtype == np.float64 and found["chi"].shape == (35,)
        assert found["residuals"].ndim == 1 and found["residuals"][-1] < 1e-3
        assert found["evaluations"].tolist() == [len(found["residuals"])]
        assert found["converged"]
    assert "part 0: 7 x 5 cells" in said and "converged" in said
    if device == "emu":
        assert f"{36 * 35 * 8:,} bytes of K went to the device, once" in said
    assert main([*given, "--instances", "2"]) == 0
    assert "part 1: 3 x 5 cells" in capsys.readouterr().out
    with np.load(out) as found:
        assert found["chi"].shape == (35,) and found["evaluations"].shape == (2,)
        assert found["residuals"].shape == (found["evaluations"].sum(),)
        ends = np.cumsum(found["evaluations"]) - 1
        assert (found["residuals"][ends] < 1e-3).all()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.json", "", "is empty"),
        ("config.json", "{", "is no JSON"),
        ("config.json", '{"ngrid": {"x": 2}}', "config.json: ngrid.x is 2"),
        ("model.txt", "", "has 0 numbers, and the grid has 35 cells"),
        ("model.txt", "1 " * 34 + "nan", "number 35 is 'nan', and must be finite"),
        ("model.txt", "1 " * 34 + "one", "number 35 is 'one'"),
        ("model.txt", "1 " * 34 + "1_0", "number 35 is '1_0'"),
        (
            "model.txt",
            "0.25," * 35,
            "number 1 is '0.25,0.25,0....25,0.25,0.25,', and must be finite; white space",
        ),
        ("model.txt", "1" * 100_000, "number 1 is '111111111111...1111111111111', and must be finite"),
        ("model.txt", None, "cannot be read"),
        ("config.json", '{"nSources": 1' + "0" * 400 + "}", "must be finite"),
        ("config.json", "[" * 100_000, "is no JSON"),
        (
            "config.json",
            '{"Freq": {"min": 20, "max": 30, "min": 25}}',
            "config.json: min is given more than once",
        ),
        ("config.json", '{"max": 3, "nSources": 2, "max": 5}', "config.json: max is given more than once"),
        ("config.json", '{"nSources": 1' + "0" * 5000 + "}", "config.json"),  # some Pythons do not read it
        (
            "config.json",
            '{"nSources": 1000000, "nReceivers": 1000000, "ngrid": {"x": 7, "z": 5}}',
            "2,800,000 GB",
        ),
        ("config.json", json.dumps({**SMALL, **SPECK}), "the data vanish in double precision"),
    ],
)
def test_files_that_cannot_be_used(
    files: Path, name: str, text: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        files.joinpath(name).unlink()
    else:
        files.joinpath(name).write_text(text)
    assert main([str(files / "config.json"), str(files / "model.txt"), "--device", "none"]) == 1
    said = capsys.readouterr()
    assert told in said.err and said.err.startswith("fwi: ") and len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("config.json", "which is the configuration"),
        ("./model.txt", "which is the model"),
        ("link", "which is the model"),
        (None, "--out='' must be the name of a file"),
    ],
)
def test_what_was_given_is_not_written_over(
    files: Path, out: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.joinpath("link").symlink_to(files / "model.txt")
    given = [files.joinpath(name).read_bytes() for name in ("config.json", "model.txt")]
    where = "" if out is None else f"{files}/{out}"
    device = ["--device", "none", "--out", where]
    assert main([str(files / "config.json"), str(files / "model.txt"), *device]) == 1
    assert told in capsys.readouterr().err
    assert given == [files.joinpath(name).read_bytes() for name in ("config.json", "model.txt")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere/result.npz", "its folder is not there"),
        ("", "Is a directory"),
        ("/proc/result.npz", "/proc/result.npz cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_to(
    files: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(files / name)
    given = [str(files / "config.json"), str(files / "model.txt"), "--device", "none", "--out", out]
    assert main(given) == 1
    said = capsys.readouterr()
    assert told in said.err and not said.out  # before any work is done


def test_a_place_that_cannot_be_written_to_in_the_end(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(files / "config.json"), str(files / "model.txt"), "--device", "none", "--out", "/dev/full"]
    assert main(given) == 1
    assert "/dev/full could not be written: No space left" in capsys.readouterr().err


def test_the_file_that_is_named_is_written_and_no_other(files: Path) -> None:
    out = files / "result"
    given = [str(files / "config.json"), str(files / "model.txt"), "--device", "none", "--out", str(out)]
    assert main(given) == 0
    before = out.read_bytes()
    files.joinpath("model.txt").write_text("1e-320 " * 35)  # found too late to be refused before the work
    assert main(given) == 1 and out.read_bytes() == before
    given[-1] = str(files / "other")
    assert main(given) == 1
    assert sorted(path.name for path in files.iterdir()) == ["config.json", "model.txt", "result"]


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq")
@pytest.mark.timeout(100)
def test_a_model_that_vanishes_on_the_device(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.joinpath("model.txt").write_text("1e-150 " * 35)
    assert main([str(files / "config.json"), str(files / "model.txt"), "--device", "emu"]) == 1
    assert "fwi: the data vanish in single precision" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq")
@pytest.mark.timeout(100)
def test_circuits_of_the_right_names_that_take_something_else(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @offload(kernel="update")
    def update(matrix: In("complex64"), out: Out("complex64"), rows: int) -> None:  # type: ignore[valid-type]
        pass

    path = Xclbin([kernels.dotprod, update]).write(files / "other.xclbin")
    assert main([str(files / "config.json"), str(files / "model.txt"), "--device", f"emu:{path}"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("fwi: kernel ") and "update does not fit kernel update" in said and "'rest'" in said
    )
    assert len(said.splitlines()) == 1


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq")
@pytest.mark.timeout(100)
def test_a_device_that_gives_what_is_no_number(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def dotprod(matrix: Any, chi: Any, out: Any, rows: int, cells: int) -> None:
        out[:] = np.nan

    made = Xclbin([kernels.dotprod, kernels.update], models={"dotprod": dotprod})
    path = made.write(files / "nan.xclbin")
    assert main([str(files / "config.json"), str(files / "model.txt"), "--device", f"emu:{path}"]) == 1
    assert "fwi: multiplying with the matrix gives what is no number" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="needs pynq")
@pytest.mark.timeout(100)
def test_an_instance_that_lacks_a_kernel(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    instances = [{"units": ["dotprod_1", "update_1"]}, {"units": ["dotprod_2"]}]
    made = of.Manifest(kernels.bitstream(files / "fwi.xclbin", 2), instances).write(files / "fwi.toml")
    assert main([str(files / "config.json"), str(files / "model.txt"), "--device", f"emu:{made}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fwi: ") and "instance 1 has no unit of 'update'" in said
    assert len(said.splitlines()) == 1


def test_banks_have_room_for_what_they_hold(tmp_path: Path) -> None:
    asked = configuration.parse(
        {"ngrid": {"x": 60, "z": 30}, "Freq": {"nTotal": 21}, "nSources": 30, "nReceivers": 30}
    )
    for size in (asked.rows * asked.cells * 8, 1):
        made = read(kernels.bitstream(tmp_path / "fwi.xclbin", 2, size))
        assert all(bank.nbytes >= max(size, 256 << 20) for bank in made.banks)
    assert kernels.room([asked]) >= asked.rows * asked.cells * 8 > 256 << 20


def test_more_parts_than_a_bitstream_has_instances(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.joinpath("config.json").write_text(json.dumps({"ngrid": {"x": 195, "z": 3}}))
    files.joinpath("model.txt").write_text("0.1 " * 585)
    given = [str(files / "config.json"), str(files / "model.txt"), "--instances", "65"]
    assert main(given) == 1
    assert "fwi: --instances=65: --device emu makes 64 at most" in capsys.readouterr().err
