"""`ftmeta calibrate`: this machine's finetuning speed, measured and kept as a hardware profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, note, table
from ftmeta.cli.recommending import BaseModelOption

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta calibrate --base-model smollm2-135m --hardware cpu-lab3`")(calibrate)


@command
def calibrate(
    base_model: BaseModelOption = "phi3-micro",
    hardware: Annotated[
        str | None,
        typer.Option(help="The name of the profile; default: the shipped one's and this machine's, as cpu-core-lab3."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="About how long to measure, loading included.")] = 60.0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")] = None,
    json: JsonOption = False,
) -> Reply:
    """Measures this machine's finetuning speed and keeps it as a hardware profile, which times and costs rest on from
    then on. Best while nothing else runs here; where the measurements are no use, nothing is kept."""
    from ftmeta.calibration import calibrate as measure_and_keep

    document = measure_and_keep(base_model, hardware=hardware, seconds=seconds, device=device, say=note)
    return Reply(document, lambda console: show_calibration(console, document))


def show_calibration(console: Console, document: dict[str, Any]) -> None:
    """The document of `calibrate --json` for a reader."""
    console.print(f"[bold]{document['hardware']}[/bold]: {document['device']}, with {document['base_model']}")
    listed = table("workload", ">measured s", ">predicted s", ">repeats apart")
    for one in document["workloads"]:
        seconds = f"{one['measured_s']:.3f}", f"{one['predicted_s']:.3f}"
        listed.add_row(one["name"], *seconds, f"{one['spread']:.1%}")
    console.print(listed)
    share = document["flops_utilisation"]
    of_peak = "" if share is None else f", at best {share:.1%} of the peak FLOP rate of {document['like']}"
    console.print(f"{document['tokens_per_s']:,.0f} tokens/s (strong default, 16 x 32 tokens a step){of_peak}")
    console.print(
        f"{document['flops_per_s']:.3g} FLOP/s, {document['bytes_per_s']:.3g} bytes/s, {document['overhead_s']:.2g} s "
        f"a layer pass; they explain the measurements with a median error of {document['median_relative_error']:.1%}",
        soft_wrap=True,
    )
    for number, why in document["kept"].items():
        console.print(f"[yellow]not measured:[/yellow] {number}: {why}", soft_wrap=True)
    console.print(
        f"kept in {document['path']} after {duration(document['seconds'])}; remove it, and the shipped profile counts",
        soft_wrap=True,
    )
