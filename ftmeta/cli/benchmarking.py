"""`ftmeta benchmark`: optimizers compared on a meta-dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, table

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Example: `ftmeta benchmark --metadata phi3-micro --methods random,quicktune-transfer,ftmeta --seeds 3 "
        "--out benchmark`"
    )(benchmark)


@command
def benchmark(
    metadata: Annotated[
        list[str], typer.Option(help="A bundled meta-dataset, or the folder of one; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the report; a benchmark resumes there.")] = Path(
        "benchmark"
    ),
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas; `all` for every one that is installed, `ablations` for ours in parts."
        ),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the methods that chance plays a part in.")] = 20,
    budget_fraction: Annotated[
        float, typer.Option(help="The budget of a task, as a share of what all its runs cost together.")
    ] = 0.1,
    free_optimizers: Annotated[
        bool, typer.Option("--free-optimizers", help="Do not charge the time that a method itself takes.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; default: one of its own on this machine.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Cores of this machine; default: all.")] = None,
    json: JsonOption = False,
) -> Reply:
    """Replays optimizers on a meta-dataset with a simulated clock, each task left out in turn. Nothing is trained but
    surrogates. Given again, it goes on from where it was stopped."""
    from ftmeta.benchmark.units import Settings, methods_of
    from ftmeta.orchestrate.replays import run_benchmark
    from ftmeta.tracking.works import log_benchmark

    settings = Settings(methods_of(methods.split(",")), seeds, budget_fraction, charge_overhead=not free_optimizers)
    document = run_benchmark(metadata, settings, out, address=address, slots=slots)
    log_benchmark(document, out)

    def show(console: Console) -> None:
        listed = table("method", ">average rank", ">regret at 10 %", ">at 100 %", ">test score")
        for name, row in document["methods"].items():
            regret = row["regret"]
            listed.add_row(
                name,
                f"{row['average_rank']:.2f}",
                f"{regret['10']:.3f}",
                f"{regret['100']:.3f}",
                f"{row['test_score']:.3f}",
            )
        console.print(listed)
        for left_out in document["left_out"]:
            console.print(f"[yellow]left out:[/yellow] {left_out}", soft_wrap=True)
        console.print(f"{duration(document['seconds'])}; the report: {out / 'report.md'}", soft_wrap=True)

    return Reply(document, show)
