"""`offload.testing.Xclbin`: bitstreams of decorated kernels, for the emulated FPGA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstreams import address
from hardware_kernels import add, scale

import offload as of
from device_runtime.fpga.xclbin import read
from offload import In, Out, offload
from offload.testing import Xclbin


@offload(kernel="fill")
def fill(out: Out("complex64"), a: np.int64, b: np.uint8, c: np.float16, d: bool, e: float, f: int):  # type: ignore[valid-type, no-untyped-def]
    out[:] = a + b + c + d + e + f


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
        ({"wiring": {"vadd.a": "HBM9"}}, "names bank 'HBM9'; there is DDR0"),
        ({"wiring": {"vadd.n": "DDR0"}}, "wiring names 'vadd.n', which is no pointer"),
        ({"wiring": {"vadd_7.a": "DDR0"}}, "wiring names 'vadd_7.a'"),
    ],
)
def test_what_does_not_fit_together(given: dict[str, Any], told: str) -> None:
    with pytest.raises(of.OptionError, match=told):
        Xclbin(**{"kernels": [add], **given})


@pytest.mark.timeout(100)
def test_the_emulated_device_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("pynq")
    path = Xclbin([fill], units=2).write(tmp_path / "fill.xclbin")
    out = np.zeros(3, "complex64")
    with of.connect(address(f"emu:{path}")):
        fill(out, -(1 << 40), 200, 0.5, True, 1e10, -3)
    assert out.tolist() == [np.complex64(-(1 << 40) + 200 + 0.5 + 1 + 1e10 - 3)] * 3
