"""A notebook: kernels in cells, output under the cell, handles that show themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

CELLS = [
    "import offload as of\nfrom offload import offload, offload_single\nof.connect('local:2')",
    "scale = 2\n\ndef helper(x):\n    return x * scale",
    "@offload\ndef kernel(x):\n    print('working on', x)\n    return helper(x)\n\nkernel(4)",
    "scale = 3\nkernel(4)",
    "@offload_single\ndef fails(x):\n    return 1 / x\n\nh = fails(0)\nh.exception()",
    "h",
    "h.result()",
    "g = kernel.launch(5)\nprint(await g)",
    "a = 1\nof.define_on_device(a)\n@offload\ndef assign():\n    a = 2\n\nassign()\nof.copy_from_device('a')",
    "class Point:\n    pass\n\nmake = offload(lambda: Point())\n[type(point) is Point for point in make()]",
    "kernel.launch(1).wait(progress=True)",
    "of.shutdown()",
]

# In a process of its own: what Jupyter's packages warn of is no concern of these tests.
RUN = """
import json, sys, nbformat
from nbclient import NotebookClient
cells = json.load(sys.stdin)
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Run the notebook once and return each cell's outputs."""
    folder: Path = tmp_path_factory.mktemp("notebook")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input=json.dumps(CELLS),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: list[list[dict[str, Any]]] = json.loads(ran.stdout)
    return found


def shown(cell: list[dict[str, Any]], form: str = "text/plain") -> str:
    """Return a cell's value in one of its forms."""
    return next("".join(out["data"][form]) for out in cell if out["output_type"] == "execute_result")


def streamed(cell: list[dict[str, Any]], name: str = "stdout") -> str:
    """Return what a cell wrote to a stream."""
    return "".join(
        "".join(out["text"]) for out in cell if out["output_type"] == "stream" and out["name"] == name
    )


def test_a_kernel_in_a_cell_runs_and_its_output_stands_under_the_cell(outputs: list[Any]) -> None:
    assert shown(outputs[2]) == "[8, 8]"
    assert sorted(streamed(outputs[2]).splitlines()) == ["[core 0] working on 4", "[core 1] working on 4"]


def test_a_variable_that_another_cell_has_changed_is_seen(outputs: list[Any]) -> None:
    assert shown(outputs[3]) == "[12, 12]"


def test_an_error_shows_the_line_of_the_cell(outputs: list[Any]) -> None:
    assert shown(outputs[4]).startswith("ZeroDivisionError")
    error = next(out for out in outputs[6] if out["output_type"] == "error")
    assert error["ename"] == "ZeroDivisionError"
    assert "return 1 / x" in "\n".join(error["traceback"])


def test_a_handle_shows_itself_as_a_table(outputs: list[Any]) -> None:
    table = shown(outputs[5], "text/html")
    assert "<table>" in table and "fails" in table and "&lt;Handle" in table


def test_a_handle_can_be_awaited(outputs: list[Any]) -> None:
    assert "[15, 15]" in streamed(outputs[7])


def test_a_plain_assignment_in_a_cell_changes_the_resident_copy(outputs: list[Any]) -> None:
    assert shown(outputs[8]) == "[2, 2]"


def test_a_class_of_a_cell_travels_both_ways(outputs: list[Any]) -> None:
    assert shown(outputs[9]) == "[True, True]"


def test_a_progress_bar_is_shown(outputs: list[Any]) -> None:
    assert shown(outputs[10]) == "[3, 3]"
    assert "100%" in json.dumps(outputs[10]) and "ipywidgets" not in json.dumps(outputs[10])
