"""How commands speak: one JSON document or readable text on standard output, everything else on standard error.

A command returns a `Reply`; `emit` prints it. Errors become one line and an exit code in `ftmeta.cli.main`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

P = ParamSpec("P")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@dataclass(frozen=True)
class Reply:
    """What a command has to say: the document of --json, how to show it to a person, and the exit code."""

    document: dict[str, Any]
    show: Callable[[Console], None]
    exit_code: int = 0


def command(function: Callable[P, Reply]) -> Callable[P, None]:
    """Turns a function that returns a Reply and takes `json` into a command.

    While the function works, whatever a library prints goes to standard error, so that standard output stays clean.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                reply = function(*args, **kwargs)
        except KeyboardInterrupt:
            note("interrupted; outputs appear whole or not at all")
            raise typer.Exit(130) from None
        emit(reply, as_json=bool(kwargs.get("json")))
        if reply.exit_code:
            raise typer.Exit(reply.exit_code)

    run.__annotations__ = {**function.__annotations__, "return": None}
    return run


def emit(reply: Reply, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(reply.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from rich.console import Console

    reply.show(Console(highlight=False))


def note(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(message + "\n")


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns whose name starts with `>` are aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress display on standard error; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


def duration(seconds: float) -> str:
    """1.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def money(usd: float | None) -> str:
    if usd is None:
        return "unknown"
    return f"${usd:.4f}" if usd < 0.1 else f"${usd:,.2f}"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
