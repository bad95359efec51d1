"""What a kernel sees in another interpreter, with its own modules."""

from __future__ import annotations

import linecache
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from captured import run, script

from device_runtime.capture import Capture


def test_modules_next_to_the_script(far: Any, module: Any) -> None:
    side = module(
        "side_a", "k = 2\nclass Thing:\n    pass\ndef scale(x): return k * x\ndef thing(): return Thing()\n"
    )
    from_import = script(
        "from side_a import scale, Thing, thing\ndef kernel(x): return scale(x), Thing(), thing()"
    )
    capture = Capture(from_import["kernel"])
    value, one, two = far.run(capture.image(), 3)
    assert value == 6 and type(one) is side.Thing and type(two) is side.Thing
    side.k = 5
    assert far.run(capture.image(), 3)[0] == 15


def test_attributes_of_modules_next_to_the_script(far: Any, module: Any) -> None:
    side = module(
        "side_b",
        "k = 2\ntable = [1]\ndef scale(x): return k * x\ndef bump():\n    global k\n    k += 1\n"
        "class Thing:\n    def scaled(self): return scale(10)\n",
    )
    names = script(
        "import side_b\n"
        "def kernel(x):\n    side_b.bump()\n    side_b.table.append(x)\n"
        "    return side_b.scale(x), side_b.k, side_b.Thing().scaled(), side_b.table\n"
    )
    capture = Capture(names["kernel"])
    for _ in range(2):
        assert far.run(capture.image(), 3) == (9, 3, 30, [1, 3])
    side.k = 7
    side.table = [0]
    assert far.run(capture.image(), 3) == (24, 8, 80, [0, 3])
    original = side.scale
    side.scale = lambda x: x
    assert far.run(capture.image(), 3) == (3, 8, 10, [0, 3])
    side.scale = original
    assert (side.k, side.table) == (7, [0]) and side.scale is original


def test_an_image_leaves_the_modules_of_its_own_process_alone(module: Any) -> None:
    side = module("side_c", "k = [2]\ndef scale(x): return k[0] * x\n")
    before = dict(vars(side))
    names = script("import side_c\ndef kernel(x): return side_c.scale(x), side_c.k")
    assert run(Capture(names["kernel"]).image(), 2) == (4, [2])
    assert all(vars(side)[name] is value for name, value in before.items())


def test_a_kernel_of_a_module_that_is_not_imported_on_the_core(far: Any, module: Any) -> None:
    side = module(
        "side_d",
        "import sys\nsys.modules[__name__].loaded = True\nclass Thing:\n    pass\n"
        "def helper(x): return x + 1\ndef kernel(x):\n    import sys\n"
        "    return helper(x), 'side_d' in sys.modules\n",
    )
    assert far.run(Capture(side.kernel).image(), 1) == (2, False)


def test_classes_of_the_script_are_one_class_wherever_they_come_from(far: Any) -> None:
    names = script(
        "class Point:\n    count = 0\n    def __init__(self, x): self.x = x\n"
        "class Bad(Exception):\n    pass\n"
        "def kernel(p): return isinstance(p, Point), type(p) is Point, Point(3), Point.count\n"
        "def fails():\n    raise Bad('no')\n"
    )
    capture = Capture(names["kernel"])
    is_one, same, made, count = far.run(capture.image(), names["Point"](1))
    assert is_one and same and count == 0
    assert type(made) is names["Point"] and made.x == 3
    assert names["Point"].__init__.__globals__ is names
    names["Point"].count = 4
    assert far.run(capture.image(), names["Point"](1))[3] == 4
    with pytest.raises(names["Bad"]):
        far.run(Capture(names["fails"]).image())


def test_classes_of_the_script_are_not_touched_by_their_copies() -> None:
    names = script(
        "class Thing:\n    seen = []\n    def get(self): return self\ndef kernel(): return Thing()\n"
    )
    before = dict(vars(names["Thing"]))
    assert type(run(Capture(names["kernel"]).image())) is names["Thing"]
    assert all(vars(names["Thing"])[name] is value for name, value in before.items())


def test_a_notebook_cell_shows_its_lines_in_tracebacks(far: Any) -> None:
    source = "def kernel():\n    raise ValueError('here')  # this very line\n"
    file = "<cell 1>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), names)
    image = Capture(names["kernel"]).image()
    assert image.sources == {file: source.splitlines(True)}
    assert Capture(script).image().sources == {}


def test_a_script_without_any_file() -> None:
    code = (
        "from device_runtime.capture import Capture, load_image\n"
        "k = 2\n"
        "def kernel(x): return k * x\n"
        "print(load_image(Capture(kernel).image().data)(21))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_module_that_exits_when_imported(far: Any, module: Any) -> None:
    side = module("side_f", "def helper(): return 1\n")
    names = script("import side_f\ndef kernel(): return side_f.helper()")
    image = Capture(names["kernel"]).image()
    Path(side.__file__).write_text("import sys; sys.exit(3)\n")
    with pytest.raises(ImportError, match=r"sys\.exit"):
        far.run(image)


def test_a_module_made_by_hand() -> None:
    made = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = made
    try:
        exec("k = 2\nclass Thing: pass\ndef helper(): return k, Thing()\n", vars(made))
        names = script("from made_by_hand import helper\ndef kernel(): return helper()")
        value, thing = run(Capture(names["kernel"]).image())
        assert value == 2 and type(thing) is vars(made)["Thing"]
    finally:
        del sys.modules["made_by_hand"]
