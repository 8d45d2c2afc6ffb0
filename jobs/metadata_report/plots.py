"""A meta-dataset to five plots (SVG): curves, score against cost, noise, regret, importance of hyperparameters.

All runs of a task are a few paths, and coordinates are rounded to a tenth of a point: a plot of thousands of curves
stays a file of some hundred kilobytes.

Array legend: T tasks.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmeta.files import write_text
from ftmeta.metadataset import MetaDataset
from ftmeta.metadataset.ends import ends
from ftmeta.metadataset.headroom import HeadRoom, head_room, known_pipelines
from ftmeta.metadataset.machines import machines
from ftmeta.metadataset.noise import deviations

if TYPE_CHECKING:
    import pandas as pd

_BEST, _STRONG, _DEFAULT, _OTHERS = "#c8553d", "#1d3557", "#2a9d8f", "#e07a1f"
_LINES = {"strong-default": ("strong default", _STRONG), "default": ("default", _DEFAULT), "best": ("best", _BEST)}
_COLUMNS = 4  # panels beside each other
_LAYERS = 15  # paths that all runs of a panel are drawn in


def plot_file(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}-{name}.svg")


def draw(found: dict[str, Any], meta: MetaDataset, out: Path) -> dict[str, Path]:
    """SVG files beside `out`: name -> file, of those that there is something to draw for."""
    import matplotlib as mpl

    mpl.use("agg")
    drawings: dict[str, Callable[[], Any]] = {
        "curves": lambda: _curves(meta),
        "cost": lambda: _cost(meta),
        "replicates": lambda: _replicates(meta),
        "regret": lambda: _regret(head_room(meta)),
        "importance": lambda: _importance(found),
    }
    files = {}
    with mpl.rc_context({"svg.hashsalt": "ftmeta", "font.size": 9, "path.simplify_threshold": 0.3}):
        for name, drawing in drawings.items():
            figure = drawing()
            if figure is not None:
                files[name] = plot_file(out, name)
                _save(figure, files[name])
    return files


# --- panels a task ----------------------------------------------------------------------------------------------------


def _curves(meta: MetaDataset) -> Any:
    from matplotlib.ticker import MaxNLocator

    panels = _marked(meta)
    curves = meta.curves.sort_values(["run_id", "fidelity"])
    of_run = {run_id: (curve["fidelity"], curve["score"]) for run_id, curve in curves.groupby("run_id")}
    figure, axes = _grid(len(panels))
    for axis, (label, runs, marked) in zip(axes, panels, strict=True):
        faint = [of_run[run_id] for run_id in runs["run_id"] if run_id in of_run]
        for at in range(_LAYERS):  # the more layers lie on each other, the more runs pass there
            points = [(*fidelity, math.nan) for fidelity, _ in faint[at::_LAYERS]]
            scores = [(*score.astype(float), math.nan) for _, score in faint[at::_LAYERS]]
            axis.plot(sum(points, ()), sum(scores, ()), color="0.3", linewidth=0.4, alpha=0.25)
        for name, run_id in marked.items():
            if run_id in of_run:
                axis.plot(*of_run[run_id], color=_LINES[name][1], linewidth=1.6, label=_LINES[name][0])
        axis.set_title(label, fontsize=9)
        axis.set_ylim(bottom=-0.02)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _labelled(figure, axes, "fidelity", "validation score")


def _cost(meta: MetaDataset) -> Any:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    slower = {one.device: one.relative_cost for one in machines(meta)}
    panels = _marked(meta)
    figure, axes = _grid(len(panels))
    drawn = False
    for axis, (label, runs, marked) in zip(axes, panels, strict=True):
        factor = runs["device"].map(slower if len(slower) > 1 else dict.fromkeys(slower, 1.0)).astype(float)
        runs = runs.assign(cost=runs["cost_s"].astype(float) / factor.fillna(1.0 if len(slower) < 2 else math.nan))
        paid = runs[(runs["cost"] > 0) & runs["score"].notna() & (runs["status"] == "ok")]
        drawn = drawn or len(paid) > 0
        axis.scatter(paid["cost"], paid["score"], color="0.6", s=5, linewidths=0)
        front = paid.sort_values(["cost", "score"], ascending=[True, False])
        front = front[front["score"] > front["score"].cummax().shift(fill_value=-math.inf)]
        axis.step(front["cost"], front["score"], where="post", color="0.2", linewidth=1, label="Pareto front")
        for name, run_id in marked.items():
            at = paid[paid["run_id"] == run_id]
            axis.scatter(at["cost"], at["score"], color=_LINES[name][1], s=32, zorder=3, label=_LINES[name][0])
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(label, fontsize=9)
        axis.set_ylim(bottom=-0.02)
    return _labelled(figure, axes, "device-seconds of the whole run", "validation score") if drawn else None


def _marked(meta: MetaDataset) -> list[tuple[str, pd.DataFrame, dict[str, str]]]:
    """A panel a task and base model: its label, its runs (metadataset.ends), and the runs that are named in it (of
    several seeds the first)."""
    ended, several = ends(meta), meta.runs["base_model"].nunique() > 1
    known = {pipeline.id: name for name, pipeline in known_pipelines(meta.space).items()}
    panels = []
    for (task, base_model), runs in ended.groupby(["task", "base_model"]):
        first = runs.sort_values("seed", kind="stable").drop_duplicates("pipeline")
        marked = {
            known[pipeline]: run_id
            for pipeline, run_id in zip(first["pipeline"], first["run_id"], strict=True)
            if pipeline in known
        }
        well = runs[(runs["status"] == "ok") & runs["score"].notna()]
        if len(well):
            marked["best"] = str(well["run_id"].to_numpy()[int(well["score"].to_numpy().argmax())])
        panels.append((f"{task} ({base_model})" if several else str(task), runs, marked))
    return panels


def _grid(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1 + 2.4 * columns, 0.9 + 1.9 * rows), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def _labelled(figure: Any, axes: Sequence[Any], x: str, y: str) -> Any:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    of_label: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        of_label |= dict(zip(labels, handles, strict=True))
    if of_label:
        figure.legend(of_label.values(), of_label, loc="outside upper left", ncols=4, frameon=False)
    return figure


# --- a row a task -----------------------------------------------------------------------------------------------------


def _replicates(meta: MetaDataset) -> Any:
    """What single runs differ from the mean of their pipeline: score, and cost on one device."""
    well = ends(meta)
    well = well[(well["status"] == "ok") & well["score"].notna()]
    score = deviations(well, ["task", "base_model", "pipeline"], ["score"])
    if score.empty:
        return None
    paid = well[(well["cost_s"] > 0) & well["device"].notna()]
    paid = paid.assign(cost=100 * np.log(paid["cost_s"].astype(float)))
    cost = deviations(paid, ["task", "base_model", "pipeline", "device"], ["cost"])
    tasks = sorted(well.loc[score.index, "task"].unique(), reverse=True)
    figure, axes = _rows(tasks, 1 if cost.empty else 2)
    drawings = (
        (score["score"], "validation score - mean over seeds", _STRONG),
        (cost["cost"], "cost: % from the (geometric) mean over seeds", _OTHERS),
    )
    for axis, (deviation, label, colour) in zip(axes, drawings, strict=False):  # costs have no panel if none are known
        at = np.array([tasks.index(task) for task in well["task"].reindex(deviation.index)], dtype=float)
        shift = np.random.default_rng(0).uniform(-0.25, 0.25, len(at))  # so that points do not hide each other
        axis.axvline(0, color="0.7", linewidth=0.8, zorder=1)
        axis.scatter(deviation, at + shift, s=9, color=colour, alpha=0.6, linewidths=0, zorder=2)
        axis.set_xlabel(label)
    return figure


def _regret(rooms: Sequence[HeadRoom]) -> Any:
    if not rooms:
        return None
    several = len(rooms) > 1
    labels = [f"{task} ({room.base_model})" if several else task for room in rooms for task in room.scores.tasks]
    joined = {
        kind: np.concatenate([room.regret.get(kind, np.full(len(room.scores.tasks), np.nan)) for room in rooms])
        for kind in ("strong-default", "static", "static_of_others")
    }
    noise, luck = (np.concatenate([getattr(room, name) for room in rooms]) for name in ("noise_T", "luck_T"))
    order = np.argsort(joined["static"], kind="stable")
    figure, (axis,) = _rows([labels[t] for t in order], 1)
    y = np.arange(len(labels))
    if np.isfinite(noise).any():
        axis.barh(y, 2 * noise[order], left=-noise[order], height=0.8, color="0.9", label="noise of two runs", zorder=0)
        axis.scatter(luck[order], y, marker="|", s=90, color="0.35", label="luck of the chosen", zorder=1)
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    for kind, label, colour, marker, size in (
        ("strong-default", "strong default", "#8d99ae", "s", 26),
        ("static", "best static", _STRONG, "o", 44),
        ("static_of_others", "static of the other tasks", _OTHERS, "D", 16),
    ):
        if np.isfinite(joined[kind]).any():
            axis.scatter(joined[kind][order], y, color=colour, marker=marker, s=size, label=label, zorder=2)
    axis.set_xlabel("normalised test regret against the pipeline that validation chose")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure


def _importance(found: Mapping[str, Any]) -> Any:
    if found["importance"] is None:
        return None
    names = list(found["importance"]["mean"]["share"])[::-1]
    figure, (axis,) = _rows(names, 1)
    kinds = (
        ("importance", "all pipelines", _STRONG, 0.2),
        ("importance_better_half", "the better half", _OTHERS, -0.2),
    )
    for kind, label, colour, shift in kinds:
        if found[kind] is not None:
            mean, y = found[kind]["mean"], np.arange(len(names)) + shift
            shares = [mean["share"][name] for name in names]
            axis.barh(
                y, shares, height=0.38, color=colour, alpha=0.75, label=f"{label} (R² {mean['r2']:.2f})", zorder=1
            )
            for task in found[kind]["tasks"]:
                axis.scatter([task["share"][name] for name in names], y, color="0.15", s=4, linewidths=0, zorder=2)
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set_xlabel("share of the score's variance (bars: mean over tasks; dots: single tasks)")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    return figure


def _rows(labels: Sequence[str], columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.3 + 0.3 * len(labels)), layout="constrained", facecolor="white")
    axes = list(figure.subplots(1, columns, sharey=True, squeeze=False).flat)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.6, len(labels) - 0.4)
    for axis in axes:
        axis.grid(axis="x", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_text(path, _rounded(drawn.getvalue()))


def _rounded(svg: str) -> str:
    """Coordinates of what is drawn to a tenth of a point, finer than anyone sees; half the bytes."""

    def shorter(match: re.Match[str]) -> str:
        rounded = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), match[0])
        return rounded.replace(" \nL ", " ")  # further points of a path are lines without being said to be

    return re.sub(r'<path d="[^"]*" clip-path|<use [^>]*>', shorter, svg)
