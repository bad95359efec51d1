"""What a kernel sees on a core is what its function would see if it were called now."""

from __future__ import annotations

import functools
import importlib
import linecache
import math
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.capture import Capture, load_image
from device_runtime.errors import KernelNotSerializable, KernelTypeError
from device_runtime.launch import Image


def script(source: str, **more: Any) -> dict[str, Any]:
    """Run source as a script's own module and return its globals."""
    names: dict[str, Any] = {"__name__": "__main__", **more}
    exec(source, names)
    return names


def run(image: Image, *args: Any) -> Any:
    return load_image(image.data)(*args)


def closure(value: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def kernel() -> Any:
        return value

    def rebind(new: Any) -> None:
        nonlocal value
        value = new

    return kernel, rebind


# ---- current values -----------------------------------------------------------


def test_a_kernel_that_captures_nothing_keeps_its_image() -> None:
    names = script("def kernel(x): return [abs(v) for v in range(x)]")
    capture = Capture(names["kernel"])
    image = capture.image()
    assert not image.fresh and capture.image() is image
    assert run(image, 2) == [0, 1]


def test_a_global_rebound_is_seen() -> None:
    names = script("a = 1\ndef kernel(): return a")
    capture = Capture(names["kernel"])
    first = capture.image()
    assert not first.fresh
    names["a"] = 2
    second = capture.image()
    assert (run(first), run(second)) == (1, 2)
    assert second.number > first.number
    assert capture.image() is second


def test_a_global_rebound_to_an_equal_value_is_the_same_image() -> None:
    names = script("a = 1.5\ndef kernel(): return a")
    capture = Capture(names["kernel"])
    image = capture.image()
    names["a"] = float("1.5")
    assert capture.image() is image


def test_a_global_changed_in_place_is_seen() -> None:
    names = script("a = [1]\ndef kernel():\n    a.append(0)\n    return a")
    capture = Capture(names["kernel"])
    first = capture.image()
    assert first.fresh and capture.image() is first
    names["a"].append(2)
    second = capture.image()
    assert second is not first
    assert run(second) == [1, 2, 0] and run(second) == [1, 2, 0]
    assert names["a"] == [1, 2]


def test_a_global_that_comes_later() -> None:
    names = script("def kernel(): return later")
    capture = Capture(names["kernel"])
    with pytest.raises(NameError):
        run(capture.image())
    names["later"] = 3
    assert run(capture.image()) == 3


def test_closures_are_current() -> None:
    kernel, rebind = closure(1)
    capture = Capture(kernel)
    first = capture.image()
    assert capture.image() is first and not first.fresh
    rebind([2])
    assert run(capture.image()) == [2] and capture.image().fresh
    rebind(3)
    assert run(capture.image()) == 3 and not capture.image().fresh


def test_an_empty_closure_cell() -> None:
    def outer() -> Any:
        def kernel() -> Any:
            return late

        image = Capture(kernel)
        before = image.image()
        late = 5
        return before, image.image()

    before, after = outer()
    with pytest.raises(NameError):
        run(before)
    assert run(after) == 5


def test_defaults_are_current() -> None:
    names = script("def kernel(a, b=1, *, c=2): return a, b, c")
    capture = Capture(names["kernel"])
    assert run(capture.image(), 0) == (0, 1, 2) and not capture.image().fresh
    names["kernel"].__defaults__ = (10,)
    names["kernel"].__kwdefaults__["c"] = 20
    assert run(capture.image(), 0) == (0, 10, 20)
    names["kernel"].__defaults__ = ([],)
    assert capture.image().fresh


def test_function_attributes_are_current() -> None:
    names = script("def kernel():\n    kernel.calls += 1\n    return kernel.calls\nkernel.calls = 0")
    capture = Capture(names["kernel"])
    assert capture.image().fresh and run(capture.image()) == 1
    names["kernel"].calls = 5
    assert run(capture.image()) == 6


def test_nothing_a_run_leaves_behind_is_reused() -> None:
    names = script("n = 0\ndef kernel():\n    global n\n    n += 1\n    return n")
    assert Capture(names["kernel"]).image().fresh

    kernel, _ = closure(0)
    assert not Capture(kernel).image().fresh

    def counter() -> Callable[[], int]:
        n = 0

        def kernel() -> int:
            nonlocal n
            n += 1
            return n

        return kernel

    assert Capture(counter()).image().fresh

    def own_cells() -> int:
        n = 0

        def inner() -> None:
            nonlocal n
            n += 1

        inner()
        return n

    assert not Capture(own_cells).image().fresh


def test_two_names_for_one_object_stay_two_names_for_one_object() -> None:
    names = script("a = b = []\ndef helper(): return b\ndef kernel(): return a is helper()")
    assert run(Capture(names["kernel"]).image()) is True


def test_captured_arrays_are_the_kernels_own_to_write_to() -> None:
    array = np.zeros(5000)
    objects = np.array([None, 1], object)

    def kernel() -> Any:
        array[0] += 1
        objects[0] = "x"
        return array[0]

    capture = Capture(kernel)
    assert run(capture.image()) == 1.0 and run(capture.image()) == 1.0
    array[0] = 5
    assert run(capture.image()) == 6.0
    assert array[0] == 5 and objects[0] is None


# ---- what travels with it -----------------------------------------------------


def test_functions_it_calls_travel_with_their_own_current_globals() -> None:
    names = script(
        "scale = 2\n"
        "def inner(x): return x * scale\n"
        "def outer(x): return inner(x) + 1\n"
        "def kernel(x): return outer(x)\n"
    )
    capture = Capture(names["kernel"])
    assert run(capture.image(), 5) == 11 and not capture.image().fresh
    names["scale"] = 3
    assert run(capture.image(), 5) == 16
    exec("def inner(x): return -x", names)
    assert run(capture.image(), 5) == -4


def test_functions_of_one_module_share_their_globals() -> None:
    names = script(
        "n = 0\ndef bump():\n    global n\n    n += 1\ndef kernel():\n    bump()\n    bump()\n    return n\n"
    )
    assert run(Capture(names["kernel"]).image()) == 2
    assert names["n"] == 0


def test_recursion_and_mutual_recursion() -> None:
    names = script(
        "def kernel(n): return 1 if n < 2 else n * kernel(n - 1)\n"
        "def even(n): return n == 0 or odd(n - 1)\n"
        "def odd(n): return n != 0 and even(n - 1)\n"
    )
    assert run(Capture(names["kernel"]).image(), 5) == 120
    assert run(Capture(names["even"]).image(), 10) is True


def test_names_in_nested_classes_and_comprehensions() -> None:
    names = script(
        "a, b, c = 1, 2, 3\n"
        "def kernel():\n"
        "    class Inner:\n"
        "        value = a\n"
        "        def get(self): return b\n"
        "    return [Inner.value, Inner().get(), *(c for _ in range(1)), (lambda: a)()]\n"
    )
    assert run(Capture(names["kernel"]).image()) == [1, 2, 3, 1]


def test_the_function_keeps_its_name_and_words() -> None:
    names = script('def kernel(x: int) -> float:\n    "Tell."\n    return x')
    kernel = load_image(Capture(names["kernel"]).image().data)
    assert (kernel.__name__, kernel.__qualname__, kernel.__module__) == ("kernel", "kernel", "__main__")
    assert kernel.__doc__ == "Tell." and kernel.__annotations__ == {"x": "int", "return": "float"}
    assert Capture(names["kernel"]).image().name == "__main__.kernel"


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, x: int) -> int:
        return self.n + x

    def __call__(self, x: int) -> int:
        return self.add(x)


