"""Kernels can be defined wherever Python functions can, and need no guard around the script."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest
from programs import Program

Start = Callable[..., Program]


@pytest.fixture(params=["local:2", "inline:2"])
def address(request: pytest.FixtureRequest) -> str:
    """Name the device that programs run on, each in turn."""
    return str(request.param)


def printed(program: Program, said: str = "") -> list[str]:
    """Return the lines of a program that must end well and say nothing on standard error."""
    code, out, err = program.end(said)
    assert (code, err) == (0, ""), err
    return out.splitlines()


def test_a_script_without_a_guard_launches_at_module_level(program: Start, address: str) -> None:
    script = """
        from offload import offload
        from offload.core import coreid

        print("the script runs")
        scale = 10

        def scaled(x):
            return x * scale

        @offload
        def kernel(x):
            return coreid(), scaled(x)

        print(kernel(4))
        scale = 100
        print(kernel(4))
    """
    assert printed(program("script.py", files={"script.py": script}, device=address)) == [
        "the script runs",
        "[(0, 40), (1, 40)]",
        "[(0, 400), (1, 400)]",
    ]


def test_a_class_of_the_script_travels_both_ways(program: Start, address: str) -> None:
    script = """
        from dataclasses import dataclass
        from offload import offload

        @dataclass
        class Point:
            x: float

        class Wrong(Exception):
            pass

        @offload
        def moved(point):
            if not isinstance(point, Point):
                raise Wrong("not a point")
            return Point(point.x + 1)

        assert moved(Point(1.5)) == [Point(2.5)] * 2
        try:
            moved(1.5)
        except Wrong as error:
            print("caught", error)
    """
    assert printed(program("script.py", files={"script.py": script}, device=address)) == [
        "caught not a point"
    ]


def test_what_a_kernel_assigns_stays_on_the_core(program: Start, address: str) -> None:
    script = """
        from offload import offload

        count, found = 1, []

        def helper():
            global count
            count += 10
            found.append(count)

        @offload
        def kernel():
            helper()
            return count, found

        print(kernel(), kernel())
        print(count, found)
    """
    assert printed(program("script.py", files={"script.py": script}, device=address)) == [
        "[(11, [11]), (11, [11])] [(11, [11]), (11, [11])]",
        "1 []",
    ]


@pytest.mark.parametrize("reach", ["eval('hidden')", "globals()['hidden']"])
def test_what_no_code_names_does_not_travel(program: Start, address: str, reach: str) -> None:
    script = f"""
        from offload import offload

        hidden = 5
        error = offload(lambda: {reach}).launch().exception()
        print(isinstance(error, (NameError, KeyError)), "hidden" in str(error))
    """
    assert printed(program("script.py", files={"script.py": script}, device=address)) == ["True True"]


def test_python_c(program: Start, address: str) -> None:
    text = "from offload import offload\nk = offload(lambda x: x + 1)\nprint(k(1))"
    assert printed(program("-c", text, device=address)) == ["[2, 2]"]


def test_resident_data_in_python_c(program: Start, address: str) -> None:
    text = """
from offload import KernelTypeError, copy_from_device, define_on_device, offload
a = 1
define_on_device(a)
exec("@offload\\ndef plain():\\n    a = 2")  # Python 3.13 has the source of what -c runs
try:
    plain()
except KernelTypeError as error:
    print(error)
@offload
def declared():
    global a
    a = 2
declared()
print(copy_from_device("a"))
"""
    asked, values = printed(program("-c", text, device=address))
    assert asked.startswith("write `global a` at the top of plain()") and values == "[2, 2]"


def test_a_script_from_standard_input(program: Start, address: str) -> None:
    text = "from offload import offload\n@offload\ndef k(x):\n    return x + 1\n\nprint(k(1))\n"
    assert printed(program("-", device=address), text) == ["[2, 2]"]


def test_the_interactive_interpreter(program: Start, address: str) -> None:
    text = """\
from offload import offload
def helper(x):
    return x * 2

@offload
def k(x):
    return helper(x)

print(k(1))
def helper(x):
    return x * 3

