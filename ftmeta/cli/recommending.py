"""`ftmeta recommend`: ranked pipelines for a dataset, without training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, table
from ftmeta.errors import UserError

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
    json: JsonOption = False,
) -> Reply:
    """Which pipelines to run on a dataset, what they will score and what they will cost. Nothing is trained."""
    from ftmeta.recommend import recommend_for_task

    document = recommend_for_task(
        data,
        base_model=base_model,
        budget_s=parse_time(budget, "--budget"),
        budget_usd=budget_usd,
        top_k=top,
        hardware=hardware,
        selector=selector,
    )
    return Reply(document, lambda console: show_recommendations(console, document))


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
    console.print("Score: the share of the zero-shot loss that finetuning removes. --json: all settings.")


def _in_short(row: dict[str, Any]) -> str:
    """`lora 16, all (strong-default)`: what a reader tells pipelines apart by."""
    values = row["pipeline"]["values"]
    method = " ".join(str(values[name]) for name in ("peft_method", "lora_rank") if name in values)
    text = ", ".join(part for part in (method, values.get("target_modules")) if part) or row["pipeline"]["id"]
    return f"{text} ({row['label']})" if row["label"] else text
