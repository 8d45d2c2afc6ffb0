"""`ftmeta space`, `models` and `doctor`: what there is, without changing anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftmeta.cli.output import JsonOption, Reply, command, note, table
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

SpaceArgument = Annotated[str, typer.Argument(help="A bundled space, or a YAML file.")]


def register(app: typer.Typer) -> None:
    for name, group, text in (
        ("space", space, "Search spaces: shown, sampled, and pipelines checked against them."),
        ("models", models, "Base models: the bundled one, those that a package carries, hub ids and folders."),
    ):
        app.add_typer(group, name=name, help=text, no_args_is_help=True)
    app.command()(doctor)


space = typer.Typer()
models = typer.Typer()


@space.command("show", epilog="Example: `ftmeta space show lora-v1`")
@command
def space_show(name: SpaceArgument = "lora-v1", json: JsonOption = False) -> Reply:
    """The hyperparameters of a search space."""
    from ftmeta.space import load_space

    loaded = load_space(name)
    document = {
        "name": loaded.name,
        "max_fidelity": loaded.max_fidelity,
        "budget": {"epochs": loaded.epochs},
        "fingerprint": loaded.fingerprint,
        "hyperparameters": loaded.describe(),
    }

    def show(console: Console) -> None:
        console.print(f"[bold]{loaded.name}[/bold]  {loaded.max_fidelity} fidelities, {loaded.epochs or '?'} epochs")
        listed = table("hyperparameter", "type", "values", "default", "active with")
        for domain_name, domain in loaded.domains.items():
            conditions = " and ".join(
                f"{parent}: {', '.join(map(str, values))}" for parent, values in domain.when.items()
            )
            scale = ", log" if getattr(domain, "log", False) else ""
            wanted = domain.wanted().removeprefix("one of ") + scale
            listed.add_row(domain_name, domain.type, wanted, str(domain.default), conditions)
        console.print(listed)

    return Reply(document, show)


@space.command("sample", epilog="Example: `ftmeta space sample --n 3 --seed 1 --json`")
@command
def space_sample(
    name: SpaceArgument = "lora-v1",
    n: Annotated[int, typer.Option("--n", min=1, max=100_000, help="How many.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: JsonOption = False,
) -> Reply:
    """Pipelines from a scrambled Sobol sequence; without --json as YAML documents."""
    from ftmeta.space import load_space, pipeline_yaml

    pipelines = load_space(name).sample(n, seed)

    def show(console: Console) -> None:
        console.print(
            "---\n".join(pipeline_yaml(pipeline) for pipeline in pipelines), end="", markup=False, soft_wrap=True
        )

    return Reply({"pipelines": [pipeline.to_json() for pipeline in pipelines]}, show)


@space.command("validate", epilog="Example: `ftmeta space validate my-space.yaml --pipeline my-pipeline.yaml`")
@command
def space_validate(
    name: SpaceArgument,
    pipeline: Annotated[Path | None, typer.Option(help="Check this pipeline against the space, too.")] = None,
    json: JsonOption = False,
) -> Reply:
    """Checks a space, and a pipeline of it; exit code 2 with what is wrong."""
    from ftmeta.space import load_pipeline, load_space

    loaded = load_space(name)
    checked = None if pipeline is None else load_pipeline(pipeline, loaded)
    document = {
        "valid": True,
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "pipeline": None if checked is None else checked.to_json(),
    }

    def show(console: Console) -> None:
        console.print(f"space {loaded.name} is valid: {len(loaded.domains)} hyperparameters")
        if checked is not None:
            console.print(f"pipeline {checked.id} fits it")

    return Reply(document, show)


@models.command("list", epilog="Example: `ftmeta models list --json`")
@command
def models_list(json: JsonOption = False) -> Reply:
    """Base models that can be named, their reference learning rates, and where they lie."""
    from ftmeta.models import list_base_models

    rows = list_base_models()

    def show(console: Console) -> None:
        listed = table("model", ">parameters", ">hidden size", ">reference rate", "path")
        for row in rows:
            parameters = "–" if row["parameters"] is None else f"{row['parameters']:,}"
            rate = "–" if row["reference_lr"] is None else f"{row['reference_lr']:.2e}"
            listed.add_row(row["name"], parameters, str(row["hidden_size"] or "–"), rate, row["path"] or "not fetched")
        console.print(listed)
        console.print("Any hub id (microsoft/Phi-3-mini-4k-instruct) or local folder is a base model too.")

    return Reply({"models": rows}, show)


@models.command("fetch", epilog="Example: `ftmeta models fetch smollm2-135m`")
@command
def models_fetch(
    name: Annotated[str, typer.Argument(help="smollm2-135m, or a hub id.")],
    json: JsonOption = False,
) -> Reply:
    """Brings a base model into the cache (once), and converts it where that is needed."""
    from ftmeta.models import fetch

    note(f"Fetching {name} ...")
    info = fetch(name)
    document = {
        "name": info.name,
        "path": info.path,
        "parameters": info.shape.parameters,
        "hidden_size": info.shape.hidden_size,
        "reference_lr": info.reference_lr,
        "fingerprint": info.fingerprint,
    }

    def show(console: Console) -> None:
        console.print(f"{info.name}: {info.shape.parameters:,} parameters, at {info.path}", soft_wrap=True)

    return Reply(document, show)


@command
def doctor(
    part: Annotated[
        str | None, typer.Option(help="Check what one part needs only, as `core` or `browser tests`.")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check every node of a Ray cluster that runs.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="With --cluster: host:port of its GCS, or `auto`. Default: $RAY_ADDRESS, or `make up`'s."),
    ] = None,
    shared: Annotated[
        Path | None, typer.Option(help="With --cluster: the folder that all nodes share. Default: their $FTMETA_STATE.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """What this machine has and lacks for each part. Exit code 1 if something of the core is missing.

    With --cluster: what is wrong with a Ray cluster: versions, token, GPUs, shared storage, clocks, disk, memory,
    MLflow, Serve. Exit code 1 if anything is.

    Example: `ftmeta doctor --part core`, or `ray job submit -- ftmeta doctor --cluster`
    """
    from ftmeta.doctor import run_checks

    if cluster:
        if part is not None:
            raise UserError("--part is of this machine's checks; leave it out with --cluster")
        return _cluster_doctor(address, shared)
    if address is not None or shared is not None:
        raise UserError("--address and --shared are of a cluster's checks; say --cluster too")
    checks = run_checks()
    parts = sorted({check.part for check in checks})
    if part is not None and part not in parts:
        raise UserError(f"unknown part '{part}'; choose one of {', '.join(parts)}")
    checks = [check for check in checks if part in (None, check.part)]

    def show(console: Console) -> None:
        listed = table("", "check", "for", "found", "what to do")
        for check in checks:
            mark = (
                "[green]ok[/green]" if check.ok else "[red]no[/red]" if check.part == "core" else "[yellow]–[/yellow]"
            )
            listed.add_row(mark, check.name, check.part, check.found, "" if check.ok else check.fix)
        console.print(listed)

    core_fails = any(not check.ok and check.part == "core" for check in checks)
    return Reply({"checks": [asdict(check) for check in checks]}, show, exit_code=int(core_fails))


def _cluster_doctor(address: str | None, shared: Path | None) -> Reply:
    from ftmeta.doctor import check_cluster
    from ftmeta.orchestrate.health import cluster_address, gather

    if shared is not None and not shared.is_absolute():
        raise UserError(f"--shared {shared} is relative; give the path at which every node has it")
    facts = gather(cluster_address(address), shared)
    checks = check_cluster(facts)

    def show(console: Console) -> None:
        listed = table("", "check", "found", "what to do")
        for check in checks:
            mark = "[green]ok[/green]" if check.ok else "[red]no[/red]"
            listed.add_row(mark, check.name, check.found, "" if check.ok else check.fix)
        console.print(listed)

    wrong = any(not check.ok for check in checks)
    document = {"checks": [asdict(check) for check in checks], "nodes": [asdict(node) for node in facts.nodes]}
    return Reply(document, show, exit_code=int(wrong))
