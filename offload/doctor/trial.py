"""Open a device truly, have it run what has a known answer, and say what is on it; done in a child."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from device_runtime.errors import OffloadError
from device_runtime.fpga.bitstream import Bitstream, KernelSpec, Unit
from offload import In, Out, connect, offload
from offload.core import coreid
from offload.doctor.child import Tell
from offload.doctor.finding import Finding
from offload.doctor.machine import host_memory, size
from offload.testing import Xclbin

_MOST = 8  # of a kind that are listed by name


@offload
def _answer(n: int) -> int:
    return n + coreid()


@offload(kernel="add")
def _add(a: Annotated[Any, In("float32")], out: Annotated[Any, Out("float32")], n: int) -> None:
    out[:n] = a[:n] + n


def try_device(address: str, tell: Tell) -> None:
    """Open a device, tell of it, and launch a kernel on all its units."""

    def launch(units: int) -> bool:
        return _answer(40) == [40 + unit for unit in range(units)]

    _try(address, launch, tell)


def try_emulated(_: str, tell: Tell) -> None:
    """Open an emulated FPGA with a bitstream made for that, and launch its circuit."""
    import numpy as np

    def launch(_: int) -> bool:
        [out] = _add(np.arange(3, dtype="float32"), np.empty(3, "float32"), 3)
        return bool((out == [3, 4, 5]).all())

    with tempfile.TemporaryDirectory() as folder:
        path = Xclbin([_add], banks={"DDR0": "1M"}).write(os.path.join(folder, "doctor.xclbin"))
        _try(f"emu:{path}", launch, tell, starts=True)


def _try(address: str, launch: Callable[[int], bool], tell: Tell, starts: bool = False) -> None:
    trying = "open"
    try:
        begun = time.perf_counter()
        with connect(address) as session:
            pool = session.pool()
            took = time.perf_counter() - begun
            memory = host_memory() if pool.device.memory is None else pool.device.memory
            units = f"{pool.units} unit{'s' * (pool.units > 1)}"
            tell(Finding("open", True, f"{units}, {size(memory)} of memory, within {took:.2f} s"))
            if pool.device.bitstream is not None:
                for what, told in _described(pool.device.bitstream, pool.device.names):
                    tell(Finding(what, True, told))
            trying = "launch"
            tell(_launched(lambda: launch(pool.units), pool.device.bitstream is None or starts))
    except OffloadError as error:
        tell(Finding(trying, False, str(error)))


def _launched(launch: Callable[[], bool], starts: bool) -> Finding:
    took = []
    for _ in range(2):  # the first time the kernel and all that it needs is loaded
        begun = time.perf_counter()
        if not launch():
            return Finding("launch", False, "the answer of a unit is WRONG")
        took.append((time.perf_counter() - begun) * 1000)
    told = f"within {took[0]:.1f} ms, and then {took[1]:.1f} ms"
    if starts:
        told = f"the right answer from every unit {told}"
    else:
        told = (
            f"the right answer from each unit's thread {told}; no circuit was started: that takes arguments"
        )
    return Finding("launch", True, told)


def _described(bitstream: Bitstream, instances: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Give what is on an FPGA, line by line."""
    yield "bitstream", f"{bitstream.uuid.hex()}, for {bitstream.platform or 'an unknown platform'}"
    for kernel in bitstream.kernels:
        taken = ", ".join(f"{one.ctype} {one.name}" for one in kernel.arguments)
        for units in kernel.symmetric():
            told = f"({taken}); {len(units)} unit{'s' * (len(units) > 1)}: {_some([u.name for u in units])}"
            yield f"kernel {kernel.name}", told + _wired(kernel, units[0])
    together: dict[int, list[str]] = {}
    for unit, instance in instances.items():
        together.setdefault(instance, []).append(unit)
    groups = [" with ".join(units) for units in together.values()]
    yield "instances", f"{len(groups)}: {_some(groups)}"
    if bitstream.clocks:
        yield "clocks", _some([f"{name} {mhz} MHz" for name, mhz in bitstream.clocks])
    yield "memory", _some([f"{bank.name} {size(bank.nbytes)}" for bank in bitstream.banks if bank.used])


def _wired(kernel: KernelSpec, unit: Unit) -> str:
    wires = [f"{one.name} in {' or '.join(to)}" for one, to in zip(kernel.arguments, unit.banks) if to]
    return f"; {', '.join(wires)}" if wires else ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")
