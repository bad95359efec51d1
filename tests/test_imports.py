"""What the packages load at import: nothing that is optional, slow or not needed yet."""

from __future__ import annotations

import ast
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
    "tqdm",
    "typer",
    "zmq",
}
# Modules that are imported only by those who ask for what they offer.
DOORS = {
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
