"""The plots of `ftmeta report`, as SVG for a page: no script, no file beside it.

In: what report.py has read. Out: a `<figure>` each, with its text as text. Marks are counted, not runs: a plot of ten
thousand runs is as small as one of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ftmeta.page import INK, OTHER, OURS, figure
from ftmeta.tracking.table import RunInMlflow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (
    *("#d1495b", "#1f7a8c", "#d9a400", "#6a4c93", "#2a9d5c", "#c46b1f"),
    *("#3d6fb6", "#8a8f3c", "#c2539b", "#5a9bd4", "#8c6d5b", "#76808c"),
)
_SIZE = (5.4, 3.3)
_TASKS = 20  # the most that a plot names


@dataclass(frozen=True)
class Shown:
    """What is drawn."""

    runs: Sequence[RunInMlflow]
    best: Sequence[RunInMlflow]  # those whose curves are drawn
    curves: dict[str, list[tuple[int, float]]]  # MLflow id -> (fidelity, validation score)


def figures(shown: Shown) -> list[str]:
    """Those for which there is something to draw."""
    drawn = [figure(draw, shown, caption, _SIZE) for draw, caption, there in _PLOTS if there(shown)]
    return [one for one in drawn if one]


def _curves(axes: Axes, shown: Shown) -> None:
    tasks = list(dict.fromkeys(run.task for run in shown.best))
    for run in shown.best:
        points = shown.curves.get(run.mlflow_id, [])
        if points:
            colour = _COLOURS[tasks.index(run.task) % len(_COLOURS)]
            at, scores = zip(*points, strict=True)
            first = run is next(one for one in shown.best if one.task == run.task)
            named = run.task if first and len(tasks) <= len(_COLOURS) else None
            axes.plot(
                at, scores, color=colour, linewidth=1.8 if first else 0.8, alpha=1.0 if first else 0.6, label=named
            )
    axes.set_xlabel("fidelity")
    axes.set_ylabel("validation score")
    if len(tasks) <= len(_COLOURS):
        axes.legend(frameon=False, fontsize=6.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scores(axes: Axes, shown: Shown) -> None:
    import numpy as np

    of_task = _by_task(shown.runs, lambda run: run.score)
    named = sorted(of_task, key=lambda task: float(np.median(of_task[task])))[-_TASKS:]
    boxes = []
    for task in named:
        low, first, middle, third, high = np.quantile(of_task[task], (0.0, 0.25, 0.5, 0.75, 1.0))
        boxes.append({"label": task, "whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high})
    style: dict[str, Any] = {"color": INK, "linewidth": 1}
    axes.bxp(
        boxes,
        orientation="horizontal",
        showfliers=False,
        boxprops=style,
        whiskerprops=style,
        capprops=style,
        medianprops={"color": OURS, "linewidth": 2},
    )
    axes.set_xlabel("validation score at the end")


def _cost_by_task(axes: Axes, shown: Shown) -> None:
    of_task = _by_task(shown.runs, lambda run: run.cost_s)
    hours = {task: sum(costs) / 3600 for task, costs in of_task.items()}
    named = sorted(hours, key=lambda task: hours[task])[-_TASKS:]
    axes.barh(named, [hours[task] for task in named], color=OTHER)
    axes.set_xlabel("device-hours")


def _cost_over_time(axes: Axes, shown: Shown) -> None:
    import numpy as np

    timed = sorted((run.started_ms, run.cost_s) for run in shown.runs if run.cost_s is not None)
    started, spent = np.array([at for at, _ in timed]), np.cumsum([cost for _, cost in timed]) / 3600
    step = max(1, len(timed) // 400)
    at = [datetime.fromtimestamp(ms / 1000, UTC) for ms in started[::step]] + [
        datetime.fromtimestamp(started[-1] / 1000, UTC)
    ]
    axes.step(at, [*spent[::step], spent[-1]], where="post", color=OURS)  # type: ignore[arg-type]  # dates are taken
    axes.set_xlabel("when runs began (UTC)")
    axes.set_ylabel("device-hours so far")
    axes.tick_params(axis="x", rotation=30)


def _predicted(axes: Axes, shown: Shown) -> None:
    pairs = _predictions(shown)[:500]
    axes.plot([expected for expected, _ in pairs], [cost for _, cost in pairs], "o", color=OURS, markersize=3)
    ends = [min(min(pair) for pair in pairs), max(max(pair) for pair in pairs)]
    axes.plot(ends, ends, ":", color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("predicted device-seconds")
    axes.set_ylabel("device-seconds spent")


def _predictions(shown: Shown) -> list[tuple[float, float]]:
    """(predicted, spent) of runs that came to their end."""
    pairs = [(run.predicted_cost_s, run.cost_s) for run in shown.runs if run.status == "ok"]
    return [(expected, cost) for expected, cost in pairs if expected and cost]


def _by_task(runs: Sequence[RunInMlflow], value: Callable[[RunInMlflow], float | None]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        number = value(run)
        if number is not None:
            found.setdefault(run.task, []).append(number)
    return found


_Plot = tuple[Callable[[Any, Shown], None], str, Callable[[Shown], bool]]
_PLOTS: tuple[_Plot, ...] = (
    (
        _curves,
        "Learning curves of the best runs of each task; the best one is thicker.",
        lambda s: any(s.curves.values()),
    ),
    (
        _scores,
        "Scores of all runs by task: range, quartiles and median.",
        lambda s: any(r.score is not None for r in s.runs),
    ),
    (_cost_by_task, "Device time by task.", lambda s: any(r.cost_s for r in s.runs)),
    (_cost_over_time, "Device time as it was spent.", lambda s: any(r.cost_s for r in s.runs)),
    (
        _predicted,
        "Costs of recommended runs as predicted and as they came.",
        lambda s: bool(_predictions(s)),
    ),
)
