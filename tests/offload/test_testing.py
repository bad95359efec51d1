"""`offload.testing.Xclbin`: bitstreams of decorated kernels, for the emulated FPGA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address
from hardware_kernels import add, scale

import offload as of
from device_runtime.fpga.circuit import load
from device_runtime.fpga.xclbin import read
from offload import In, Out, offload
from offload.testing import Fault, Rtl, TimingModel, Xclbin


@offload(kernel="fill")
def fill(out: Out("complex64"), a: np.int64, b: np.uint8, c: np.float16, d: bool, e: float, f: int):  # type: ignore[valid-type, no-untyped-def]
    out[:] = a + b + c + d + e + f


@offload(kernel="judge")
def judge(a: In) -> None:
    pass


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = Xclbin([add, scale], units={"vadd": 3}, banks={"HBM0": "64K", "HBM1": 8192}, clock=250)
    found = read(made.write(tmp_path / "a.xclbin"))
    assert found == made.bitstream
    assert [(kernel.name, len(kernel.units)) for kernel in found.kernels] == [("vadd", 3), ("scale", 1)]
    assert [(bank.name, bank.kind, bank.base, bank.nbytes) for bank in found.banks] == [
        ("HBM0", "HBM", 0, 65536),
        ("HBM1", "HBM", 65536, 8192),
    ]
    assert found.clocks == (("DATA_CLK", 250),)


def test_registers_are_where_vitis_puts_them() -> None:
    (kernel,) = Xclbin([fill]).bitstream.kernels
    assert [(one.name, one.ctype, one.offset, one.nbytes) for one in kernel.arguments] == [
        ("out", "std::complex<float>*", 0x10, 8),
        ("a", "long", 0x1C, 8),
        ("b", "unsigned char", 0x28, 4),
        ("c", "half", 0x30, 4),
        ("d", "bool", 0x38, 4),
        ("e", "double", 0x40, 8),
        ("f", "int", 0x4C, 4),
    ]


def test_wiring_of_a_kernel_and_of_a_unit() -> None:
    made = Xclbin(
        [add], units=2, banks=["HBM0", "HBM1"], wiring={"vadd.b": "HBM1", "vadd_2.out": ["HBM0", "HBM1"]}
    )
    assert [unit.banks for unit in made.bitstream.kernels[0].units] == [
        (("HBM0",), ("HBM1",), ("HBM0",), ()),
        (("HBM0",), ("HBM1",), ("HBM0", "HBM1"), ()),
    ]


@offload(kernel="banked")
def banked(a: In("float32", bank="HBM1"), out: Out("float32")) -> None:  # type: ignore[valid-type]
    out[:] = a


def test_an_argument_is_wired_to_the_bank_that_its_kernel_names() -> None:
    def wired(**wiring: Any) -> Any:
        given = {name.replace("__", "."): to for name, to in wiring.items()}
        made = Xclbin([banked], units=2, banks=["HBM0", "HBM1"], wiring=given)
        return [unit.banks for unit in made.bitstream.kernels[0].units]

    assert wired() == [(("HBM1",), ("HBM0",))] * 2
    assert wired(banked_2__a=["HBM0", "HBM1"]) == [(("HBM1",), ("HBM0",)), (("HBM0", "HBM1"), ("HBM0",))]
    with pytest.raises(
        of.OptionError, match=r"banked_2\.a is wired to HBM0, and its kernel says bank='HBM1'"
    ):
        wired(banked_2__a="HBM0")
    with pytest.raises(of.OptionError, match=r"banked_1\.a is to be in bank 'HBM1'; there is DDR0"):
        Xclbin([banked])


@pytest.mark.parametrize(("units", "most"), [(9, 30), (10, 29)])
def test_how_long_the_name_of_a_kernel_may_be(tmp_path: Path, units: int, most: int) -> None:
    def kernel(length: int) -> Any:
        return offload(kernel="k" * length)(lambda: None)

    Xclbin([kernel(most)], units=units).write(tmp_path / "long.xclbin")
    told = f"kernel name 'k+' has {most + 1} characters; with {units} units it may have {most}"
    with pytest.raises(of.OptionError, match=told):
        Xclbin([kernel(most + 1)], units=units)


def test_another_body_is_another_bitstream() -> None:
    def kernel(body: Any) -> Any:
        @offload(kernel="k")
        def k(x: In, out: Out) -> None:
            out[:] = body(x)

        return k

    one, other = (Xclbin([kernel(body)]).bitstream.uuid for body in (abs, float))
    assert one != other and len(one) == 16


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kernels": [print]}, "is no hardware kernel"),
        ({"kernels": []}, "must be different ones, at least one"),
        ({"kernels": [add, add]}, "must be different ones"),
        ({"units": 0}, "must be numbers from 1 to 64"),
        ({"units": {"vmul": 2}}, "names 'vmul'; the kernels are vadd"),
        ({"units": "2"}, "units='2' must be a number"),
        ({"clock": -1}, "clock=-1 must be a whole number of MHz"),
        ({"banks": "HBM0"}, "banks='HBM0' must be a list of names"),
        ({"banks": []}, "there must be a memory bank"),
        ({"banks": {"HBM0": "12 parsecs"}}, "bank HBM0 of '12 parsecs' bytes"),
        ({"banks": {"HBM0": 1000}}, "bank HBM0 of 1000 bytes"),
        ({"banks": {"A": 1 << 63, "B": 1 << 63, "C": 4096}}, "are 18,446,744,073,709,555,712 bytes together"),
        ({"wiring": {"vadd.a": "HBM9"}}, "names bank 'HBM9'; there is DDR0"),
        ({"wiring": {"vadd.out": []}}, "wiring of vadd.out names no bank; there is DDR0"),
        ({"wiring": {"vadd.n": "DDR0"}}, "wiring names 'vadd.n', which is no pointer"),
        ({"wiring": {"vadd_7.a": "DDR0"}}, "wiring names 'vadd_7.a'"),
        ({"kernels": [judge], "faults": {"judge_1": Fault("flip")}}, "no array comes out of judge_1"),
        ({"timing": 0}, "timing=0 must be a TimingModel"),
        ({"kernels": add}, r"must be a list of kernels, as in Xclbin\(\[vadd\]\)"),
        ({"kernels": 3}, "kernels=3 must be a list of kernels"),
        ({"units": True}, "units=True must be numbers from 1 to 64"),
        ({"units": {"vadd": True}}, "units={'vadd': True} must be numbers from 1 to 64"),
        ({"clock": True}, "clock=True must be a whole number of MHz"),
        ({"platform": 3}, "platform=3 must be a name"),
        ({"banks": 3}, "banks=3 must be a list of names"),
        ({"banks": [3]}, r"banks=\[3\] must be a list of names"),
        ({"banks": ["A", "A"]}, r"banks=\['A', 'A'\] must be different names"),
        ({"wiring": 3}, "wiring=3 must be a mapping of names"),
        ({"wiring": {"vadd.a": 3}}, "wiring of vadd.a is 3, and must be a bank's name, or a list"),
        ({"wiring": {"vadd.a": [3]}}, r"wiring of vadd.a is \[3\], and must be a bank's name"),
        ({"faults": [1]}, r"faults=\[1\] must be a mapping of names"),
        ({"models": 3}, "models=3 must be a mapping of names"),
        ({"timing": TimingModel(depth={"vmul": 3})}, "timing names 'vmul'; there is vadd"),
        ({"timing": TimingModel(bandwidth={"HBM9": 3})}, "timing names 'HBM9'; there is DDR0"),
    ],
)
def test_what_does_not_fit_together(given: dict[str, Any], told: str) -> None:
    with pytest.raises(of.OptionError, match=told):
        Xclbin(**{"kernels": [add], **given})


def test_what_the_emulated_device_gets() -> None:
    timing, fault = TimingModel(interval=3), Fault("flip")
    found = load(Xclbin([add, scale], faults={"vadd_1": fault}, timing=timing).bitstream.circuit)
    assert found.models.keys() == {"vadd", "scale"}
    assert found.directions == {"vadd": ["In", "In", "Out", None], "scale": ["InOut", None]}
    assert (found.faults, found.timing) == ({"vadd_1": fault}, timing)


def test_a_model_that_returns_its_value_is_told_to_write_it() -> None:
    model = load(Xclbin([add], models={"vadd": lambda a, b, out, n: a + b}).bitstream.circuit).models["vadd"]
    with pytest.raises(TypeError, match="kernel vadd: the function returns a value"):
        model(np.ones(2), np.ones(2), np.ones(2), 2)  # type: ignore[operator]


KERNELS = """
from offload import In, Out, offload

