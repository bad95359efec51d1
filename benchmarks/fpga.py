"""Hardware kernels on the emulated FPGA, behind the real pynq; without pynq they are absent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.declare import MICROSECONDS, MILLISECONDS, RATE, Benchmark, Measure, Setting, Subject
from benchmarks.reach import at_least_times, at_most, beyond, within
from benchmarks.systems import seconds_per_call

_FLOATS = 1 << 20
_VERILATOR = "pynq", "verilator", "make", "g++"
_VERILOG = Path(__file__).parents[1] / "examples/rtl/vadd.v"


@contextmanager
def device(made: Any) -> Iterator[Any]:
    """Have a device with a bitstream, as long as the block lasts."""
    import offload

    with tempfile.TemporaryDirectory() as folder:
        path = made.write(Path(folder, "made.xclbin"))
        with offload.connect(f"emu:{path}") as session:
            yield session


@contextmanager
def noop(setting: Setting) -> Iterator[Measure]:
    """Call a circuit that does nothing, and wait for it."""
    from benchmarks.circuits import nothing
    from offload.testing import Xclbin

    with device(Xclbin([nothing])):
        yield lambda: seconds_per_call(lambda: nothing(1), setting.pick(300, 2))


@contextmanager
def registers(setting: Setting) -> Iterator[Measure]:
    """Do what pynq does of that, in this process: write an argument, start the unit, read that it is done."""
    from benchmarks.circuits import nothing
    from device_runtime.fpga.board import EmulatedBoard
    from device_runtime.fpga.emulation import START
    from offload.testing import Xclbin

    with tempfile.TemporaryDirectory() as folder:
        made = Xclbin([nothing])
        board = EmulatedBoard(str(made.write(Path(folder, "made.xclbin"))), made.bitstream)
    unit = board.registers("nothing_1")

    def call() -> None:
        unit.write(0x10, b"\1\0\0\0")
        unit.write(0, START)
        unit.read(0)

    yield lambda: seconds_per_call(call, setting.pick(2_000, 2))


def four(name: str, units: int) -> Callable[[Setting], Any]:
    """Launch a circuit on four sets of large arrays that stay on the device, again and again."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        import numpy as np

        from benchmarks import circuits
        from offload.testing import Xclbin

        circuit = getattr(circuits, name)
        size = setting.pick(_FLOATS, 16)
        with device(Xclbin([circuit], units=units)) as session:
            ones = np.ones(size, "float32")
            given = [
                [session.array(ones), session.array(ones), session.empty(size, "float32")] for _ in range(4)
            ]
            times = setting.pick(20, 1)

            def measure() -> float:
                begun = perf_counter()
                handles = [circuit.launch(*arrays, size) for _ in range(times) for arrays in given]
                for handle in handles:
                    handle.wait()
                return len(handles) / (perf_counter() - begun)

            yield measure

    return opened


def chain(ahead: bool) -> Callable[[Setting], Any]:
    """Launch a circuit on one small array, again and again; `ahead`: without waiting for each."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        import numpy as np

        from benchmarks.circuits import grow
        from offload.testing import Xclbin

        times = setting.pick(200, 2)
        with device(Xclbin([grow])) as session:
            array = session.array(np.zeros(1000, "float32"))

            def measure() -> float:
                begun = perf_counter()
                if ahead:
                    for handle in [grow.launch(array, 1.0) for _ in range(times)]:
                        handle.wait()
                else:
                    for _ in range(times):
                        grow(array, 1.0)
                return (perf_counter() - begun) / times

            yield measure

    return opened


def four_here(name: str, workers: int) -> Callable[[Setting], Any]:
    """Have NumPy do the same in so many threads of this process."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        ufunc = getattr(np, name)
        size = setting.pick(_FLOATS, 16)
        given = [[np.ones(size, "float32") for _ in range(3)] for _ in range(4)]
        times = setting.pick(20, 1)

        def compute(arrays: list[Any]) -> None:
            ufunc(arrays[0], arrays[1], out=arrays[2])

        with ThreadPoolExecutor(workers) as threads:

            def measure() -> float:
                begun = perf_counter()
                list(threads.map(compute, given * times))
                return 4 * times / (perf_counter() - begun)

            yield measure

    return opened


