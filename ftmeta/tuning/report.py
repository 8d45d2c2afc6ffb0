"""The report of a tuning: one HTML page that needs nothing else, with everything that a document (document.py) says.

In: the document. Out: the page as text. `python -m ftmeta.tuning.report RESULT.json > report.html` makes it again.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.page import DEFAULT, INK, OTHER, OURS, duration, figure
from ftmeta.page import document as document_of_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LISTED = 25  # runs in the table
_SIZE = (5.4, 3.1)


def page(document: Mapping[str, Any]) -> str:
    task = html.escape(document["task"]["name"])
    parts = [
        f"<h1>Tuning of {task}</h1>",
        f'<p class="soft">{html.escape(_what(document))}</p>',
        *(f'<p class="warn">{html.escape(warning)}</p>' for warning in _warnings(document)),
        _tiles(document),
        '<div class="plots">',
        *(figure(draw, document, caption, _SIZE) for draw, caption in _PLOTS),
        "</div>",
        _comparison(document),
        _pipeline(document),
        _runs(document),
    ]
    return document_of_page(f"Tuning of {document['task']['name']}", parts)


# --- words ------------------------------------------------------------------------------------------------------------


def _what(document: Mapping[str, Any]) -> str:
    budget = document["budget"]
    of = {"wall": "wall time", "device": "device time", "usd": "money"}[budget["kind"]]
    amount = f"${budget['amount']:g}" if budget["kind"] == "usd" else duration(budget["amount"])
    ended = {
        "budget": "it was spent",
        "no gain expected": "it stopped early, because no candidate promised a gain that is worth a run",
        "nothing left to run": "it stopped because every candidate was run",
        "interrupted": "it was stopped by hand, and can be taken up again",
    }[document["stopped"]]
    return (
        f"{document['base_model']} on {document['slots']} slots ({document['hardware']}), method {document['method']}, "
        f"seed {document['seed']}. The budget was {amount} of {of}; {ended}."
    )


def _warnings(document: Mapping[str, Any]) -> list[str]:
    found = list(document["warnings"])
    guard = document["guard"]
    if guard is not None and guard["fell_back"]:
        found.append(
            f"What was seen here contradicts what was learned on other tasks (errors as large as those of the first "
            f"{guard['candidates']} candidates have a probability of {guard['doubt']:.1g} if it held), so from "
            f"{duration(guard['at_s'] or 0)} on a task-only optimizer was at work."
        )
    return found


def _tiles(document: Mapping[str, Any]) -> str:
    best, test, default = document["incumbent"], document["test"], document["strong_default"]
    spent = document["spent"]
    tiles = [("best validation score", "none above 0" if best is None else f"{best['score']:.3f}")]
    if test is not None:
        tiles.append(("its test score", f"{test['score']:.3f}"))
    if default is not None and default["test"] is not None:
        tiles.append(("strong default's test score", f"{default['test']['score']:.3f}"))
    tiles += [
        ("runs begun", str(len(document["runs"]))),
        ("wall time", duration(spent["wall_s"])),
        ("device time", duration(spent["device_s"])),
        ("of slots at work", f"{100 * document['slot_efficiency']:.0f} %"),
    ]
    if spent["usd"] is not None:
        tiles.append(("cost", f"${spent['usd']:.4f}"))
    made = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{made}</div>'


def _comparison(document: Mapping[str, Any]) -> str:
    columns = [("zero-shot", document["zero_shot"]), ("tuned", document["test"])]
    default = document["strong_default"]
    if default is not None and default["test"] is not None:
        columns.insert(1, ("strong default", default["test"]))
    if document["test"] is None:
        return ""
    rows = []
    for key, name in (
        ("score", "score"),
        ("nll", "NLL per answer token"),
        ("exact_match", "exact match"),
        ("f1", "F1"),
        ("rouge_l", "ROUGE-L"),
    ):
        values = "".join(f"<td>{_number(values.get(key))}</td>" for _, values in columns if values is not None)
        rows.append(f"<tr><td>{name}</td>{values}</tr>")
    head = "".join(f"<th>{name}</th>" for name, values in columns if values is not None)
    return (
        "<h2>On the test split, which nothing was chosen by</h2>"
        f'<div class="table"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _pipeline(document: Mapping[str, Any]) -> str:
    best = document["incumbent"]
    if best is None:
        return "<h2>No pipeline</h2><p>Nothing that was tried is better than the base model as it is.</p>"
    values = "\n".join(f"{name}: {value}" for name, value in best["pipeline"]["values"].items() if value is not None)
    rate = best["learning_rate"]
    note = "" if rate is None else f" The learning rate is {rate:.3g}."
    adapter = document["adapter"]
    place = "" if adapter is None else f" Its adapter: <code>{html.escape(adapter)}</code>."
    return (
        f"<h2>The pipeline that was chosen</h2><p>Run {best['run_id']} at fidelity {best['fidelity']}.{note}{place}</p>"
        f"<pre>{html.escape(values)}</pre>"
    )


def _runs(document: Mapping[str, Any]) -> str:
    runs = sorted(document["runs"], key=lambda run: -(run["score"] or 0.0))
    best = document["incumbent"]
    rows = []
    for run in runs[:_LISTED]:
        expected = run["expected"]
        interval = "" if expected is None else f"{expected['score_low']:.3f} to {expected['score_high']:.3f}"
        chosen = best is not None and run["run_id"] == best["run_id"]
        rows.append(
            f"<tr{' class=best' if chosen else ''}><td>{html.escape(run['label'] or run['pipeline']['id'])}</td>"
            f"<td>{run['fidelity']}</td><td>{_number(run['score'])}</td><td>{interval}</td>"
            f"<td>{duration(run['device_s'])}</td><td>{run['status']}</td>"
            f'<td class="long">{html.escape(run["error"] or "")}</td></tr>'
        )
    more = f'<p class="soft">{len(runs) - _LISTED} more are in result.json.</p>' if len(runs) > _LISTED else ""
    return (
        "<h2>The runs, best first</h2>"
        '<div class="table"><table><tr><th>pipeline</th><th>fidelity</th><th>best score</th>'
        "<th>expected at the end (80 %)</th><th>device time</th><th>status</th><th></th></tr>"
        f"{''.join(rows)}</table></div>{more}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


# --- plots ------------------------------------------------------------------------------------------------------------


def _over_time(axes: Axes, document: Mapping[str, Any]) -> None:
    trace = document["trace"]
    best = [(one["t_s"], one["score"]) for one in trace if one["incumbent"]]
    axes.scatter([one["t_s"] for one in trace], [one["score"] for one in trace], s=8, color=OTHER, label="scores seen")
    if best:
        end = document["spent"]["wall_s"]
        at, scores = zip(*best, strict=True)
        axes.step([*at, end], [*scores, scores[-1]], where="post", color=OURS, label="incumbent")
    default = _curve_of_default(document)
    if default:
        at, scores = zip(*default, strict=True)
        axes.plot(at, scores, "--", color=DEFAULT, label="strong default")
    axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("wall seconds")
    axes.set_ylabel("validation score")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _curve_of_default(document: Mapping[str, Any]) -> list[tuple[float, float]]:
    default = document["strong_default"]
    curves = [run["curve"] for run in document["runs"] if default is not None and run["run_id"] == default["run_id"]]
    return [(point["t_s"], point["score"]) for curve in curves for point in curve]


def _curves(axes: Axes, document: Mapping[str, Any]) -> None:
    best, default = document["incumbent"], document["strong_default"]
    marked = {None if default is None else default["run_id"]: (DEFAULT, "strong default")}
    marked |= {None if best is None else best["run_id"]: (OURS, "chosen")}
    for run in document["runs"]:
        colour, label = marked.get(run["run_id"], (OTHER, None))
        at, scores = [0, *(p["fidelity"] for p in run["curve"])], [0.0, *(p["score"] for p in run["curve"])]
        front = label is not None
        axes.plot(
            at,
            scores,
            color=colour,
            label=label,
            alpha=1.0 if front else 0.7,
            linewidth=1.8 if front else 0.8,
            zorder=2 + front,
        )
    axes.set_xlabel("fidelity")
    axes.set_ylabel("validation score")
    if any(axes.get_legend_handles_labels()):
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _predicted(axes: Axes, document: Mapping[str, Any]) -> None:
    ended = [
        (run["expected"], point["score"])
        for run in document["runs"]
        for point in run["curve"][-1:]
        if run["expected"] is not None and point["fidelity"] == run["expected"]["fidelity"]
    ]
    if not ended:
        axes.text(0.5, 0.5, "no run with a prediction came to its end", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for expected, score in ended:
        axes.plot([expected["score_low"], expected["score_high"]], [score, score], color=OTHER, linewidth=1)
        axes.plot(expected["score"], score, "o", color=OURS, markersize=4)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], ":", color=INK, linewidth=0.8)
    axes.set_xlabel("predicted when the run was begun (80 % interval)")
    axes.set_ylabel("observed at the end")


def _costs(axes: Axes, document: Mapping[str, Any]) -> None:
    runs = sorted(document["runs"], key=lambda run: -run["device_s"])[:_LISTED]
    best = document["incumbent"]
    colours = [OURS if best is not None and run["run_id"] == best["run_id"] else OTHER for run in runs]
    axes.bar(range(1, len(runs) + 1), [run["device_s"] for run in runs], color=colours)
    axes.set_xlabel("runs, the most expensive first")
    axes.set_ylabel("device-seconds")


_PLOTS: tuple[tuple[Callable[[Any, Mapping[str, Any]], None], str], ...] = (
    (_over_time, "The incumbent over time, and every score that was seen on the way."),
    (_curves, "The learning curve of every run."),
    (_predicted, "What was expected of a run when it was begun, and what came of it, for runs that came to their end."),
    (_costs, "What the runs cost; the chosen one in red."),
)


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