@offload(kernel="vmul")
def multiply(a: In("float32"), out: Out("float32"), n: int):
    out[:n] = a[:n] * _factor()

def _factor():
    return 3

def other(a, out, n):
    out[:n] = 7
"""
WHOLE = """
kernels = ["kernels.py:multiply", "hardware_kernels:add"]
clock = 250
platform = "mine"

[units]
vmul = 2

[banks]
HBM0 = "64K"
HBM1 = 8192

[wiring]
"vmul.a" = ["HBM0", "HBM1"]
"vadd_1.out" = "HBM1"

[faults.vmul_2]
kind = "flip"
after = 10

[timing]
interval = {vmul = 2}
link = 1e9
"""

MODELS = 'kernels = ["kernels.py:multiply"]\n'


@pytest.fixture
def described(tmp_path: Path) -> Callable[[str], Xclbin]:
    """Return what makes a bitstream of a TOML file's text."""
    if sys.version_info < (3, 11):
        pytest.importorskip("tomli", reason="Python 3.10 needs tomli")
    tmp_path.joinpath("kernels.py").write_text(KERNELS)
    tmp_path.joinpath("vmul.v").write_text("module vmul(); endmodule")

    def describe(text: str) -> Xclbin:
        tmp_path.joinpath("mine.toml").write_text(text)
        return Xclbin.from_toml(tmp_path / "mine.toml")

    return describe


