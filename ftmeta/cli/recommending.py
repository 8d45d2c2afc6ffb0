"""`ftmeta recommend`: ranked pipelines for a dataset, without training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, table
from ftmeta.errors import UserError
from ftmeta.files import require_new

if TYPE_CHECKING:
    from rich.console import Console

DataArgument = Annotated[
    str,
    typer.Argument(
        help="A JSONL, JSON, CSV or Parquet file, a folder saved by `datasets` or made by `ftmeta tasks synthesize`, "
        "a hub id, or a bundled task."
    ),
]
BaseModelOption = Annotated[str, typer.Option(help="phi3-micro, smollm2-135m, a hub id or a local folder.")]
SelectorOption = Annotated[
    str | None, typer.Option(help="A folder made by `ftmeta metatrain`; default: the bundled one.")
]
HardwareOption = Annotated[
    str | None, typer.Option(help="A hardware profile, as cpu-core or h100-80gb; default: this machine.")
]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta recommend my-data.jsonl --budget 30m --top 3`")(recommend)


def parse_time(text: str | None, option: str) -> float | None:
    """'30m', '90s', '2h', '1h30m' or plain seconds, as seconds. Raises UserError that names the option."""
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if parts and "".join(a + b for a, b in parts) == text:
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        raise UserError(f"{option} '{text}' is not a time; write it as 90s, 30m, 2h or 1h30m")
    if seconds <= 0:
        raise UserError(f"{option} '{text}' is nothing; give more than 0 s")
    return seconds


@command
def recommend(
    data: DataArgument,
    base_model: BaseModelOption = "phi3-micro",
    budget: Annotated[
        str | None, typer.Option(help="At most this many device-seconds for the run, as 90s, 30m, 2h.")
    ] = None,
    budget_usd: Annotated[float | None, typer.Option(min=0, help="At most this much money for the run.")] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="How many pipelines.")] = 5,
    hardware: HardwareOption = None,
    selector: SelectorOption = None,
    export: Annotated[
        str | None, typer.Option(help="Write the first one as a folder for ftmeta, trl, llama-factory or axolotl.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new folder of --export.")] = None,
    json: JsonOption = False,
) -> Reply:
    """Which pipelines to run on a dataset, what they will score and what they will cost. Nothing is trained."""
    from ftmeta.export import FORMATS
    from ftmeta.recommend import recommend_for_task

    if (export is None) != (out is None):
        raise UserError("--export FORMAT and --out DIR belong together; give both")
    if export is not None and export not in FORMATS:
        raise UserError(f"unknown export format '{export}'; choose one of {', '.join(FORMATS)}")
    if out is not None:
        require_new(out)
    document = recommend_for_task(
        data,
        base_model=base_model,
        budget_s=parse_time(budget, "--budget"),
        budget_usd=budget_usd,
        top_k=top,
        hardware=hardware,
        selector=selector,
    )
    if export is not None and out is not None:
        document["export"] = _export(document, data, base_model, selector, export, out)
    return Reply(document, lambda console: show_recommendations(console, document))


def _export(
    document: dict[str, Any], data: str, base_model: str, selector: str | None, format: str, out: Path
) -> dict[str, Any]:
    """The first recommendation as a folder for another trainer, with the budget that its prediction is for."""
    from ftmeta.export import export
    from ftmeta.models import resolve
    from ftmeta.schema import Pipeline
    from ftmeta.selector import load_selector
    from ftmeta.tasks import load_task

    first = document["recommendations"][0]["pipeline"]
    budget = load_selector(selector).surrogates.budget
    pipeline = Pipeline(first["space"], first["values"])
    return export(pipeline, load_task(data), resolve(base_model), format, out, budget=budget).to_json()


def show_recommendations(console: Console, document: dict[str, Any]) -> None:
    """The document of `recommend --json` for a reader: a table, then what to be careful about."""
    selector = document["selector"]
    console.print(
        f"[bold]{document['task']['name']}[/bold] on {document['base_model']['name']}, "
        f"by selector {selector['name']} {selector['version']}"
    )
    listed = table("", "pipeline", ">rate", ">batch", ">score", ">80 % in", ">time", ">money")
    for place, row in enumerate(document["recommendations"], start=1):
        rate = row["learning_rate"]
        listed.add_row(
            str(place),
            _in_short(row),
            "–" if rate is None else f"{rate:.1e}",
            str(row["pipeline"]["values"].get("batch_size", "–")),
            f"{row['score']:.2f}",
            f"{row['score_low']:.2f}–{row['score_high']:.2f}",
            duration(row["cost_s"]),
            money(row["cost_usd"]),
        )
    console.print(listed)
    for warning in document["warnings"]:
        console.print(f"[yellow]note:[/yellow] {warning}", soft_wrap=True)
    if "export" in document:
        show_export(console, document["export"])
    console.print("Score: the share of the zero-shot loss that finetuning removes. --json: all settings.")
    if "export" in document:
        exported = document["export"]
        for one in exported["not_carried"]:
            what = f"{one['setting']} {one['value']}: {one['why']}"
            console.print(f"[yellow]not carried:[/yellow] {what}", soft_wrap=True)
        console.print(f"the first one: {exported['folder']}; run {exported['command']} there", soft_wrap=True)


def show_export(console: Console, exported: dict[str, Any]) -> None:
    console.print(f"exported to {exported['folder']}; run there: {exported['command']}", soft_wrap=True, markup=False)
    for one in exported["not_carried"]:
        console.print(f"not carried: {one['setting']}: {one['value']} ({one['why']})", soft_wrap=True, markup=False)


def _in_short(row: dict[str, Any]) -> str:
    """`lora 16, all (strong-default)`: what a reader tells pipelines apart by."""
    values = row["pipeline"]["values"]
    method = " ".join(str(values[name]) for name in ("peft_method", "lora_rank") if name in values)
    text = ", ".join(part for part in (method, values.get("target_modules")) if part) or row["pipeline"]["id"]
    return f"{text} ({row['label']})" if row["label"] else text
