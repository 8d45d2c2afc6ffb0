"""`ftmeta collect` and `metatrain`: from sweeps to a meta-dataset to a selector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, duration, money, note, number, table
from ftmeta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Example: `ftmeta collect jobs/configs/collect-smoke.yaml --out /shared/smoke`; "
        "from another shell: `ftmeta collect --status /shared/smoke`"
    )(collect)
    app.command(epilog="Example: `ftmeta metatrain --metadata /shared/smoke --out my-selector`")(metatrain)


@command
def collect(
    sweep: Annotated[Path | None, typer.Argument(help="A sweep file: tasks x pipelines x seeds.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the meta-dataset and its ledger; a sweep resumes there.")
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run nothing: say how the sweep in this folder stands, from any shell."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run those again that ended with error or oom.")
    ] = False,
    known: Annotated[
        list[str] | None,
        typer.Option(help="A meta-dataset (bundled, or a folder) whose runs count as made; may be repeated."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; default: one of its own on this machine.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Where MLflow keeps the runs; default: $MLFLOW_TRACKING_URI, else off.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """Runs a sweep on Ray Tune. What is finished is never run twice: submit it again to go on."""
    if status is not None:
        if sweep is not None or out is not None:
            raise UserError("--status takes its folder and nothing else: `ftmeta collect --status DIR`")
        return _status(status)
    if sweep is None or out is None:
        raise UserError(
            f"no {'sweep file' if sweep is None else '--out'} given; say `ftmeta collect SWEEP.yaml --out DIR`, or "
            "`ftmeta collect --status DIR` to see how one stands"
        )
    from ftmeta.orchestrate.collect import collect_file

    summary = collect_file(
        sweep, out, retry_failed=retry_failed, address=address, tracking_uri=tracking_uri, known=known or ()
    )

    def show(console: Console) -> None:
        console.print(
            f"{summary['done']} of {summary['planned']} runs done, {summary['skipped']} of them before, "
            f"{summary['failed']} failed, in {duration(summary['wall_s'])} "
            f"(slot efficiency {summary['slot_efficiency']:.2f})"
        )
        console.print(f"meta-dataset: {out}", soft_wrap=True)

    return Reply(summary, show, exit_code=int(summary["interrupted"]))


def _status(folder: Path) -> Reply:
    from ftmeta.orchestrate.status import sweep_status

    document = sweep_status(folder)

    def show(console: Console) -> None:
        for line in status_lines(document):
            console.print(line, soft_wrap=True)
        statuses = sorted(document["statuses"], key=_STATUSES.index)
        listed = table("task", ">planned", *(f">{status}" for status in statuses))
        for task, counts in document["tasks"].items():
            planned = "–" if counts["planned"] is None else str(counts["planned"])
            listed.add_row(task, planned, *(str(counts.get(status, 0)) for status in statuses))
        console.print(listed)

    return Reply(document, show)


_STATUSES = ("ok", "diverged", "stopped", "oom", "error")
_STATES = {
    "running": "runs",
    "silent": "is there and has said nothing for a minute: its machine or its disk hangs",
    "dead": "is dead; submit the sweep again to go on",
    "ended": "has ended",
}


def status_lines(document: dict[str, Any]) -> Iterator[str]:
    """What `--status` says above its table."""
    planned = "an unknown number" if document["planned"] is None else document["planned"]
    torn = f", {document['torn']} torn" if document["torn"] else ""
    yield (
        f"{document['sweep'] or document['out']}: {document['done']} of {planned} runs done, {document['failed']} "
        f"failed{torn}, {len(document['under_way'])} under way"
    )
    if document["foreign"]:
        yield f"{document['foreign']} of the rows are no part of this sweep; an earlier one left them in the folder"
    if document["runs_per_hour"]:
        left = document["time_left_s"]
        yield f"{document['runs_per_hour']:,.0f} runs/h" + ("" if left is None else f", {duration(left)} left")
    yield f"{duration(document['cost_s'])} of device time so far, {money(document['cost_usd'])}"
    for driver in document["drivers"]:
        how = f" ({driver['ended']})" if driver["ended"] else ""
        said = f"process {driver['pid']} on {driver['host']} {_STATES[driver['state']]}{how}"
        yield f"driver: {said}; last word {duration(driver['seen_s_ago'])} ago, {driver['done']} runs made"
    if not document["drivers"]:
        yield "driver: none has left word here"
    for run in document["under_way"]:
        at = "" if run["fidelity"] is None else f", fidelity {run['fidelity']}"
        yield f"  {run['task']} · {run['pipeline']} · seed {run['seed']}{at} · since {duration(run['for_s'])}"


@command
def metatrain(
    metadata: Annotated[
        list[str], typer.Option(help="A bundled meta-dataset, or the folder of one; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the selector.")],
    exclude_task: Annotated[
        list[str] | None, typer.Option(help="Leave a task out; may be given more than once.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: JsonOption = False,
) -> Reply:
    """Learns the performance and the cost surrogate from a meta-dataset, and measures them leaving one task out."""
    from ftmeta.surrogates import metatrain_to_folder
    from ftmeta.tracking.works import log_metatraining

    note("Meta-training, and once more for each task left out ...")
    document = metatrain_to_folder(metadata, out, exclude_tasks=tuple(exclude_task or ()), seed=seed)
    log_metatraining(document)

    def show(console: Console) -> None:
        quality = document["quality"]
        console.print(f"{document['runs']} runs of {document['tasks']} tasks, {duration(document['seconds'])}")
        listed = table("leaving one task out", ">")
        for key, text in (
            ("kendall_tau", "rank correlation (Kendall tau)"),
            ("nll", "negative log-likelihood"),
            ("coverage_80", "coverage of the 80 % interval"),
            ("cost_mdape", "median relative error of the cost"),
        ):
            listed.add_row(text, number(quality[key]))
        console.print(listed)
        console.print(f"selector: {out}", soft_wrap=True)

    return Reply(document, show)
