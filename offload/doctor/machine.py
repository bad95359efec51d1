"""What this machine has of that which every device needs, and process cores do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Callable

from device_runtime.errors import OptionError
from device_runtime.process import memory
from device_runtime.process.cpus import available
from offload.doctor.finding import Finding

_NEEDED = ("numpy", "cloudpickle", "pyzmq")


def look(root: str = "/") -> list[Finding]:
    """Return what was found of the machine."""
    return [
        Finding("Python", True, f"{platform.python_version()}, {sys.executable}, {platform.platform()}"),
        _packages(),
        Finding("CPUs", True, f"{available()} may be used, of {os.cpu_count()}"),
        _memory(root),
        _process_cores(root),
        _open_files(),
    ]


def version(package: str) -> str | None:
    """Return the version of an installed package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def size(count: int) -> str:
    """Return a number of bytes in words."""
    shift, unit = next((s, u) for s, u in ((30, "GiB"), (20, "MiB"), (0, "bytes")) if count >> s or not s)
    return f"{round(count / (1 << shift), 1):g} {unit}"


def host_memory() -> int:
    """Return how many bytes of memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _packages() -> Finding:
    found = {name: version(name) for name in _NEEDED}
    missing = [name for name, has in found.items() if has is None]
    told = ", ".join(f"{name} {has or 'is missing'}" for name, has in found.items())
    return Finding("packages", not missing, told, f"pip install {' '.join(missing)}" if missing else "")


def _memory(root: str) -> Finding:
    try:
        bound = memory.bound(root=root)
    except OptionError as error:
        return Finding("memory", False, str(error), "correct or unset OFFLOAD_ARENA")
    told = f"{size(host_memory())}; arguments may take {size(bound)} on their way to process cores"
    return Finding("memory", True, told)


def _process_cores(root: str) -> Finding:
    """Try what process cores are made of: a container may forbid parts of it."""
    tried: dict[str, Callable[[], object]] = {
        "memfd": lambda: os.close(os.memfd_create("offload-doctor")),
        "pidfd": lambda: os.close(os.pidfd_open(os.getpid())),
        "eventfd": lambda: os.close(os.eventfd(0)),
        "fork": lambda: os.fork,
        "/proc": lambda: os.listdir(os.path.join(root, "proc/self/fd")),
    }
    wrong = []
    for name, attempt in tried.items():
        try:
            attempt()
        except AttributeError:
            wrong.append(f"{name}: this system has none")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    if wrong:
        todo = "the device `inline` does without; see what the container's seccomp profile forbids"
        return Finding("process cores", False, "; ".join(wrong), todo)
    return Finding("process cores", True, f"{', '.join(tried)} are there")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = (
        f"{soft} may be open at once, {'any number' if hard == resource.RLIM_INFINITY else hard} if asked for"
    )
    return Finding("open files", True, told)
