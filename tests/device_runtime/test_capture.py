"""What a kernel sees on a core is what its function would see if it were called now."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from captured import closure, run, script

from device_runtime.capture import Capture, load_image

# ---- current values ----------------------------------------------------------


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


@pytest.mark.parametrize(
    "lines",
    [
        "h.n = getattr(h, 'n', 0) + 1; return h.n",
        "count(); return h.n",
        "side_k.h.n = getattr(side_k.h, 'n', 0) + 1; return side_k.h.n",
        "kernel.n = getattr(kernel, 'n', 0) + 1; return kernel.n",
    ],
)
def test_an_attribute_that_a_kernel_gives_a_function_is_not_there_in_the_next_launch(
    lines: str, far: Any, module: Any
) -> None:
    module("side_k", "def h(): pass\n")
    names = script(
        "import side_k\ndef h(): pass\n"
        "def count():\n    def inner(): h.n = getattr(h, 'n', 0) + 1\n    inner()\n"
        f"def kernel(): {lines}\n"
    )
    image = Capture(names["kernel"]).image()
    assert image.fresh and [far.run(image), far.run(image)] == [1, 1]


def test_an_attribute_of_a_function_in_the_closure_is_not_there_in_the_next_launch() -> None:
    def own() -> None:
        pass

    def sets() -> None:
        own.n = 1  # type: ignore[attr-defined]

    def deletes() -> None:
        def inner() -> None:
            del own.n  # type: ignore[attr-defined]

        inner()

    assert Capture(sets).image().fresh and Capture(deletes).image().fresh


def test_attributes_of_functions_that_a_kernel_makes_are_no_reason_to_load_anew() -> None:
    names = script(
        "def h(): return 1\n"
        "def kernel(thing):\n"
        "    def made(): return made.n\n"
        "    def other(): made.n = h()\n"
        "    other()\n    made.m = thing.n = made()\n    return made.m\n"
    )
    assert not Capture(names["kernel"]).image().fresh


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


def test_functions_that_share_a_variable_share_it_where_they_arrive(far: Any) -> None:
    total = 0
    nothing: int

    class Counter:
        def __init__(self) -> None:
            self.other = __class__  # type: ignore[name-defined]

        def count(self) -> None:
            nonlocal total
            total += 1

    def add(x: int) -> None:
        nonlocal total, nothing
        total += x
        nothing = total

    def kernel(xs: list[int]) -> Any:
        for x in xs:
            add(x)
        made = Counter()
        made.count()
        return total, nothing, made.other is Counter, kernel.__closure__ is not None, even(4)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    capture = Capture(kernel)
    for _ in range(2):
        assert far.run(capture.image(), [1, 2, 3]) == (7, 6, True, True, True)
    assert total == 0
    total = 10
    assert far.run(capture.image(), [1, 2, 3]) == (17, 16, True, True, True)


def test_a_function_in_its_own_closure_is_itself() -> None:
    def outer() -> Any:
        def kernel() -> Any:
            return kernel, other, other()

        def other() -> Any:
            return kernel

        return kernel

    loaded = load_image(Capture(outer()).image().data)
    itself, other, again = loaded()
    assert itself is loaded and again is loaded and other.__closure__[0].cell_contents is loaded


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


# ---- what travels with it ----------------------------------------------------


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


def test_classes_with_cached_properties_travel() -> None:
    names = script(
        "import functools\n"
        "class Thing:\n"
        "    made = 0\n"
        "    @functools.cached_property\n"
        "    def value(self):\n"
        "        'Tell.'\n"
        "        self.made += 1\n"
        "        return 3\n"
        "def kernel():\n"
        "    thing = Thing()\n"
        "    return thing.value, thing.value, thing.made, vars(thing)['value'], Thing.value.__doc__\n"
    )
    assert run(Capture(names["kernel"]).image()) == (3, 3, 1, 3, "Tell.")


def test_generic_functions_travel() -> None:
    names = script(
        "import collections.abc, functools\nk = 2\n"
        "@functools.singledispatch\ndef kind(x):\n    'Tell.'\n    return 'object'\n"
        "@kind.register\ndef _(x: int): return 'int', k\n"
        "@kind.register(collections.abc.Sequence)\ndef _(x): return [kind(each) for each in x]\n"
        "class Thing:\n"
        "    @functools.singledispatchmethod\n    def of(self, x): return 'other'\n"
        "    @of.register\n    def _(self, x: str): return 'str'\n"
        "def kernel(): return kind([True, 1.5, [4]]), kind.__doc__, Thing().of(''), Thing().of(1)\n"
    )
    capture = Capture(names["kernel"])
    image = capture.image()
    assert run(image) == ([("int", 2), "object", [("int", 2)]], "Tell.", "str", "other")
    names["k"] = 3
    names["kind"].register(float, lambda x: "float")
    assert run(capture.image())[0] == [("int", 3), "float", [("int", 3)]]


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
