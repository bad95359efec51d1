"""The emulated FPGA by itself: memory banks, and units that do what their registers say."""

from __future__ import annotations

import struct
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bitstreams import VADD, arguments

from device_runtime.errors import DeviceMemoryError, EmulationError
from device_runtime.fpga.bitstream import Bank, Bitstream, KernelSpec, Unit
from device_runtime.fpga.circuit import Fault
from device_runtime.fpga.emulation import (
    DONE,
    IDLE,
    START,
    Allocation,
    EmulatedBank,
    EmulatedUnit,
    pointed,
)
from device_runtime.fpga.scalars import pack_argument
from device_runtime.fpga.timing import Predictor, TimingModel

FLOATS = np.dtype("float32")
WAYS = ("In", "In", "Out", None)


BANK_A, BANK_B = Bank("A", "HBM", 0, 65536), Bank("B", "HBM", 65536, 65536)


def banks() -> dict[str, EmulatedBank]:
    return {bank.name: EmulatedBank(bank) for bank in (BANK_A, BANK_B)}


def adder(memory: dict[str, EmulatedBank], **options: Any) -> EmulatedUnit:
    def model(a: Any, b: Any, out: Any, n: int) -> None:
        out[:n] = a[:n] + b[:n]

    options.setdefault("model", model)
    unit = Unit("vadd_1", 0, (("A",), ("A",), ("B", "A"), ()))
    return EmulatedUnit(KernelSpec("vadd", "ap_ctrl_hs", VADD, (unit,)), unit, memory, **options)


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
    made[0].written = made[1].written = True
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


@pytest.mark.parametrize("place", ["another bank", "nowhere", "past its end", "freed"])
def test_a_pointer_that_leads_elsewhere(place: str) -> None:
    memory = banks()
    unit, made = adder(memory), three(memory)
    wrong = memory["B" if place == "another bank" else "A"].allocate((4,), FLOATS)
    if place == "nowhere":
        wrong = replace(wrong, address=50_000)
    if place == "past its end":
        wrong = replace(wrong, address=wrong.address + 16)
    if place == "freed":
        memory["A"].free(wrong.address)
    where = "in bank B" if place == "another bank" else "in no buffer"
    with pytest.raises(EmulationError, match=f"argument a points to .*, {where}; its port is wired to A"):
        start(unit, wrong, *made[1:])
    assert start(unit, *made) & DONE, "and it goes on"


def test_a_start_while_it_is_busy() -> None:
    memory = banks()
    unit, made = adder(memory, fault=Fault("hang")), three(memory)
    assert start(unit, *made) == 0
    with pytest.raises(EmulationError, match="vadd_1 is started while it is busy"):
        unit.write(0, struct.pack("<I", START))


def test_memory_that_was_never_written() -> None:
    memory = banks()
    made = [memory[name].allocate((4,), FLOATS) for name in "AAB"]
    unit = adder(memory, directions=WAYS)
    assert np.isnan(made[0].array).all(), "and it does not look like anything"
    told = r"argument a \(In\) points to a buffer of bank A that was never written"
    with pytest.raises(EmulationError, match=told):
        start(unit, *made)
    assert not made[2].written, "the model did not run"
    made[0].written = made[1].written = True
    start(unit, *made)
    assert made[2].written
    with pytest.raises(EmulationError, match=r"argument a \(InOut\) points to a buffer"):
        start(adder(memory, directions=("InOut", *WAYS[1:])), memory["A"].allocate((4,), FLOATS), *made[1:])


def test_where_directions_are_not_known() -> None:
    """Any of the arrays may be what comes out, and so none needs to be written before."""
    memory = banks()
    made = [memory[name].allocate((4,), FLOATS) for name in "AAB"]
    start(adder(memory), *made)
    assert all(one.written for one in made)


def test_a_model_that_changes_what_goes_in() -> None:
    def model(a: Any, b: Any, out: Any, n: int) -> None:
        a[0] = 7

    memory = banks()
    made = three(memory)
    with pytest.raises(ValueError, match="read-only"):
        start(adder(memory, model=model, directions=WAYS), *made)
    assert made[0].array.tolist() == [1] * 4
    start(adder(memory, model=model, directions=("InOut", *WAYS[1:])), *made)
    assert made[0].array.tolist() == [7, 1, 1, 1]


def test_a_count_that_is_too_large() -> None:
    memory = banks()
    unit, made = adder(memory), three(memory)
    told = "unit vadd_1: argument a has 4 elements, and a slice of it reaches to 5: a circuit would go on"
    with pytest.raises(EmulationError, match=told):
        start(unit, *made, n=5)
    with pytest.raises(EmulationError, match="argument out has 2 elements, and a slice of it reaches to 3"):
        start(unit, *made[:2], replace(made[2], address=made[2].address + 8), n=3)
    assert made[2].array.tolist() == [9] * 4


def test_a_bit_flips_in_what_comes_out() -> None:
    memory = banks()
    made = three(memory)
    made[2].written = True
    ways = ("Out", "In", "In", None)
    start(adder(memory, fault=Fault("flip"), directions=ways, model=lambda *_: None), *made)
    assert made[0].array[0] != 1 and made[2].array.tolist() == [9] * 4


def test_a_bus_that_fails() -> None:
    memory = banks()
    unit, made = adder(memory, fault=Fault("error", after=1)), three(memory)
    assert start(unit, *made) & DONE
    made[2].array[:] = 9
    assert start(unit, *made) == 0xFFFFFFFF
    assert made[2].array.tolist() == [9] * 4, "and nothing came out"
    assert start(unit, *made) == 0xFFFFFFFF, "it stays so"


def test_what_runs_would_have_taken() -> None:
    predictor = Predictor(TimingModel(bandwidth=1e6), Bitstream(b"", "", (BANK_A, BANK_B), ()))
    memory = banks()
    made = three(memory)
    for ways, seconds in ((WAYS, 32e-6), (("InOut", *WAYS[1:]), 48e-6)):
        unit = adder(memory, directions=ways, predictor=predictor)
        start(unit, *made)
        start(unit, *made)
        assert unit.predicted == pytest.approx(2 * seconds), "bank A is the one that is used most"


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


def test_a_bank_in_pieces_says_so() -> None:
    bank = banks()["A"]
    made = [bank.allocate((16384,), np.dtype("u1")) for _ in range(4)]
    for one in made[::2]:
        bank.free(one.address)
    with pytest.raises(
        DeviceMemoryError, match=r"32,768 of its 65,536 are free, 16,384 at most in one piece$"
    ):
        bank.allocate((16385,), np.dtype("u1"))
    bank.free(made[1].address)
    with pytest.raises(DeviceMemoryError, match=r"49,152 of its 65,536 are free$"):
        bank.allocate((49153,), np.dtype("u1"))


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
