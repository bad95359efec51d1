"""How what cores print is shown, whatever pieces it arrives in."""

from __future__ import annotations

import io

import pytest

from device_runtime.output import end_line, line_is_open, write_marked


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_a_line_that_was_cut_off_is_not_ended_twice(out: io.StringIO) -> None:
    write_marked(out, 0, "stdout", "one\ntwo")
    write_marked(out, 1, "stdout", "other\n")
    write_marked(out, 0, "stdout", "\n")
    write_marked(out, 0, "stdout", "\nthree\n")
    assert out.getvalue() == "[core 0] one\n[core 0] two\n[core 1] other\n[core 0] \n[core 0] three\n"
    assert not line_is_open()


def test_a_line_that_was_cut_off_goes_on_in_another(out: io.StringIO) -> None:
    write_marked(out, 0, "stdout", "one ")
    write_marked(out, 0, "stderr", "other\n")
    write_marked(out, 0, "stdout", "two\n\n")
    assert out.getvalue() == "[core 0] one \n[core 0] other\n[core 0] two\n[core 0] \n"


def test_the_end_of_a_shard_ends_its_lines(out: io.StringIO) -> None:
    write_marked(out, 0, "stdout", "one")
    write_marked(out, 1, "stdout", "other")
    assert line_is_open()
    end_line(0)
    end_line(1)
    assert not line_is_open()
    write_marked(out, 0, "stdout", "\n")
    assert out.getvalue() == "[core 0] one\n[core 1] other\n[core 0] \n"
