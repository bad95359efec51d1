"""The timeline: what a picture of launches shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import offload
from offload import offload as kernel
from offload import plot_timeline

pytest.importorskip("matplotlib").use("Agg")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


@kernel(async_=True)
def first(x: int) -> int:
    return x


@kernel(async_=True)
def second(x: int) -> int:
    return x


def bars(ax: Axes) -> list[Any]:
    """Return the solid bars, those of shards that ran; they lie above the light ones."""
    return [bar for bar in ax.patches if bar.get_zorder() == 3]


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_there_is_a_row_for_each_core_and_a_bar_for_each_shard(device: str) -> None:
    handles = [first(1), second(2)]
    offload.wait_all(*handles)
    ax = plot_timeline(handles)
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"core {n}" for n in range(4)]
    middles = sorted(bar.get_y() + bar.get_height() / 2 for bar in bars(ax))
    assert middles == pytest.approx([0, 0, 1, 1, 2, 2, 3, 3])
    assert len(ax.patches) == 2 * len(bars(ax)), "each has a light bar for its time in the queue"
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "core 0 is on top"


def test_each_handle_has_a_colour_and_the_legend_names_its_kernel(device: str) -> None:
    handles = [first(1), second(2), first(3)]
    offload.wait_all(*handles)
    ax = plot_timeline(handles)
    assert len({to_hex(bar.get_facecolor()) for bar in bars(ax)}) == 3
    module = __name__
    assert labels(ax) == [f"{module}.first (1)", f"{module}.second", f"{module}.first (2)"]


def test_bars_stand_where_the_shards_ran(device: str) -> None:
    earlier = first(1, target=2)
    earlier.wait()
    later = second(2, target=2)
    later.wait()
    ax = plot_timeline([earlier, later])
    [timing] = earlier.timing
    [then] = later.timing
    between = later.submitted - earlier.submitted
    assert timing.begun is not None and timing.ended is not None
    assert then.begun is not None and then.ended is not None
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars(ax))
    assert spans[0] == pytest.approx((timing.begun, timing.ended))
    assert spans[1] == pytest.approx((between + then.begun, between + then.ended))


def test_a_handle_alone_will_do_and_so_will_axes_that_are_there(device: str) -> None:
    handle = first(1)
    handle.wait()
    ax = Figure().subplots()
    assert plot_timeline(handle, ax) is ax
    assert labels(ax) == [f"{__name__}.first"]


def test_shards_that_never_ran_are_left_out(local: str, gate: Any) -> None:
    @kernel(async_=True)
    def stay() -> None:
        gate.pass_through()

    running = stay(target=0)
    gate.wait()
    queued = first(1, target=0)
    assert queued.cancel()
    empty = plot_timeline([running, queued])
    assert not empty.patches
    gate.let_on()
    running.wait()
    assert len(bars(plot_timeline([running, queued]))) == 1


def test_it_can_be_saved(device: str, tmp_path: Path) -> None:
    handle = first(1)
    handle.wait()
    plot_timeline(handle).figure.savefig(tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_without_handles_there_is_nothing_to_draw() -> None:
    with pytest.raises(offload.OptionError, match="at least one handle"):
        plot_timeline([])
    with pytest.raises(TypeError, match="takes handles, not int"):
        plot_timeline([3])  # type: ignore[list-item]


def test_without_matplotlib_the_extra_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = first(1)
    handle.wait()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"offload\[plot\]"):
        plot_timeline(handle)
