"""The scripts of ePython's tutorials 6 and 7, in Python 3 spelling, give what the tutorials say.

They are told anew here, with the tutorials' calls and figures, for the sixteen
cores of the machine they were written for. `async` is a keyword by now: on one
device the scripts say `async_=True`, on the other `**{"async": True}`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import pytest
from programs import Program

CORES = 16
Run = Callable[[str], list[Any]]

HELLO = """
def hello(a, b):
    print("Hello World")
    return a + b
"""


@pytest.fixture(params=["local:16", "inline:16"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def said() -> dict[int, list[str]]:
    """What the cores of the script have printed, by core."""
    return {}


@pytest.fixture
def run_async(run: Run, device: str) -> Run:
    """Run a script that starts launches without waiting, where it says ASYNC."""
    spelling = "async_=True" if device.startswith("local") else '**{"async": True}'
    return lambda text: run(text.replace("ASYNC", spelling))


@pytest.fixture
def run(program: Callable[..., Program], device: str, said: dict[int, list[str]]) -> Run:
    """Run a script as a user does; return the values that the host prints."""

    def start(text: str) -> list[Any]:
        ended = program("script.py", files={"script.py": text}, device=device).end()
        assert (ended.code, ended.err) == (0, "")
        values = []
        for line in ended.out.splitlines():
            core = re.match(r"\[core (\d+)\] (.*)", line)
            if core is not None:
                said.setdefault(int(core[1]), []).append(core[2])
            else:
                values.append(ast.literal_eval(line))
        return values

    return start


class TestTutorial6:
    """Offloading functions."""

    def test_a_function_runs_on_all_cores(self, run: Run, said: dict[int, list[str]]) -> None:
        assert run("from offload import offload\n@offload" + HELLO + "print(hello(10, 20))") == [[30] * CORES]
        assert said == {core: ["Hello World"] for core in range(CORES)}

    def test_without_the_decorator_it_runs_on_the_host(self, program: Callable[..., Program]) -> None:
        ended = program("-c", HELLO + "print(hello(10, 20))").end()
        assert ended.out == "Hello World\n30\n"

    def test_a_launch_that_is_not_waited_for(self, run_async: Run, said: dict[int, list[str]]) -> None:
        text = "from offload import offload\n@offload(ASYNC)" + HELLO
        text += "handler = hello(10, 20)\nprint(handler.wait())"
        assert run_async(text) == [[30] * CORES]
        assert said == {core: ["Hello World"] for core in range(CORES)}

    def test_any_value_and_whether_there_is_one(self, run_async: Run) -> None:
        given, any_left, all_ = run_async("""
            from offload import offload
            from offload.core import coreid

            @offload(ASYNC)
            def square(a):
                return a * coreid() ** 2

            handler = square(2)
            given = {}
            while len(given) < 16:
                given.update(handler.wait_any())
            print(given)
            print(handler.test())
            print(handler.wait())
        """)
        assert given == {core: 2 * core**2 for core in range(CORES)}
        assert any_left is True
        assert all_ == [2 * core**2 for core in range(CORES)]

    def test_launches_queue_up(self, run_async: Run) -> None:
        later, earlier = run_async("""
            from offload import offload

            @offload(ASYNC)
            def add(a, b):
                return a + b

            handlers = [add(n, 20) for n in range(50)]
            print([handler.wait()[0] for handler in reversed(handlers)])
            print(handlers[0].wait())
        """)
        assert later == [n + 20 for n in reversed(range(50))]
        assert earlier == [20] * CORES

    def test_some_cores_whichever(self, run: Run, said: dict[int, list[str]]) -> None:
        text = "from offload import offload\n@offload(auto=4)" + HELLO + "print(hello(10, 20))"
        assert run(text) == [[30] * 4]
        assert list(said.values()) == [["Hello World"]] * 4

    def test_some_cores_by_number(self, run: Run, said: dict[int, list[str]]) -> None:
        text = "from offload import offload\n@offload(target=[1, 5, 8])" + HELLO + "print(hello(10, 20))"
        assert run(text) == [[30] * 3]
        assert sorted(said) == [1, 5, 8]

    def test_a_call_overrides_the_decorator(self, run_async: Run, said: dict[int, list[str]]) -> None:
        text = "from offload import offload\n@offload" + HELLO
        text += "h = hello(10, 20, target=[9, 10], ASYNC)\nprint(h.wait())\nprint(hello(1, 2))"
        assert run_async(text) == [[30] * 2, [3] * CORES]
        assert {core for core, lines in said.items() if len(lines) == 2} == {9, 10}

    def test_short_cuts(self, run: Run) -> None:
        assert run("""
            from offload import offload_multiple, offload_single, waitAll

            @offload_multiple(cores=8)
            def adder(a, b):
                return a + b

            @offload_single
            def subtractor(a, b):
                return a - b

            h1 = adder(10, 20)
            h2 = subtractor(10, 20)
            print(waitAll(h1, h2))
        """) == [[[30] * 8, [-10]]]

    def test_pi(self, run: Run) -> None:
        [pi] = run("""
            from offload import offload

            @offload
            def find_pi(darts, rounds):
                from random import random
                from math import pow
                mypi = 0.0
                for i in range(rounds):
                    score = 0.0
                    for j in range(darts):
                        x = random()
                        y = random()
                        if pow(x, 2) + pow(y, 2) < 1.0:
                            score += 1
                    mypi = mypi + 4.0 * (score / darts)
                return mypi

            pi = sum(find_pi(100, 10))
            print((pi / 10) / 16)
        """)
        # 16,000 darts; a fair throw misses by this much once in ten thousand million runs.
        assert pi == pytest.approx(3.14159, abs=6.4 * 1.642 / 16_000**0.5)


class TestTutorial7:
    """Data that stays on the device."""

    def test_each_core_has_a_copy_of_its_own(self, run: Run) -> None:
        device, host = run("""
            from offload import offload, define_on_device, copy_from_device

            a = [0] * 10

            define_on_device(a)

            @offload
            def update(i):
                from offload.core import coreid
                a[i] = i * coreid()

            for i in range(10):
                update(i)

            print(copy_from_device("a"))
            print(a)
        """)
        assert device == [[i * core for i in range(10)] for core in range(CORES)]
        assert host == [0] * 10

    def test_a_kernel_and_the_host_assign_to_it(self, run: Run) -> None:
        assert run("""
            from offload import offload, define_on_device, copy_to_device, copy_from_device

            a = 23

            define_on_device(a)

            @offload
            def update():
                a = 19

            print(copy_from_device("a"))
            update()
            print(copy_from_device("a"))
            copy_to_device("a", 99)
            print(copy_from_device("a"))
            print(a)
        """) == [[23] * CORES, [19] * CORES, [99] * CORES, 23]

    def test_copies_to_and_from_some_cores(self, run: Run) -> None:
        changed = [99 if core in (1, 5, 9) else 19 for core in range(CORES)]
        assert run("""
            from offload import offload, define_on_device, copy_to_device, copy_from_device

            a = 23

            define_on_device(a)

            @offload
            def update():
                a = 19

            print(copy_from_device("a", target=[7, 8]))
            update()
            print(copy_from_device("a"))
            copy_to_device("a", 99, target=[1, 5, 9])
            print(copy_from_device("a"))
        """) == [[23] * 2, [19] * CORES, changed]

    def test_copies_that_are_not_waited_for(self, run_async: Run) -> None:
        sent, value, done, kept, elsewhere = run_async("""
            from offload import offload, define_on_device, copy_to_device, copy_from_device
            from random import random

            a = [0] * 100

            define_on_device(a)

            for i in range(100):
                a[i] = random()
            print(a)

            h = copy_to_device("a", a, ASYNC, target=range(10))
            a[0] = -1  # the copy is of the list as it was

            @offload
            def add(d1, d2):
                return d1 + d2

            print(add(1, 5, target=[11]))
            h.wait()

            h = copy_from_device("a", target=[1], ASYNC)
            print(h.test())
            print(h.wait())
            print(copy_from_device("a", target=[10]))
        """)
        assert value == [6]
        assert done in (True, False)
        assert kept == [sent]
        assert elsewhere == [[0] * 100]

    def test_a_kernel_runs_after_the_copy_before_it(self, run_async: Run) -> None:
        total, values = run_async("""
            from offload import offload, define_on_device, copy_to_device, waitAll
            from random import random

            a = [0] * 100

            define_on_device(a)

            for i in range(100):
                a[i] = random()

            @offload(ASYNC)
            def add_all():
                i = 0
                value = 0
                while i < len(a):
                    value += a[i]
                    i += 1
                return value

            h1 = copy_to_device("a", a, ASYNC, target=[1])
            h2 = add_all(target=[0, 1])
            print(sum(a))
            print(waitAll(h1, h2))
        """)
        assert values == [[None], [0, pytest.approx(total)]]

    def test_what_shares_a_core_runs_in_the_order_of_launch(self, run_async: Run) -> None:
        assert run_async("""
            from offload import offload, define_on_device, copy_to_device, copy_from_device, wait_all

            seen = []

            define_on_device(seen)

            @offload(ASYNC)
            def note(name):
                seen.append(name)

            handles = []
            for round in range(20):
                handles.append(note("A", target=[3]))
                handles.append(note("B"))
                handles.append(note("C", target=[2, 3]))
                if round == 9:
                    handles.append(copy_to_device("seen", ["copied"], target=[3], ASYNC))
            print(copy_from_device("seen", target=3))
            wait_all(*handles)
        """) == [[["copied"] + ["A", "B", "C"] * 10]]

    def test_jacobi(self, run: Run) -> None:
        before, values, after = run("""
            from offload import *
            from offload.core import *
            import math

            data = None
            data_p1 = None
            define_on_device(data)
            define_on_device(data_p1)

            @offload
            def initialise(global_size):
                num_local = global_size // numcores()
                if num_local * numcores() != global_size:
                    if coreid() < global_size - num_local * numcores(): num_local += 1
                data = [0.0] * (num_local + 2)
                data_p1 = [0.0] * (num_local + 2)
                if coreid() == 0: data[0] = 1.0
                if coreid() == numcores() - 1: data[num_local + 1] = 10.0

            @offload
            def calc_residual():
                tmpnorm = 0.0
                for i in range(1, len(data) - 1):
                    tmpnorm = tmpnorm + (data[i] * 2 - data[i - 1] - data[i + 1]) ** 2
                return tmpnorm

            @offload
            def jacobi_iteration():
                if coreid() > 0: data[0] = sendrecv(data[1], coreid() - 1)
                last = len(data) - 1
                if coreid() < numcores() - 1: data[last] = sendrecv(data[last - 1], coreid() + 1)
                for i in range(1, len(data) - 1):
                    data_p1[i] = 0.5 * (data[i - 1] + data[i + 1])
                for i in range(1, len(data) - 1):
                    data[i] = data_p1[i]

            initialise(24)
            bnorm = math.sqrt(sum(calc_residual()))
            print(bnorm)
            for it in range(40):
                jacobi_iteration()
            print([value for part in copy_from_device("data") for value in part[1:-1]])
            print(math.sqrt(sum(calc_residual())))
        """)
        assert before == 101**0.5
        assert values == jacobi(24, 40)
        assert after < before / 10


def jacobi(size: int, iterations: int) -> list[float]:
    """Do on the host, on one list, what the script does on the cores."""
    data = [1.0] + [0.0] * size + [10.0]
    for _ in range(iterations):
        data[1:-1] = [0.5 * (data[i - 1] + data[i + 1]) for i in range(1, size + 1)]
    return data[1:-1]
