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


def test_data_of_classes_of_modules_next_to_the_script(far: Any, module: Any) -> None:
    side = module(
        "side_g",
        "class Base:\n    level = 1\n    def told(self): return self.level, self.names\n"
        "class Config(Base):\n    names = []\n    class Inner:\n        depth = 0\n",
    )
    names = script(
        "import side_g\nfrom side_g import Config\n"
        "class Mine(Config):\n    def told(self): return self.level, self.names\n"
        "made = [Config()]\n"
        "def of_class():\n    Config.names.append(Config.level)\n    return Config.names\n"
        "def of_inner(): return side_g.Config.Inner.depth\n"
        "def of_instance(): return made[0].told()\n"
        "def of_subclass(): return Mine().told()\n"
        "def of_type(): return type(made[0]) is Config\n"
        "def of_argument(config): return isinstance(config, Config), config.level\n"
    )
    captured = {name: Capture(names[name]) for name in names if name.startswith("of_")}

    def seen(name: str, *args: Any) -> Any:
        return far.run(captured[name].image(), *args)

    def all_seen() -> list[Any]:
        seen("of_class")  # whose changes nobody else shall see
        kernels = ("of_class", "of_inner", "of_instance", "of_subclass")
        return [*map(seen, kernels), seen("of_type"), seen("of_argument", side.Config())]

    assert all_seen() == [[1], 0, (1, []), (1, []), True, (True, 1)]
    side.Base.level = 2
    side.Config.names.append("new")
    side.Config.Inner.depth = 3
    assert all_seen() == [["new", 2], 3, (2, ["new"]), (2, ["new"]), True, (True, 2)]
    side.Config.level = 4
    assert all_seen() == [["new", 4], 3, (4, ["new"]), (4, ["new"]), True, (True, 4)]
    assert side.Config.names == ["new"]


def test_what_a_module_or_class_next_to_the_script_no_longer_has_is_gone_on_the_core(
    far: Any, module: Any
) -> None:
    side = module(
        "side_l",
        "extra = 1\nclass Base:\n    level = own = 1\nclass Sub(Base):\n    pass\n"
        "def told(): return hidden\n",
    )
    names = script(
        "import side_l\n"
        "def of_class(): return side_l.Sub.level, getattr(side_l.Sub, 'own', 0) and side_l.Sub.own\n"
        "def of_module(): return side_l.extra if hasattr(side_l, 'extra') else None\n"
        "def of_function():\n"
        "    try:\n        return side_l.told()\n    except NameError:\n        return None\n"
    )
    kernels = [names[name] for name in ("of_class", "of_module", "of_function")]
    captured, others = [*map(Capture, kernels)], [*map(Capture, kernels)]

    def seen(captured: list[Capture]) -> list[Any]:
        return [far.run(capture.image()) for capture in captured]

    assert seen(captured) == seen(others) == [(1, 1), 1, None]
    side.Sub.level = side.extra = side.hidden = 2
    assert seen(others) == [(2, 1), 2, 2]
    del side.Sub.level, side.Base.own, side.extra, side.hidden
    assert seen(captured) == [(1, 0), None, None]
    images = [capture.image() for capture in captured]
    assert all(image.fresh for image in images)  # as others may be sent what they shall not see
    assert all(capture.image() is image for capture, image in zip(captured, images, strict=True))
    side.Sub.level = side.Base.own = side.extra = side.hidden = 3
    assert seen(captured) == seen(others) == [(3, 3), 3, 3]


def test_what_a_core_has_of_its_own_in_a_module_stays(far: Any, module: Any) -> None:
    module("side_m", "class Base:\n    level = None\nclass Sub(Base):\n    pass\n")
    names = script(
        "import side_m\n"
        "def initializer(): side_m.model = side_m.Sub.level = 3\n"
        "def kernel(): return side_m.model, side_m.Sub.level\n"
    )
    far.run(Capture(names["initializer"]).image())
    for _ in range(2):
        assert far.run(Capture(names["kernel"]).image()) == (3, 3)


def test_a_kernel_whose_classes_have_no_data_it_names_keeps_its_image(module: Any) -> None:
    side = module("side_h", "class Thing:\n    table = [1]\n    def get(self): return 1\n")
    names = script("from side_h import Thing\ndef kernel(): return Thing().get()")
    capture = Capture(names["kernel"])
    image = capture.image()
    assert not image.fresh and capture.image() is image
    side.Thing.other = 1
    assert capture.image() is image


