"""`make demo`: from a dataset that no sweep has seen to a recommended, finetuned model, on this machine.

Starts the local cluster, submits a small sweep with `ray job submit`, learns a selector from it and the bundled
meta-dataset, serves it, asks it for a pipeline, finetunes with that and with the two defaults, and shows what it
predicted beside what came out. Every step is a command that a user could give; the demo prints each.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ftmeta.cli.output import duration, table
from ftmeta.errors import FtmetaError
from ftmeta.files import DATA, atomic_path, write_text
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.schema import Pipeline
from ftmeta.space import pipeline_yaml
from ftmeta.tasks import load_task

TASK = "web-platform"  # bundled, and in no sweep
SWEEP = "jobs/configs/collect-demo.yaml"
SWEEP_RUNS = 9
POINTS = 11  # of a learning curve of the space lora-v1, zero-shot included
REPOSITORY = Path(__file__).parents[1]
console = Console(stderr=False, highlight=False)


@dataclass(frozen=True)
class Choice:
    """A pipeline that the demo finetunes with."""

    title: str
    argument: str  # of `ftmeta finetune --pipeline`


def main() -> None:
    started = time.perf_counter()
    console.print(f"[bold]ftmeta demo[/bold]: which pipeline for '{TASK}', a dataset that no sweep has seen?\n")
    with step("Starting Ray, MLflow"):
        cluster = local.up()
    folder = Path(cluster.state) / "demo"
    environment = {**cluster.client_environment(), "TOKENIZERS_PARALLELISM": "false"}

    collected = folder / "sweep"
    submit = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--"]
    collect = ["python", "-m", "jobs.collect", "--config", SWEEP, "--out", str(collected)]
    ledger = Ledger(collected / "ledger")
    title = "A small sweep: 3 tasks x 3 new pipelines"
    run(title, [*submit, *collect], environment, SWEEP_RUNS, lambda: len(ledger))

    selector = folder / f"selector-{time.strftime('%Y%m%d-%H%M%S')}"
    bundled = DATA / "meta" / "spine"
    learn = ["ftmeta", "metatrain", "--metadata", str(bundled), "--metadata", str(collected), "--out", str(selector)]
    quality = json.loads(run("Learning the surrogates from it and the bundled sweep", [*learn, "--json"], environment))

    serve = ["python", "-m", "jobs.serve", "--selector", str(selector), "--port", str(cluster.serve_port)]
    run("Starting the selector service", serve, environment)
    page = f"http://127.0.0.1:{cluster.serve_port}"

    with step(f"Asking {page}/v1/recommendations about '{TASK}'"):
        answer = ask(f"{page}/v1/recommendations", {"dataset": {"records": records()}, "top_k": 3})
    best = answer["recommendations"][0]
    pipeline = folder / "recommended.yaml"
    write_pipeline(pipeline, best["pipeline"])

    choices = (
        Choice("published default", "default"),
        Choice("strong default", "strong-default"),
        Choice("recommended", str(pipeline)),
    )
    runs = finetune_all(choices, folder, environment)
    console.print()
    show_results(runs, best)
    plot = folder / "demo.png"
    draw(runs, best, plot)
    show_where(cluster, page, plot, quality)
    console.print(f"\nDone in {duration(time.perf_counter() - started)}.")


@contextmanager
def step(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Says what is being done and how long it took; yields a function that is told how much of `total` is done."""
    start = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda done: progress.update(bar, completed=done)
    console.print(f"[green]✓[/green] {title}  [dim]{duration(time.perf_counter() - start)}[/dim]")


def show_command(command: Sequence[str]) -> None:
    console.print(f"  [dim]$ {shlex.join(shorten(part) for part in command)}[/dim]", soft_wrap=True)


def execute(
    command: Sequence[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    accepted: tuple[int, ...] = (0,),
) -> str:
    """Runs one of this environment's commands, hands on each line of its error output, and returns its output.

    Raises FtmetaError, with the end of what it said, when its exit code is none of `accepted`.
    """
    program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    said: list[str] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            program, cwd=REPOSITORY, env=dict(environment), stdout=output, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            on_line(line)
        code = process.wait()
        output.seek(0)
        printed = output.read()
    if code not in accepted or not printed:
        end = (printed + "".join(said))[-3000:]
        raise FtmetaError(f"'{shlex.join(shorten(part) for part in command)}' ended with exit code {code}:\n{end}")
    return printed


def run(
    title: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    total: int | None = None,
    count: Callable[[], int] = lambda: 0,
) -> str:
    """Shows and runs a command; `count` is asked twice a second how much of `total` is done."""
    show_command(command)
    with step(title, total) as told, ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(execute, command, environment, lambda line: None)
        while not running.done():
            told(count())
            time.sleep(0.5)
        return running.result()


def shorten(part: str) -> str:
    """A path below the working directory without its beginning."""
    return part.removeprefix(f"{Path.cwd()}/")


def records() -> list[dict[str, str]]:
    """What a user would send: the questions and answers, and which split each is in."""
    return [
        {"question": example.prompt, "answer": example.completion, "split": split}
        for split, examples in load_task(TASK).splits.items()
        for example in examples
    ]


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is never behind a proxy
    try:
        with direct.open(request, timeout=60) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        raise FtmetaError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:500]}") from None


