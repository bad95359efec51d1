"""How many CPUs there are: no more than the affinity mask, nor than a container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_runtime.process.cpus import available, within

V1 = "5:memory:/box\n4:cpu,cpuacct:/box/inner\n"


def version_1(root: Path, group: str, quota: int, period: int = 100_000) -> None:
    folder = root / "cpu" / group
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("cpu.cfs_quota_us").write_text(f"{quota}\n")
    folder.joinpath("cpu.cfs_period_us").write_text(f"{period}\n")


def version_2(root: Path, group: str, text: str) -> None:
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("cpu.max").write_text(text + "\n")


def test_no_more_than_the_affinity_mask() -> None:
    assert 1 <= available() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("groups", ["", "0::/\n", "0::/box\n", V1])
def test_without_a_quota_it_is_the_mask(tmp_path: Path, groups: str) -> None:
    version_1(tmp_path, "box/inner", -1)
    version_2(tmp_path, "", "max 100000")
    assert within(8, groups, str(tmp_path)) == 8


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("200000 100000", 2), ("50000 100000", 1), ("350000 100000", 3), ("1600000 100000", 8), ("nonsense", 8)],
)
def test_a_quota_of_version_2(tmp_path: Path, text: str, cpus: int) -> None:
    version_2(tmp_path, "box/inner", text)
    assert within(8, "0::/box/inner\n", str(tmp_path)) == cpus


def test_the_groups_around_a_group_bind_it_too(tmp_path: Path) -> None:
    version_2(tmp_path, "box", "200000 100000")
    version_2(tmp_path, "box/inner", "400000 100000")
    assert within(8, "0::/box/inner\n", str(tmp_path)) == 2
    version_2(tmp_path, "", "100000 100000")
    assert within(8, "0::/box/inner\n", str(tmp_path)) == 1


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    version_1(tmp_path, "box/inner", 300_000)
    assert within(8, V1, str(tmp_path)) == 3
    version_1(tmp_path, "box", 125_000, 50_000)
    assert within(8, V1, str(tmp_path)) == 2


def test_inside_a_container_the_path_may_be_the_one_outside(tmp_path: Path) -> None:
    version_1(tmp_path, "", 200_000)
    assert within(8, V1, str(tmp_path)) == 2