def test_a_bitstream_from_a_file(described: Callable[[str], Xclbin]) -> None:
    made = described(WHOLE).bitstream
    assert [[unit.name for unit in kernel.units] for kernel in made.kernels] == [
        ["vmul_1", "vmul_2"],
        ["vadd_1"],
    ]
    assert made.kernels[0].units[1].banks == (("HBM0", "HBM1"), ("HBM0",), ())
    assert made.kernels[1].units[0].banks == (("HBM0",), ("HBM0",), ("HBM1",), ())
    assert [bank.nbytes for bank in made.banks] == [65536, 8192]
    assert (made.platform, made.clocks) == ("mine", (("DATA_CLK", 250),))
    found = load(made.circuit)
    assert found.faults == {"vmul_2": Fault("flip", after=10)}
    assert found.timing == TimingModel(interval={"vmul": 2}, link=1e9)
    out = np.zeros(2)
    found.models["vmul"](np.array([1.0, 2]), out, 2)
    assert out.tolist() == [3, 6]


@pytest.mark.timeout(100)
def test_the_emulated_device_runs_what_a_file_describes(
    described: Callable[[str], Xclbin], tmp_path: Path
) -> None:
    """What the kernel's file has travels with the bitstream: nothing has to import it."""
    pytest.importorskip("pynq")

    @offload(kernel="vmul")
    def stand_in(a: In("float32"), out: Out("float32"), n: int) -> None:  # type: ignore[valid-type]
        raise NotImplementedError

    path = described('kernels = ["kernels.py:multiply"]').write(tmp_path / "vmul.xclbin")
    tmp_path.joinpath("kernels.py").unlink()
    with of.connect(f"emu:{path}"):
        assert stand_in(np.ones(2, "float32"), np.empty(2, "float32"), 2)[0].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("said", "top", "ports"),
    [
        ("'vmul.v'", None, "m_axi_gmem"),
        ("['vmul.v']", None, "m_axi_gmem"),
        ("{sources = 'vmul.v', top = 'vmul', ports = 'm_axi_in'}", "vmul", "m_axi_in"),
        (
            "{sources = ['vmul.v'], ports = {a = 'm_axi_a', out = 'm_axi_b'}}",
            None,
            {"a": "m_axi_a", "out": "m_axi_b"},
        ),
    ],
)
def test_a_file_that_names_verilog(
    described: Callable[[str], Xclbin], said: str, top: str | None, ports: Any
) -> None:
    found = load(described(f'kernels = ["kernels.py:multiply"]\nmodels.vmul = {said}').bitstream.circuit)
    model = found.models["vmul"]
    assert isinstance(model, Rtl)
    assert model.sources == {"vmul.v": "module vmul(); endmodule"}
    assert (model.top, model.ports) == (top, ports)


def test_a_file_that_names_another_function(described: Callable[[str], Xclbin]) -> None:
    made = described('kernels = ["kernels.py:multiply"]\nmodels.vmul = "kernels.py:other"')
    out = np.zeros(1)
    load(made.bitstream.circuit).models["vmul"](np.ones(1), out, 1)  # type: ignore[operator]
    assert out[0] == 7


def test_a_file_whose_kernels_import_what_lies_beside_them(
    described: Callable[[str], Xclbin], tmp_path: Path
) -> None:
    tmp_path.joinpath("two.py").write_text("import lies_beside\n")
    told = r"mine\.toml: kernels names 'two.py:add', and .*two.py imports 'lies_beside', which is not there"
    with pytest.raises(of.OptionError, match=told):
        described('kernels = ["two.py:add"]')


