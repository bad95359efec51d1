"""What a hardware kernel's arguments are, as the decorated function says it."""

# Without `from __future__ import annotations`: NamedTuple would compile each of them, half of the import.

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from device_runtime.fpga.bitstream import KernelSpec

IN, OUT, INOUT = "In", "Out", "InOut"


class Parameter(NamedTuple):
    """An argument: an array that goes in, out, or both, or a scalar.

    `dtype` is NumPy's name of it, None where any fits the bitstream's type;
    `shape` is None where it is not fixed, `bank` where it is the one it is wired to.
    """

    name: str
    direction: str | None  # None for a scalar
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    bank: str | None = None


class Interface(NamedTuple):
    """A hardware kernel: its name in the bitstream, the bitstream's file if it names one, its arguments."""

    kernel: str
    parameters: tuple[Parameter, ...]
    xclbin: str | None = None

    def mismatches(self, spec: KernelSpec, directions: Sequence[str | None] = ()) -> list[str]:
        """Return in what it differs from the kernel of a bitstream, each in words.

        `directions` are those of the circuit's arguments, where they are known:
        only an emulated one says so. InOut will do for In and Out.
        """
        from device_runtime.fpga.emulation import pointed
        from device_runtime.fpga.scalars import scalar

        wrong = []
        ours, theirs = [p.name for p in self.parameters], [a.name for a in spec.arguments]
        if ours != theirs:
            if sorted(ours) == sorted(theirs):
                return [f"its arguments are in another order: {', '.join(theirs)}, not {', '.join(ours)}"]
            for name in theirs:
                if name not in ours:
                    wrong.append(f"it has an argument {name!r}, which the function has not")
            for name in ours:
                if name not in theirs:
                    wrong.append(f"it has no argument {name!r}")
            return wrong
        for parameter, argument in zip(self.parameters, spec.arguments, strict=True):
            what = f"{argument.name} is of type {argument.ctype!r}"
            scalar_here = argument.kind == "scalar" or (
                argument.kind == "word" and parameter.direction is None
            )
            if argument.kind != "word" and (parameter.direction is not None) != (argument.kind != "scalar"):
                kind = "a scalar" if argument.kind == "scalar" else f"a {argument.kind}"
                told = f"an array ({parameter.direction})" if parameter.direction else "a scalar"
                wrong.append(f"{what}, {kind}, and the function takes {told}")
            elif scalar_here:
                kind_of = scalar(argument.ctype)
                if kind_of is None:
                    wrong.append(f"{what}, which cannot be passed by value")
                elif not _holds(parameter.dtype or "int", kind_of):
                    wrong.append(f"{what}, and the function takes {parameter.dtype}")
            elif parameter.dtype is not None:
                import numpy as np

                wanted = np.dtype(parameter.dtype)
                if dtype_error(argument.ctype, wanted):
                    found = pointed(argument.ctype).name
                    wrong.append(f"{what}, {found} in NumPy, and the function takes {wanted.name}")
            for unit in spec.units if parameter.bank is not None else ():
                wired = unit.banks[spec.arguments.index(argument)]
                if parameter.bank not in wired:
                    wrong.append(
                        f"{argument.name} is to be in bank {parameter.bank}, and unit {unit.name} "
                        f"is wired to {', '.join(wired) or 'none'}"
                    )
        for parameter, there in zip(self.parameters, directions):
            if there is not None and parameter.direction not in (None, INOUT, there):
                told = f"is {there} in the circuit, and {parameter.direction} in the function"
                wrong.append(f"{parameter.name} {told}")
        return wrong

    def settle(self, spec: KernelSpec) -> KernelSpec:
        """Return the kernel with what its bitstream leaves open as the function says it, which fits it."""
        from device_runtime.fpga.scalars import scalar

        arguments = []
        for parameter, argument in zip(self.parameters, spec.arguments, strict=True):
            if argument.kind == "word":
                argument = argument._replace(kind="scalar" if parameter.direction is None else "pointer")
            found = scalar(argument.ctype) if (parameter.dtype or "").startswith("float") else None
            if argument.kind == "scalar" and found is not None and found.kind == "bits":
                argument = argument._replace(ctype=found.as_float().ctype)
            arguments.append(argument)
        return spec._replace(arguments=tuple(arguments))


def _holds(dtype: str, scalar: Any) -> bool:
    """Tell whether a scalar of the circuit is what the function takes; Python's numbers are of any width."""
    if scalar.kind == "bits" and dtype in ("int", "float", "bool"):
        return dtype != "float" or scalar.bits in (16, 32, 64)
    if dtype in ("int", "float", "bool"):
        return dtype == scalar.kind or (dtype, scalar.kind) in (("bool", "int"), ("int", "bool"))
    import numpy as np

    wanted = np.dtype(dtype)
    if scalar.kind == "bits":
        return bool(wanted.itemsize * 8 == scalar.bits)
    if wanted.kind == "f" or scalar.kind == "float":
        return wanted.kind == "f" and scalar.kind == "float" and wanted.itemsize * 8 == scalar.bits
    return bool(wanted.itemsize * 8 == scalar.bits and (wanted.kind == "i") == scalar.signed)


@lru_cache(256)  # it is asked for each array of each launch
def dtype_error(ctype: str, dtype: Any) -> str | None:
    """Return why an array of a dtype cannot be what a pointer of the circuit leads to; None if it can."""
    import numpy as np

    from device_runtime.fpga.emulation import pointed
    from device_runtime.fpga.scalars import scalar

    found, kind = pointed(ctype), scalar(ctype.replace("*", " "))
    # Complex numbers are pairs in many kernels; bytes are also what a type stands for that is not known.
    parts = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
    unknown = found == np.dtype("u1") and (kind is None or (kind.kind, kind.bits) != ("int", 8))
    if dtype.kind in "biufc" and dtype.isnative and (parts == found or dtype == found or unknown):
        return None
    return f"has dtype {dtype}, and the circuit takes {ctype!r}, {found.name}"


def parameter_error(parameter: Parameter, value: Any) -> str | None:
    """Return what is wrong with an array given for a parameter, in words; None if nothing is."""
    if parameter.dtype is not None and value.dtype != parameter.dtype:
        import numpy as np

        return f"has dtype {value.dtype}, and the kernel takes {np.dtype(parameter.dtype)}"
    if parameter.shape is not None and value.shape != parameter.shape:
        return f"has shape {value.shape}, and the kernel takes {parameter.shape}"
    return None
