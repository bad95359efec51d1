"""Draw what a launch costs against its payload, and efficiency against grain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Result


def draw(results: Mapping[str, Result], path: Path) -> None:
    """Write a picture of the benchmarks `payload` and `metg`, as far as they were run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    _curves(left, results.get("payload"))
    left.set(xscale="log", yscale="log", xlabel="bytes of the argument", ylabel="seconds per launch")
    left.set_title("An array argument, blocking")
    _curves(right, results.get("metg"))
    right.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlabel="seconds of work in a kernel", ylabel="efficiency", ylim=(0, 1.05))
    right.set_title("A launch for each kernel, 2 cores")
    handles, labels = right.get_legend_handles_labels()
    if not handles:
        handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _curves(axes: Any, result: Result | None) -> None:
    if result is None:
        return
    for number, subject in enumerate(result.benchmark.subjects):
        series = result.series.get(subject.name)
        if series is not None and series.curve:
            first = number == 0
            style = {"linewidth": 2.5, "color": "black", "zorder": 3} if first else {"linewidth": 1.2}
            axes.plot(*zip(*series.curve), marker=".", label=subject.name, **style)
