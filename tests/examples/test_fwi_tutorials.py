"""The FWI series: every page runs as a script and as a notebook, and says what it should."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.stem for path in ROOT.glob("examples/fwi/0*.py"))
PYNQ = importlib.util.find_spec("pynq") is not None
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]
SAYS = {
    "01_the_problem": [
        "250 cells, 2160 pressures",
        r"\d+ evaluations in .* s: converged",
        r"off by 0\.\d+ %",
    ],
    "02_hardware_kernels": [
        "as NumPy says it: True",
        "4,320,000 bytes of K went there, once",
        "the same ground: True",
    ],
    "03_two_instances": [
        r"instance 0: 150 cells, \d+ evaluations, off by 0\.",
        r"instance 1: 150 cells, \d+ evaluations, off by 0\.",
        r"\d times faster",
    ],
    "04_several_devices": [
        r"500 cells: \d+ evaluations",
        r"250 cells: \d+ evaluations",
        r"strong scaling: .* s on one instance, .* s on two",
        "weak scaling: twice the ground",
    ],
    "05_watch_it": [
        r"\d+ evaluations, the ground is off by 0\.\d+ %",
        r"launch 1: .* ms in the queue, .* ms on the device",
        r"K resident: .* ms; K sent each time: .* ms",
    ],
}
PICTURES = {
    "01_the_problem": 2,
    "02_hardware_kernels": 1,
    "03_two_instances": 2,
    "04_several_devices": 2,
    "05_watch_it": 1,
}


def test_every_page_is_looked_at() -> None:
    assert sorted(SAYS) == PAGES


@pytest.fixture(params=SAYS)
def page(request: pytest.FixtureRequest) -> str:
    if not PYNQ and request.param != "01_the_problem":
        pytest.skip("needs pynq")
    name: str = request.param
    return name


def test_as_a_script(page: str, program: Callable[..., Program]) -> None:
    started = program("-m", f"examples.fwi.{page}", PYTHONPATH=str(ROOT))
    ended = started.end()
    assert (ended.code, ended.err) == (0, "")
    for pattern in SAYS[page]:
        assert re.search(pattern, ended.out), pattern
    assert len(list(started.folder.glob("*.png"))) == PICTURES[page]


# In a process of its own: what Jupyter's packages warn of, and leave open, is no concern of these tests.
RUN = """
import json, sys, jupytext, nbclient, nbformat
page, root, folder = sys.argv[1:]
book = jupytext.read(page)
book.cells.insert(0, nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {root!r})"))
nbclient.NotebookClient(book, timeout=150, resources={"metadata": {"path": folder}}).execute()
print(json.dumps([output for cell in book.cells for output in cell.get("outputs", ())]))
"""


def test_as_a_notebook(page: str, tmp_path: Path) -> None:
    pytest.importorskip("jupytext")
    pytest.importorskip("nbclient")
    path = ROOT / "examples" / "fwi" / f"{page}.py"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(path), str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    outputs = json.loads(ran.stdout)
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    for pattern in SAYS[page]:
        assert re.search(pattern, text), pattern
    drawn = sum("image/png" in output.get("data", ()) for output in outputs)
    # In a notebook the ground is drawn again and again, in the place of the one before.
    assert drawn == PICTURES[page] + (page == "05_watch_it")
