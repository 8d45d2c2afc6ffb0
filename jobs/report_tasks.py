"""What the bundled tasks show, from real runs: `make report-tasks`, or
`python -m jobs.report_tasks --sweep out/tasks-sweep --out docs/reports/tasks.md`.

In: the meta-dataset of a sweep in which each pipeline has run on each task (jobs/configs/collect-tasks.yaml). On each
task this job finetunes again, with seeds that the sweep does not have: the strong default, the pipeline that the sweep
chose there, and the static ones; each is scored on the whole test split, and on its questions about seen and unseen
facts apart. Out: a report in Markdown, what it says as JSON beside it, and two plots.

Each finished run is a file in the work folder, so the job goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.errors import DataError, FtmetaError, MetaDatasetError, UserError
from ftmeta.files import require_writable, write_json, write_text
from ftmeta.metadataset import MetaDataset, read
from ftmeta.metadataset.static import Scores, best_static, best_static_of_others, chosen, final_scores
from ftmeta.models import LoadedModel, fast_tokenizer, load, resolve
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.schema import BaseModelInfo, RunSpec, Task
from ftmeta.space import load_pipeline
from ftmeta.tasks import load_task
from jobs.task_report.findings import findings
from jobs.task_report.page import markdown
from jobs.task_report.plots import draw


def main(
    sweep: Annotated[Path, typer.Option(help="The folder of the sweep's meta-dataset.")],
    out: Annotated[Path, typer.Option(help="The report to write; JSON and plots go beside it.")],
    work: Annotated[Path, typer.Option(help="Where finished runs are kept.")] = Path("out/tasks-report"),
    seeds: Annotated[str, typer.Option(help="At least two, none of them the sweep's.")] = "1,2",
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time, each with one thread.")] = 2,
) -> None:
    """Finetunes what is still to be finetuned, and writes the report."""
    require_writable(out)
    meta = read(sweep)
    scores = final_scores(meta)
    if len(scores.tasks) < 2:
        raise MetaDatasetError(f"the sweep in {sweep} has one task, and a static pipeline needs two; collect more")
    info = resolve(str(meta.runs["base_model"].iloc[0]))
    tasks = {name: load_task(name) for name in scores.tasks}
    _check(meta, tasks, info)
    specs = plan(meta, scores, tasks, info, _seeds(seeds, meta))
    runs = measure_all(specs, work, processes)
    commands = (
        f"ftmeta collect jobs/configs/{meta.name}.yaml --out {sweep}",
        f"python -m jobs.report_tasks --sweep {sweep} --out {out}",
    )
    found = findings(meta, scores, tasks, runs, fast_tokenizer(info), commands)
    write_json(out.with_suffix(".json"), found)
    draw(found, out)
    write_text(out, markdown(found, out))
    sys.stdout.write(f"{out}\n")


def _seeds(text: str, meta: MetaDataset) -> list[int]:
    try:
        seeds = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--seeds {text} is no list of whole numbers, as 1,2") from None
    of_sweep = sorted(set(meta.runs["seed"].tolist()))
    if len(seeds) < 2 or set(seeds) & set(of_sweep):
        raise UserError(f"--seeds {text}: give two or more that the sweep does not have; it has {of_sweep}")
    return seeds


def _check(meta: MetaDataset, tasks: dict[str, Task], info: BaseModelInfo) -> None:
    for run in meta.runs.drop_duplicates("task").to_dict("records"):
        if run["task_fingerprint"] != tasks[run["task"]].fingerprint:
            raise MetaDatasetError(f"task '{run['task']}' has changed since the sweep; submit the sweep again")
        if run["base_model_fingerprint"] != info.fingerprint:
            raise MetaDatasetError(f"base model '{info.name}' has changed since the sweep; submit the sweep again")
    for name, task in tasks.items():
        if {example.seen_fact for example in task.test} != {True, False}:
            raise DataError(
                f"the test split of '{name}' does not say for each question whether its fact was taught; sweep tasks "
                "with the column seen_fact, as the bundled ones have"
            )


def plan(
    meta: MetaDataset, scores: Scores, tasks: dict[str, Task], info: BaseModelInfo, seeds: Sequence[int]
) -> list[RunSpec]:
    """What is finetuned again, the longest first: as long as the sweep's runs, scored as often as the space says."""
    budget = replace(meta.budget, max_fidelity=meta.space.max_fidelity)
    strong, static = load_pipeline("strong-default", meta.space), scores.pipelines[best_static(scores)]
    if strong not in scores.pipelines:
        raise MetaDatasetError("the sweep has no strong default to compare with; add it to pipelines.include")
    specs = {}
    for name, best, of_others in zip(scores.tasks, chosen(scores), best_static_of_others(scores), strict=True):
        task = tasks[name]
        for pipeline in (strong, static, scores.pipelines[best], scores.pipelines[of_others]):
            for seed in seeds:
                spec = RunSpec(name, task.fingerprint, info.name, info.fingerprint, pipeline, seed, budget)
                specs[spec.run_id] = spec
    return sorted(specs.values(), key=lambda spec: -len(tasks[spec.task].train))


