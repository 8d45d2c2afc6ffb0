"""Findings to two plots (SVG): what finetuning teaches of seen and unseen facts, and the regret of one pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftmeta.files import atomic_path


def plot_file(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}-{name}.svg")


def draw(found: dict[str, Any], out: Path) -> None:
    """Two SVG files beside `out`."""
    import matplotlib as mpl

    mpl.use("agg")
    with mpl.rc_context({"svg.hashsalt": "ftmeta", "font.size": 10}):
        _draw_seen(found["tasks"], plot_file(out, "seen"))
        _draw_regret(found["tasks"], found["noise"], plot_file(out, "regret"))


def _draw_seen(rows: Sequence[dict[str, Any]], path: Path) -> None:
    rows = sorted(rows, key=lambda row: row["strong_default"]["score"]["seen"])
    figure, axes = _axes(rows)
    for y, row in enumerate(rows):
        score = row["strong_default"]["score"]
        axes.plot([score["unseen"], score["seen"]], [y, y], color="0.75", linewidth=2, zorder=1)
    for group, colour, marker in (("seen", "#0b6e4f", "o"), ("unseen", "#c8553d", "D")):
        shares = [row["strong_default"]["score"][group] for row in rows]
        axes.scatter(shares, range(len(rows)), color=colour, marker=marker, s=36, label=f"{group} facts", zorder=2)
    axes.set_xlabel("share of the zero-shot NLL that finetuning removes (test, strong default)")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    _finish(figure, axes, path)


def _draw_regret(rows: Sequence[dict[str, Any]], noise: float, path: Path) -> None:
    rows = sorted(rows, key=lambda row: row["regret"]["static"])
    figure, axes = _axes(rows)
    axes.axvspan(-noise, noise, color="0.92", zorder=0, label="noise of two runs")
    axes.axvline(0, color="0.6", linewidth=1, zorder=1)
    series = (
        ("regret", "strong_default", "#8d99ae", "s", "strong default"),
        ("regret", "static", "#1d3557", "o", "best static"),
        ("regret_again", "static", "none", "o", "best static, again with fresh seeds"),
        ("regret", "static_of_others", "#e07a1f", "D", "static of the other tasks"),
    )
    for (measure, kind, colour, marker, label), size in zip(series, (30, 60, 110, 22), strict=True):
        edge = "#1d3557" if colour == "none" else colour
        values = [math.nan if row[measure][kind] is None else row[measure][kind] for row in rows]
        axes.scatter(
            values, range(len(rows)), facecolors=colour, edgecolors=edge, marker=marker, s=size, label=label, zorder=2
        )
    axes.set_xlabel("normalised test regret against the pipeline that validation chose")
    _finish(figure, axes, path)


def _axes(rows: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.34 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_yticks(range(len(rows)), [f"{row['task']} ({row['train']:,})" for row in rows])
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _finish(figure: Any, axes: Any, path: Path) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    with atomic_path(path) as fresh:
        figure.savefig(fresh, format="svg", metadata={"Date": None})