def test_classes_of_many_kinds_keep_working(far: Any, module: Any) -> None:
    side = module(
        "side_i",
        "import abc, ctypes, dataclasses, enum, functools, threading, typing\n"
        "class Meta(type):\n    def __setattr__(cls, name, value): raise TypeError('fixed')\n"
        "class Fixed(metaclass=Meta):\n    value = 1\n"
        "class Color(enum.Enum):\n    RED = 1\n"
        "class Locked:\n    lock = threading.Lock()\n    count = 0\n"
        "class Slotted:\n    __slots__ = ('a',)\n    b = 2\n"
        "@dataclasses.dataclass\n"
        "class Data:\n    x: int = 3\n    y: list = dataclasses.field(default_factory=list)\n"
        "class Pair(typing.NamedTuple):\n    first: int = 4\n"
        "class Layout(ctypes.Structure):\n    _fields_ = [('n', ctypes.c_int)]\n"
        "class Abstract(abc.ABC):\n    unit = 'm'\n"
        "    @functools.cached_property\n    def long(self): return self.unit * 2\n"
        "    @property\n    def short(self): return self.unit\n"
        "    @classmethod\n    def of_class(cls): return cls.unit\n",
    )
    names = script(
        "from side_i import *\n"
        "def kernel():\n"
        "    with Locked.lock:\n        locked = Locked.count\n"
        "    thing = Slotted()\n    thing.a = Fixed.value\n"
        "    return (locked, thing.a, thing.b, Color.RED, Data(5), Data.x, Pair().first, Layout(7).n,\n"
        "        len(Layout._fields_), Abstract().long, Abstract().short, Abstract.of_class())\n"
    )
    capture = Capture(names["kernel"])
    expected = [0, 1, 2, side.Color.RED, side.Data(5), 3, 4, 7, 1, "mm", "m", "m"]
    assert list(far.run(capture.image())) == expected
    side.Abstract.unit, side.Slotted.b, side.Locked.count = "km", 20, 30
    type.__setattr__(side.Fixed, "value", 10)
    assert list(far.run(capture.image())) == [30, 10, 20, *expected[3:9], "kmkm", "km", "km"]


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


def test_what_a_class_of_the_script_no_longer_has_is_gone_on_the_core(far: Any) -> None:
    names = script(
        "import abc, dataclasses, enum\n"
        "class Base(abc.ABC):\n    limit = 1\n    def told(self): return 'base'\n"
        "@dataclasses.dataclass\nclass Conf(Base):\n    x: int = 2\n"
        "class Slotted(Base):\n    __slots__ = ('a',)\n"
        "class Color(enum.Enum):\n    RED = 1\n"
        "def kernel(*given):\n"
        "    left = [name for name in ('limit', 'told', 'mark') if name in vars(Conf)]\n"
        "    Conf.mark = Slotted.mark = Color.mark = Conf.__annotations__ = 1\n"
        "    slotted = Slotted()\n    slotted.a = 3\n"
        "    return left, Conf.limit, Conf().told(), Conf(5) == Conf(5), slotted.a, Color(1) is Color.RED\n"
    )
    capture, conf = Capture(names["kernel"]), names["Conf"]
    plain = [[], 1, "base", True, 3, True]
    assert list(far.run(capture.image())) == plain
    assert list(far.run(capture.image(), conf(), names["Slotted"](), names["Color"].RED)) == plain
    conf.limit, conf.told = 99, lambda self: "patched"
    assert list(far.run(capture.image())) == [["limit", "told"], 99, "patched", *plain[3:]]
    del conf.limit, conf.told
    assert list(far.run(capture.image())) == plain


def test_classes_of_the_script_keep_their_slots(far: Any) -> None:
    names = script(
        "import dataclasses, typing\n"
        "T = typing.TypeVar('T')\n"
        "@dataclasses.dataclass(slots=True)\nclass Point:\n    x: int\n    y: int = 2\n"
        "class One:\n    __slots__ = 'a'\n"
        "class Two(One, typing.Generic[T]):\n    __slots__ = ('__b', '__dict__')\n"
        "    def __init__(self):\n        self.a, self.__b, self.c = 1, 2, 3\n"
        "    def all(self): return self.a, self.__b, self.c\n"
        "def kernel(point):\n"
        "    return Point(point.y, point.x), hasattr(point, '__dict__'), Two()\n"
    )
    capture, point = Capture(names["kernel"]), names["Point"]
    for _ in range(2):
        made, loose, two = far.run(capture.image(), point(3, 4))
        assert made == point(4, 3) and not loose
        assert type(two) is names["Two"] and two.all() == (1, 2, 3)


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
