"""One run to a folder: the adapter, the pipeline, the curve and the test scores, or nothing at all.

In: a pipeline, a task and a base model. Out: the document of `ftmeta finetune --json`, and a folder with `adapter/`,
`pipeline.yaml` and `run.json` that appears by one rename when the run has ended well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of
from ftmeta.errors import UserError
from ftmeta.files import atomic_path, require_writable, write_json
from ftmeta.finetune.worker import Finetuning, finetune
from ftmeta.models import load
from ftmeta.schema import BaseModelInfo, Budget, CurvePoint, Pipeline, Task
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
    on_point: Callable[[CurvePoint], None] = lambda point: None,
) -> dict[str, Any]:
    """Finetunes and returns the document; `out` None takes `ftmeta-runs/TASK-RUN_ID` in the working directory, and
    `device` None a CUDA device where there is one.

    A run that diverges or runs out of memory is no error: the document says so in `status` and `error`, and no folder
    is left. Raises UserError when `out` exists already and is not to be replaced.
    """
    import torch

    if out is not None and out.exists() and not replace:
        raise UserError(f"{out} exists already; name a new folder with --out, or remove it")
    require_writable(out or _DEFAULT_PLACE / task.name)
    if threads is not None:
        torch.set_num_threads(threads)
    base = load(info, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = finetune(pipeline, task, base, seed, budget=budget, until=until)
    try:
        zero_shot: dict[str, Any] | None = None
        for point in run:
            if point.fidelity == 0:
                zero_shot = run.evaluate_test(zero_shot=True)
            on_point(point)
        finished = run.status in ("ok", "stopped")
        document = _document(run, task, info, zero_shot, run.evaluate_test() if finished else None)
        if finished:
            folder = out or _DEFAULT_PLACE / f"{task.name}-{run.spec.run_id}"
            _save(run, document, folder)
    finally:
        run.close()
    return document


def _document(
    run: Finetuning, task: Task, info: BaseModelInfo, zero_shot: dict[str, Any] | None, test: dict[str, Any] | None
) -> dict[str, Any]:
    result = run.result()
    rate = float(run.spec.pipeline.get("lr_multiplier", 1.0)) * info.reference_lr
    return {
        "run_id": result.run.run_id,
        "status": result.run.status,
        "error": result.run.error,
        "task": {"name": task.name, "fingerprint": task.fingerprint},
        "base_model": info.name,
        "pipeline": run.spec.pipeline.to_json(),
        "learning_rate": rate,
        "seed": run.spec.seed,
        "curve": [{**asdict(point), "nll": point.val_nll} for point in result.curve],
        "zero_shot": zero_shot,
        "test": test,
        "cost_s": result.run.cost_s,
        "cost_usd": usd_of(result.run.cost_s, result.run.device),
        "wall_s": result.run.wall_s,
        "peak_memory_gb": result.run.peak_memory_gb,
        "device": result.run.device,
        "libraries": dict(result.run.libraries),
        "code_version": result.run.code_version,
        "adapter": None,
    }


def _save(run: Finetuning, document: dict[str, Any], folder: Path) -> None:
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        run.save_adapter(fresh / "adapter")
        (fresh / "pipeline.yaml").write_text(pipeline_yaml(run.spec.pipeline), encoding="utf-8")
        document["adapter"] = str((folder / "adapter").resolve())
        write_json(fresh / "run.json", document)
