"""Make the pressures that a survey of a model would measure, and find the model from them.

python -m examples.fwi CONFIG.json MODEL.txt --device emu --instances 2 --out RESULT.npz
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import offload
from offload.core import numcores
from offload.session import session

from . import configuration, forward, kernels
from .configuration import Configuration, ConfigurationError
from .inversion import InversionError, Result, recover
from .model import read
from .split import Part, join, split

_MOST = 64  # units of a kernel that a bitstream may have


def in_numpy(part: Part, model: forward.Real) -> Result:
    """Invert one part here, in double precision."""
    matrix = forward.matrix(part.asked, np.complex128)
    begin = time.perf_counter()
    found = recover(part.asked, model, lambda chi: matrix @ chi, lambda rest: np.conj(np.conj(rest) @ matrix))
    print(f"NumPy: {time.perf_counter() - begin:.3f} s")
    return found


def on_device(address: str, parts: list[Part], model: forward.Real) -> list[Result]:
    """Invert each part on an instance of its own, all at the same time.

    Raises ConfigurationError and DeviceError for a device that has not what that takes.
    """
    with offload.connect(address):
        known = session().pool().device.bitstream
        for name, kernel in (("dotprod", kernels.dotprod), ("update", kernels.update)):
            if known is None or name not in [circuit.name for circuit in known.kernels]:
                raise ConfigurationError(f"{address} has no circuit {name!r}, which an inversion needs")
            kernel._body.circuit(known, address)  # it says so if that takes other arguments
        units = numcores()
        for number, has in enumerate(kernels_of(known, session().pool().device.names, units)):
            for name in sorted({"dotprod", "update"} - has):
                raise ConfigurationError(
                    f"{address}: instance {number} has no unit of {name!r}, which an inversion needs"
                )
        if units < len(parts):
            raise ConfigurationError(f"{address} has {units} instances, and {len(parts)} are asked for")
        handles = [kernels.invert.launch(part.asked, model[part.cells]) for part in parts]
        found = [handle.result() for handle in handles]
    for number, one in enumerate(found):
        print(
            f"instance {number}: {one.seconds:.3f} s; {one.matrix_bytes:,} bytes of K went to the device, "
            f"once, {one.up:,} bytes of vectors after it, and {one.down:,} came back"
        )
    return [one.result for one in found]


def kernels_of(known: Any, instances: Mapping[str, int], count: int) -> list[set[str]]:
    """Return the names of the kernels that each instance has units of; `instances` are those of units."""
    found: list[set[str]] = [set() for _ in range(count)]
    for circuit in known.kernels:
        for unit in circuit.units:
            if unit.name in instances:
                found[instances[unit.name]].add(circuit.name)
    return found


def check_out(path: str, config: str, model: str) -> None:
    """Raise ConfigurationError where the result cannot be written, or would replace what is given."""
    if not path:
        raise ConfigurationError(f"--out={path!r} must be the name of a file")
    for what, other in (("configuration", config), ("model", model)):
        if os.path.realpath(path) == os.path.realpath(other):
            raise ConfigurationError(f"--out={path} would write over {other}, which is the {what}")
    check_writable(path)


def check_writable(path: str) -> None:
    """Raise ConfigurationError where no file can be written; leave there what is there, and nothing else."""
    there = Path(os.path.realpath(path))  # a link may lead to a file that is yet to be made
    try:
        if not there.parent.is_dir():
            raise ConfigurationError(f"{path} cannot be written: its folder is not there")
        if not there.exists():
            there.open("xb").close()
            there.unlink()
        elif not there.is_fifo():  # whoever reads that would take it for the end
            there.open("ab").close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def save(path: str, parts: list[Part], results: list[Result]) -> None:
    """Write the file that is named, an .npz with

    chi: float64 (N,), the contrasts that were found;
    residuals: float64, the misfit at every evaluation of the first part, then of the second, and so on;
    evaluations: int64 (parts,), how many of them each part took;
    converged: bool, whether all parts did.

    Raises ConfigurationError.
    """
    held = io.BytesIO()  # given a name, NumPy would write to another
    np.savez(
        held,
        chi=join(parts, [result.chi for result in results]),
        residuals=np.concatenate([result.residuals for result in results]),
        evaluations=np.array([len(result.residuals) for result in results], np.int64),
        converged=all(result.converged for result in results),
    )
    try:
        Path(path).write_bytes(held.getvalue())
    except OSError as error:
        raise ConfigurationError(f"{path} could not be written: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.fwi", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("config", metavar="CONFIG.json", help="the survey; {} for all defaults")
    parser.add_argument(
        "model", metavar="MODEL.txt", help="the contrast of every cell, row by row from the top"
    )
    parser.add_argument(
        "--device", default="emu", help="emu, emu:FILE.xclbin, pynq:FILE.xclbin, or none for plain NumPy"
    )
    parser.add_argument("--instances", type=int, default=1, help="into so many parts the ground is cut")
    parser.add_argument("--even", action="store_true", help="refuse parts that are not alike")
    parser.add_argument("--out", metavar="RESULT.npz", help="where to write what was found")
    given = parser.parse_args(arguments)
    try:
        asked = configuration.read(given.config)
        model = read(given.model, asked.cells)
        parts = split(asked, given.instances, given.even)
        if given.out is not None:
            check_out(given.out, given.config, given.model)
        begin = time.perf_counter()
        results = run(given.device, parts, model)
        tell(asked, parts, results, model, time.perf_counter() - begin)
        if given.out is not None:
            save(given.out, parts, results)
    except (ConfigurationError, InversionError, MemoryError, offload.OffloadError) as error:
        print(f"fwi: {error or 'there is not enough memory'}", file=sys.stderr)
        return 1
    return 0


def run(device: str, parts: list[Part], model: forward.Real) -> list[Result]:
    """Invert the parts on a device, on one that is made on the spot (`emu`), or here (`none`).

    Raises what `on_device` raises, and ConfigurationError for more parts than such a device has instances.
    """
    if device == "none":
        return [in_numpy(part, model[part.cells]) for part in parts]
    if device != "emu":
        return on_device(device, parts, model)
    if len(parts) > _MOST:
        raise ConfigurationError(f"--instances={len(parts)}: --device emu makes {_MOST} at most")
    with tempfile.TemporaryDirectory() as folder:
        size = kernels.room(part.asked for part in parts)
        path = kernels.bitstream(Path(folder) / "fwi.xclbin", len(parts), size)
        return on_device(f"emu:{path}", parts, model)


def tell(
    asked: Configuration, parts: list[Part], results: list[Result], model: forward.Real, took: float
) -> None:
    """Print what was found."""
    for number, (part, result) in enumerate(zip(parts, results, strict=True)):
        truth = model[part.cells]
        size = float(np.abs(truth).max()) or 1.0  # squares of small numbers are 0
        off = float(np.linalg.norm((result.chi - truth) / size) / (np.linalg.norm(truth / size) or 1.0))
        print(
            f"part {number}: {part.asked.ngrid.x} x {part.asked.ngrid.z} cells, {len(result.residuals)} "
            f"evaluations, {'converged' if result.converged else 'not converged'}, "
            f"misfit {result.residuals[-1]:.3g}, off by {100 * off:.2g} %"
        )
    print(f"{asked.rows} pressures, {asked.cells} cells, {took:.2f} s with all that is made and opened")


if __name__ == "__main__":
    raise SystemExit(main())
