"""The emulated FPGA by itself: memory banks, and units that do what their registers say."""

from __future__ import annotations

import struct
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bitstreams import VADD, arguments

from device_runtime.errors import DeviceMemoryError
from device_runtime.fpga.bitstream import Bank, KernelSpec, Unit
from device_runtime.fpga.circuit import Fault
from device_runtime.fpga.emulation import (
    DONE,
    IDLE,
    START,
    Allocation,
    EmulatedBank,
    EmulatedUnit,
    EmulationError,
    pointed,
)
from device_runtime.fpga.scalars import pack_argument

FLOATS = np.dtype("float32")


def banks() -> dict[str, EmulatedBank]:
    return {name: EmulatedBank(Bank(name, "HBM", base, 65536)) for name, base in (("A", 0), ("B", 65536))}


def adder(memory: dict[str, EmulatedBank], **options: Any) -> EmulatedUnit:
    def model(a: Any, b: Any, out: Any, n: int) -> None:
        out[:n] = a[:n] + b[:n]

    unit = Unit("vadd_1", 0, (("A",), ("A",), ("B", "A"), ()))
    return EmulatedUnit(KernelSpec("vadd", "ap_ctrl_hs", VADD, (unit,)), unit, memory, model, **options)


def start(unit: EmulatedUnit, *arrays: Allocation, n: int = 4) -> int:
    """Start an adder, and return its status."""
    for argument, array in zip(VADD, arrays, strict=False):
        unit.write(argument.offset, struct.pack("<Q", array.address))
    unit.write(VADD[3].offset, struct.pack("<i", n))
    unit.write(0, struct.pack("<I", START))
    return int.from_bytes(unit.read(0, 4), "little")


def three(memory: dict[str, EmulatedBank]) -> list[Allocation]:
    made = [memory[name].allocate((4,), FLOATS) for name in "AAB"]
    for allocation, value in zip(made, (1, 2, 9), strict=True):
        allocation.array[:] = value
    return made


def test_a_unit_reads_and_writes_the_devices_memory() -> None:
    memory = banks()
    unit, made = adder(memory), three(memory)
    assert unit.read(0, 4) == struct.pack("<I", IDLE)
    assert start(unit, *made) == DONE | IDLE | 8
    assert made[2].array.tolist() == [3] * 4
    assert unit.read(0, 4) == struct.pack("<I", IDLE), "that it is done is told once"


def test_an_offset_into_a_buffer() -> None:
    memory = banks()
    unit, made = adder(memory), three(memory)
    start(unit, *made[:2], replace(made[2], address=made[2].address + 8), n=2)
    assert made[2].array.tolist() == [9, 9, 3, 3]


@pytest.mark.parametrize("bank", ["B", None])
def test_a_pointer_that_leads_elsewhere(bank: str | None) -> None:
    memory = banks()
    unit, made = adder(memory), three(memory)
    wrong = replace(made[0], address=50_000) if bank is None else memory[bank].allocate((4,), FLOATS)
    where = "in no buffer" if bank is None else "in bank B"
    with pytest.raises(EmulationError, match=f"argument a points to .*, {where}; its port is wired to A"):
        start(unit, wrong, *made[1:])
    assert start(unit, *made) & DONE, "and it goes on"


def test_a_start_while_it_is_busy() -> None:
    memory = banks()
    unit, made = adder(memory, fault=Fault("hang")), three(memory)
    assert start(unit, *made) == 0
    with pytest.raises(EmulationError, match="vadd_1 is started while it is busy"):
        unit.write(0, struct.pack("<I", START))


def test_registers_that_are_not_there() -> None:
    unit = adder(banks())
    with pytest.raises(EmulationError, match="registers up to 0x38, and 4 bytes are written to 0x38"):
        unit.write(0x38, bytes(4))
    with pytest.raises(EmulationError, match="3 bytes are written to 0x10"):
        unit.write(0x10, bytes(3))


def test_a_unit_without_a_model() -> None:
    unit = adder(banks())
    unit.model = None
    with pytest.raises(EmulationError, match="vadd_1 has no model: what kernel vadd does"):
        start(unit)


def test_a_bank_gives_the_first_place_that_is_large_enough() -> None:
    bank = EmulatedBank(Bank("A", "HBM", 4096, 65536))
    made = [bank.allocate((size,), np.dtype("u1")) for size in (1, 5000, 4096)]
    assert [one.address for one in made] == [4096, 8192, 16384]
    bank.free(made[1].address)
    assert bank.allocate((8192,), np.dtype("u1")).address == 8192
    with pytest.raises(DeviceMemoryError, match="bank A has no room for 49,153 bytes: 49,152 of its 65,536"):
        bank.allocate((49_153,), np.dtype("u1"))
    assert bank.allocate((49_152,), np.dtype("u1")).address == 20480


def test_what_lies_where() -> None:
    bank = EmulatedBank(Bank("A", "HBM", 4096, 65536))
    made = bank.allocate((100,), np.dtype("u1"))
    assert bank.find(4195) == (made, 99)
    assert bank.find(4196) is None and bank.find(4095) is None


def test_an_empty_buffer_has_an_address() -> None:
    bank = EmulatedBank(Bank("A", "HBM", 0, 65536))
    made = [bank.allocate(shape, FLOATS) for shape in ((0,), (3, 0))]
    assert [(one.address, one.array.shape) for one in made] == [(0, (0,)), (4096, (3, 0))]


def test_threads_share_a_bank() -> None:
    bank = EmulatedBank(Bank("A", "HBM", 0, 1 << 24))
    wrong = []

    def use(value: int) -> None:
        for _ in range(300):
            made = bank.allocate((5000,), np.dtype("u1"))
            made.array[:] = value
            if bank.find(made.address + 7) != (made, 7) or (made.array != value).any():
                wrong.append(made)
            bank.free(made.address)

    threads = [threading.Thread(target=use, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert bank.allocate((1,), np.dtype("u1")).address == 0


@pytest.mark.parametrize(
    ("ctype", "dtype"),
    [
        ("float*", "f4"),
        ("const double *", "f8"),
        ("unsigned char*", "u1"),
        ("ap_uint<16>*", "u2"),
        ("long*", "i8"),
        ("std::complex<float>*", "c8"),
        ("half*", "f2"),
        ("void*", "u1"),
        ("my_struct*", "u1"),
        ("ap_uint<512>*", "u1"),
    ],
)
def test_what_a_pointer_leads_to(ctype: str, dtype: str) -> None:
    assert pointed(ctype) == np.dtype(dtype)


def test_scalars_of_every_kind_arrive() -> None:
    found: list[Any] = []
    spec = arguments(a="int", b="unsigned char", c="double", d="half", e="bool", f="size_t", g="ap_int<12>")
    unit = Unit("k_1", 0, ((),) * len(spec))

    emulated = EmulatedUnit(
        KernelSpec("k", "ap_ctrl_hs", spec, (unit,)), unit, {}, lambda *values: found.extend(values)
    )
    given = (-5, 255, -1.5, 0.5, True, (1 << 64) - 1, -2048)
    for argument, value in zip(spec, given, strict=True):
        emulated.write(argument.offset, pack_argument("k", argument, value))
    emulated.write(0, struct.pack("<I", START))
    assert tuple(found) == given
