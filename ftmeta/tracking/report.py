"""`ftmeta report`: one HTML page about an experiment, from MLflow alone, that needs nothing else.

In: an experiment. Out: what it has come to and cost, the best run of each task with its pipeline, learning curves, what
failed and why. Curves are asked for the best runs only, so ten thousand runs make a page in seconds.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import require_writable, write_text
from ftmeta.page import document as document_of_page
from ftmeta.page import duration
from ftmeta.tracking.report_plots import Shown, figures
from ftmeta.tracking.rows import Experiment, best_curves, open_for_reading, pipeline_of, read_experiments
from ftmeta.tracking.spending import BESIDE, JOULES_PER_KWH, all_spent, predicted
from ftmeta.tracking.store import first_line, shown
from ftmeta.tracking.table import RunInMlflow

_CURVES, _CURVES_OF_A_TASK = 60, 5  # runs whose curves are drawn
_TASKS, _FAILURES = 40, 15  # rows of the tables


def report(uri: str, experiment: str, out: Path) -> dict[str, Any]:
    """Writes the page and returns the document of `ftmeta report --json`. Raises UserError for an experiment that is
    not there or empty, and FtmetaError when MLflow does not answer."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, as report.html")
    require_writable(out)
    (found,) = read_experiments(uri, [experiment])
    if not found.runs and not found.parents:
        others = f"; {found.foreign} runs of others are in it" if found.foreign else ""
        raise UserError(f"experiment '{experiment}' has no runs of ftmeta{others}")
    best = _best_of_each_task(found.runs)
    drawn = [run for runs in best.values() for run in runs[: max(1, min(_CURVES_OF_A_TASK, _CURVES // len(best)))]]
    drawn = drawn[:_CURVES]
    client = open_for_reading(uri)
    try:
        curves = best_curves(client, drawn)
        pipelines = {run.mlflow_id: pipeline_of(client, run) for run in [runs[0] for runs in best.values()][:_TASKS]}
    except Exception as error:
        raise FtmetaError(f"MLflow at {shown(uri)} does not answer as it should: {first_line(error)}") from None
    document = _document(found, best, pipelines)
    write_text(out, _page(document, figures(Shown(found.runs, drawn, curves)), shown(uri)))
    return {**document, "out": str(out)}


def _best_of_each_task(runs: Sequence[RunInMlflow]) -> dict[str, list[RunInMlflow]]:
    """Task -> its runs that have a score, best first; tasks by name."""
    found: dict[str, list[RunInMlflow]] = {}
    for run in sorted(runs, key=lambda run: (run.task, -(run.score or 0.0))):
        if run.score is not None:
            found.setdefault(run.task, []).append(run)
    return found


def _document(
    found: Experiment, best: Mapping[str, Sequence[RunInMlflow]], pipelines: Mapping[str, dict[str, str]]
) -> dict[str, Any]:
    spent = all_spent([found])
    priced = [one.cost_usd for one in spent if one.cost_usd is not None]
    energies = [one.energy_j for one in spent if one.energy_j is not None]
    failures: dict[tuple[str, str], list[RunInMlflow]] = {}
    for run in found.runs:
        if run.status in ("diverged", "oom", "error"):  # the others have ended well, or may go on
            failures.setdefault((run.status, _without_numbers(run.error or "")), []).append(run)
    return {
        "experiment": found.name,
        "runs": len(found.runs),
        "tasks": len({run.task for run in found.runs}),
        "statuses": dict(Counter(run.status for run in found.runs)),
        "foreign_runs": found.foreign,
        "cost_s": sum(one.cost_s or 0.0 for one in spent),
        "cost_usd": sum(priced) if priced else None,
        "beside_runs_s": sum(one.cost_s or 0.0 for one in spent if one.pipeline == BESIDE),
        "energy_kwh": sum(energies) / JOULES_PER_KWH if energies else None,
        "predicted": predicted(found.runs),
        "parents": [
            {
                "name": one.name,
                "kind": one.kind,
                "status": one.status,
                "started_ms": one.started_ms,
                "cost_s": one.cost_s,
            }
            for one in sorted(found.parents, key=lambda one: -one.started_ms)
        ],
        "best": [
            {
                "task": task,
                "runs": len(runs),
                "run_id": runs[0].run_id,
                "mlflow_id": runs[0].mlflow_id,
                "base_model": runs[0].base_model,
                "score": runs[0].score,
                "test_score": runs[0].test_score,
                "cost_s": runs[0].cost_s,
                "pipeline": pipelines.get(runs[0].mlflow_id),
            }
            for task, runs in best.items()
        ],
        "failures": [
            {"status": status, "error": runs[0].error or "", "runs": len(runs)}
            for (status, _), runs in sorted(failures.items(), key=lambda item: -len(item[1]))
        ],
    }


def _without_numbers(text: str) -> str:
    """What failures of one sort have in common; the first of them is shown as it is."""
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


# --- the page ---------------------------------------------------------------------------------------------------------


def _page(document: Mapping[str, Any], plots: Sequence[str], address: str) -> str:
    name = html.escape(document["experiment"])
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>Experiment {name}</h1>",
        f'<p class="soft">From MLflow at {html.escape(address)}, {now}.</p>',
        _tiles(document),
        f'<div class="plots">{"".join(plots)}</div>',
        _best(document),
        _failures(document),
        _parents(document),
    ]
    return document_of_page(f"Experiment {document['experiment']}", parts)


def _tiles(document: Mapping[str, Any]) -> str:
    statuses, compared = document["statuses"], document["predicted"]
    failed = sum(count for status, count in statuses.items() if status in ("oom", "error"))
    tiles = [
        ("runs", f"{document['runs']:,}"),
        ("tasks", str(document["tasks"])),
        ("failed", str(failed)),
        ("diverged", str(statuses.get("diverged", 0))),
        ("device time", duration(document["cost_s"])),
        ("money", "unknown" if document["cost_usd"] is None else f"${document['cost_usd']:,.2f}"),
    ]
    if document["energy_kwh"] is not None:
        tiles.append(("energy", f"{document['energy_kwh']:.2f} kWh"))
    if compared is not None:
        tiles.append(("median error of predicted costs", f"{100 * compared['median_relative_error']:.0f} %"))
    if document["foreign_runs"]:
        tiles.append(("runs of others, not shown", str(document["foreign_runs"])))
    made = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{made}</div>'


def _best(document: Mapping[str, Any]) -> str:
    shown_rows = document["best"][:_TASKS]
    pipelines = [one["pipeline"] or {} for one in shown_rows]
    settings = sorted({name for pipeline in pipelines for name in pipeline if name != "base_model"})
    same = [name for name in settings if len({pipeline.get(name) for pipeline in pipelines}) == 1]
    rows = []
    for one, pipeline in zip(shown_rows, pipelines, strict=True):
        told = ", ".join(f"{name} {pipeline[name]}" for name in settings if name in pipeline and name not in same)
        rows.append(
            f"<tr><td>{html.escape(one['task'])}</td><td>{html.escape(one['base_model'])}</td><td>{one['runs']}</td>"
            f"<td>{_number(one['score'])}</td><td>{_number(one['test_score'])}</td>"
            f'<td>{duration(one["cost_s"])}</td><td class="long">{html.escape(told or "as below")}</td></tr>'
        )
    head = "<th>task</th><th>base model</th><th>runs</th><th>validation</th><th>test</th><th>cost</th>"
    head += '<th class="long">pipeline</th>'
    common = ", ".join(f"{name} {pipelines[0][name]}" for name in same)
    note = f'<p class="soft">The same in all of these pipelines: {html.escape(common)}.</p>' if common else ""
    return _table("The best run of each task", head, rows, len(document["best"]) - _TASKS) + note


def _failures(document: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(one['status'])}</td><td>{one['runs']}</td>"
        f'<td class="long">{html.escape(one["error"][:400])}</td></tr>'
        for one in document["failures"][:_FAILURES]
    ]
    if not rows:
        return "<h2>Failures</h2><p>None.</p>"
    head = '<th>status</th><th>runs</th><th class="long">reason, of the first one</th>'
    return _table("Runs that did not come to their end", head, rows, len(document["failures"]) - _FAILURES)


def _parents(document: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(one['name'])}</td><td>{html.escape(one['kind'])}</td><td>{one['status'].lower()}</td>"
        f"<td>{datetime.fromtimestamp(one['started_ms'] / 1000, UTC):%Y-%m-%d %H:%M}</td>"
        f"<td>{duration(one['cost_s'])}</td></tr>"
        for one in document["parents"][:_TASKS]
    ]
    head = "<th>name</th><th>kind</th><th>state</th><th>began (UTC)</th><th>device time</th>"
    return _table("Sweeps and tunings", head, rows, len(document["parents"]) - _TASKS) if rows else ""


def _table(title: str, head: str, rows: Sequence[str], more: int) -> str:
    left = f'<p class="soft">{more} more are in MLflow.</p>' if more > 0 else ""
    return f'<h2>{title}</h2><div class="table"><table><tr>{head}</tr>{"".join(rows)}</table></div>{left}'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
