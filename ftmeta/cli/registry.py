"""`ftmeta registry`: selectors in MLflow's model registry, and which one is live."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, note, number, table
from ftmeta.cli.where import TrackingOption, tracking_address

if TYPE_CHECKING:
    from rich.console import Console

NameOption = Annotated[str, typer.Option(help="The registered model.")]
_DEFAULT = "ftmeta-selector"  # ftmeta.tracking.registry.MODEL


def register(app: typer.Typer) -> None:
    app.add_typer(registry, name="registry", help="Selectors in MLflow: register, list, promote.", no_args_is_help=True)


registry = typer.Typer()


@registry.command("register", epilog="Example: `ftmeta registry register my-selector`")
@command
def registry_register(
    folder: Annotated[
        str | None, typer.Argument(help="A folder made by `ftmeta metatrain`; default: the bundled selector.")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias that it gets; `none`: no alias.")] = "challenger",
    name: NameOption = _DEFAULT,
    tracking_uri: TrackingOption = None,
    json: JsonOption = False,
) -> Reply:
    """Registers a selector as a new version. The same one again is the version that there is."""
    from ftmeta.tracking import registry as versions

    chosen = None if alias == "none" else alias
    document = versions.register(tracking_address(tracking_uri), folder, name=name, alias=chosen)

    def show(console: Console) -> None:
        state = "registered as" if document["is_new"] else "is there already as"
        console.print(f"selector {document['selector_version']} {state} {document['reference']}", soft_wrap=True)
        if document["aliases"]:
            console.print(f"aliases: {', '.join(document['aliases'])}")

    return Reply(document, show)


@registry.command("list", epilog="Example: `ftmeta registry list --json`")
@command
def registry_list(
    name: NameOption = _DEFAULT,
    tracking_uri: TrackingOption = None,
    json: JsonOption = False,
) -> Reply:
    """The versions, their aliases, what they were learned from and how good they are on tasks that were left out."""
    from ftmeta.tracking import registry as versions

    document = versions.versions(tracking_address(tracking_uri), name)

    def show(console: Console) -> None:
        if not document["versions"]:
            console.print(f"model '{name}' has no version; register one with: ftmeta registry register FOLDER")
            return
        listed = table(">version", "aliases", "meta-dataset", ">runs", ">tasks", ">tau", ">NLL", ">cost error", "since")
        for one in document["versions"]:
            quality, since = one["quality"], datetime.fromtimestamp(one["registered_at"], UTC)
            listed.add_row(
                one["version"],
                ", ".join(one["aliases"]),
                one["meta_dataset"]["name"] or "unknown",
                str(one["runs"]),
                str(len(one["tasks"])),
                *(number(quality[key]) for key in ("kendall_tau", "nll", "cost_mdape")),
                since.date().isoformat(),
            )
        console.print(listed)

    return Reply(document, show)


@registry.command("promote", epilog="Example: `ftmeta registry promote challenger`")
@command
def registry_promote(
    version: Annotated[str, typer.Argument(help="A version's number, or an alias as `challenger`.")],
    name: NameOption = _DEFAULT,
    even_if_worse: Annotated[
        bool, typer.Option("--even-if-worse", help="Also if it is worse than the champion on tasks left out.")
    ] = False,
    tracking_uri: TrackingOption = None,
    json: JsonOption = False,
) -> Reply:
    """Makes a version the champion. One that is worse than the champion on tasks that were left out is refused."""
    from ftmeta.tracking import registry as versions

    document = versions.promote(tracking_address(tracking_uri), version, name=name, even_if_worse=even_if_worse)
    if document["worse"]:
        note(f"it is worse in {'; '.join(document['worse'])}")
    return Reply(document, lambda console: _show_champion(console, document))


def _show_champion(console: Console, document: dict[str, Any]) -> None:
    former = document["former_champion"]
    before = "" if former in (None, document["version"]) else f"; before it was version {former}"
    console.print(f"version {document['version']} of {document['name']} is the champion{before}")
    console.print(
        "A service that runs goes on with the version it has: name "
        f"{document['reference']} in its user_config (docs/tracking.md).",
        soft_wrap=True,
    )
