"""Scalar arguments lie in registers as C has them in memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import ArgsNotSerializable
from device_runtime.fpga.bitstream import Argument
from device_runtime.fpga.interface import dtype_error
from device_runtime.fpga.scalars import pack_argument, scalar

steady = settings(derandomize=True, deadline=None, database=None, max_examples=40)

C = {
    "char": ctypes.c_int8,
    "signed char": ctypes.c_int8,
    "unsigned char": ctypes.c_uint8,
    "short": ctypes.c_int16,
    "unsigned short int": ctypes.c_uint16,
    "int": ctypes.c_int32,
    "signed": ctypes.c_int32,
    "unsigned": ctypes.c_uint32,
    "const unsigned int": ctypes.c_uint32,
    "long": ctypes.c_int64,
    "signed long int": ctypes.c_int64,
    "unsigned long": ctypes.c_uint64,
    "long long": ctypes.c_int64,
    "unsigned long long int": ctypes.c_uint64,
    "size_t": ctypes.c_uint64,
    "std::size_t": ctypes.c_uint64,
    "int8_t": ctypes.c_int8,
    "uint16_t": ctypes.c_uint16,
    "std::uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "ap_int<8>": ctypes.c_int8,
    "ap_uint<64>": ctypes.c_uint64,
}


def bounds(ctype: str) -> tuple[int, int]:
    """Return the least and the largest number of a type."""
    bits = 8 * ctypes.sizeof(C[ctype])
    signed = C[ctype](-1).value < 0
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def packed(ctype: str, value: Any) -> bytes:
    kind = scalar(ctype)
    assert kind is not None
    return kind.pack(value)


@pytest.mark.parametrize("ctype", C)
@steady
@given(data=st.data())
def test_a_whole_number_lies_as_in_c(ctype: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(*bounds(ctype)))
    bits = bytes(C[ctype](number))

    found = packed(ctype, number)

    assert found[: len(bits)] == bits and len(found) == max(4, len(bits))
    assert packed(ctype, np.array(number, np.dtype(C[ctype]))[()]) == found


@pytest.mark.parametrize("ctype", C)
def test_a_number_that_a_type_cannot_hold_is_refused(ctype: str) -> None:
    least, most = bounds(ctype)
    for number in (least - 1, most + 1):
        with pytest.raises(OverflowError, match=f"{number} is not between {least} and {most}"):
            packed(ctype, number)


@pytest.mark.parametrize("dtype", [object, "U2", [("x", "i4")], ">f4"])
def test_what_is_no_number_does_not_go_to_a_pointer_of_any_type(dtype: Any) -> None:
    assert dtype_error("void*", np.dtype("f4")) is None
    assert f"has dtype {np.dtype(dtype)}, and" in str(dtype_error("void*", np.dtype(dtype)))


@pytest.mark.parametrize("ctype", ["unsigned char*", "const uint8_t*", "ap_uint<8>*"])
def test_bytes_are_bytes(ctype: str) -> None:
    assert dtype_error(ctype, np.dtype("u1")) is None
    for dtype in ("i1", "?", "f4", "f8", "c8"):
        assert f"the circuit takes {ctype!r}, uint8" in str(dtype_error(ctype, np.dtype(dtype)))


@pytest.mark.parametrize("ctype", ["void*", "ap_uint<512>*", "ap_int<12>*", "my_struct*", "ap_fixed<16, 8>*"])
def test_an_array_of_any_dtype_goes_to_a_pointer_of_a_type_that_is_not_known(ctype: str) -> None:
    for dtype in ("u1", "f4", "c16"):
        assert dtype_error(ctype, np.dtype(dtype)) is None


@steady
@given(st.floats(width=32))
def test_a_float_lies_as_in_c(number: float) -> None:
    assert packed("float", number) == bytes(ctypes.c_float(number))


@steady
@given(st.floats())
def test_a_double_lies_as_in_c(number: float) -> None:
    assert packed("double", number) == bytes(ctypes.c_double(number))
    assert packed("double", np.float64(number)) == bytes(ctypes.c_double(number))


@steady
@given(st.floats(width=16))
def test_a_half_lies_as_in_numpy(number: float) -> None:
    assert packed("half", number) == np.float16(number).tobytes() + bytes(2)
    assert packed("half", np.float16(number)) == packed("half", number)


def test_a_float_is_rounded_and_may_be_a_whole_number() -> None:
    assert packed("float", 0.1) == bytes(ctypes.c_float(0.1))
    assert packed("float", 3) == bytes(ctypes.c_float(3.0))


def test_a_truth_value_is_a_bit() -> None:
    assert [packed("bool", value) for value in (True, False, np.True_, 0)] == [
        b"\1\0\0\0",
        bytes(4),
        b"\1\0\0\0",
        bytes(4),
    ]
    assert packed("int", True) == packed("int", np.True_) == b"\1\0\0\0"


def test_narrow_types_of_any_width_are_sign_extended() -> None:
    assert packed("ap_int<5>", -3) == b"\xfd\xff\xff\xff"
    assert packed("ap_uint<33>", 1 << 32) == b"\0\0\0\0\1\0\0\0"
    with pytest.raises(OverflowError, match="16 is not between -16 and 15"):
        packed("ap_int<5>", 16)


@pytest.mark.parametrize(
    "ctype", ["", "float*", "int *", "struct point", "ap_uint<512>", "ap_uint<0>", "long double"]
)
def test_what_is_no_scalar_has_no_registers_of_its_own(ctype: str) -> None:
    assert scalar(ctype) is None


@pytest.mark.parametrize(
    ("ctype", "nbytes", "value", "told"),
    [
        ("int", 4, 2.5, "of type int: 2.5 is no whole number"),
        ("int", 4, "3", "'3' is no whole number"),
        ("int", 4, None, "None is no whole number"),
        ("int", 4, 1 << 31, "2147483648 is not between -2147483648 and 2147483647"),
        ("bool", 1, 2, "2 is not between 0 and 1"),
        ("float", 4, "2.5", "'2.5' is no real number"),
        ("float", 4, 1j, "1j is no real number"),
        ("float", 4, [1.0], r"\[1.0\] is no real number"),
        ("float", 4, 1e39, "1e\\+39 is larger than the largest float"),
        ("half", 2, 1e5, "100000.0 is larger than the largest half"),
        ("double", 4, 1.0, "of type double, 64 bits, and has registers for 32"),
        ("int", 8, 1, "of type int, 32 bits, and has registers for 64"),
        ("float*", 8, 1, r"of type 'float\*', which cannot be passed by value"),
    ],
)
def test_a_value_that_cannot_be_passed_is_refused_in_words(
    ctype: str, nbytes: int, value: Any, told: str
) -> None:
    argument = Argument("n", "scalar", ctype, 0x10, nbytes, "S_AXI_CONTROL")

    with pytest.raises(
        ArgsNotSerializable, match=f"^kernel vadd: argument {'' if 'n is' in told else 'n is .*'}"
    ):
        pack_argument("vadd", argument, value)
    with pytest.raises(ArgsNotSerializable, match=told):
        pack_argument("vadd", argument, value)


def test_an_argument_is_packed_by_its_type() -> None:
    assert pack_argument("vadd", Argument("n", "scalar", "unsigned char", 0x10, 1, ""), 7) == b"\7\0\0\0"
    assert pack_argument("vadd", Argument("n", "scalar", "long", 0x10, 8, ""), -1) == b"\xff" * 8