print(k(1))
"""
    ended = program("-q", "-i", device=address).end(text)
    assert ended.code == 0
    assert ended.out.splitlines() == ["[2, 2]", "[3, 3]"], ended.err


def test_a_traceback_shows_the_line_of_a_function_typed_in(program: Start, address: str) -> None:
    text = "from offload import offload\n@offload\ndef k(x):\n    return 1 / x\n\nk(0)\n"
    ended = program("-q", "-i", device=address).end(text)
    assert "ZeroDivisionError" in ended.err and "in k" in ended.err


def test_a_module_next_to_the_script(program: Start, address: str) -> None:
    files = {
        "script.py": """
            import numbers_of_mine
            from numbers_of_mine import doubled
            from offload import offload

            print(doubled(4))

            @offload
            def here(x):
                return numbers_of_mine.plain(x) + 1

            print(here(4))
        """,
        "numbers_of_mine.py": """
            from offload import offload

            factor = 2

            def plain(x):
                return x * factor

            @offload
            def doubled(x):
                return plain(x)
        """,
    }
    assert printed(program("script.py", files=files, device=address)) == ["[8, 8]", "[9, 9]"]


def test_a_class_of_a_module_next_to_the_script_is_seen_as_it_is_now(program: Start, address: str) -> None:
    files = {
        "script.py": """
            from offload import offload
            from settings_of_mine import Settings

            @offload
            def read():
                return Settings.level, Settings.names

            print(read())
            Settings.level = 2
            Settings.names.append("new")
            print(read())
        """,
        "settings_of_mine.py": """
            class Settings:
                level = 1
                names = []
        """,
    }
    assert printed(program("script.py", files=files, device=address)) == [
        "[(1, []), (1, [])]",
        "[(2, ['new']), (2, ['new'])]",
    ]


PACKAGE = {
    "orchard/__init__.py": "",
    "orchard/apples.py": """
        from offload import offload
        from . import tools

        @offload
        def pick(count):
            return tools.washed(count)
    """,
    "orchard/tools.py": """
        def washed(count):
            return f"{count} washed"
    """,
    "orchard/__main__.py": """
        from offload import offload
        from .apples import pick
        from .tools import washed

        @offload(target=1)
        def here(count):
            return washed(count)

        print(pick(3), here(4), __name__)
    """,
}


def test_a_package(program: Start, address: str) -> None:
    text = "from orchard.apples import pick; print(pick(3))"
    assert printed(program("-c", text, files=PACKAGE, device=address)) == ["['3 washed', '3 washed']"]


def test_python_m(program: Start, address: str) -> None:
    lines = printed(program("-m", "orchard", files=PACKAGE, device=address))
    assert lines == ["['3 washed', '3 washed'] ['4 washed'] __main__"]


def test_python_m_of_a_module_in_a_package(program: Start, address: str) -> None:
    files = {
        "orchard/__init__.py": "",
        "orchard/pears.py": """
            from offload import offload

            count = 2

            @offload
            def pick():
                return count

            print(pick())
        """,
    }
    assert printed(program("-m", "orchard.pears", files=files, device=address)) == ["[2, 2]"]


def test_every_kind_of_callable(program: Start, address: str) -> None:
    script = """
        import functools
        import math
        from offload import offload, offload_single

        def outer(a):
            b = a + 1

            @offload
            def nested(x):
                return a, b, x

            return nested

        print(outer(1)(3))
        print(offload(lambda x: x * x)(3))

        def add(a, b, c=0):
            return a + b + c

        print(offload(functools.partial(add, 1, c=10))(2))
        print(offload(math.sqrt)(9.0))

        class Scale:
            offset = 1

            def __init__(self, factor):
                self.factor = factor

            @offload
            def method(self, x):
                return self.factor * x + self.offset

            @staticmethod
            @offload
            def static(x):
                return -x

            @classmethod
            def plain(cls, x):
                return cls.offset + x

            @offload_single
            def single(self, x):
                return self.factor - x

            def __call__(self, x):
                return self.factor + x

        scale = Scale(5)
        print(scale.method(2))
        scale.factor = 6
        print(scale.method(2), scale.single(1).result())
        print(Scale.static(2), scale.static(3))
        print(offload(Scale.plain)(1), offload(scale)(1))

        @offload
        def factorial(n):
            return 1 if n < 2 else n * factorial.fn(n - 1)

        print(factorial(10))
    """
    assert printed(program("script.py", files={"script.py": script}, device=address)) == [
        "[(1, 2, 3), (1, 2, 3)]",
        "[9, 9]",
        "[13, 13]",
        "[3.0, 3.0]",
        "[11, 11]",
        "[13, 13] 5",
        "[-2, -2] [-3, -3]",
        "[2, 2] [7, 7]",
        "[3628800, 3628800]",
    ]


@pytest.mark.parametrize("name", ["scheduler", "device_runtime"])
@pytest.mark.parametrize("package", [False, True])
def test_a_users_file_that_hides_a_package_of_ours_is_named(program: Start, name: str, package: bool) -> None:
    file = f"{name}/__init__.py" if package else f"{name}.py"
    files = {"script.py": "import offload", file: "mine = True"}
    started = program("script.py", files=files)
    ended = started.end()
    assert ended.code == 1
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(started.folder / file) in last and "rename" in last


def test_a_folder_that_is_no_package_hides_nothing(program: Start) -> None:
    files = {"script.py": "import offload; print('fine')", "scheduler/notes.txt": ""}
    assert printed(program("script.py", files=files)) == ["fine"]


def test_another_current_folder(program: Start, address: str) -> None:
    """A script in another folder finds the modules next to it, on the cores too."""
    files = {
        "app/script.py": """
            import os
            from near import value
            from offload import offload

            @offload
            def k():
                import near
                return near.value, os.path.basename(os.getcwd())

            print(k() == [(value, os.path.basename(os.getcwd()))] * 2)
        """,
        "app/near.py": "value = 7",
    }
    assert printed(program("app/script.py", files=files, device=address)) == ["True"]


def test_a_path_added_by_the_script(program: Start, address: str) -> None:
    files = {
        "script.py": """
            import sys
            from offload import offload

            @offload
            def first():
                return 1

            first()
            sys.path.insert(0, "lib")

            @offload
            def k():
                import late
                return late.value

            print(k())
        """,
        "lib/late.py": "value = 8",
    }
    assert printed(program("script.py", files=files, device=address)) == ["[8, 8]"]


def test_importing_and_never_launching_starts_nothing(program: Start) -> None:
    script = """
        import offload, os, threading
        from offload import offload as decorate, offload_single, wait_all

        @decorate
        def k(x):
            return x

        children = [p for p in os.listdir("/proc") if p.isdigit()
                    and os.path.exists(f"/proc/{p}/stat")
                    and open(f"/proc/{p}/stat").read().rpartition(")")[2].split()[1] == str(os.getpid())]
        print(children, threading.active_count(), len(os.listdir("/proc/self/fd")))
    """
    before = "import os, threading; print([], threading.active_count(), len(os.listdir('/proc/self/fd')))"
    lines = printed(program("script.py", files={"script.py": script}, device=None))
    assert lines == printed(program("-c", before, device=None))


def test_doctest(program: Start, address: str) -> None:
    text = textwrap.dedent(
        '''
        """
        >>> from offload import offload
        >>> @offload
        ... def k(x):
        ...     return x + 1
        >>> k(1)
        [2, 2]
        """
        '''
    )
    assert printed(program("-m", "doctest", "doc.py", files={"doc.py": text}, device=address)) == []


def test_what_belongs_to_the_process_is_of_when_the_device_was_opened(program: Start) -> None:
    script = """
        import os, sys
        import offload as of
        from offload import offload

        @offload
        def process():
            folder = os.path.basename(os.getcwd())
            return os.environ.get("MINE"), folder, len(sys.argv), sys.getrecursionlimit()

        limit = sys.getrecursionlimit()
        os.environ["MINE"] = "first"
        os.mkdir("before")
        os.chdir("before")
        of.connect("local:1")
        os.environ["MINE"] = "second"
        os.chdir("..")
        sys.setrecursionlimit(limit + 1)
        print(process()[0][:2], process()[0][2] == len(sys.argv), process()[0][3] == limit)
    """
    ended = program("script.py", "one", "two", files={"script.py": script})
    assert printed(ended) == ["('first', 'before') False True"]
