"""The `ftmeta` command. One file a group of commands; `main` turns errors into one line and an exit code.

Exit codes: 0 done, 2 the user's mistake, 1 a failure of the system, 130 interrupted. FTMETA_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import typer

import ftmeta
from ftmeta.cli import (
    benchmarking,
    calibrating,
    costs,
    finetuning,
    inspecting,
    metadata,
    planning,
    recommending,
    registry,
    report,
    serving,
    sweeping,
    tasks,
    tuning,
)
from ftmeta.orchestrate.shell import exit_codes

app = typer.Typer(
    name="ftmeta",
    help="Which finetuning pipeline to run on a dataset, what it will score and what it will cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True)) -> None:
    if version:
        typer.echo(ftmeta.__version__)
        raise typer.Exit


for group in (
    recommending,
    planning,
    finetuning,
    tuning,
    tasks,
    sweeping,
    metadata,
    benchmarking,
    costs,
    report,
    registry,
    calibrating,
    inspecting,
    serving,
):
    group.register(app)


def main() -> None:
    """The console script: runs a command and exits with its code."""
    with exit_codes():
        app()
