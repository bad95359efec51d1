"""What is known of a device's kernels: answers that they gave, and how long they take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from device_runtime.fpga.answers import MOST, Answers
from device_runtime.fpga.habit import Habit
from device_runtime.fpga.interface import IN, OUT, Interface, Parameter
from device_runtime.hardware import Blank

TAKES = (Parameter("a", IN, "<f8"), Parameter("out", OUT, "<f8"), Parameter("n", None, "int"))
ADD, SCALE = Interface("add", TAKES, None), Interface("scale", TAKES, None)
ONES, BLANK = np.ones(3), Blank((3,), "<f8")


def more(a: Any, out: Any, n: int) -> None:
    """Be the reference."""
    out[:] = a + n


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("answers")
    yield descriptor
    os.close(descriptor)


def test_the_next_one_knows_what_the_last_one_did(file: int) -> None:
    given = np.ones(3)
    answers = Answers(file)
    answers.learn(ADD, more, [given, BLANK, 2], [given + 2])
    answers.learn(SCALE, more, [given, BLANK, 3], [given + 3])
    given[:] = 7

    found = Answers(file).get("add")
    assert found is not None
    assert found.interface == ADD
    assert (found.args[0].tolist(), found.args[1:]) == ([1, 1, 1], (BLANK, 2))
    assert found.outs[0].tolist() == [3, 3, 3]
    assert Answers(file).get("scale") is not None
    assert Answers(file).get("other") is None


def test_the_first_small_one_of_each_kernel_is_known(file: int) -> None:
    answers = Answers(file)
    large = np.zeros(MOST + 1, "uint8")
    answers.learn(ADD, more, [large, BLANK, 1], [large])
    assert answers.get("add") is None
    answers.learn(ADD, more, [ONES, BLANK, 1], [ONES + 1])
    answers.learn(ADD, more, [ONES, BLANK, 2], [ONES + 2])
    for known in (answers, Answers(file)):
        found = known.get("add")
        assert found is not None and found.outs[0].tolist() == [2, 2, 2]


def test_what_the_reference_does_not_give_is_no_answer(file: int) -> None:
    def fails(a: Any, out: Any, n: int) -> None:
        raise ValueError

    answers = Answers(file)
    answers.learn(ADD, more, [ONES, BLANK, 1], [ONES * 1.001 + 1])
    answers.learn(SCALE, fails, [ONES, BLANK, 1], [ONES])
    assert (answers.get("add"), answers.get("scale")) == (None, None)
    assert not os.fstat(file).st_size


@pytest.mark.parametrize("left", (3, 12, 100, -1))
def test_what_was_not_written_to_its_end_is_left_out(file: int, left: int) -> None:
    answers = Answers(file)
    answers.learn(ADD, more, [ONES, BLANK, 1], [ONES + 1])
    whole = os.fstat(file).st_size
    answers.learn(SCALE, more, [ONES, BLANK, 1], [ONES + 1])
    os.truncate(file, os.fstat(file).st_size - 1 if left < 0 else whole + left)

    next_one = Answers(file)
    assert (next_one.get("add") is not None, next_one.get("scale")) == (True, None)
    next_one.learn(SCALE, more, [ONES, BLANK, 1], [ONES + 1])
    assert Answers(file).get("scale") is not None


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
