"""`ftmeta costs`: what the runs in MLflow have cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, number, table
from ftmeta.cli.where import ExperimentsOption, TrackingOption, tracking_address
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta costs --by month --json`")(costs)


@command
def costs(
    by: Annotated[
        str, typer.Option(help="A row for each task, pipeline, base_model, month, experiment or device.")
    ] = "task",
    experiment: ExperimentsOption = None,
    tracking_uri: TrackingOption = None,
    top: Annotated[int, typer.Option(min=1, help="Rows on the screen; --json has all.")] = 30,
    json: JsonOption = False,
) -> Reply:
    """What was spent on the runs that MLflow has: device time, money at the prices of the day, and energy where devices
    report it."""
    from ftmeta.tracking import spending

    if by not in spending.BY:
        raise UserError(f"--by is '{by}'; choose one of {', '.join(spending.BY)}")
    document = spending.costs(tracking_address(tracking_uri), by, experiment)

    def show(console: Console) -> None:
        listed = table(by, ">runs", ">device time", ">money", ">energy, kWh")
        for row in [*document["rows"][:top], {by: "total", **document["total"]}]:
            cost_s = "unknown" if row["cost_s"] is None else duration(row["cost_s"])
            listed.add_row(row[by], str(row["runs"]), cost_s, money(row["cost_usd"]), number(row["energy_kwh"]))
        console.print(listed)
        if len(document["rows"]) > top:
            console.print(f"{len(document['rows']) - top} more rows: --top, or --json")
        if document["total"]["unpriced"]:
            console.print(f"{document['total']['unpriced']} runs are without a price and not in the money")
        if (compared := document["predicted"]) is not None:
            console.print(
                f"recommended runs: {duration(compared['predicted_s'])} predicted, {duration(compared['cost_s'])} "
                f"spent, median error {100 * compared['median_relative_error']:.0f} % ({compared['runs']} runs)"
            )
        if document["foreign_runs"]:
            console.print(f"{document['foreign_runs']} runs of others are in these experiments and not counted")

    return Reply(document, show)
