"""`ftmeta finetune`: one pipeline, one run, an adapter on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, note, number, progress_bar, table
from ftmeta.cli.recommending import BaseModelOption, DataArgument, SelectorOption, parse_time
from ftmeta.errors import UserError
from ftmeta.files import require_new

if TYPE_CHECKING:
    from rich.console import Console

    from ftmeta.orchestrate.room import Workers
    from ftmeta.schema import CurvePoint, RunSpec, Task


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
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="So many workers on Ray ($RAY_ADDRESS, or this machine), by Ray Train and DeepSpeed."),
    ] = None,
    gpus_per_worker: Annotated[
        int | None, typer.Option(min=0, max=1, help="1: each worker drives a GPU; default: 0, CPUs.")
    ] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(min=0.01, help="Cores of each worker; default: 1.")] = None,
    zero: Annotated[
        int | None, typer.Option(help="DeepSpeed's ZeRO stage: 0, 2 (default) or 3, which splits the weights too.")
    ] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Rows x padded length of one forward pass; `ftmeta plan` chooses it.")
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Less memory for half as much work again.")
    ] = False,
    wait: Annotated[str | None, typer.Option(help="On a cluster: for missing nodes to come; default: 60s.")] = None,
    selector: SelectorOption = None,
    json: JsonOption = False,
) -> Reply:
    """Runs one pipeline on a dataset and leaves a PEFT adapter that plain `PeftModel.from_pretrained` loads.

    With --workers the run is shared by several processes, on as many nodes as it takes, and goes on after failures."""
    from ftmeta.finetune.engine import Execution
    from ftmeta.finetune.single import finetune_to_folder, result_of
    from ftmeta.models import resolve
    from ftmeta.orchestrate.room import Workers
    from ftmeta.recommend import choose_pipeline
    from ftmeta.schema import RunSpec
    from ftmeta.space import load_space
    from ftmeta.tasks import load_task
    from ftmeta.tracking.works import expectation, log_finetuning

    space = load_space()
    if fidelity is not None and fidelity > space.max_fidelity:
        raise UserError(f"--fidelity is {fidelity}; the space '{space.name}' ends at {space.max_fidelity}")
    if device is not None and device.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device is '{device}'; give cpu, cuda or cuda:0")
    of_workers = {"gpus-per-worker": gpus_per_worker, "cpus-per-worker": cpus_per_worker, "zero": zero, "wait": wait}
    lonely = [f"--{name}" for name, value in of_workers.items() if value is not None]
    if workers is None and lonely:
        raise UserError(f"{lonely[0]} belongs to a run on several workers; say how many with --workers")
    if workers is not None and (device is not None or threads is not None):
        raise UserError(
            "--device and --threads are of one process; with --workers say --gpus-per-worker 1, --cpus-per-worker"
        )
    if zero not in (None, 0, 2, 3):
        raise UserError(f"--zero is {zero}; choose 0, 2 or 3")
    if out is not None:
        require_new(out)
    execution = Execution(micro_batch_tokens, activation_checkpointing)
    info = resolve(base_model)
    task = load_task(data)
    chosen, budget = choose_pipeline(pipeline, task, info, space, selector=selector, device=device, threads=threads)
    spec = RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, chosen, seed, budget)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    run: Callable[..., dict[str, Any]]
    if workers is None:
        run = partial(finetune_to_folder, chosen, task, info, seed, budget=budget, device=device, threads=threads)
    else:
        wait_s = parse_time(wait, "--wait") or Workers.wait_s
        size = Workers(workers, cpus_per_worker or 1, gpus_per_worker or 0, wait_s)
        run = partial(_on_workers, spec, task, base_model, size, zero_stage=2 if zero is None else zero)
    last = budget.max_fidelity
    with progress_bar() as progress:
        bar = progress.add_task(f"{task.name}: loading {info.name}", total=last, detail="")

        def on_point(point: CurvePoint) -> None:
            detail = f"validation score {number(point.score)}"
            progress.update(bar, completed=point.fidelity, description=f"{task.name}: finetuning", detail=detail)
            if progress.disable:  # a log: one line a fidelity
                note(f"fidelity {point.fidelity}/{last}: {detail}, {point.cost_s:.1f} device-seconds")

        document = run(out=out, until=fidelity, execution=execution, on_point=on_point)
    failed = document["adapter"] is None
    if os.environ.get("MLFLOW_TRACKING_URI"):
        recommended = pipeline == "best"
        expected = expectation(chosen, task, info, document["device"], selector=selector) if recommended else None
        folder = None if failed else Path(document["adapter"]).parent
        log_finetuning(result_of(document, spec, started_at), folder, predicted=expected)
    if failed:
        note(f"error: the run ended as '{document['status']}': {document['error']}")
    cut = sum((document["cut_examples"] or {}).values())
    if cut:
        note(f"{cut} examples are longer than the context of {info.shape.context_length} tokens and lost text")
    return Reply(document, lambda console: show_run(console, document), exit_code=int(failed))


def _on_workers(
    spec: RunSpec, task: Task, base_model: str, size: Workers, *, out: Path | None, **options: Any
) -> dict[str, Any]:
    from ftmeta.finetune.single import default_folder
    from ftmeta.orchestrate.connection import connected
    from ftmeta.orchestrate.room import require_room
    from ftmeta.orchestrate.train import train

    with connected():
        if "RAY_ADDRESS" not in os.environ:  # this machine alone: no node will come
            require_room(replace(size, wait_s=0))
        return train(spec, task, base_model, out or default_folder(spec), size, **options)


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
