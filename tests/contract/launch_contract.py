"""What a user may expect of launches, whichever device they run on."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest

import offload as of
from offload import (
    copy_from_device,
    copy_to_device,
    define_on_device,
    offload,
    offload_multiple,
    offload_single,
)
from offload.core import coreid, isdevice, ishost, numcores, rank, size

level = 1
resident = 0


@dataclass
class Point:
    x: int


class Mine(Exception):
    pass


@offload
def whoami() -> tuple[int, int, int, int]:
    return coreid(), numcores(), rank(), size()


@offload
def same(x: Any) -> Any:
    return x


@offload_single
def half(x: float) -> float:
    return x / 2


@offload
def next_level() -> int:
    return level + 1


@offload
def count_up() -> int:
    global resident
    resident += 1
    return resident


@pytest.mark.usefixtures("connected")
class LaunchContract:
    """Launches on two cores of the device that a class names."""

    address: str

    def test_all_cores_in_core_order(self) -> None:
        assert whoami() == [(0, 2, 0, 2), (1, 2, 1, 2)]

    def test_a_target(self) -> None:
        assert whoami(target=1) == [(1, 2, 0, 1)]
        assert whoami(target=[1, 0]) == [(0, 2, 0, 2), (1, 2, 1, 2)]

    def test_a_number_of_cores(self) -> None:
        assert [place[2:] for place in whoami(auto=1)] == [(0, 1)]
        assert offload_multiple(cores=2)(whoami.fn)().wait() == [(0, 2, 0, 2), (1, 2, 1, 2)]

    def test_a_handle(self) -> None:
        handle = same(3, async_=True)
        assert handle.wait() == handle.wait() == handle.result() == [3, 3]
        assert handle.done() and handle.test() and handle.exception() is None
        assert [handle.wait_any(), handle.wait_any()] in ([{0: 3}, {1: 3}], [{1: 3}, {0: 3}])
        with pytest.raises(LookupError):
            handle.wait_any()

    def test_one_core_gives_one_value(self) -> None:
        assert half(3).result() == 1.5
        assert half(3).wait() == [1.5]

    def test_many_launches(self) -> None:
        handles = [half(i) for i in range(200)]
        assert of.wait_all(*handles) == [[i / 2] for i in range(200)]

    def test_a_handle_as_an_argument(self) -> None:
        first = half(half(half(80)))
        assert first.result() == 10
        assert same(same.launch([1]))[0] == [[1], [1]]

    def test_a_failed_handle_as_an_argument(self) -> None:
        with pytest.raises(of.DependencyError) as raised:
            half(half("x")).result()
        assert isinstance(raised.value.__cause__, TypeError)

    def test_arguments_are_snapshots_and_a_kernels_own(self) -> None:
        @offload
        def change(values: list[int]) -> list[int]:
            values.append(9)
            return values

        values = [1]
        handle = change.launch(values)
        values.append(2)
        assert handle.wait() == [[1, 9], [1, 9]]
        assert values == [1, 2]

    @pytest.mark.parametrize("count", [4, 100_000])
    def test_arrays_are_read_only_snapshots(self, count: int) -> None:
        np = pytest.importorskip("numpy")

        @offload
        def scribble(a: Any) -> None:
            a[0] = 1

        data = np.zeros(count)
        with pytest.raises(ValueError, match="read-only"):
            scribble(data)
        handle = same.launch(data)
        data[:] = 1
        assert [int(result.sum()) for result in handle.wait()] == [0, 0]
        handle.wait()[0][:] = 7
        assert handle.wait()[1].sum() == 0

    def test_objects_of_the_scripts_own_classes(self) -> None:
        assert same(Point(3)) == [Point(3), Point(3)]

    def test_a_class_defined_in_a_function(self) -> None:
        class Local:
            value = 5

        made = same(Local())
        assert [type(each) for each in made] == [Local, Local]

    def test_current_values(self) -> None:
        global level
        mine = 10
        kernel = offload(lambda: mine)
        assert (next_level(), kernel()) == ([2, 2], [10, 10])
        level, mine = 5, 11
        assert (next_level(), kernel()) == ([6, 6], [11, 11])
        level = 1

    def test_captured_values_changed_in_place(self) -> None:
        values = [1]

        @offload
        def read() -> int:
            values.append(0)
            return len(values)

        assert read() == [2, 2]
        values.append(1)
        assert read() == [3, 3]
        assert values == [1, 1]

    def test_resident_data(self) -> None:
        define_on_device(resident)
        assert count_up() == [1, 1]
        assert count_up(target=1) == [2]
        assert copy_from_device("resident") == [1, 2]
        copy_to_device("resident", 10, target=0)
        assert count_up() == [11, 3]
        assert resident == 0
        with pytest.raises(of.ResidentNameError, match="resident"):
            copy_from_device("residue")

    def test_the_streams_have_what_pythons_have(self) -> None:
        @offload(target=0)
        def ask() -> Any:
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            sys.stderr.reconfigure(errors="replace")  # type: ignore[union-attr]
            return all(hasattr(stream, "name") for stream in (sys.stdout, sys.stderr))

        assert ask() == [True]

    def test_the_kernels_own_exception(self) -> None:
        @offload
        def fail() -> None:
            raise Mine("here", coreid())

        with pytest.raises(Mine) as raised:
            fail()
        assert raised.value.args == ("here", 0)
        assert isinstance(raised.value.__cause__, of.RemoteTraceback)
        assert 'raise Mine("here", coreid())' in str(raised.value.__cause__)
        assert any("core 1" in note for note in raised.value.__notes__)

    def test_one_failed_core_of_two(self) -> None:
        @offload
        def fail() -> int:
            return 1 // coreid()

        handle = fail.launch()
        assert isinstance(handle.exception(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            handle.wait()
        assert same(1) == [1, 1]

    def test_map_streams_in_order(self) -> None:
        @offload
        def square(x: int) -> int:
            return x * x

        assert list(square.map(range(100))) == [x * x for x in range(100)]
        rest = square.map(iter(range(10**9)))
        assert [next(rest) for _ in range(3)] == [0, 1, 4]
        rest.close()  # type: ignore[attr-defined]

    def test_map_raises_in_its_place(self) -> None:
        @offload
        def inverse(x: int) -> float:
            return 1 / x

        values = inverse.map([1, 2, 0, 4])
        assert [next(values), next(values)] == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(values)

    def test_scatter(self) -> None:
        assert same(of.scatter(range(5))) == [range(3), range(3, 5)]
        assert same(of.scatter("abcde", [1, 4])) == ["a", "bcde"]

    def test_where_it_runs(self) -> None:
        assert offload(lambda: (ishost(), isdevice()))() == [(False, True)] * 2
        assert (ishost(), isdevice()) == (True, False)

    def test_a_launch_from_a_kernel(self) -> None:
        @offload
        def outer() -> list[float]:
            return [value for (value,) in of.wait_all(half(2), half(4))]

        assert outer() == [[1.0, 2.0], [1.0, 2.0]]

    def test_the_plain_function(self) -> None:
        assert same.fn(os.getpid()) == os.getpid()

    def test_an_executor(self) -> None:
        with of.Executor(device=self.address) as executor:  # type: ignore[attr-defined, unused-ignore]
            assert executor.submit(pow, 2, 5).result() == 32
            assert list(executor.map(pow, [1, 2], [2, 2])) == [1, 4]

    def test_a_session_ends_after_all_that_was_launched(self) -> None:
        with of.connect(self.address.replace("2", "1")):
            handles = [same(i, async_=True) for i in range(20)]
        assert [handle.wait() for handle in handles] == [[i] for i in range(20)]
        assert whoami()[0][1] == 2
