"""Draw when launches ran on which cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from device_runtime.errors import OptionError
from offload.handle import Handle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND = 12  # entries; with more launches than this it would hide the picture


def plot_timeline(handles: Handle[Any] | Iterable[Handle[Any]], ax: Axes | None = None) -> Axes:
    """Draw the cores' time line: one row per core, one colour per handle; return the axes.

    A shard is a light bar from when it was queued and a solid one while it ran.
    Shards that have not ended, or never began, are left out. Time is in
    seconds since the first of the launches. `ax` are the axes to draw into, by
    default those of a new figure.

        plot_timeline([first, second]).figure.savefig("timeline.png")

    Raises OptionError where no handle is given, TypeError for anything else,
    and ImportError, naming the extra to install, without matplotlib.
    """
    shown = [handles] if isinstance(handles, Handle) else list(handles)
    if not shown:
        raise OptionError("plot_timeline needs at least one handle")
    for handle in shown:
        if not isinstance(handle, Handle):
            raise TypeError(f"plot_timeline takes handles, not {type(handle).__name__}")
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot_timeline needs matplotlib: pip install 'offload[plot]'") from None

    spans = [_spans(handle, min(h.submitted for h in shown)) for handle in shown]
    cores = sorted({core for bars in spans for core, *_ in bars})
    row = {core: place for place, core in enumerate(cores)}
    if ax is None:
        # Not by pyplot, which would keep the figure and might open a window.
        figure = Figure(figsize=(9, 1.4 + 0.45 * max(1, len(cores))), layout="constrained")
        ax = figure.subplots()
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined, unused-ignore]
    queue = []
    for place, (name, bars) in enumerate(zip(_names(shown), spans)):
        colour = colours[place % len(colours)]
        label = name if place < _LEGEND else None
        for core, queued, begun, ended in bars:
            queue.append((begun, queued, row[core], [0.7 + 0.3 * part for part in colour]))
            # The edge keeps a bar visible that is too short for the scale.
            ax.barh(
                row[core], ended - begun, 0.5, begun, color=colour, edgecolor=colour, zorder=3, label=label
            )
            label = None  # one entry per handle
    # The longest first, so that the light bars of shards that wait in one queue all show.
    for begun, queued, place, light in sorted(queue, key=lambda bar: bar[0], reverse=True):
        ax.barh(place, begun - queued, 0.8, queued, color=light)
    ax.set_yticks(range(len(cores)), [f"core {core}" for core in cores])
    ax.set_ylim(max(len(cores), 1) - 0.5, -0.5)  # core 0 on top
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds since the first launch")
    if any(spans):
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    return ax


def _spans(handle: Handle[Any], zero: float) -> list[tuple[int, float, float, float]]:
    """Return core, queued, begun and ended of each shard that ran, in seconds since `zero`."""
    offset = handle.submitted - zero
    return [
        (shard.core, shard.queued + offset, shard.begun + offset, shard.ended + offset)
        for shard in handle.timing
        if shard.core is not None and shard.begun is not None and shard.ended is not None
    ]


def _names(handles: list[Handle[Any]]) -> list[str]:
    """Return the handles' kernels as a legend says them, numbered where several have the same."""
    names = [handle._name.removeprefix("__main__.") for handle in handles]
    count, seen = Counter(names), Counter[str]()
    for place, name in enumerate(names):
        if count[name] > 1:
            seen[name] += 1
            names[place] = f"{name} ({seen[name]})"
    return names
