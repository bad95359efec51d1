"""Pictures of grounds and misfits: shown in a notebook, written to a file elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

if "ipykernel" not in sys.modules:
    matplotlib.use("agg")

import matplotlib.pyplot as plt

from offload import plot_timeline

from .configuration import Configuration
from .forward import Real


def grounds(asked: Configuration, shown: Mapping[str, Real], name: str) -> None:
    """Show the contrasts of some grounds below each other, each (N,), with its title."""
    figure, axes = plt.subplots(
        len(shown), squeeze=False, figsize=(7, 1.6 * len(shown) + 0.6), sharex=True, layout="constrained"
    )
    top, bottom = asked.reservoirTopLeft, asked.reservoirBottomRight
    most = max(float(chi.max()) for chi in shown.values())
    for (title, chi), (axis,) in zip(shown.items(), axes, strict=True):
        image = axis.imshow(
            chi.reshape(asked.ngrid.z, asked.ngrid.x),
            extent=(top.x, bottom.x, bottom.z, top.z),
            vmin=0,
            vmax=most,
            aspect="auto",
            cmap="viridis",
        )
        axis.set_title(title)
        axis.set_ylabel("depth, m")
    axes[-1][0].set_xlabel("along the surface, m")
    figure.colorbar(image, ax=[axis for (axis,) in axes], label="contrast")
    _finish(figure, name)


def misfits(shown: Mapping[str, Sequence[float]], name: str) -> None:
    """Show how misfits fell, on a logarithmic scale."""
    figure, axis = plt.subplots(figsize=(7, 3))
    for label, residuals in shown.items():
        axis.semilogy(residuals, label=label)
    axis.set_xlabel("evaluation")
    axis.set_ylabel("misfit")
    axis.legend()
    _finish(figure, name)


def progress(asked: Configuration, chi: Real, residuals: Sequence[float]) -> None:
    """Show how far an inversion has come: a picture in the place of the one before, or a line."""
    bar = "#" * min(40, int(-6 * np.log10(residuals[-1])))
    print(f"{len(residuals):4} evaluations, misfit {residuals[-1]:8.1e} {bar}")
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output(wait=True)
        grounds(asked, {f"after {len(residuals)} evaluations": chi}, "")


def timeline(handles: Sequence[Any], name: str) -> None:
    """Show when the shards of launches were queued, and when they ran."""
    figure, axis = plt.subplots(figsize=(7, 2))
    plot_timeline(handles, axis)
    _finish(figure, name)


def scaling(shown: Mapping[str, Mapping[int, float]], name: str) -> None:
    """Show how much faster several instances were than one, by their number, and what would be best."""
    figure, axis = plt.subplots(figsize=(5, 3.5))
    for label, faster in shown.items():
        axis.plot(list(faster), list(faster.values()), marker="o", label=label)
    numbers = sorted({number for faster in shown.values() for number in faster})
    axis.plot(numbers, numbers, linestyle=":", color="gray", label="as many times as instances")
    axis.set_xlabel("instances")
    axis.set_ylabel("times faster")
    axis.set_xticks(numbers)
    axis.legend()
    _finish(figure, name)


def _finish(figure: plt.Figure, name: str) -> None:
    if "ipykernel" in sys.modules:
        plt.show()
    else:
        figure.savefig(name, bbox_inches="tight")
        print(f"picture: {name}")
    plt.close(figure)
