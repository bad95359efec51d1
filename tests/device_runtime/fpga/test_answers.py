"""What is known of a device's kernels: answers that they gave, and how long they take."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from device_runtime.fpga.answers import Answer, Answers, near, same, steady
from device_runtime.fpga.habit import Habit
from device_runtime.fpga.interface import IN, OUT, Interface, Parameter
from device_runtime.launch import Blank

ADD = Interface("add", (Parameter("a", IN, "<f8"), Parameter("out", OUT, "<f8"), Parameter("n", None, "int")))


def answer(unit: str, value: float, kernel: str = "add") -> Answer:
    given = np.full(3, value)
    return Answer(unit, kernel, ADD, (given, Blank((3,), "<f8"), 2), {1: given + 2})


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("answers")
    yield descriptor
    os.close(descriptor)


def test_the_next_one_knows_what_the_last_one_did(file: int) -> None:
    answers = Answers(file)
    answers.keep(answer("add_1", 5))
    answers.keep(answer("add_1", 1))  # instead
    answers.keep(answer("scale_1", 3, "scale"))

    for known in (answers, Answers(file)):
        found = known.get("add_1")
        assert found is not None
        assert (found.interface, found.args[1:]) == (ADD, (Blank((3,), "<f8"), 2))
        assert (found.args[0].tolist(), found.outs[1].tolist()) == ([1, 1, 1], [3, 3, 3])
        assert known.get("scale_1") is not None
        assert known.get("add_2") is None
        other = known.of_another("add")
        assert other is not None and other.unit == "add_1"
        assert known.of_another("nothing") is None


def test_units_that_hang_are_counted_until_they_end(file: int) -> None:
    answers = Answers(file)
    for _ in range(2):
        answers.hung("add_1")
    answers.hung("add_2")
    answers.ended("add_2")
    answers.ended("add_3")
    for known in (answers, Answers(file)):
        assert [known.hangs(f"add_{n}") for n in (1, 2, 3)] == [2, 0, 0]


@pytest.mark.parametrize("left", (3, 12, 100, -1))
def test_what_was_not_written_to_its_end_is_left_out(file: int, left: int) -> None:
    answers = Answers(file)
    answers.keep(answer("add_1", 1))
    whole = os.fstat(file).st_size
    answers.keep(answer("add_2", 1))
    os.truncate(file, os.fstat(file).st_size - 1 if left < 0 else whole + left)

    next_one = Answers(file)
    assert (next_one.get("add_1") is not None, next_one.get("add_2")) == (True, None)
    next_one.keep(answer("add_2", 1))
    assert Answers(file).get("add_2") is not None


def test_where_two_arrays_are_the_same() -> None:
    nan = np.array([1, np.nan, 3])
    assert steady(nan, np.array([1, np.nan, 4])).tolist() == [True, True, False]
    assert steady(np.array(1), np.array(1)).tolist() is True
    assert steady(np.empty((0, 3)), np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_whole_numbers_are_looked_at_as_such(dtype: str) -> None:
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    given = np.array([least, most, most - 1, 0], dtype)
    wrong = np.array([most, most - 1, most - 1, 1], dtype)
    assert near(wrong, given, 0.0, 0.0).tolist() == [False, False, True, False]
    assert near(wrong, given, 0.0, 1.0).tolist() == [False, True, True, True]
    assert near(np.array(most, dtype), np.array(least, dtype), 0.0, 0.0).tolist() is False
    assert not same(wrong, given) and same(given, given.copy())


def test_rounding_is_no_difference() -> None:
    assert same(np.array([1, np.nan], "float32"), np.array([1 + 1e-6, np.nan], "float32"))
    assert not same(np.array([1], "float32"), np.array([1.01], "float32"))
    assert not same(np.array([1.0]), np.array([1 + 1e-6]))


def test_a_run_may_take_a_hundred_times_the_longest() -> None:
    habit = Habit(None)
    assert habit.limit == 60
    for _ in range(9):
        habit.learn(1.0)
    assert (habit.limit, str(habit)) == (60, "60 s; ?timeout= in the address sets another")
    habit.learn(0.5)
    told = "100 s, as the longest of its 10 runs took 1 s; ?timeout= in the address sets another"
    assert str(habit) == told


def test_short_runs_have_some_seconds() -> None:
    habit = Habit(None)
    for _ in range(20):
        habit.learn(1e-4)
    assert habit.limit == 10


def test_what_the_address_says_holds() -> None:
    habit = Habit(0.25)
    for _ in range(20):
        habit.learn(1.0)
    assert str(habit) == "0.25 s; ?timeout= in the address sets another"
