"""Build libraries of kernels in Verilog, by Verilator and a C++ compiler; what was built once is kept.

They are kept in a folder that only the user can write to, since they are
loaded: a place that others can foresee and write to would let them in.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_runtime.errors import BitstreamError, DeviceUnavailable
from device_runtime.fpga.bitstream import KernelSpec
from device_runtime.fpga.rtl import Rtl, ports_header

_HARNESS = Path(__file__).with_name("rtl_harness.cpp")
_OLDEST = 5  # Verilator's first version that takes these flags
_FLAGS = [
    *("--cc", "--exe", "--no-timing", "-O3", "-Wno-fatal", "--prefix", "Vtop", "-Mdir", "made"),
    *("-CFLAGS", "-fPIC -fvisibility=hidden -DVL_USER_FATAL -DVL_USER_FINISH"),
    *("-LDFLAGS", "-shared -s -Wl,-z,defs"),
]
_SHOWN = 8  # lines of what a tool says


def library(kernel: KernelSpec, rtl: Rtl) -> Path:
    """Return the library of a kernel's Verilog, and build it if that has not been done before.

    Raises DeviceUnavailable where the tools for it are missing or nothing can
    be kept, and BitstreamError where the Verilog is wrong, with what Verilator says.
    """
    for tool in ("verilator", "make", "g++"):
        if shutil.which(tool) is None:
            raise DeviceUnavailable(
                f"kernel {kernel.name} is in Verilog, which runs through Verilator, and there is no {tool}: "
                "apt-get install verilator make g++"
            )
    version = _run(kernel, ["verilator", "--version"], Path("/"))
    found = re.search(r"Verilator (\d+)\.", version)
    if found is None or int(found[1]) < _OLDEST:
        raise DeviceUnavailable(
            f"kernel {kernel.name} is in Verilog, which needs Verilator {_OLDEST} or later, "
            f"and here is {version.strip()!r}"
        )
    top = rtl.top or kernel.name
    kept = _folder(os.environ)
    runtime = _digest(version, _run(kernel, ["g++", "--version"], Path("/")), platform.machine(), _FLAGS)
    name = _digest(runtime, _HARNESS.read_text(), kernel.arguments, top, sorted(rtl.sources.items()))
    path = kept / f"{name}.so"
    if not path.exists():
        try:
            with tempfile.TemporaryDirectory(prefix="offload-rtl-") as scratch:
                _build(kernel, top, rtl.sources, Path(scratch), kept / runtime)
                _keep(Path(scratch, "made", "Vtop"), path)
        except OSError as error:
            raise DeviceUnavailable(f"kernel {kernel.name}: its Verilog cannot be built: {error}") from error
    return path


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _build(kernel: KernelSpec, top: str, sources: Mapping[str, str], scratch: Path, runtime: Path) -> None:
    """Build a library. `runtime` is where Verilator's own part of it is kept, which takes the longest."""
    for name, text in sources.items():
        scratch.joinpath(name).write_text(text, encoding="utf-8")
    files = [name for name in sources if name.endswith((".v", ".sv"))]
    _run(kernel, ["verilator", *_FLAGS, "--top-module", top, _HARNESS.name, *files], scratch)
    made = scratch / "made"
    made.joinpath("ports.h").write_text(ports_header(kernel, top, made.joinpath("Vtop.h").read_text()))
    runtime.mkdir(mode=0o700, exist_ok=True)
    for path in (_HARNESS, *runtime.glob("verilated*.o")):
        shutil.copyfile(path, made / path.name)
    _run(kernel, ["make", f"-j{len(os.sched_getaffinity(0))}", "-f", "Vtop.mk", "OPT_FAST=-O2"], made)
    for path in made.glob("verilated*.o"):
        if not runtime.joinpath(path.name).exists():
            _keep(path, runtime / path.name)


def _keep(path: Path, to: Path) -> None:
    """Copy a file, under another name first: who looks for it finds all of it, or nothing."""
    with tempfile.NamedTemporaryFile(dir=to.parent, delete=False) as copy:
        copy.write(path.read_bytes())
    os.replace(copy.name, to)


def _run(kernel: KernelSpec, command: Sequence[str], folder: Path) -> str:
    """Return what a tool says. Raises BitstreamError with it if it fails."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")
    } | {"LC_ALL": "C"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if ended.returncode:
        lines = ended.stdout.splitlines()
        first = next((place for place, line in enumerate(lines) if "rror" in line), 0)
        told = "\n".join(lines[first : first + _SHOWN])
        raise BitstreamError(f"kernel {kernel.name}: {command[0]} cannot build its Verilog:\n{told}")
    return ended.stdout


def _folder(environment: Mapping[str, str]) -> Path:
    """Return the folder where libraries are kept.

    Raises DeviceUnavailable if it cannot be had, or others can write to it.
    """
    given = environment.get("XDG_CACHE_HOME", "")
    base = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base, "offload", "rtl")
    advice = "set XDG_CACHE_HOME to a folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DeviceUnavailable(
            f"{folder}, where built kernels are kept, cannot be made: {error.strerror}; {advice}"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise DeviceUnavailable(
            f"{folder}, where built kernels are kept, must be a folder that is yours "
            f"and only you can write to; make it so, or {advice}"
        )
    return folder
