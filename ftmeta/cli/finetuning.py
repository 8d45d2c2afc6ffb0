"""`ftmeta finetune`: one pipeline, one run, an adapter on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, note, number, progress_bar, table
from ftmeta.cli.recommending import BaseModelOption, DataArgument, SelectorOption
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ftmeta.schema import CurvePoint


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `ftmeta finetune my-data.jsonl --pipeline best --out my-adapter`")(finetune)


@command
def finetune(
    data: DataArgument,
    pipeline: Annotated[
        str, typer.Option(help="best (recommended), default, strong-default, or a YAML file.")
    ] = "best",
    base_model: BaseModelOption = "phi3-micro",
    out: Annotated[
        Path | None, typer.Option(help="A new folder for adapter, pipeline and curve; default: one in ftmeta-runs/.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fidelity: Annotated[int | None, typer.Option(min=1, help="Stop here; default: the space's last fidelity.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    selector: SelectorOption = None,
    json: JsonOption = False,
) -> Reply:
    """Runs one pipeline on a dataset and leaves a PEFT adapter that plain `PeftModel.from_pretrained` loads."""
    from ftmeta.finetune.single import finetune_to_folder
    from ftmeta.models import resolve
    from ftmeta.recommend import choose_pipeline
    from ftmeta.space import load_space
    from ftmeta.tasks import load_task

    space = load_space()
    if fidelity is not None and fidelity > space.max_fidelity:
        raise UserError(f"--fidelity is {fidelity}; the space '{space.name}' ends at {space.max_fidelity}")
    if device is not None and device.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device is '{device}'; give cpu, cuda or cuda:0")
    info = resolve(base_model)
    task = load_task(data)
    chosen = choose_pipeline(pipeline, task, info, space, selector=selector, device=device, threads=threads)
    with progress_bar() as progress:
        bar = progress.add_task(f"{task.name}: loading {info.name}", total=space.max_fidelity, detail="")

        def on_point(point: CurvePoint) -> None:
            detail = f"validation score {number(point.score)}"
            progress.update(bar, completed=point.fidelity, description=f"{task.name}: finetuning", detail=detail)
            if progress.disable:  # a log: one line a fidelity
                note(f"fidelity {point.fidelity}/{space.max_fidelity}: {detail}, {point.cost_s:.1f} device-seconds")

        document = finetune_to_folder(
            chosen,
            task,
            info,
            seed,
            budget=space.budget(),
            out=out,
            until=fidelity,
            device=device,
            threads=threads,
            on_point=on_point,
        )
    failed = document["status"] not in ("ok", "stopped")
    if failed:
        note(f"error: the run ended as '{document['status']}': {document['error']}")
    return Reply(document, lambda console: show_run(console, document), exit_code=int(failed))


def show_run(console: Console, document: dict[str, Any]) -> None:
    console.print(
        f"[bold]{document['task']['name']}[/bold], pipeline {document['pipeline']['id']}: {document['status']}"
    )
    zero, test = document["zero_shot"], document["test"]
    if test is not None:
        listed = table("test split", ">zero-shot", ">finetuned")
        for key in ("score", "nll", "exact_match", "f1", "rouge_l"):
            listed.add_row(key, number(zero[key]), number(test[key]))
        console.print(listed)
    console.print(f"{duration(document['cost_s'])} of device time, {money(document['cost_usd'])}")
    if document["adapter"] is not None:
        console.print(f"adapter: {document['adapter']}", soft_wrap=True)
