"""What a bitstream says of itself: kernels and their arguments, compute units, memory banks, clocks."""

# Without `from __future__ import annotations`: NamedTuple would compile each of them, half of the import.

from typing import NamedTuple

DATA_CLOCK = "DATA_CLK"  # the clock that kernels run by


class Bank(NamedTuple):
    """A memory of the board. Pointers into it are its own addresses, from `base` on."""

    name: str
    kind: str  # "DDR4", "HBM", ...
    base: int
    nbytes: int
    used: bool = True  # a unit is wired to it


class Argument(NamedTuple):
    """An argument of a kernel, as its unit's registers have it.

    `kind` is "scalar", "pointer" (to memory of a bank) or "stream". `ctype` is
    the type in the kernel's source: "int", "float*". `offset` is that of its
    first register, and `nbytes` how much they hold.
    """

    name: str
    kind: str
    ctype: str
    offset: int
    nbytes: int
    port: str  # of the unit, by which a pointer or a stream comes in


class Unit(NamedTuple):
    """A compute unit: a copy of a kernel's circuit.

    `banks` names for each argument those that its port is wired to; none for a
    scalar, and more than one where the board picks one of a group.
    """

    name: str
    address: int  # of its registers
    banks: tuple[tuple[str, ...], ...]


class KernelSpec(NamedTuple):
    """A kernel as the bitstream has it, and its units in the order of their addresses."""

    name: str
    protocol: str  # "ap_ctrl_hs", "ap_ctrl_chain", "ap_ctrl_none", "user_managed"
    arguments: tuple[Argument, ...]
    units: tuple[Unit, ...]
    span: int = 0x10000  # bytes that a unit's registers take

    def symmetric(self) -> list[tuple[Unit, ...]]:
        """Return the sets of units that are wired to the same banks: only those can stand for each other."""
        sets: dict[tuple[tuple[str, ...], ...], list[Unit]] = {}
        for unit in self.units:
            sets.setdefault(unit.banks, []).append(unit)
        return [tuple(found) for found in sets.values()]


class Bitstream(NamedTuple):
    """All of it. `uuid` tells whether a device has this very bitstream loaded.

    `circuit` is what the emulated device loads in the place of a circuit.
    """

    uuid: bytes  # 16
    platform: str  # the board's shell that it was made for
    banks: tuple[Bank, ...]
    kernels: tuple[KernelSpec, ...]
    clocks: tuple[tuple[str, int], ...] = ()  # names, and MHz
    circuit: bytes = b""