def write_pipeline(path: Path, document: dict[str, Any]) -> None:
    write_text(path, pipeline_yaml(Pipeline(document["space"], document["values"])))


def finetune_all(
    choices: tuple[Choice, ...], folder: Path, environment: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """One `ftmeta finetune` for each choice, as many at a time as there are cores, one thread each."""
    single = {**environment, "OMP_NUM_THREADS": "1"}
    stamp = time.strftime("%Y%m%d-%H%M%S")
    commands = {}
    for choice in choices:
        out = folder / f"{choice.title.replace(' ', '-')}-{stamp}"
        options = ["--pipeline", choice.argument, "--out", str(out), "--threads", "1", "--json"]
        commands[choice.title] = ["ftmeta", "finetune", TASK, *options]
        show_command(commands[choice.title])
    seen = itertools.count(1)
    title = f"Finetuning with all {len(choices)}"
    with step(title, total=POINTS * len(choices)) as told, ThreadPoolExecutor(os.cpu_count() or 1) as pool:

        def on_line(line: str) -> None:
            if line.startswith("fidelity "):
                told(next(seen))

        # 1: the run diverged or failed, which its document says
        running = {name: pool.submit(execute, command, single, on_line, (0, 1)) for name, command in commands.items()}
        return {name: dict(json.loads(future.result())) for name, future in running.items()}


def show_results(runs: dict[str, dict[str, Any]], best: dict[str, Any]) -> None:
    any_run = next(iter(runs.values()))
    zero = any_run["curve"][0]
    listed = table("score", ">validation", ">test", ">test NLL", ">exact match", ">device-s")
    zero_test = any_run["zero_shot"]
    listed.add_row(
        "zero-shot",
        f"{zero['score']:.3f}",
        f"{zero_test['score']:.3f}",
        f"{zero_test['nll']:.3f}",
        f"{zero_test['exact_match']:.3f}",
        "0",
    )
    for title, document in runs.items():
        last, test = document["curve"][-1], document["test"]
        if test is None:
            listed.add_row(title, document["status"], "–", "–", "–", f"{document['cost_s']:.1f}")
            continue
        cells = (f"{last['score']:.3f}", f"{test['score']:.3f}", f"{test['nll']:.3f}", f"{test['exact_match']:.3f}")
        listed.add_row(title, *cells, f"{document['cost_s']:.1f}")
    console.print(listed)
    console.print(
        f"Predicted for the recommended pipeline: score {best['score']:.3f} "
        f"(80 % interval {best['score_low']:.3f} to {best['score_high']:.3f}), {best['cost_s']:.1f} device-seconds."
    )
    console.print(
        "The score is the share of the zero-shot loss that finetuning removes, on questions that it never trained on."
    )


def draw(runs: dict[str, dict[str, Any]], best: dict[str, Any], path: Path) -> None:
    """The measured validation curves against device-seconds, and the predicted one."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for title, document in runs.items():
        curve = document["curve"]
        width = 2.2 if title == "recommended" else 1.3
        seconds, scores = [point["cost_s"] for point in curve], [point["score"] for point in curve]
        axes.plot(seconds, scores, marker="o", markersize=3, label=title, linewidth=width)
    steps = len(best["curve"])
    seconds = [best["cost_s"] * (index + 1) / steps for index in range(steps)]
    axes.plot(seconds, best["curve"], "--", color="0.4", linewidth=1.2, label="recommended, as predicted")
    half = (best["score"] - best["score_low"], best["score_high"] - best["score"])
    axes.errorbar([best["cost_s"]], [best["score"]], yerr=[[half[0]], [half[1]]], color="0.4", capsize=3, linewidth=1)
    axes.set_xlabel("device-seconds")
    axes.set_ylabel("validation score (share of the zero-shot loss removed)")
    axes.set_title(f"phi3-micro on {TASK}, which no sweep has seen")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    with atomic_path(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")


def show_where(cluster: LocalCluster, page: str, plot: Path, quality: dict[str, Any]) -> None:
    runs, tau = quality["runs"], quality["quality"]["kendall_tau"]
    console.print(
        f"\nThe selector learned from {runs} runs; leaving one task out, its rank correlation is {tau:.2f}.\n"
    )
    where = Table.grid(padding=(0, 2))
    where.add_row("plot", shorten(str(plot)))
    where.add_row("service", f"{page}  (the page), {page}/docs (the interface)")
    where.add_row("MLflow", f"{cluster.mlflow.address}  (the runs and what they cost)")
    where.add_row("Ray dashboard", f"{cluster.ray.address}  (token: {shorten(str(cluster.token_file))})")
    where.add_row("stop all of it", "make stop")
    console.print(where)


if __name__ == "__main__":
    with exit_codes():
        main()
