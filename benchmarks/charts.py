"""Draw the charts: for each row, bars of the medians with their ranges; and one picture of all rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import medians, row_by_name, write_value
from benchmarks.rows import Row

__all__ = ["draw_charts"]

#: If the largest value is more than this many times the smallest, the axis is logarithmic.
WIDE_RANGE = 20

OURS_COLOUR = "#1f6f8b"
LIMIT_COLOUR = "#9aa5b1"
PEER_COLOUR = "#d8973c"

_OURS = ("compiled", "pure", "compiled-spawn", "pure-spawn", "compiled-threads", "pure-threads")
_LIMITS = ("one-process", "pickle-limit", "copy-limit", "bare-spawn", "bare-processes")


def draw_charts(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `<row>.png` and `.svg` for each row that has values, and `all.png` and `.svg`. Return their paths."""
    import matplotlib

    matplotlib.use("Agg")
    # Text remains text in the SVG files, and the same data always give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})

    folder.mkdir(parents=True, exist_ok=True)
    drawable = [
        (row, found_row)
        for found_row in found["rows"]
        if (row := row_by_name(found_row["name"])) is not None and medians(found_row)
    ]
    written = []
    for row, found_row in drawable:
        written += _draw([(row, found_row)], folder / row.name, columns=1)
    if len(drawable) > 1:
        written += _draw(drawable, folder / "all", columns=2)
    return written


def _draw(panels: Sequence[tuple[Row, Mapping[str, Any]]], path: Path, columns: int) -> list[Path]:
    from matplotlib.figure import Figure

    lines = math.ceil(len(panels) / columns)
    # Each line of panels is as high as its panel with the most bars needs.
    heights = [
        max(len(medians(found_row)) for _, found_row in panels[line * columns : (line + 1) * columns]) * 0.28 + 1.1
        for line in range(lines)
    ]
    figure = Figure(figsize=(7.5 * columns, sum(heights)), layout="constrained")
    grid: Any = figure.subplots(lines, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    axes = [axis for line in grid for axis in line]
    for axis, (row, found_row) in zip(axes, panels, strict=False):
        _draw_row(axis, row, found_row)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=130)
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def _draw_row(axis: Any, row: Row, found_row: Mapping[str, Any]) -> None:
    measured = medians(found_row)
    names, values = list(measured), list(measured.values())
    bounds = {
        result["contender"]: (min(result["values"]), max(result["values"]))
        for result in found_row["results"]
        if result["values"]
    }
    titles = {result["contender"]: result["title"] for result in found_row["results"]}
    places = list(range(len(names)))
    wide = max(values) > WIDE_RANGE * min(values) > 0
    axis.barh(places, values, color=[_colour(name) for name in names], height=0.72)
    axis.hlines(places, [bounds[name][0] for name in names], [bounds[name][1] for name in names], color="black", lw=1)
    axis.set_yticks(places, [titles[name] for name in names])
    axis.invert_yaxis()
    if wide:
        axis.set_xscale("log")
        # A logarithmic axis has no zero. The bars begin a little to the left of the smallest value.
        axis.set_xlim(min(low for low, _ in bounds.values()) / 3, max(high for _, high in bounds.values()) * 4)
    else:
        axis.set_xlim(0, max(high for _, high in bounds.values()) * 1.22)
    for place, name in zip(places, names, strict=True):
        axis.annotate(
            write_value(measured[name], row.unit),
            (bounds[name][1], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_title(row.title, loc="left", fontsize=10)
    axis.set_xlabel(f"{row.unit}, {row.better.value} is better", fontsize=8)
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _colour(contender: str) -> str:
    return OURS_COLOUR if contender in _OURS else LIMIT_COLOUR if contender in _LIMITS else PEER_COLOUR
