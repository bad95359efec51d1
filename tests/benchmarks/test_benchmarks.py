"""The benchmarks: each one works, and what is read from rounds is right. No figure is asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import grains, reach, report
from benchmarks.catalogue import ALL
from benchmarks.cli import app
from benchmarks.declare import MICROSECONDS, RATE, Benchmark, Reading, Subject, Unit
from benchmarks.peers import PEERS
from benchmarks.results import Result, Series, percentile

NAMES = [benchmark.name for benchmark in ALL]


def made(unit: Unit, **values: list[float]) -> Result:
    """Return a result with these values by round; the first name counts, names in capitals are peers'."""
    subjects = tuple(
        Subject(name, lambda setting: pytest.fail("not to be opened"), "peer" if name.isupper() else "ours")
        for name in values
    )
    result = Result(Benchmark("made", "made up", unit, subjects))
    for name, series in values.items():
        result.series[name] = Series(dict(enumerate(series)))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_all_that_it_declares(name: str, tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    ended = CliRunner().invoke(app, [name, "--quick", "--peers", "none", "--json", str(written)])
    assert ended.exit_code == 0, ended.output
    for subject in json.loads(written.read_text())["benchmarks"][name]["subjects"].values():
        assert subject.get("rounds") or "absent" in subject


@pytest.mark.slow
def test_a_run_is_written_to_a_page_and_drawn(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "costs.png"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    asked = ["metg", "payload", "--quick", "--peers", "pool", "--plot", str(picture), "--markdown", str(page)]
    ended = CliRunner().invoke(app, asked)
    assert ended.exit_code == 0, ended.output
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "(`metg`)" in text and "(`payload`)" in text and "(costs.png)" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_names_are_unique_and_every_subject_has_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for benchmark in ALL:
        names = [subject.name for subject in benchmark.subjects]
        assert len(set(names)) == len(names), benchmark.name
        assert benchmark.subjects[0].role == "ours"
        assert {subject.peer for subject in benchmark.subjects if subject.peer} <= set(PEERS)


def test_figures_compare_with_subjects_that_are_there() -> None:
    for benchmark in ALL:
        result = Result(benchmark, {subject.name: Series({0: 1.0}) for subject in benchmark.subjects})
        assert all(met is not None for _, met in result.verdicts()), benchmark.name


@pytest.mark.parametrize("arguments", [["unknown"], ["noop", "--peers", "unknown"]])
def test_what_is_not_there_is_refused_by_name(arguments: list[str]) -> None:
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2 and "unknown" in ended.output


def test_ratios_are_of_the_same_round() -> None:
    result = made(MICROSECONDS, ours=[1, 2, 100], POOL=[10, 20, 1000])
    result.series["POOL"].values[3] = 5
    assert result.ratio("ours", "POOL") == 0.1
    assert result.gain("POOL") == 10
    assert made(RATE, ours=[10, 10], POOL=[2, 2]).gain("POOL") == 5


def test_rounds_beside_a_heavy_peer_count_for_the_ratio_to_it_only() -> None:
    result = made(MICROSECONDS, ours=[1], RAY=[])
    result.series["ours"].add(1, Reading(7), beside=True)
    result.series["RAY"].add(1, Reading(70))
    assert result.series["ours"].median == 1 and result.gain("RAY") == 10


def test_the_99th_percentile_is_on_the_bad_side() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    series = Series(dict(enumerate(range(1, 101))))
    assert (series.p99(less=True), series.p99(less=False)) == (99, 2)


def test_figures_are_met_missed_or_unknown() -> None:
    result = made(MICROSECONDS, ours=[10e-6], other=[9e-6], POOL=[250e-6])
    assert reach.at_most(10e-6, MICROSECONDS).met(result)
    assert not reach.at_most(9e-6, MICROSECONDS).met(result)
    assert reach.times_better(25, "POOL").met(result) and not reach.times_better(26, "POOL").met(result)
    assert reach.times_better(25, "RAY").met(result) is None
    assert reach.within(1.2, "other").met(result) and not reach.within(1.1, "other").met(result)
    rates = made(RATE, ours=[8], other=[10])
    assert reach.share_of(0.8, "other").met(rates) and not reach.share_of(0.9, "other").met(rates)
    assert reach.at_least(8, RATE).met(rates) and not reach.at_least(9, RATE).met(rates)


def test_a_value_has_about_three_digits() -> None:
    values = [4.04e-6, 14e-6, 0.4e-6, 1234e-6, math.inf]
    assert [reach.shown(value, MICROSECONDS) for value in values] == [
        "4.0 µs",
        "14 µs",
        "0.40 µs",
        "1,234 µs",
        "none",
    ]


def test_the_grain_at_half_efficiency_lies_between_two_points() -> None:
    assert grains.metg([(1e-5, 0.25), (4e-5, 0.75)]) == pytest.approx(2e-5)
    assert grains.metg([(1e-5, 0.6), (2e-5, 0.4), (8e-5, 0.6)]) == pytest.approx(4e-5)
    assert grains.metg([(1e-5, 0.6), (4e-5, 0.75)]) == 1e-5
    assert grains.metg([(1e-5, 0.1), (4e-5, 0.4)]) == math.inf


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no section"):
        report.write_section(page, "text")
    assert page.read_text() == "no marks"
