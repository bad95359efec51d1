"""Show results to people: a table for the terminal, and one for a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmarks.declare import Subject
from benchmarks.machine import sentence
from benchmarks.reach import shown
from benchmarks.results import Result, Series

MET = {True: "met", False: "not met", None: "not compared"}
STYLES = {True: "green", False: "red", None: "dim"}
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def table(result: Result) -> Group:
    """Return a benchmark's figures to reach, and a table with a row for each subject."""
    made = Table(box=None, pad_edge=False)
    made.add_column("", min_width=24)
    for heading in ("median", "p99", "better by", "of limit"):
        made.add_column(heading, justify="right", min_width=9, style="bold" if heading == "median" else "")
    for subject in result.benchmark.subjects:
        series = result.series.get(subject.name)
        if series is not None:
            made.add_row(Text(subject.name), *_cells(result, subject, series))
    lines: list[RenderableType] = [
        Text.assemble((result.benchmark.name, "bold"), f": {result.benchmark.what}")
    ]
    lines += [Text(f"  {text}: {MET[met]}", STYLES[met]) for text, met in result.verdicts()]
    return Group(*lines, Padding(made, (0, 0, 1, 2)))


def markdown(results: Sequence[Result], run: dict[str, Any], plot: str | None) -> str:
    """Return a table with a row for each benchmark, and where it was measured."""
    lines = [
        f"Measured in one run: {sentence(run)}. Medians of the rounds, and their 99th percentile.",
        "",
        "| what | to reach | median | p99 | × the bare limit | best peer | better than it by |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours = result.series[result.first]
        unit = result.benchmark.unit
        limit, peer = result.limit(), result.best_peer()
        ratio = result.ratio(result.first, limit) if limit else None
        cells = [
            f"{result.benchmark.what} (`{result.benchmark.name}`)",
            "; ".join(f"{text} ({MET[met]})" for text, met in result.verdicts()) or "–",
            shown(ours.median, unit) if ours.values else ours.absent or f"failed: {ours.failed}",
            shown(ours.p99(unit.less), unit) if ours.values else "–",
            f"{_times(ratio)} {limit}" if ratio is not None else "–",
            f"{peer} {shown(result.series[peer].median, unit)}" if peer else "–",
            _times(result.gain(peer)) if peer else "–",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if plot is not None:
        lines += ["", f"![Time per launch against payload, and efficiency against grain]({plot})"]
    return "\n".join(lines) + "\n"


def write_section(page: Path, text: str) -> None:
    """Put the text between the marks of a page; make the page if there is none.

    Raises ValueError for a page without the marks.
    """
    old = page.read_text() if page.exists() else f"{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise ValueError(f"{page} has no section between {BEGIN} and {END}")
    new = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{text}\n{END}", old, count=1, flags=re.DOTALL)
    page.write_text(new)


def _cells(result: Result, subject: Subject, series: Series) -> list[Text]:
    """Return a subject's values, how much better offload is, and how much of the limit it takes."""
    if series.failed or not series.values:
        return [Text(series.absent or f"failed: {series.failed}", "dim")]
    unit, limit = result.benchmark.unit, result.limit()
    compared = subject.role != "limit" and subject.name != result.first
    over = result.ratio(subject.name, limit) if limit and subject.role != "limit" else None
    noted = f" ({series.note})" if series.note else ""
    return [
        Text(shown(series.median, unit) + noted),
        Text(shown(series.p99(unit.less), unit)),
        Text(_times(result.gain(subject.name) if compared else None)),
        Text(_times(over)),
    ]


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.2f}×"
