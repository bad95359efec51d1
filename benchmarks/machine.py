"""Where and with what a run was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS

ROOT = Path(__file__).parents[1]


def describe(peers: Iterable[str]) -> dict[str, Any]:
    """Return date, machine, versions and commit."""
    packages = dict.fromkeys(["numpy", *(PEERS[peer].package for peer in peers)])
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
        "commit": _commit(),
        "settings": {name: value for name, value in os.environ.items() if name.startswith("OFFLOAD_")},
    }


def sentence(run: dict[str, Any]) -> str:
    """Return the same in words."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    settings = "".join(f", {name}={value}" for name, value in run["settings"].items())
    return (
        f"{run['date'][:10]}, {run['cpu']}, {run['cpus']} CPUs, {run['system']}, "
        f"Python {run['python']}, {versions}, commit {run['commit']}{settings}"
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the commit, with a plus if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
