"""`ftmeta serve`: the selector service on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ftmeta.cli.recommending import SelectorOption


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta serve --port 8000`")(serve)


def serve(
    host: Annotated[
        str, typer.Option(help="Any address but loopback asks for tokens (docs/service.md).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    selector: SelectorOption = None,
) -> None:
    """Serves recommendations over HTTP, with a page at /, until interrupted."""
    from ftmeta.serving.local import serve_locally

    serve_locally(host=host, port=port, selector=selector)
