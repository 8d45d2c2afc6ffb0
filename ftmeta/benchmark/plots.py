"""The benchmark's plots (SVG): regret over time with bands, ranks over time, a panel a task.

Array legend: M methods, D tasks, G shares of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from ftmeta.benchmark.statistics import GRID, OURS, SHARES, Results, bands
from ftmeta.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_MOST_BANDS = 3  # methods with a band; more would hide each other
_STYLES = ("-", "--", "-.", ":")
_COLOURS = ("#1d3557", "#2a9d8f", "#8a6fb0", "#7f7f7f", "#4c8fd0", "#b59a00", "#5b8c3a")  # no red: that is ours


def draw(results: Results, out: Path) -> dict[str, Path]:
    """SVG files in `out`: name -> file."""
    import matplotlib as mpl

    mpl.use("agg")
    drawings: dict[str, Callable[[Results], Figure]] = {"regret": _regret, "ranks": _ranks, "tasks": _tasks}
    files = {}
    with mpl.rc_context({"svg.hashsalt": "ftmeta", "font.size": 9}):
        for name, drawing in drawings.items():
            figure = drawing(results)
            files[name] = out / f"{name}.svg"
            with atomic_path(files[name]) as path:
                figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return files


def _regret(results: Results) -> Figure:
    figure, axes = _figure()
    low_MG, high_MG = bands(results)
    order = sorted(_order(results), key=lambda m: results.methods[m] != OURS)  # ours first, the others as they are
    banded = [m for m in order if results.methods[m] != "oracle"][:_MOST_BANDS]
    for m in _order(results):
        line = _line(axes, results, m, results.curve_MDG[m].mean(axis=0))
        if m in banded:
            axes.fill_between(100 * GRID, low_MG[m], high_MG[m], color=line, alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.1)
    axes.set_ylabel("normalised regret (test)")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _ranks(results: Results) -> Figure:
    figure, axes = _figure()
    rank_MG = rankdata(np.round(results.curve_MDG, 9), axis=0).mean(axis=1)
    for m in _order(results):
        _line(axes, results, m, rank_MG[m])
    axes.set_ylabel("average rank (1 is best)")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _tasks(results: Results) -> Figure:
    from matplotlib.figure import Figure

    D = len(results.tasks)
    columns = min(_COLUMNS, D)
    rows = math.ceil(D / columns)
    figure = Figure(figsize=(2.7 * columns, 2.1 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for d, (panel, task) in enumerate(zip(panels, results.tasks, strict=False)):
        for m in _order(results):
            _line(panel, results, m, results.curve_MDG[m, d])
        panel.set_xscale("log")
        panel.set_yscale("symlog", linthresh=0.01, linscale=0.4)
        panel.set_ylim(0, 1.1)
        panel.set_title(task, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for d, panel in enumerate(panels):
        if d >= D:
            panel.axis("off")
        elif d + columns >= D:  # nothing stands below
            _shares(panel)
            panel.tick_params(labelbottom=True)
    figure.supylabel("normalised regret (test)", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    return figure


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.8))
    axes = figure.subplots()
    axes.set_xscale("log")
    _shares(axes)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _shares(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.set_xlabel("share of the budget, %", fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator([100 * share for share in (0.01, *SHARES)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, results: Results, m: int, value_G: np.ndarray) -> str:
    place = results.methods.index(results.methods[m])
    ours = results.methods[m] == OURS
    color = "#c8553d" if ours else _COLOURS[place % len(_COLOURS)]
    axes.plot(
        100 * GRID,
        value_G,
        _STYLES[0] if ours else _STYLES[place % len(_STYLES)],
        color=color,
        linewidth=2.2 if ours else 1.1,
        label=results.methods[m],
        zorder=3 if ours else 2,
    )
    return color


def _order(results: Results) -> list[int]:
    """Methods, smallest area first, as the legends list them."""
    return [int(m) for m in np.argsort(results.auc_MD.mean(axis=1), kind="stable")]
