"""`ftmeta plan`: memory and time of a finetuning run on given GPUs, before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, table

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    example = "`ftmeta plan --base-model microsoft/Phi-3-mini-4k-instruct --gpus 4 --gpu-memory 24`"
    app.command(epilog=f"Example: {example}")(plan)


@command
def plan(
    data: Annotated[
        str | None, typer.Argument(help="A dataset, as for `ftmeta recommend`; left out: rows of --sequence-length.")
    ] = None,
    base_model: Annotated[
        str,
        typer.Option(help="A known architecture, a model on this machine, a folder with config.json, or a hub id."),
    ] = "phi3-micro",
    gpus: Annotated[int, typer.Option(min=1, help="On all nodes together.")] = 1,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0.1, help="GB of each GPU; default: what --hardware has.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that the GPUs are in.")] = 1,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="A hardware profile, as a10g or h100-80gb; default: the slowest known with as much memory, and this "
            "machine where no --gpu-memory is given."
        ),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="default, strong-default, or a YAML file.")] = "strong-default",
    sequence_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of each row, without DATA; default: 512.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples of an optimizer step; default: the pipeline's.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """Whether a finetuning run fits on given GPUs, how to run it there, and how long it takes. Nothing is started.

    A plan that does not fit is an answer: the exit code is 0, and the answer says what would fit."""
    from ftmeta.errors import UserError
    from ftmeta.planning.plan import plan as make_plan
    from ftmeta.space import load_pipeline, load_space
    from ftmeta.tasks import load_task

    if data is not None and sequence_length is not None:
        raise UserError("--sequence-length is for a plan without a dataset; leave one of the two out")
    space = load_space()
    document = make_plan(
        base_model,
        load_pipeline(pipeline, space),
        gpus=gpus,
        gpu_memory_gb=gpu_memory,
        nodes=nodes,
        hardware=hardware,
        sequence_length=sequence_length,
        batch_size=batch_size,
        task=None if data is None else load_task(data),
        epochs=space.budget().epochs,
    )
    return Reply(document, lambda console: show_plan(console, document))


def show_plan(console: Console, document: dict[str, Any]) -> None:
    """The document of `plan --json` for a reader."""
    model, size = document["base_model"], document["gpu_memory_gb"]
    where = f"{document['gpus']} x {size:g} GB" + (f" on {document['nodes']} nodes" if document["nodes"] > 1 else "")
    if document["device_type"] == "cpu":
        where += ", a CPU core each"
    console.print(f"[bold]{model['name']}[/bold], {model['parameters']:,} parameters, on {where}", soft_wrap=True)
    chosen, time = document["plan"], document["time"]
    if chosen is None:
        console.print("[red]does not fit[/red]")
    else:
        saves = "with" if chosen["activation_checkpointing"] else "without"
        rows, passes = chosen["micro_batch"], chosen["accumulation_steps"]
        times = "once" if passes == 1 else f"{passes} times"
        console.print(
            f"[green]fits[/green]: {rows} row{'s' * (rows > 1)} of {document['sequence_length']} tokens at a time "
            f"({chosen['micro_batch_tokens']} tokens), {times} a step on each device, "
            f"ZeRO {chosen['zero_stage']}, {saves} activation checkpointing, {chosen['dtype']}",
            soft_wrap=True,
        )
    listed = table("memory of a device", ">GB")
    for part, gb in document["memory_gb"].items():
        if gb:
            listed.add_row(part, f"{gb:.2f}")
    console.print(listed)
    if (document["host_memory_gb"] or 0.0) >= 1:  # less is nowhere a question
        console.print(f"host memory: up to {document['host_memory_gb']:.1f} GB on each node while the model is loaded")
    if time is not None:
        run = f", {duration(time['run_s'])} for {time['epochs']:g} epochs" if time["run_s"] is not None else ""
        console.print(
            f"about {duration(time['per_1000_examples_s'])} for 1,000 examples{run}, on {time['hardware']}: "
            f"{time['tokens_per_s']:,.0f} tokens/s, {time['step_s']:.2f} s a step, {time['communication_s']:.2f} s of "
            "it exchange between devices",
            soft_wrap=True,
        )
    for title, colour in (("reasons", "cyan"), ("advice", "green"), ("notes", "yellow")):
        for line in document[title]:
            console.print(f"[{colour}]{title.removesuffix('s')}:[/{colour}] {line}", soft_wrap=True)
