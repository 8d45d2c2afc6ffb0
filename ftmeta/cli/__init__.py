"""The `ftmeta` command. One file a group of commands; `main` turns errors into one line and an exit code.

Exit codes: 0 done, 2 the user's mistake, 1 a failure of the system, 130 interrupted. FTMETA_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import sys

import typer

import ftmeta
from ftmeta.cli import finetuning, inspecting, recommending, serving, sweeping
from ftmeta.errors import FtmetaError

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


for group in (recommending, finetuning, sweeping, inspecting, serving):
    group.register(app)


def main() -> None:
    """The console script: runs a command and exits with its code."""
    debug = bool(os.environ.get("FTMETA_DEBUG"))
    try:
        app()
    except FtmetaError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader has gone; Python would complain at exit
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        sys.stderr.write(f"error: {type(error).__name__}: {text}\nSet FTMETA_DEBUG=1 to see where it happened.\n")
        sys.exit(1)
