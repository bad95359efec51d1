"""Make the pressures that a survey of a model would measure, and find the model from them.

python -m examples.fwi CONFIG.json MODEL.txt --device emu --instances 2 --out RESULT.npz
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import offload
from offload.core import numcores
from offload.session import session

from . import configuration, forward, kernels
from .configuration import Configuration, ConfigurationError
from .inversion import InversionError, Result, reconstruct
from .split import Part, join, split


def read_model(path: str, cells: int) -> forward.Real:
    """Return the contrasts, (cells,), that a file holds, separated by white space.

    Raises ConfigurationError, naming the file, for another number of them and for what is no number.
    """
    try:
        words = Path(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if len(words) != cells:
        raise ConfigurationError(f"{path} has {len(words)} numbers, and the grid has {cells} cells")
    for place, word in enumerate(words):
        try:
            finite = np.isfinite(float(word))
        except ValueError:
            finite = False
        if not finite:
            raise ConfigurationError(f"{path}: number {place + 1} is {word!r}, and must be finite")
    return np.array(words, float)


def in_numpy(part: Part, model: forward.Real) -> Result:
    """Invert one part here, in double precision."""
    matrix = forward.matrix(part.asked, np.complex128)
    begin = time.perf_counter()
    found = reconstruct(
        part.asked, matrix @ model, lambda chi: matrix @ chi, lambda rest: np.conj(np.conj(rest) @ matrix)
    )
    print(f"NumPy: {time.perf_counter() - begin:.3f} s")
    return found


def on_device(address: str, parts: list[Part], model: forward.Real) -> list[Result]:
    """Invert each part on an instance of its own, all at the same time."""
    with offload.connect(address):
        known = session().pool().device.bitstream
        for name in ("dotprod", "update"):
            if known is None or name not in [kernel.name for kernel in known.kernels]:
                raise ConfigurationError(f"{address} has no circuit {name!r}, which an inversion needs")
        units = numcores()
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


def save(path: str, parts: list[Part], results: list[Result]) -> None:
    """Write `chi` (float64, N), `residuals` (one row for each part if there are several) and `converged`."""
    longest = max(len(result.residuals) for result in results)
    rows = [
        result.residuals + result.residuals[-1:] * (longest - len(result.residuals)) for result in results
    ]
    np.savez(
        path,
        chi=join(parts, [result.chi for result in results]),
        residuals=np.array(rows[0] if len(rows) == 1 else rows),
        converged=all(result.converged for result in results),
    )


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
    parser.add_argument("--out", metavar="RESULT.npz", help="where to write chi, residuals and converged")
    given = parser.parse_args(arguments)
    try:
        asked = configuration.read(given.config)
        model = read_model(given.model, asked.cells)
        parts = split(asked, given.instances, given.even)
        if given.out and not Path(given.out).resolve().parent.is_dir():
            raise ConfigurationError(f"{given.out} cannot be written: its folder is not there")
        begin = time.perf_counter()
        results = run(given.device, parts, model)
        took = time.perf_counter() - begin
    except (ConfigurationError, InversionError, offload.OffloadError) as error:
        print(f"fwi: {error}", file=sys.stderr)
        return 1
    tell(asked, parts, results, model, took)
    if given.out:
        save(given.out, parts, results)
    return 0


def run(device: str, parts: list[Part], model: forward.Real) -> list[Result]:
    """Invert the parts on a device, on one that is made on the spot (`emu`), or here (`none`)."""
    if device == "none":
        return [in_numpy(part, model[part.cells]) for part in parts]
    if device != "emu":
        return on_device(device, parts, model)
    with tempfile.TemporaryDirectory() as folder:
        path = kernels.bitstream(Path(folder) / "fwi.xclbin", len(parts))
        return on_device(f"emu:{path}", parts, model)


def tell(
    asked: Configuration, parts: list[Part], results: list[Result], model: forward.Real, took: float
) -> None:
    """Print what was found."""
    for number, (part, result) in enumerate(zip(parts, results, strict=True)):
        truth = model[part.cells]
        norm = float(np.linalg.norm(truth))
        off = float(np.linalg.norm(result.chi - truth)) / (norm or 1.0)
        print(
            f"part {number}: {part.asked.ngrid.x} x {part.asked.ngrid.z} cells, {len(result.residuals)} "
            f"evaluations, {'converged' if result.converged else 'not converged'}, "
            f"misfit {result.residuals[-1]:.3g}, off by {100 * off:.2g} %"
        )
    print(f"{asked.rows} pressures, {asked.cells} cells, {took:.2f} s with all that is made and opened")


if __name__ == "__main__":
    raise SystemExit(main())
