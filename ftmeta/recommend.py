"""A dataset -> the answer about it: what `ftmeta recommend --json` prints, the service answers and `best` means.

In: a task or its meta-features, a base model, limits. Out: the document with ranked pipelines, or one pipeline. The
ranking itself is selector.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmeta.errors import ModelError, UserError
from ftmeta.hardware import CPU, detect, load_hardware
from ftmeta.schema import BaseModelInfo, Budget, Pipeline, Recommendation, Task
from ftmeta.selector import Selector, load_selector
from ftmeta.space import Space, load_pipeline


def recommendation_document(
    selector: Selector,
    metafeatures: Mapping[str, float],
    base_model: BaseModelInfo,
    *,
    task: Task | None = None,
    budget_s: float | None = None,
    budget_usd: float | None = None,
    top_k: int = 5,
    hardware: str | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What `ftmeta recommend --json` prints and the service answers. `task` is None if only meta-features are known;
    `notes` on how they came about stand before the warnings."""
    chosen_hardware = detect() if hardware is None else hardware
    found, warnings = selector.recommend(
        metafeatures, base_model, budget_s=budget_s, budget_usd=budget_usd, top_k=top_k, hardware=chosen_hardware
    )
    return {
        "task": None if task is None else _task_document(task),
        "base_model": {
            "name": base_model.name,
            "parameters": base_model.shape.parameters,
            "reference_lr": base_model.reference_lr,
        },
        "hardware": chosen_hardware,
        "metafeatures": dict(metafeatures),
        "recommendations": [_document(one) for one in found],
        "warnings": [*notes, *warnings],
        "selector": selector.describe(),
    }


def describe_task(
    selector: Selector,
    task: Task,
    base_model: BaseModelInfo,
    *,
    device: str | None = None,
    threads: int | None = None,
) -> tuple[dict[str, float], list[str]]:
    """The meta-features of a task that `selector` can use, and what could not be measured and why.

    The base model is run only if the surrogates look at what comes of it, on `device` (None: a CUDA device where there
    is one).
    """
    from ftmeta.metafeatures import metafeatures
    from ftmeta.models import fast_tokenizer, note_on

    found = metafeatures(task, fast_tokenizer(base_model))
    if not selector.uses_zero_shot or not base_model.is_here:
        return found, note_on(base_model)
    from ftmeta.finetune.zero_shot import zero_shot_features

    examples = selector.surrogates.budget.eval_examples  # as many as the source runs were scored on
    try:
        return found | zero_shot_features(task, base_model, examples=examples, device=device, threads=threads), []
    except ModelError as error:
        return found, [str(error)]


def recommend_for_task(
    data: str,
    *,
    base_model: str = "phi3-micro",
    budget_s: float | None = None,
    budget_usd: float | None = None,
    top_k: int = 5,
    hardware: str | None = None,
    selector: str | None = None,
) -> dict[str, Any]:
    """`recommendation_document` for a dataset by name or path."""
    from ftmeta.models import resolve_or_published
    from ftmeta.tasks import load_task

    chosen = load_selector(selector)
    if hardware is not None:
        load_hardware(hardware)  # a wrong name is said before a large file is read
    info = resolve_or_published(base_model)
    task = load_task(data)
    features, notes = describe_task(chosen, task, info)
    return recommendation_document(
        chosen,
        features,
        info,
        task=task,
        budget_s=budget_s,
        budget_usd=budget_usd,
        top_k=top_k,
        hardware=hardware,
        notes=notes,
    )


def choose_pipeline(
    name: str,
    task: Task,
    base_model: BaseModelInfo,
    space: Space,
    *,
    selector: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> tuple[Pipeline, Budget]:
    """`best`: the first recommendation for `task`, and the budget that its predictions are for; otherwise the named
    pipeline, or that of a YAML file, and the space's own budget. `device` and `threads` are for measuring the base
    model, if the selector wants that."""
    if name != "best":
        return load_pipeline(name, space, besides=("best",)), space.budget()
    chosen = load_selector(selector)
    if chosen.space.fingerprint != space.fingerprint:
        raise UserError(
            f"the selector recommends pipelines of the space '{chosen.space.name}', and '{space.name}' is in use; "
            "name another selector, or a pipeline file"
        )
    features, _ = describe_task(chosen, task, base_model, device=device, threads=threads)
    found, _ = chosen.recommend(features, base_model, top_k=1, hardware=CPU)  # no cost is asked for
    return found[0].pipeline, chosen.surrogates.budget


def _task_document(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "fingerprint": task.fingerprint,
        "splits": {split: len(examples) for split, examples in task.splits.items()},
    }


def _document(one: Recommendation) -> dict[str, Any]:
    return {
        "pipeline": one.pipeline.to_json(),
        "label": one.label,
        "learning_rate": one.learning_rate,
        "score": one.score,
        "score_low": one.score_low,
        "score_high": one.score_high,
        "cost_s": one.cost_s,
        "cost_usd": one.cost_usd,
        "curve": list(one.curve),
        "curve_low": list(one.curve_low),
        "curve_high": list(one.curve_high),
    }
