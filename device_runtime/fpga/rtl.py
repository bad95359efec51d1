"""Kernels in Verilog: how a bitstream has them, and whether their signals are those of a kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from device_runtime.errors import BitstreamError, OptionError
from device_runtime.fpga.bitstream import KernelSpec

_REGISTERS = "s_axi_control"  # what Vitis calls the port of a kernel's registers
_CLOCK, _RESET = "ap_clk", "ap_rst_n"
_LITE = {  # AXI4-Lite, seen from the kernel
    "in": ["awaddr", "awvalid", "wdata", "wstrb", "wvalid", "bready", "araddr", "arvalid", "rready"],
    "out": ["awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rvalid"],
}
_WRITES = {"in": ["awready", "wready", "bvalid"], "out": ["awaddr", "awvalid", "wdata", "wvalid", "bready"]}
_READS = {"in": ["arready", "rdata", "rvalid"], "out": ["araddr", "arvalid", "rready"]}
_OTHERS = [  # that a kernel may do without
    *("awid", "awlen", "awsize", "awburst", "wstrb", "wlast", "bid"),
    *("arid", "arlen", "arsize", "arburst", "rid", "rlast"),
]
_WIDTHS = (32, 64, 128, 256, 512)  # bits of a memory port
_SIGNAL = re.compile(r"VL_(IN|OUT)(?:8|16|64|W)?\(&(\w+),(\d+),0[,)]")  # in the header that Verilator writes
_SUFFIXES = (".v", ".sv", ".vh", ".svh")


class Rtl:
    """Verilog that stands for a kernel, which the emulated FPGA runs through Verilator.

    `sources` are its files (.v and .sv, and .vh and .svh, which those include),
    `top` is the module of the kernel, which has the kernel's name if none is
    given. `ports` is the AXI4 port that all pointers come in by, or a mapping of
    arguments to ports. The module is one that Vitis takes: clock `ap_clk`,
    reset `ap_rst_n`, registers at `s_axi_control` that control it by
    `ap_ctrl_hs`, with the arguments where the bitstream says.

    Raises OptionError for files that cannot be read, and names that are none.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        top: str | None = None,
        ports: str | Mapping[str, str] = "m_axi_gmem",
    ) -> None:
        single = isinstance(sources, (str, bytes, os.PathLike)) or not isinstance(sources, Iterable)
        files = [] if single else list(sources)
        if not files or not all(isinstance(path, (str, os.PathLike)) for path in files):
            raise OptionError(f"Rtl: sources={sources!r} must be a list of files, at least one")
        if not isinstance(ports, (str, Mapping)):
            raise OptionError(f"Rtl: ports={ports!r} must be a name, or a mapping of arguments to names")
        self.sources: dict[str, str] = {}
        for path in map(Path, files):
            if path.suffix not in _SUFFIXES or not re.fullmatch(r"\w[\w.-]*", path.name, re.ASCII):
                raise OptionError(
                    f"Rtl: source {path} must have a plain name that ends in .v, .sv, .vh or .svh"
                )
            if path.name in self.sources:
                raise OptionError(f"Rtl: two sources are called {path.name}")
            try:
                self.sources[path.name] = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise OptionError(f"Rtl: source {path} cannot be read: {error}") from None
        if not any(name.endswith((".v", ".sv")) for name in self.sources):
            raise OptionError("Rtl: sources has nothing but headers")
        names = [ports] if isinstance(ports, str) else list(ports.values())
        for name in [top, *names] if top is not None else names:
            if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)):
                raise OptionError(f"Rtl: {name!r} is no name of a module or port")
        self.top = top
        self.ports = ports

    def port(self, argument: str) -> str:
        """Return the port that an argument comes in by. Raises OptionError if none is given."""
        if isinstance(self.ports, str):
            return self.ports
        if argument not in self.ports:
            raise OptionError(f"Rtl: ports={self.ports!r} says nothing of argument {argument}")
        return self.ports[argument]


def memory_ports(kernel: KernelSpec) -> list[str]:
    """Return the ports that pointers of a kernel come in by."""
    return list(dict.fromkeys(one.port.lower() for one in kernel.arguments if one.kind == "pointer"))