def test_any_callable_can_be_captured() -> None:
    adder = Adder(1)
    for callable_ in (adder, adder.add, functools.partial(adder.add), functools.partial(Adder.add, adder)):
        capture = Capture(callable_)
        adder.n = 1
        assert run(capture.image(), 1) == 2
        adder.n = 10
        assert run(capture.image(), 1) == 11
    assert run(Capture(math.sqrt).image(), 4) == 2.0
    assert run(Capture(np.sqrt).image(), 4) == 2.0
    assert run(Capture(lambda x: x + 1).image(), 1) == 2
    assert run(Capture(functools.partial(pow, 2)).image(), 3) == 8
    assert not Capture(functools.partial(pow, 2)).image().fresh


def test_cached_functions_travel() -> None:
    names = script(
        "import functools\nk = 2\n"
        "@functools.lru_cache(maxsize=7)\ndef slow(x): return k * x\n"
        "def kernel(x): return slow(x), slow.cache_parameters()['maxsize']\n"
    )
    capture = Capture(names["kernel"])
    assert run(capture.image(), 4) == (8, 7)
    names["k"] = 3
    assert run(capture.image(), 4) == (12, 7)


def test_modules_builtins_and_installed_functions_cost_no_copy() -> None:
    names = script(
        "import math, json\nimport numpy as np\nfrom json import dumps\nfrom numpy import sqrt\n"
        "from numpy import linspace, sum\n"
        "TABLE = (1, 2.0, ('a', None))\n"
        "def kernel(): return math.pi, json, np.cos(0), dumps, sqrt(4), linspace, sum, TABLE, len, dict\n"
    )
    capture = Capture(names["kernel"])
    image = capture.image()
    assert not image.fresh and capture.image() is image