def measure_all(specs: Sequence[RunSpec], work: Path, processes: int) -> list[dict[str, Any]]:
    """The documents of `measure` for all of `specs`, in their order; those that the work folder has are not run."""
    files = [work / f"{spec.task}-{spec.run_id}.json" for spec in specs]
    missing = [(spec, file) for spec, file in zip(specs, files, strict=True) if not file.exists()]
    began = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure_to_file, spec, file) for spec, file in missing]
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                had, elapsed_s = len(specs) - len(missing), time.monotonic() - began
                sys.stderr.write(f"{done} of {len(missing)} runs ({had} before), {elapsed_s:.0f} s\n")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or all that wait would run before the error is seen
            raise
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def measure_to_file(spec: RunSpec, file: Path) -> None:
    document = measure(spec)
    if document["status"] not in ("ok", "diverged"):
        raise FtmetaError(f"run {spec.run_id} on {spec.task} ended with {document['status']}: {document['error']}")
    write_json(file, document)


def measure(spec: RunSpec) -> dict[str, Any]:
    """One run, with the NLL per answer token before and after it on all test questions, and on those of seen and of
    unseen facts; `finetuned` is None if the run did not reach its end."""
    import torch

    from ftmeta.finetune import finetune, tokenize_task
    from ftmeta.finetune.evaluate import batches_of, likelihood, precision

    torch.set_num_threads(1)
    base, task = _base(spec.base_model), load_task(spec.task)
    tokenized = tokenize_task(task, base)
    rows = list(zip(tokenized.splits["test"], task.test, strict=True))
    questions = {
        "all": tokenized.splits["test"],
        "seen": tuple(tokens for tokens, example in rows if example.seen_fact is True),
        "unseen": tuple(tokens for tokens, example in rows if example.seen_fact is False),
    }
    batches = {
        group: batches_of(replace(tokenized, splits={"test": tokens}), "test", len(tokens), base.device)
        for group, tokens in questions.items()
    }

    def nll() -> dict[str, float]:
        with precision(base.model, base.device):
            return {group: likelihood(base.model, of_group).nll for group, of_group in batches.items()}

    zero_shot = nll()
    with finetune(spec.pipeline, task, base, spec.seed, budget=spec.budget, tokenized=tokenized) as run:
        for _ in run:
            pass
        finetuned = nll() if run.status == "ok" else None  # the adapter is still on the base model
        row = run.result().run
    return {
        "task": spec.task,
        "pipeline": spec.pipeline.id,
        "seed": spec.seed,
        "zero_shot": zero_shot,
        "finetuned": finetuned,
        **{name: getattr(row, name) for name in ("run_id", "status", "error", "cost_s", "wall_s", "device")},
        "code_version": row.code_version,
        "libraries": dict(row.libraries),
    }


@functools.cache
def _base(name: str) -> LoadedModel:
    return load(resolve(name), "cpu")


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