def test_a_file_that_says_little(described: Callable[[str], Xclbin]) -> None:
    made = described('kernels = ["kernels.py:multiply"]\nbanks = ["HBM0"]\nunits = 2').bitstream
    assert len(made.kernels[0].units) == 2 and made.banks[0].nbytes == 1 << 30


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kernels = [", "is not valid TOML"),
        ("units = 2", "kernels is not said"),
        ("kernel = 3", "there is no 'kernel' to be set; there is kernels, units"),
        ('kernels = "vadd"', "kernels must be a list, not 'vadd'"),
        ("kernels = [3]", "kernels: each must be a text, not 3"),
        ("units = true", "units must be a whole number or a table, not True"),
        ("clock = 2.5", "clock must be a whole number, not 2.5"),
        ("banks = [3]", "banks: each must be a text, not 3"),
        ("wiring.a = 3", "wiring.a must be a text or a list, not 3"),
        ("wiring.a = [3]", "wiring.a: each must be a text, not 3"),
        ("faults.vadd_1 = 3", "faults.vadd_1 must be a table, not 3"),
        ("faults.vadd_1.after = 3", "faults.vadd_1: kind is not said"),
        (
            "faults.vadd_1.soon = 3",
            "faults.vadd_1: there is no 'soon' to be set; there is kind, after, seconds",
        ),
        ('faults.vadd_1.kind = "fire"', "faults.vadd_1: Fault: kind='fire' must be"),
        ("models = 3", "models must be a table, not 3"),
        (MODELS + "models.vmul = 3", "models.vmul must be a text or a list or a table, not 3"),
        (MODELS + "models.vmul = [3]", "models.vmul.sources: each must be a text, not 3"),
        (
            MODELS + "models.vmul = {source = 3}",
            "models.vmul: there is no 'source' to be set; there is sources, top",
        ),
        (MODELS + "models.vmul = {sources = 3}", "models.vmul.sources must be a text or a list, not 3"),
        (MODELS + "models.vmul = {top = 'vmul'}", "models.vmul: Rtl: sources=.* must be a list of files"),
        (MODELS + "models.vmul = {sources = 'vmul.v', ports = 3}", "models.vmul: Rtl: ports=3 must be"),
        (MODELS + "models.vmul = ''", "models.vmul = '' is neither a function"),
        (MODELS + "models.vmul = 'kernels.py'", "models.vmul = 'kernels.py' is neither a function"),
        (MODELS + "models.vmul = 'none.v'", "models.vmul: Rtl: source .*none.v cannot be read"),
        (
            MODELS + "models.vmul = 'kernels.py:add'",
            "models.vmul names 'kernels.py:add', and there is no 'add'",
        ),
        (MODELS + "models.vadd = 'vmul.v'", "models names 'vadd'; the kernels are vmul"),
        ("timing.speed = 3", "timing: there is no 'speed' to be set; there is interval, depth"),
        ("timing.link = 0", "timing: TimingModel: link=0 must be"),
        ('kernels = ["multiply"]', "names 'multiply': it is written 'module:function'"),
        ('kernels = ["other.py:multiply"]', "there is no file .*other.py"),
        ('kernels = ["..kernels:vadd"]', "names '..kernels:vadd': it is written 'module:function'"),
        ('kernels = ["no_such.module:vadd"]', "there is no module 'no_such'"),
        ('kernels = ["kernels.py:add"]', "there is no 'add' in kernels.py"),
        ('kernels = ["kernels.py:_factor"]', "is no hardware kernel"),
        ('kernels = ["kernels.py:multiply"]\nunits.vadd = 3', "names 'vadd'; the kernels are vmul"),
    ],
)
def test_a_file_that_says_what_cannot_be_meant(
    described: Callable[[str], Xclbin], text: str, told: str
) -> None:
    with pytest.raises(of.OptionError, match=rf"mine\.toml.*{told}"):
        described(text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(of.OptionError, match=r"none\.toml cannot be read: .*No such file"):
        Xclbin.from_toml(tmp_path / "none.toml")


@pytest.mark.timeout(100)
def test_a_kernel_may_be_a_model() -> None:
    """Its function is meant."""

    @offload(kernel="other")
    def other(a: In, b: In, out: Out, n: int) -> None:
        out[:n] = a[:n] * b[:n]

    (kernel,) = Xclbin([add]).bitstream.kernels
    models = load(Xclbin([add], models={kernel.name: other}).bitstream.circuit).models
    out = np.zeros(2, "float32")
    models[kernel.name](np.full(2, 3.0), np.full(2, 5.0), out, 2)  # type: ignore[operator]
    assert out.tolist() == [15, 15]


def test_the_emulated_device_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("pynq")
    path = Xclbin([fill], units=2).write(tmp_path / "fill.xclbin")
    out = np.zeros(3, "complex64")
    with of.connect(address(f"emu:{path}")):
        fill(out, -(1 << 40), 200, 0.5, True, 1e10, -3)
        assert out.tolist() == [np.complex64(-(1 << 40) + 200 + 0.5 + 1 + 1e10 - 3)] * 3
        with pytest.raises(ValueError, match=r"argument c: 65520\.0 is larger than the largest half"):
            fill.launch(out, 0, 0, 65520.0, True, 0.0, 0)
