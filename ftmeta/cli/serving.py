"""`ftmeta serve`: the selector service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftmeta.cli.output import note
from ftmeta.cli.recommending import SelectorOption


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta serve --port 8000`")(serve)


def serve(
    host: Annotated[
        str, typer.Option(help="Any address but loopback asks for tokens (docs/service.md).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    selector: SelectorOption = None,
    tokens_file: Annotated[
        Path | None, typer.Option(help="SHA-256 hashes of the tokens that clients must send, one a line.")
    ] = None,
) -> None:
    """Serves recommendations over HTTP, with a page at /, until interrupted."""
    from ftmeta.serving.local import serve_locally

    note("Starting the service (about 15 s) ...")
    serve_locally(host, port, selector, tokens_file=tokens_file, on_ready=lambda url: note(f"{url}  Ctrl-C ends it."))
