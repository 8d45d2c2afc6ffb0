"""`ftmeta metadata`: what is in a meta-dataset, one's own history as a meta-dataset, and the way to and from MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, note, progress_bar, table
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ftmeta.tracking.filling import Parent

_SHOWN = 20  # rejected rows on a screen; --json and rejected.csv have all

SpaceOption = Annotated[
    str, typer.Option(help="The search space that the runs are of: a YAML file, or the name of a bundled one.")
]
OutOption = Annotated[Path, typer.Option(help="A new folder for the meta-dataset.")]
NameOption = Annotated[str | None, typer.Option(help="What to call it; default: the folder's name.")]
OneScaleOption = Annotated[
    bool,
    typer.Option(
        "--one-scale", help="Scores mean the same on all tasks: put them on [0, 1] by one scale, not one a task."
    ),
]
TrackingOption = Annotated[
    str | None, typer.Option(help="MLflow's address (http://..., sqlite:///...); default: $MLFLOW_TRACKING_URI.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(
        metadata, name="metadata", help="Meta-datasets: describe, import, to and from MLflow.", no_args_is_help=True
    )


metadata = typer.Typer()


@metadata.command("describe", epilog="Example: `ftmeta metadata describe /shared/smoke --json`")
@command
def metadata_describe(
    folder: Annotated[str, typer.Argument(help="A bundled meta-dataset, or the folder of one.")],
    json: JsonOption = False,
) -> Reply:
    """What is in a meta-dataset."""
    from ftmeta.metadataset import describe, find

    document = describe(find(folder))

    def show(console: Console) -> None:
        listed = table("meta-dataset", folder)
        for key, value in document.items():
            if value is not None:
                listed.add_row(key, duration(value) if key == "cost_s" else _in_words(key, value))
        console.print(listed)

    return Reply(document, show)


def _in_words(key: str, value: Any) -> str:
    if key == "imported":
        return f"from {value['source']}" + ("" if value["scales"] is None else "; scores rescaled, see card.md")
    parts = [f"{name} {count}" for name, count in value.items()] if isinstance(value, dict) else value
    return ", ".join(map(str, parts)) if isinstance(parts, list) else str(parts)


@metadata.command(
    "import",
    epilog="Example: `ftmeta metadata import --space space.yaml --runs runs.csv --curves curves.csv --out my-history`",
)
@command
def metadata_import(
    space: SpaceOption,
    runs: Annotated[
        Path, typer.Option(help="CSV, a row a run: run_id, task, status and a column for each hyperparameter.")
    ],
    curves: Annotated[
        Path, typer.Option(help="CSV, a row a run and fidelity: run_id, fidelity, score (higher is better), cost_s.")
    ],
    out: OutOption,
    name: NameOption = None,
    one_scale: OneScaleOption = False,
    json: JsonOption = False,
) -> Reply:
    """A meta-dataset from your own tables. Rows that cannot be used are listed with the reason, the rest is kept."""
    from ftmeta.metadataset.importing import import_tables
    from ftmeta.space import load_space

    document = import_tables(load_space(space), runs, curves, out, name=name, one_scale=one_scale)
    return Reply(document, lambda console: _show_import(console, document))


@metadata.command(
    "from-mlflow",
    epilog="Example: `ftmeta metadata from-mlflow --experiment mine --space space.yaml --score accuracy --out history`",
)
@command
def metadata_from_mlflow(
    experiment: Annotated[str, typer.Option(help="The experiment's name.")],
    space: SpaceOption,
    out: OutOption,
    tracking_uri: TrackingOption = None,
    score: Annotated[
        str, typer.Option(help="The metric that is the score, higher is better; -NAME turns the sign of a loss round.")
    ] = "score",
    cost: Annotated[
        str, typer.Option(help="The metric of the cumulative device-seconds; runs without it go by the run's clock.")
    ] = "cost.device_seconds",
    test_score: Annotated[str, typer.Option(help="The metric that is the test score, if there is one.")] = "test_score",
    task_tag: Annotated[
        str, typer.Option(help="The tag or parameter that names the task; else the logged dataset.")
    ] = "task",
    steps_per_fidelity: Annotated[int, typer.Option(min=1, help="Steps of MLflow in one fidelity of the space.")] = 1,
    first_step: Annotated[
        int, typer.Option(help="The first step after training began; 0 where epochs count from 0.")
    ] = 1,
    name: NameOption = None,
    one_scale: OneScaleOption = False,
    json: JsonOption = False,
) -> Reply:
    """A meta-dataset from past MLflow runs: those of ftmeta as they are there, and those of others by these names."""
    from ftmeta.space import load_space
    from ftmeta.tracking.history import import_experiment
    from ftmeta.tracking.reading import Names

    names = Names(score, test_score, cost, task_tag, steps_per_fidelity, first_step)
    chosen, uri = load_space(space), _tracking_uri(tracking_uri)
    note(f"Reading experiment '{experiment}' ...")
    document = import_experiment(uri, experiment, chosen, out, names, name=name, one_scale=one_scale)
    return Reply(document, lambda console: _show_import(console, document))


@metadata.command(
    "to-mlflow", epilog="Example: `ftmeta metadata to-mlflow /shared/smoke --tracking-uri http://mlflow:5000 --json`"
)
@command
def metadata_to_mlflow(
    folder: Annotated[Path, typer.Argument(help="The folder of a meta-dataset, or of a sweep with its ledger.")],
    tracking_uri: TrackingOption = None,
    experiment: Annotated[str, typer.Option(help="The experiment; made where it is missing.")] = "collect",
    sweep: Annotated[
        Path | None, typer.Option(help="The sweep's file, so that the sweep goes on under the same parent run.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """Sends the runs that MLflow lacks. Again changes nothing, and what was killed half-way is made whole."""
    from ftmeta.costs import usd_of
    from ftmeta.metadataset.folder import runs_in
    from ftmeta.tracking import tracker
    from ftmeta.tracking.filling import fill

    uri = _tracking_uri(tracking_uri)
    results, problems = runs_in(folder)
    for problem in problems:
        note(f"{problem.path} {problem.why}; it is not sent")
    owner = tracker(uri, experiment, usd=usd_of)
    with progress_bar() as progress:
        bar = progress.add_task("sending", total=len(results), detail="")
        filled = fill(owner, results, _parent(folder, sweep), each=lambda: progress.advance(bar))
    document = {
        "runs": len(results),
        "sent": filled.sent,
        "already_there": filled.already_there,
        "failed": filled.failed,
    }

    def show(console: Console) -> None:
        console.print(
            f"{len(results)} runs: {filled.sent} sent, {filled.already_there} already there, {filled.failed} failed"
        )

    return Reply(document, show, exit_code=int(filled.failed > 0))


def _parent(folder: Path, sweep: Path | None) -> Parent:
    """What is known of the sweep: from its file, from the copy that the driver leaves, or from the tables."""
    import json
    from dataclasses import asdict

    from ftmeta.orchestrate.sweep import load_sweep
    from ftmeta.space import load_space
    from ftmeta.tracking.filling import Parent

    left = folder / "sweep.yaml"
    file = sweep or (left if left.is_file() else None)
    planned = None if file is None else load_sweep(file)
    params: dict[str, Any] = {}
    if (folder / "manifest.json").is_file():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        params = {"space": manifest["space"]["name"], **_budget(manifest["budget"])}
    elif planned is not None:
        budget = load_space(planned.space).budget(**planned.budget.model_dump(exclude_none=True))
        params = {"space": planned.space, **_budget(asdict(budget))}
    if planned is None or file is None:
        return Parent(manifest["name"] if params else folder.resolve().name, None, params)
    return Parent(planned.name, planned.fingerprint, params, file.read_text(encoding="utf-8"))


def _budget(budget: dict[str, Any]) -> dict[str, str]:
    return {f"budget.{name}": str(value) for name, value in budget.items()}


def _tracking_uri(given: str | None) -> str:
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError("no MLflow is named; give --tracking-uri, or set MLFLOW_TRACKING_URI")
    return uri


def _show_import(console: Console, document: dict[str, Any]) -> None:
    statuses = ", ".join(f"{count} {status}" for status, count in document["statuses"].items())
    runs, tasks = _n(document["runs"], "run"), _n(document["tasks"], "task")
    console.print(f"{runs} of {tasks} ({statuses}), {_n(document['curve_rows'], 'point')}")
    if document.get("cost_by_clock"):
        console.print(f"{_n(document['cost_by_clock'], 'run')} without a metric for the cost: it is the run's clock")
    if document.get("ignored_columns"):
        console.print(f"columns without a meaning here: {', '.join(document['ignored_columns'])}")
    if document["scales"] is not None:
        console.print("scores were put on [0, 1]; card.md has each task's scale")
    rejected = document["rejected"]
    if rejected:
        listed = table("table", ">row", "rejected because")
        for one in rejected[:_SHOWN]:
            listed.add_row(one["table"], str(one["row"]), one["why"])
        console.print(listed)
        console.print(f"{_n(len(rejected), 'row')} rejected; rejected.csv has all of them")
    console.print(f"meta-dataset: {document['out']}", soft_wrap=True)


def _n(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
