"""What is known of a device's kernels: answers that they gave, and how long they take."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from device_runtime.fpga.answers import MOST, Answers
from device_runtime.fpga.interface import Interface
from device_runtime.hardware import Blank

pytest.importorskip("pynq")
from device_runtime.fpga.unit import Habit

ADD, SCALE = Interface("add", (), None), Interface("scale", (), None)
ONES = np.ones(3)


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("answers")
    yield descriptor
    os.close(descriptor)


def test_the_next_one_knows_what_the_last_one_did(file: int) -> None:
    given = np.ones(3)
    answers = Answers(file)
    answers.learn(ADD, [given, 2, Blank((3,), "<f8")], [given])
    answers.learn(SCALE, [1], [])
    given[:] = 7

    found = Answers(file).get("add")
    assert found is not None
    assert found.interface == ADD
    assert found.args[0].tolist() == found.outs[0].tolist() == [1, 1, 1]
    assert found.args[1:] == (2, Blank((3,), "<f8"))
    assert Answers(file).get("scale") is not None
    assert Answers(file).get("other") is None


def test_the_first_small_one_of_each_kernel_is_known(file: int) -> None:
    answers = Answers(file)
    answers.learn(ADD, [np.zeros(MOST + 1, "uint8")], [])
    assert answers.get("add") is None
    answers.learn(ADD, [ONES], [])
    answers.learn(ADD, [ONES + 1], [])
    for known in (answers, Answers(file)):
        found = known.get("add")
        assert found is not None and found.args[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("left", (3, 12, 100, -1))
def test_what_was_not_written_to_its_end_is_left_out(file: int, left: int) -> None:
    answers = Answers(file)
    answers.learn(ADD, [ONES], [])
    whole = os.fstat(file).st_size
    answers.learn(SCALE, [ONES], [])
    os.truncate(file, os.fstat(file).st_size - 1 if left < 0 else whole + left)

    found = Answers(file)
    assert (found.get("add") is not None, found.get("scale")) == (True, None)


def test_a_run_may_take_a_hundred_times_the_longest() -> None:
    habit = Habit(None)
    assert habit.limit == 60
    for _ in range(9):
        habit.learn(1.0)
    assert (habit.limit, str(habit)) == (60, "60 s; ?timeout= in the address sets another")
    habit.learn(0.5)
    assert (
        str(habit) == "100 s, as the longest of its 10 runs took 1 s; ?timeout= in the address sets another"
    )


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
