"""How scalar arguments lie in a unit's registers.

Vitis HLS gives each argument registers of 32 bits, the lowest bits first, as
many as it takes (UG1399, "S_AXILITE Control Register Map"). The sizes of C's
types are those of Vitis, where a `long` has 64 bits.
"""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

from device_runtime.errors import ArgsNotSerializable
from device_runtime.fpga.bitstream import Argument

T = TypeVar("T")

_WORD = 4  # bytes of a register
_INTEGERS = {
    "char": (True, 8),
    "signed char": (True, 8),
    "unsigned char": (False, 8),
    "short": (True, 16),
    "unsigned short": (False, 16),
    "int": (True, 32),
    "unsigned int": (False, 32),
    "long": (True, 64),
    "unsigned long": (False, 64),
    "long long": (True, 64),
    "unsigned long long": (False, 64),
    "size_t": (False, 64),
}
_FLOATS = {"half": "<e", "float": "<f", "double": "<d"}
_BY_BITS = {16: "half", 32: "float", 64: "double"}
_BITS = re.compile(r"bits<(\d+)>")  # as a .hwh file has it, which says no more
_SIZED = re.compile(r"(u?)int(8|16|32|64)_t|ap_(u?)int<(\d+)>")


class Scalar:
    """A type of scalar arguments: `kind` is "bool", "int" or "float", of so many `bits`.

    It is "bits" where only their number is known: whole numbers and floats are taken as they are.
    """

    def __init__(self, ctype: str, kind: str, bits: int, signed: bool = False) -> None:
        self.ctype = ctype
        self.kind = kind
        self.bits = bits
        self.signed = signed
        self.nbytes = -(-bits // (8 * _WORD)) * _WORD  # of the registers that hold one
        self._mask = (1 << 8 * self.nbytes) - 1
        self._least = -(1 << bits - 1) if signed or kind == "bits" else 0
        self._most = (1 << bits - signed) - 1

    def pack(self, value: SupportsIndex | SupportsFloat) -> bytes:
        """Return what is written to the registers; NumPy's scalars are taken, too.

        Raises TypeError for what is no number of this kind, and OverflowError
        for one that the type cannot hold; not for a float that is rounded.
        """
        if self.kind == "bits" and type(value).__name__.startswith("float"):
            return self.as_float().pack(value)
        if self.kind == "float":
            return self._pack_float(value)
        return (self._whole(value) & self._mask).to_bytes(self.nbytes, "little")

    def fits(self, argument: Argument) -> bool:
        """Tell whether the registers of an argument are those that the type takes."""
        return argument.nbytes <= self.nbytes and self.bits <= 8 * argument.nbytes

    def takes(self, number: int) -> bool:
        """Tell whether a whole number is one that the type holds as it is."""
        return self.kind == "int" and self._least <= number <= self._most

    def unpack(self, data: bytes) -> int | float | bool:
        """Return the value that the registers hold."""
        if self.kind == "float":
            found: float = struct.unpack_from(_FLOATS[self.ctype], data)[0]
            return found
        number = int.from_bytes(data, "little") & (1 << self.bits) - 1
        if self.kind == "bool":
            return bool(number)
        return number - (1 << self.bits) if self.signed and number >> self.bits - 1 else number

    def held(self, value: SupportsIndex | SupportsFloat) -> int | float | bool:
        """Return a number as the registers hold it, Python's: a float is rounded.

        Raises what `pack` raises.
        """
        if self.kind == "int":
            return self._whole(value)
        packed = self.pack(value)
        if self.kind == "bits":  # which say nothing of what they are
            return real(value) if type(value).__name__.startswith("float") else whole(value)
        return self.unpack(packed)

    def as_float(self) -> Scalar:
        """Return the float of as many bits; raises TypeError if there is none."""
        if self.bits not in _BY_BITS:
            raise TypeError(f"there is no float of {self.bits} bits")
        return Scalar(_BY_BITS[self.bits], "float", self.bits)

    def _whole(self, value: Any) -> int:
        number = value if type(value) is int else whole(value)
        if not self._least <= number <= self._most:
            long = number.bit_length() > 128  # Python refuses to write down those that are very long
            told = f"a number of {number.bit_length()} bits" if long else number
            raise OverflowError(f"{told} is not between {self._least} and {self._most}")
        return number

    def _pack_float(self, value: Any) -> bytes:
        try:
            return struct.pack(_FLOATS[self.ctype], real(value)).ljust(self.nbytes, b"\0")
        except OverflowError:  # that of an int may be too long to be written down
            told = "it" if isinstance(value, int) else repr(value)
            raise OverflowError(f"{told} is larger than the largest {self.ctype}") from None


def whole(value: Any) -> int:
    """Return a whole number as Python's, also NumPy's, True and False; raises TypeError for what is none."""
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's is no index
        value = bool(value)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{value!r} is no whole number") from None


def real(value: Any) -> float:
    """Return a real number as a float.

    Raises TypeError for what is none, such as a text, and OverflowError for one that is too large.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "f")  # NumPy makes floats of its complex numbers
    try:
        if kind in "biuf" and (hasattr(value, "__float__") or hasattr(value, "__index__")):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{value!r} is no real number")


def held(dtype: str, value: Any) -> Any:
    """Return a number as an argument of this type holds it: what NumPy calls so, or Python's int or float.

    Python's int has no bounds here. Raises TypeError for what is no number of
    that kind, and ValueError for one that the type cannot hold.
    """
    try:
        return whole(value) if dtype == "int" else of_dtype(dtype).held(value)
    except TypeError:
        known = {"f": "a real number", "b": "True or False"}.get(dtype[0], "a whole number")
        raise TypeError(f"must be {known}, not {value!r}") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None


@lru_cache
def of_dtype(dtype: str) -> Scalar:
    """Return the type of scalars that NumPy calls so; Python's `float` is a double."""
    if dtype.startswith("float"):
        return Scalar("", "bits", int(dtype[5:] or 64)).as_float()
    found = scalar(dtype if dtype == "bool" else f"{dtype}_t")
    assert found is not None
    return found


@lru_cache
def scalar(ctype: str) -> Scalar | None:
    """Return the type that a kernel's source names so, None for one that is no scalar."""
    words = [word for word in ctype.split() if word not in ("const", "volatile")]
    name = " ".join(words).removeprefix("std::")
    if name == "bool":
        return Scalar(name, "bool", 1)
    some = _BITS.fullmatch(name)
    if some is not None:
        return Scalar(name, "bits", int(some[1])) if 0 < int(some[1]) <= 64 else None
    if name in _FLOATS:
        return Scalar(name, "float", 8 * struct.calcsize(_FLOATS[name]))
    sized = _SIZED.fullmatch(name)
    if sized is not None:
        bits = int(sized[2] or sized[4])
        signed = not (sized[1] or sized[3])
        return Scalar(name, "int", bits, signed) if 0 < bits <= 64 else None
    # "unsigned", "long int", "unsigned long int", "signed": the same by shorter names
    if words and words[-1] == "int" and len(words) > 1 and words[-2] in ("short", "long"):
        words.pop()
    if words and words[0] == "signed" and words != ["signed", "char"]:
        words = words[1:] or ["int"]
    if words == ["unsigned"]:
        words.append("int")
    found = _INTEGERS.get(" ".join(words).removeprefix("std::"))
    return None if found is None else Scalar(" ".join(words), "int", found[1], found[0])


def pack_argument(kernel: str, argument: Argument, value: Any) -> bytes:
    """Return what is written to the registers of a scalar argument.

    Raises ArgsNotSerializable, naming kernel, argument and type, for a value
    that the type cannot hold, and for a type that is not known or does not fit the registers.
    """
    return _of_argument(kernel, argument, value, Scalar.pack)


def held_argument(kernel: str, argument: Argument, value: Any) -> int | float | bool:
    """Return a number as the registers of a scalar argument hold it; raises what `pack_argument` raises."""
    return _of_argument(kernel, argument, value, Scalar.held)


def _of_argument(kernel: str, argument: Argument, value: Any, ask: Callable[[Scalar, Any], T]) -> T:
    kind = scalar(argument.ctype)
    if kind is None:
        wrong = f"is of type {argument.ctype!r}, which cannot be passed by value"
    elif not kind.fits(argument):
        wrong = f"is of type {kind.ctype}, {kind.bits} bits, and has registers for {8 * argument.nbytes}"
    else:
        try:
            return ask(kind, value)
        except (TypeError, OverflowError) as error:
            wrong = f"is of type {kind.ctype}: {error}"
    raise ArgsNotSerializable(f"kernel {kernel}: argument {argument.name} {wrong}")
