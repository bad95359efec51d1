"""What the packages load at import: nothing that is optional, slow or not needed yet."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("offload", "scheduler", "device_runtime")
LATE = {
    "cloudpickle",
    "dask",
    "joblib",
    "matplotlib",
    "numpy",
    "pynq",
    "rich",
    "torch",
    "typer",
    "zmq",
}
# Modules that are imported only by those who ask for what they offer.
DOORS = {
    "device_runtime/fpga/board.py": {"numpy", "pynq"},
    "device_runtime/fpga/bounded.py": {"numpy"},
    "device_runtime/fpga/buffers.py": {"numpy"},
    "device_runtime/fpga/answers.py": {"numpy"},
    "device_runtime/fpga/emulation.py": {"numpy"},
    "device_runtime/fpga/instance.py": {"numpy"},
    "device_runtime/fpga/unit.py": {"numpy"},
    "offload/cli.py": {"rich", "typer"},
    "offload/joblib_backend.py": {"joblib"},
}
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for floor in FLOORS for path in ROOT.joinpath(floor).rglob("*.py")
)


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the packages that statements import when they are run, without what only type checkers see."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield (statement.module or "").partition(".")[0]
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from imported(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody", "handlers"):
                yield from imported(getattr(statement, name, []))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_loads_no_package_before_it_is_needed(module: str) -> None:
    late = set(imported(ast.parse(ROOT.joinpath(module).read_text()).body)) & LATE
    assert late <= DOORS.get(module, set())


def loaded_after(code: str, *modules: str) -> list[str]:
    """Return which of these modules a fresh interpreter has loaded after it ran this."""
    code += f"\nimport sys\nprint(*[name for name in {modules} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_offload_loads_next_to_nothing() -> None:
    assert loaded_after("import offload", "scheduler", "device_runtime", "typing", "threading", *LATE) == []


def test_making_a_kernel_does_not_load_what_launching_it_takes() -> None:
    code = "from offload import offload\noffload(lambda: 1)"
    assert loaded_after(code, "scheduler", "asyncio", "concurrent.futures", "socket", *LATE) == []


def test_a_launch_loads_no_event_loop_and_looks_through_no_installed_packages() -> None:
    code = "from offload import offload\noffload(lambda: 1, device='local:2')()"
    assert loaded_after(code, "asyncio", "importlib.metadata", "numpy", "zmq") == []


def test_a_core_runs_a_function_of_a_script_without_cloudpickle() -> None:
    code = """
from offload import offload
@offload(device="local:1")
def loaded():
    import sys
    return [name for name in ("cloudpickle", "dataclasses", "inspect", "numpy") if name in sys.modules]
assert loaded() == [[]]"""
    assert loaded_after(code, "cloudpickle", "numpy") == ["cloudpickle"]
