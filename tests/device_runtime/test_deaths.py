"""How a process came to its end: no more is told than is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.process.deaths import count_oom_kills, describe

MAYBE = "maybe this one"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write the files of a machine that has ended 40 processes for lack of memory."""

    def write(files: dict[str, str]) -> Path:
        for name, text in {"proc/vmstat": "pgfault 7\noom_kill 40\n", **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("kills", [0, 1, 7])
def test_a_process_that_was_killed_is_not_said_to_have_lacked_memory(kills: int) -> None:
    """Others may have been ended for that, and this one by somebody."""
    told = describe(-9, kills)
    assert "SIGKILL" in told and (MAYBE in told) == (kills > 0) and ("unknown" in told) == (kills == 0)


@pytest.mark.parametrize("code", [0, 1, -15, -11, None])
def test_what_was_not_killed_has_nothing_to_do_with_it(code: int | None) -> None:
    assert describe(code, 1) == describe(code)


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/box\n", "sys/fs/cgroup/box/memory.events", "oom 5\noom_kill 2\noom_group_kill 0\n"),
        ("4:memory:/box\n0::/\n", "sys/fs/cgroup/memory/box/memory.oom_control", "under_oom 0\noom_kill 2"),
        ("0::/from/outside\n", "sys/fs/cgroup/memory.events", "oom_kill 2\n"),
    ],
    ids=["version 2", "version 1", "a container"],
)
def test_what_else_the_machine_has_ended_does_not_count(
    groups: str, file: str, text: str, machine: Callable[[dict[str, str]], Path]
) -> None:
    assert count_oom_kills(machine({"proc/self/cgroup": groups, file: text})) == 2


def test_the_group_around_ours_is_not_ours(machine: Callable[[dict[str, str]], Path]) -> None:
    around = {f"sys/fs/cgroup{path}/memory.events": f"oom_kill {n}\n" for path, n in [("", 9), ("/box", 1)]}
    assert count_oom_kills(machine({"proc/self/cgroup": "0::/box\n", **around})) == 1


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "0::/\n"}], ids=["no groups", "no count"])
def test_where_a_group_has_no_count_it_is_the_machines(
    files: dict[str, str], machine: Callable[[dict[str, str]], Path]
) -> None:
    assert count_oom_kills(machine(files)) == 40


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path) == 0