def ports_header(kernel: KernelSpec, top: str, verilated: str) -> str:
    """Return the C++ by which `rtl_harness.cpp` knows a kernel's signals, given Verilator's header of it.

    Raises BitstreamError where they are not those of the kernel, naming them.
    """
    module = _Module(f"kernel {kernel.name}: module {top}", verilated)
    module.need("", {"in": [_CLOCK, _RESET]})
    module.need(f"{_REGISTERS}_", _LITE)
    for signal in ("wdata", "rdata"):
        if module.width(f"{_REGISTERS}_{signal}") != 32:
            module.refuse(
                f"has {module.width(f'{_REGISTERS}_{signal}')} bits in {_REGISTERS}_{signal}, "
                "and registers have 32"
            )
    end = max((one.offset + one.nbytes for one in kernel.arguments if one.kind != "stream"), default=16)
    for signal in ("awaddr", "araddr"):
        bits = module.width(f"{_REGISTERS}_{signal}")
        if end > 1 << bits:
            module.refuse(
                f"has {bits} bits in {_REGISTERS}_{signal}, and the kernel's registers go up to {end:#x}"
            )
    found = module.masters()
    wanted = memory_ports(kernel)
    for name in wanted:
        if name not in found:
            module.refuse(
                f"has no AXI4 port {name}, by which {kernel.name}'s pointers come in; "
                f"it has {', '.join(found) or 'none'}"
            )
    for name in found:
        if name not in wanted:
            module.refuse(f"has an AXI4 port {name} that no argument comes in by")
    parts = [
        "struct Control {",
        module.reference("clock", _CLOCK),
        module.reference("reset", _RESET),
        *(module.reference(one, f"{_REGISTERS}_{one}") for one in _LITE["in"] + _LITE["out"]),
        "};",
    ]
    for place, name in enumerate(wanted):
        parts += [f"struct Port{place} {{", *module.memory(name), "};"]
    memories = ", ".join(f"Memory<Port{place}>" for place in range(len(wanted)))
    return "\n".join([*parts, f"using Memories = std::tuple<{memories}>;", ""])


def _spelled(name: str) -> str:
    """Return a signal's name as its source has it: Verilator writes what C++ does not take as `__05F`."""
    return re.sub("__0([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), name)


class _Module:
    """The signals of a module, in any case, as they are called in Verilator's header of it."""

    def __init__(self, what: str, verilated: str) -> None:
        self._what = what
        self._signals = {
            _spelled(name).lower(): (name, way.lower(), int(most) + 1)
            for way, name, most in _SIGNAL.findall(verilated)
        }

    def refuse(self, why: str) -> NoReturn:
        raise BitstreamError(f"{self._what} {why}")

    def width(self, name: str) -> int:
        return self._signals[name][2]

    def need(self, prefix: str, signals: Mapping[str, Sequence[str]]) -> None:
        missing = [
            f"{prefix}{one} ({way}put)"
            for way, names in signals.items()
            for one in names
            if self._signals.get(prefix + one, ("", ""))[1] != way
        ]
        if missing:
            self.refuse(f"is no kernel of Vitis: it lacks {', '.join(missing)}")

    def masters(self) -> list[str]:
        """Return the names of its AXI4 ports of memory."""
        ends = ("_awvalid", "_arvalid")
        valid = [one for one, (_, way, _) in self._signals.items() if way == "out" and one.endswith(ends)]
        return list(dict.fromkeys(one[: -len(ends[0])] for one in valid))

    def reference(self, role: str, name: str) -> str:
        return f"    static auto &{role}(Vtop &top) {{ return top.{self._signals[name][0]}; }}"

    def memory(self, port: str) -> Iterator[str]:
        """Yield what is known of a port of memory; a kernel may only read by it, or only write."""
        channels = [
            one
            for one, first in ((_WRITES, "awvalid"), (_READS, "arvalid"))
            if f"{port}_{first}" in self._signals
        ]
        for channel in channels:
            self.need(f"{port}_", channel)
        data = [one for one in ("wdata", "rdata") if f"{port}_{one}" in self._signals]
        widths = {self.width(f"{port}_{one}") for one in data}
        if len(widths) > 1 or not widths <= set(_WIDTHS):
            self.refuse(
                f"has {' and '.join(map(str, sorted(widths)))} bits of data in {port}; "
                f"known here are {', '.join(map(str, _WIDTHS))}"
            )
        nbytes = widths.pop() // 8
        yield f'    static constexpr const char *name = "{port}";'
        yield f"    static constexpr uint64_t bytes = {nbytes};"
        yield f"    static constexpr bool has_wlast = {str(f'{port}_wlast' in self._signals).lower()};"
        absent = {"awburst": 1, "arburst": 1, "wstrb": (1 << nbytes) - 1}
        absent |= dict.fromkeys(("awsize", "arsize"), nbytes.bit_length() - 1)
        for one in dict.fromkeys([*_WRITES["in"], *_WRITES["out"], *_READS["in"], *_READS["out"], *_OTHERS]):
            there = f"{port}_{one}" in self._signals
            if one in ("wdata", "rdata"):
                value = (
                    f"reinterpret_cast<uint8_t *>(&top.{self._signals[f'{port}_{one}'][0]})"
                    if there
                    else "nullptr"
                )
                yield f"    static uint8_t *{one}(Vtop &top) {{ return {value}; }}"
            elif there:
                yield self.reference(one, f"{port}_{one}")
            else:
                yield f"    static Absent {one}(Vtop &) {{ return {{{absent.get(one, 0)}u}}; }}"
