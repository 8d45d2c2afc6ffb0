"""One run to a folder: the adapter, the pipeline, the curve and the test scores, or nothing at all.

In: a pipeline, a task and a base model. Out: the document of `ftmeta finetune --json`, and a folder with `adapter/`,
`pipeline.yaml` and `run.json` that appears by one rename when the run has ended well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of
from ftmeta.files import atomic_path, require_new, write_json
from ftmeta.finetune.engine import Execution
from ftmeta.finetune.worker import Finetuning, finetune
from ftmeta.models import load
from ftmeta.schema import BaseModelInfo, Budget, CurvePoint, Pipeline, RunResult, RunRow, RunSpec, Split, Task
from ftmeta.space import pipeline_yaml

_DEFAULT_PLACE = Path("ftmeta-runs")


def finetune_to_folder(
    pipeline: Pipeline,
    task: Task,
    info: BaseModelInfo,
    seed: int,
    *,
    budget: Budget,
    out: Path | None = None,
    replace: bool = False,
    until: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    execution: Execution = Execution(),  # noqa: B008  # frozen
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> dict[str, Any]:
    """Finetunes and returns the document; `out` None takes `ftmeta-runs/TASK-RUN_ID` in the working directory, and
    `device` None a CUDA device where there is one.

    A run that diverges or runs out of memory is no error: the document says so in `status` and `error`, and no folder
    is left. Raises UserError when `out` exists already and is not to be replaced.
    """
    import torch

    require_new(out or _DEFAULT_PLACE / task.name, replace=replace or out is None)
    if threads is not None:
        torch.set_num_threads(threads)
    base = load(info, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with finetune(pipeline, task, base, seed, budget=budget, until=until, execution=execution) as run:
        for point in run:
            on_point(point)
        document, write = conclude(run, out or default_folder(run.spec))
        write()
        return document


def default_folder(spec: RunSpec) -> Path:
    """Where a run goes that is not told."""
    return _DEFAULT_PLACE / f"{spec.task}-{spec.run_id}"


def conclude(run: Finetuning, folder: Path) -> tuple[dict[str, Any], Callable[[], None]]:
    """Scores a run that has come to its end on the test split. Out: the document, and what writes the folder (nothing
    where the run did not end well). All ranks call it, and one of them what it returns."""
    finished = run.status in ("ok", "stopped")
    document = as_document(
        run.result(),
        learning_rate=run.learning_rate,
        zero_shot=run.evaluate_test(zero_shot=True) if run.curve else None,
        test=run.evaluate_test() if finished else None,
        adapter=folder / "adapter" if finished else None,
        workers=run.ranks.size,
        cut=run.cut,
    )
    if not finished:
        return document, lambda: None
    write_adapter = run.adapter_writer()

    def write() -> None:
        with atomic_path(folder) as fresh:
            write_adapter(fresh / "adapter")
            (fresh / "pipeline.yaml").write_text(pipeline_yaml(run.spec.pipeline), encoding="utf-8")
            write_json(fresh / "run.json", document)

    return document, write


def as_document(
    result: RunResult,
    *,
    learning_rate: float,
    zero_shot: dict[str, float] | None = None,
    test: dict[str, float] | None = None,
    adapter: Path | None = None,
    workers: int = 1,
    cut: Mapping[Split, int] | None = None,
) -> dict[str, Any]:
    """The document of `ftmeta finetune --json`."""
    run = result.run
    return {
        "run_id": run.run_id,
        "status": run.status,
        "error": run.error,
        "task": {"name": run.task, "fingerprint": run.task_fingerprint},
        "base_model": run.base_model,
        "pipeline": run.pipeline.to_json(),
        "learning_rate": learning_rate,
        "seed": run.seed,
        "curve": [{**asdict(point), "nll": point.val_nll} for point in result.curve],
        "zero_shot": zero_shot,
        "test": test,
        "cost_s": run.cost_s,
        "cost_usd": usd_of(run.cost_s, run.device),
        "wall_s": run.wall_s,
        "peak_memory_gb": run.peak_memory_gb,
        "device": run.device,
        "workers": workers,
        "cut_examples": None if cut is None else dict(cut),
        "libraries": dict(run.libraries),
        "code_version": run.code_version,
        "adapter": None if adapter is None else str(adapter.resolve()),
    }


def result_of(document: Mapping[str, Any], spec: RunSpec, started_at: str) -> RunResult:
    """The row and the curve of a run that another process has made a document of."""
    curve = tuple(
        CurvePoint(**{name: value for name, value in point.items() if name != "nll"}) for point in document["curve"]
    )
    test = document["test"] or {}
    same = ("run_id", "status", "error", "cost_s", "wall_s", "peak_memory_gb", "device", "code_version", "libraries")
    row = RunRow(
        **{name: document[name] for name in same},
        task=spec.task,
        base_model=spec.base_model,
        seed=spec.seed,
        max_fidelity=spec.budget.max_fidelity,
        fidelity=curve[-1].fidelity if curve else 0,
        task_fingerprint=spec.task_fingerprint,
        base_model_fingerprint=spec.base_model_fingerprint,
        space=spec.pipeline.space,
        started_at=started_at,
        pipeline=spec.pipeline,
        generation={name: test[name] for name in ("exact_match", "f1", "rouge_l") if name in test} or None,
    )
    return RunResult(row, curve)
