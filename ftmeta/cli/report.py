"""`ftmeta report`: a page about an experiment in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, note
from ftmeta.cli.where import TrackingOption, tracking_address

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta report collect --out sweep.html`")(report)


@command
def report(
    experiment: Annotated[str, typer.Argument(help="Its name in MLflow: collect, finetune, tune, ..")],
    out: Annotated[Path, typer.Option(help="The page; an older one is replaced.")] = Path("report.html"),
    tracking_uri: TrackingOption = None,
    json: JsonOption = False,
) -> Reply:
    """Makes one HTML page of an experiment, from MLflow alone: curves, best runs, cost by task, failures."""
    from ftmeta.tracking import report as pages

    note(f"Reading experiment '{experiment}' ...")
    document = pages.report(tracking_address(tracking_uri), experiment, out)

    def show(console: Console) -> None:
        console.print(
            f"{document['runs']} runs of {document['tasks']} tasks, {duration(document['cost_s'])} of device time, "
            f"{money(document['cost_usd'])}"
        )
        console.print(f"the page: {out}", soft_wrap=True)

    return Reply(document, show)