class Decorated:
    """Stand for a decorated kernel."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    @property
    def __offload_kernel__(self) -> Any:
        return self.fn

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args)

    def __reduce__(self) -> Any:
        return Decorated, (self.fn,)


def test_kernels_that_use_kernels() -> None:
    names = script(
        "k = 2\n"
        "@decorated\ndef scale(x): return k * x\n"
        "@decorated\ndef total(n): return 0 if n == 0 else scale(n) + total(n - 1)\n",
        decorated=Decorated,
    )
    capture = Capture(names["total"].fn)
    image = capture.image()
    assert run(image, 3) == 12 and capture.image() is image and not image.fresh
    names["k"] = 1
    assert run(capture.image(), 3) == 6


# ---- on another interpreter ---------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Make modules in a folder that is on the path, as if they lay next to the script."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, source: str) -> Any:
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


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


# ---- resident names -----------------------------------------------------------

A = frozenset({"a"})


def test_resident_names_are_not_captured() -> None:
    names = script("a = 1\nb = 2\ndef helper(): return a\ndef kernel(): return helper() + b")
    image = Capture(names["kernel"]).image(A | {"unused"})
    assert image.resident == A and not image.fresh
    kernel = load_image(image.data)
    assert "a" not in kernel.__globals__
    kernel.__globals__["a"] = 10
    assert kernel() == 12


def test_resident_names_that_methods_use() -> None:
    names = script(
        "a = 1\nclass Thing:\n    def get(self): return a\n"
        "def helper(): return a\nlisted = [helper]\n"
        "def kernel(): return Thing().get()\ndef other(): return listed[0]()\n"
    )
    for name in ("kernel", "other"):
        image = Capture(names[name]).image(A)
        assert image.resident == A
        kernel = load_image(image.data)
        assert "a" not in kernel.__globals__
    kernel.__globals__["a"] = 5
    assert kernel() == 5


def test_the_names_are_those_of_the_kernels_own_module(module: Any) -> None:
    module("side_e", "a = 5\ndef helper(): return a\n")
    names = script("from side_e import helper\ndef kernel(): return helper()")
    image = Capture(names["kernel"]).image(A)
    assert image.resident == frozenset() and run(image) == 5


def test_defining_a_name_on_the_device_makes_a_new_image() -> None:
    names = script("a = 1\ndef kernel(): return a")
    capture = Capture(names["kernel"])
    before, after = capture.image(), capture.image(A)
    assert before is not after and capture.image(A) is after
    assert run(capture.image()) == 1


def test_an_assignment_with_global_is_no_reason_to_load_anew() -> None:
    names = script("def kernel():\n    global a\n    a = 19")
    image = Capture(names["kernel"]).image(A)
    assert image.resident == A and not image.fresh


def assigns() -> Any:
    a = 19
    return a


def reads_argument(a: int) -> int:
    a = a + 1
    return a


def test_a_plain_assignment_changes_the_resident_copy() -> None:
    capture = Capture(assigns)
    kernel = load_image(capture.image(A).data)
    assert capture.image(A).resident == A
    assert kernel() == 19 and kernel.__globals__["a"] == 19
    assert run(capture.image()) == 19 and capture.image().resident == frozenset()
    assert capture.image(A) is not None and capture.image(A).resident == A


def test_an_argument_is_not_the_resident_name() -> None:
    image = Capture(reads_argument).image(A)
    assert image.resident == frozenset() and run(image, 1) == 2


def test_an_assignment_without_source_asks_for_global() -> None:
    names = script("def kernel():\n    a = 19")
    with pytest.raises(KernelTypeError, match="`global a`"):
        Capture(names["kernel"]).image(A)
    assert Capture(names["kernel"]).image(frozenset({"b"})).resident == frozenset()


def test_a_partial_and_a_method_that_assign() -> None:
    for callable_ in (functools.partial(assigns), functools.partial(functools.partial(assigns))):
        kernel: Any = load_image(Capture(callable_).image(A).data)
        assert kernel() == 19
    image = Capture(Assigner().method).image(A)
    kernel = load_image(image.data)
    assert kernel(3) == 3 and kernel.__func__.__globals__["a"] == 3 and image.resident == A


class Assigner:
    def method(self, value: int) -> int:
        a = value
        return a


# ---- what does not travel, or is large ----------------------------------------


def test_a_capture_that_does_not_pickle_is_named() -> None:
    names = script(
        "import threading\nlock = threading.Lock()\ndef helper(): return lock\ndef kernel(): return helper()"
    )
    with pytest.raises(
        KernelNotSerializable, match=r"__main__\.kernel: global 'lock' \(used by helper\(\)\)"
    ):
        Capture(names["kernel"]).image()
    kernel, _ = closure(threading.Lock())
    with pytest.raises(KernelNotSerializable, match="closure variable 'value'") as caught:
        Capture(kernel).image()
    assert caught.value.__cause__ is not None


def test_it_can_be_launched_once_the_culprit_is_gone() -> None:
    names = script("import threading\nlock = threading.Lock()\ndef kernel(): return lock")
    capture = Capture(names["kernel"])
    with pytest.raises(KernelNotSerializable):
        capture.image()
    names["lock"] = None
    assert run(capture.image()) is None


def test_a_large_capture_that_is_encoded_again_warns_once() -> None:
    names = script("def kernel(): return big[0], small")
    names.update(big=np.zeros(200_000), small=[1])
    capture = Capture(names["kernel"])
    capture.image()
    with pytest.warns(UserWarning, match=r"global 'big', 1\.6 MB.*define_on_device") as caught:
        capture.image()
    assert len(caught) == 1 and caught[0].filename == __file__
    names["small"] = [2]
    capture.image()


def test_a_large_constant_that_stays_does_not_warn() -> None:
    names = script("big = b'x' * 2_000_000\ndef kernel(): return len(big)")
    capture = Capture(names["kernel"])
    assert capture.image() is capture.image()


def test_threads_that_share_a_kernel() -> None:
    names = script("a = 0\nb = [0]\ndef kernel(): return a, b[0]")
    capture = Capture(names["kernel"])
    barrier = threading.Barrier(4)
    wrong: list[Any] = []

    def launch() -> None:
        barrier.wait(10)
        for _ in range(50):
            if run(capture.image()) != (0, 0):
                wrong.append(1)

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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
