"""`ftmeta tune`: the best adapter that a budget can buy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, note, number, table
from ftmeta.cli.recommending import BaseModelOption, SelectorOption, parse_time
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ftmeta.tuning.limit import Kind


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta tune my-data.jsonl --budget 10m --out my-tuning`")(tune)


@command
def tune(
    data: Annotated[
        str | None,
        typer.Argument(help="A JSONL, JSON, CSV or Parquet file, a folder, a hub dataset id or a bundled task."),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Wall time for everything, as 90s, 10m or 2h.")] = None,
    budget_device: Annotated[str | None, typer.Option(help="Instead: device time, summed over the slots.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Instead: money, by the price of the device.")] = None,
    method: Annotated[str, typer.Option(help="ftmeta (ours) or another optimizer of `ftmeta benchmark`.")] = "ftmeta",
    slots: Annotated[int | None, typer.Option(min=1, help="Processes at work at once; default: all that fit.")] = None,
    cpus_per_slot: Annotated[float, typer.Option(min=0.01, help="Cores of each.")] = 1,
    gpus_per_slot: Annotated[float, typer.Option(min=0, help="GPUs of each, or a share of one; 0: the CPU.")] = 0,
    runs_per_slot: Annotated[
        int | None, typer.Option(min=1, help="Runs that each trains side by side on one base model; default: one.")
    ] = None,
    base_model: BaseModelOption = "phi3-micro",
    out: Annotated[
        Path | None, typer.Option(help="A new folder that all nodes see; default: one in ftmeta-tunings/.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the tuning in this folder, with what is left of its budget.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    top: Annotated[
        int, typer.Option(min=1, help="Runs to choose among in the end, on the whole validation split.")
    ] = 3,
    least_gain: Annotated[
        float, typer.Option(min=0, help="Stop early where no candidate is expected to add as much to the score.")
    ] = 0.0005,
    keep_paused: Annotated[int, typer.Option(min=1, help="Paused runs that keep a checkpoint, the best ones.")] = 20,
    selector: SelectorOption = None,
    metadata: Annotated[
        str, typer.Option(help="A meta-dataset, for methods that learn from runs; ours needs the selector alone.")
    ] = "phi3-micro",
    tracking_uri: Annotated[
        str | None, typer.Option(help="Where MLflow keeps the runs; default: $MLFLOW_TRACKING_URI, else off.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """Finetunes many pipelines a little and the good ones to their end, on the Ray cluster ($RAY_ADDRESS, or this
    machine), and hands over the best adapter that it found within the budget.

    Ctrl-C ends the fidelities under way and hands over the best so far; a second Ctrl-C ends it at once. Either way
    --resume goes on from there."""
    from ftmeta.orchestrate.tuning import resumed, tune
    from ftmeta.tuning.definition import Definition

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if resume is not None:
        if data is not None or out is not None or budget or budget_device or budget_usd:
            raise UserError("--resume takes everything from its folder; give no dataset, budget or --out beside it")
        document = resumed(resume, tracking_uri=uri)
    else:
        if data is None:
            raise UserError("a dataset is missing: `ftmeta tune my-data.jsonl --budget 10m`, or --resume FOLDER")
        kind, amount = limit_of(budget, budget_device, budget_usd)
        definition = Definition(
            data=str(Path(data).absolute()) if Path(data).exists() else data,
            budget=amount,
            kind=kind,
            base_model=base_model,
            method=method,
            seed=seed,
            selector=None if selector is None else str(Path(selector).absolute()),
            metadata=metadata,
            slots=slots,
            cpus_per_slot=cpus_per_slot,
            gpus_per_slot=gpus_per_slot,
            runs_per_slot=runs_per_slot,
            top=top,
            least_gain=least_gain,
            keep_paused=keep_paused,
        )
        document = tune(definition, out or _folder(data), tracking_uri=uri)
    if document["incumbent"] is None:
        note("nothing that was tried is better than the base model as it is, so there is no adapter")
    return Reply(document, lambda console: show(console, document))


def limit_of(budget: str | None, budget_device: str | None, budget_usd: float | None) -> tuple[Kind, float]:
    """The one budget that was said. Raises UserError for none, and for more than one."""
    wall_s, device_s = parse_time(budget, "--budget"), parse_time(budget_device, "--budget-device")
    if sum(one is not None for one in (wall_s, device_s, budget_usd)) != 1:
        raise UserError("say one budget: --budget 10m (wall time), --budget-device 20m or --budget-usd 1.50")
    if wall_s is not None:
        return "wall", wall_s
    if device_s is not None:
        return "device", device_s
    assert budget_usd is not None
    return "usd", budget_usd


def _folder(data: str) -> Path:
    """A new one, named after the dataset."""
    name = Path(data).name.partition(".")[0] or "tuning"
    parent = Path("ftmeta-tunings")
    taken = (parent / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(folder for folder in taken if not folder.exists())


def show(console: Console, document: dict[str, Any]) -> None:
    best, default = document["incumbent"], document["strong_default"]
    spent = document["spent"]
    console.print(
        f"[bold]{document['task']['name']}[/bold]: {len(document['runs'])} runs in {duration(spent['wall_s'])}, "
        f"{duration(spent['device_s'])} of device time, {money(spent['usd'])}; ended: {document['stopped']}"
    )
    if document["guard"] is not None and document["guard"]["fell_back"]:
        console.print("What was seen contradicted what was learned on other tasks; a task-only optimizer took over.")
    if best is not None and document["test"] is not None:
        name = best["label"] or best["pipeline"]["id"]
        console.print(f"best: {name} at fidelity {best['fidelity']}, validation score {number(best['score'])}")
        test_of_default = None if default is None else default["test"]
        listed = table("test split", ">zero-shot", *([">strong default"] if test_of_default else []), ">tuned")
        for key in ("score", "nll", "exact_match", "f1", "rouge_l"):
            middle = [number(test_of_default[key])] if test_of_default else []
            listed.add_row(key, number(document["zero_shot"][key]), *middle, number(document["test"][key]))
        console.print(listed)
        console.print(f"adapter: {document['adapter']}", soft_wrap=True)
    console.print(f"report:  {document['report']}", soft_wrap=True)