def in_verilog(units: int) -> Callable[[Setting], Any]:
    """Add integers on units that are in Verilog, on so many at once."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        import numpy as np

        from benchmarks.circuits import vadd_int
        from offload.testing import Rtl, Xclbin

        size = setting.pick(100_000, 16)
        with device(Xclbin([vadd_int], units=2, models={"vadd": Rtl([_VERILOG])})):
            ones = np.ones(size, "int32")
            outs = [np.empty_like(ones) for _ in range(units)]

            def measure() -> float:
                begun = perf_counter()
                for handle in [
                    vadd_int.launch(ones, ones, out, size, target=n) for n, out in enumerate(outs)
                ]:
                    handle.wait()
                return perf_counter() - begun

            yield measure

    return opened


def hashing(threads: int) -> Callable[[Setting], Any]:
    """Have threads of this process compute in C, side by side and each for itself.

    BLAKE2b does several things in each cycle: where CPUs are threads of one core, two take longer.
    """

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        import hashlib
        from concurrent.futures import ThreadPoolExecutor

        data = bytes(setting.pick(1 << 25, 16))
        with ThreadPoolExecutor(threads) as pool:

            def measure() -> float:
                begun = perf_counter()
                list(pool.map(hashlib.blake2b, [data] * threads))
                return perf_counter() - begun

            yield measure

    return opened


@contextmanager
def opening(setting: Setting) -> Iterator[Measure]:
    """Open a device with four units, and close it."""
    from benchmarks.circuits import vadd
    from offload.testing import Xclbin

    made = Xclbin([vadd], units=4)

    def measure() -> float:
        begun = perf_counter()
        with device(made):
            return perf_counter() - begun

    yield measure


def inverting(on_device: bool) -> Callable[[Setting], Any]:
    """Find a layered ground from 8,000 pressures on 100 cells."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Measure]:
        import numpy as np

        from examples.fwi import forward
        from examples.fwi.configuration import Band, Configuration, Grid
        from examples.fwi.inversion import reconstruct
        from examples.fwi.kernels import bitstream, invert
        from examples.fwi.model import layered

        few = setting.pick(20, 3)
        asked = Configuration(
            Freq=Band(nTotal=few), nSources=few, nReceivers=few, ngrid=Grid(10, 10), max=setting.pick(1000, 3)
        )
        model = layered(asked)
        if not on_device:
            matrix = forward.matrix(asked, np.complex128)
            data = matrix @ model

            def here() -> float:
                begun = perf_counter()
                reconstruct(
                    asked, data, lambda chi: matrix @ chi, lambda rest: np.conj(np.conj(rest) @ matrix)
                )
                return perf_counter() - begun

            yield here
            return
        import offload

        with tempfile.TemporaryDirectory() as folder:
            path = bitstream(Path(folder, "fwi.xclbin"), 1)
            with offload.connect(f"emu:{path}"):
                yield lambda: invert(asked, model)[0].seconds

    return opened


def _ours(opened: Any, name: str = "offload", needs: tuple[str, ...] = ("pynq",)) -> Subject:
    return Subject(name, opened, needs=needs)


def _beside(name: str, opened: Any) -> Subject:
    return Subject(name, opened, "limit", needs=("pynq",))


def _on_four_units(circuit: str, ufunc: str) -> tuple[Subject, ...]:
    return (
        _ours(four(circuit, 4)),
        _ours(four(circuit, 1), "one unit"),
        _beside("NumPy in 4 threads", four_here(ufunc, 4)),
        _beside("NumPy in 1 thread", four_here(ufunc, 1)),
    )


BENCHMARKS = (
    Benchmark(
        "fpganoop",
        "a hardware kernel that does nothing on the emulated FPGA, blocking",
        MICROSECONDS,
        (_ours(noop), _beside("pynq's own calls", registers)),
        (at_most(400e-6, MICROSECONDS), beyond(100e-6, MICROSECONDS, "pynq's own calls")),
    ),
    Benchmark(
        "fpgachain",
        "a hardware kernel on one array, each launch behind the one before, made without waiting",
        MICROSECONDS,
        (_ours(chain(True)), _ours(chain(False), "blocking calls")),
        (),
        rounds=15,
    ),
    Benchmark(
        "fpgaunits",
        "adding a million float32 that stay on the device, on 4 units",
        RATE,
        _on_four_units("vadd", "add"),
        (at_least_times(1.7, "one unit"),),
        rounds=15,
    ),
    Benchmark(
        "fpgaangles",
        "the angles of a million points in float32 that stay on the device, on 4 units",
        RATE,
        _on_four_units("angles", "arctan2"),
        (at_least_times(1.7, "one unit"),),
        rounds=8,
    ),
    Benchmark(
        "fpgaverilog",
        "adding 100,000 int32 on two units in Verilog at once",
        MILLISECONDS,
        (_ours(in_verilog(2), needs=_VERILATOR), _ours(in_verilog(1), "one unit", _VERILATOR)),
        (within(1.2, "one unit"),),
        rounds=15,
    ),
    Benchmark(
        "fpgamachine",
        "two threads that hash at once, in C: what this machine gives by itself",
        MILLISECONDS,
        (Subject("two threads", hashing(2)), Subject("one thread", hashing(1), "limit")),
        (),
        rounds=15,
    ),
    Benchmark(
        "fpgaopen",
        "opening a device with four units",
        MILLISECONDS,
        (_ours(opening),),
        (at_most(1.5, MILLISECONDS),),
        rounds=8,
    ),
    Benchmark(
        "fpgafwi",
        "an inversion, 8,000 pressures and 100 cells, on one instance with NumPy's model",
        MILLISECONDS,
        (_ours(inverting(True)), _beside("NumPy", inverting(False))),
        (within(2.0, "NumPy"), at_most(0.9, MILLISECONDS)),
        rounds=15,
    ),
)
