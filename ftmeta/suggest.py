"""What to run next on a task that is tuned somewhere else: a suggestion made from what was seen there so far.

In: a selector, what is known of the task, a budget, and the scores seen up to now. Out: our optimizer, ready to be
asked (`optimizer_of`), or the answer about its next step (`suggestion_document`). The surrogates are never refitted and
nothing is kept between two calls: the same observations get the same suggestion from whatever process answers.

    optimizer = optimizer_of(load_selector(), metafeatures, base_model, budget_s=600)
    step = optimizer.ask()
    pipeline = optimizer.problem.candidates[step.candidate]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftmeta.hardware import detect, load_hardware
from ftmeta.optimizers.acquisition import expected_improvement
from ftmeta.optimizers.ours import Ours, Transfer
from ftmeta.optimizers.protocol import Outcome, Problem, Step
from ftmeta.schema import BaseModelInfo, Pipeline
from ftmeta.selector import Selector, learning_rate_of
from ftmeta.surrogates import Context
from ftmeta.surrogates.quality import Z_80

_OF_STEP = (
    "pipeline",
    "label",
    "learning_rate",
    "continue_from",
    "fidelity",
    "expected_improvement",
    "predicted_cost_s",
    "fits_budget",
    "end_fidelity",
    "score",
    "score_low",
    "score_high",
)


@dataclass(frozen=True)
class Seen:
    """A point of a learning curve on the task at hand."""

    pipeline: Pipeline
    fidelity: int  # 1..max_fidelity; those in between may be left out
    score: float | None  # in [0, 1]; None: the run broke off on the way there, and is not to be taken up again
    cost_s: float | None  # cumulative device-seconds of the run; None: unknown, so what is predicted stands in


@dataclass(frozen=True)
class UnderWay:
    """A run that is being trained up to `fidelity` now."""

    pipeline: Pipeline
    fidelity: int


def optimizer_of(
    selector: Selector,
    metafeatures: Mapping[str, float],
    base_model: BaseModelInfo,
    budget_s: float,
    hardware: str | None = None,
    *,
    candidates: Sequence[Pipeline] | None = None,
) -> Ours:
    """Our optimizer on a new task, with a selector's surrogates, before anything is seen there.

    `budget_s` are the device-seconds of everything that it will ask for, on `hardware` (None: this machine's). It asks
    for `candidates`, which are distinct (None: the selector's). Raises DataError when meta-features that costs depend
    on are missing, ConfigError for unknown hardware.
    """
    pool = tuple(selector.candidates if candidates is None else candidates)
    names = selector.labels
    problem = Problem(
        space=selector.space,
        candidates=pool,
        max_fidelity=selector.surrogates.budget.max_fidelity,
        budget_s=budget_s,
        context=Context(metafeatures, base_model.shape),
        named={names[one.id]: n for n, one in enumerate(pool) if one.id in names},
    )
    profile = load_hardware(detect() if hardware is None else hardware)
    return Ours(problem, Transfer(selector.surrogates, profile), seed=0)  # it draws nothing


def suggestion_document(
    selector: Selector,
    metafeatures: Mapping[str, float],
    base_model: BaseModelInfo,
    *,
    budget_s: float,
    seen: Sequence[Seen] = (),
    under_way: Sequence[UnderWay] = (),
    candidates: Sequence[Pipeline] | None = None,
    hardware: str | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What the service answers: the step that is worth most now, what it is expected to give and to cost.

    Of one pipeline, `seen` is in the order of fidelities, each once, and nothing follows a point without a score. What
    is under way goes further than what was seen. `candidates` (None: the selector's) are what may be suggested, and the
    pipelines that were seen. Without anything left to run, `pipeline` is None and `stop` says why. `notes` stand before
    the warnings.
    """
    chosen_hardware = detect() if hardware is None else hardware
    mentioned = [*(one.pipeline for one in seen), *(one.pipeline for one in under_way)]
    pool = {one.id: one for one in [*(selector.candidates if candidates is None else candidates), *mentioned]}
    optimizer = optimizer_of(
        selector, metafeatures, base_model, budget_s, chosen_hardware, candidates=list(pool.values())
    )
    row = {key: n for n, key in enumerate(pool)}
    spent_s = _take_in(optimizer, seen, row)
    steps = [optimizer.take_up(row[one.pipeline.id], one.fidelity) for one in under_way]
    left_s = budget_s - spent_s - sum(optimizer.cost_s(one.candidate, one.start, one.fidelity) for one in steps)
    incumbent = _incumbent(optimizer, seen)
    best = 0.0 if incumbent is None else incumbent["score"]
    warnings, wider = selector.cautions(metafeatures, base_model)
    return {
        **_next(optimizer, selector, base_model, left_s, best, wider),
        "incumbent": incumbent,
        "budget_s": budget_s,
        "spent_s": spent_s,
        "base_model": {
            "name": base_model.name,
            "parameters": base_model.shape.parameters,
            "reference_lr": base_model.reference_lr,
        },
        "hardware": chosen_hardware,
        "metafeatures": dict(metafeatures),
        "warnings": [*notes, *warnings],
        "selector": selector.describe(),
    }


def _take_in(optimizer: Ours, seen: Sequence[Seen], row: Mapping[str, int]) -> float:
    """Tells the optimizer what was seen; returns the device-seconds that it took."""
    reached: dict[int, int] = {}
    paid: dict[int, float] = {}
    for one in seen:
        n = row[one.pipeline.id]
        start, before_s = reached.get(n, 0), paid.get(n, 0.0)
        expected_s = before_s + optimizer.cost_s(n, start, one.fidelity)
        cost_s = max(expected_s if one.cost_s is None else one.cost_s, before_s)
        step = optimizer.take_up(n, one.fidelity)
        skipped = (math.nan,) * (one.fidelity - start - 1)
        scores = () if one.score is None else (*skipped, one.score)
        optimizer.tell(Outcome(step, scores, cost_s - before_s))
        reached[n], paid[n] = one.fidelity, cost_s
    return sum(paid.values())


def _next(
    optimizer: Ours, selector: Selector, base_model: BaseModelInfo, left_s: float, best: float, wider: float
) -> dict[str, Any]:
    """The part of the answer that is about the step."""
    step = optimizer.ask() if left_s > 0 else None
    if step is None:
        why = "every candidate is at its end, broke off or is under way" if left_s > 0 else "the budget is spent"
        return {**dict.fromkeys(_OF_STEP), "stop": why}
    pipeline = optimizer.problem.candidates[step.candidate]
    cost_s = optimizer.cost_s(step.candidate, step.start, step.fidelity)
    end = _reachable(optimizer, step, left_s)
    mean, deviation = optimizer.expects(step.candidate, end)
    half = Z_80 * wider * deviation
    found = (
        pipeline.to_json(),
        selector.labels.get(pipeline.id),
        learning_rate_of(pipeline, base_model),
        step.start,
        step.fidelity,
        float(expected_improvement(np.array([mean]), np.array([deviation]), best)[0]),
        cost_s,
        cost_s <= left_s,
        end,
        *(min(max(score, 0.0), 1.0) for score in (mean, mean - half, mean + half)),
    )
    return {**dict(zip(_OF_STEP, found, strict=True)), "stop": None}


def _reachable(optimizer: Ours, step: Step, left_s: float) -> int:
    """The last fidelity that what is left of the budget pays for; the step's own at least."""
    affordable = (
        fidelity
        for fidelity in range(optimizer.problem.max_fidelity, step.fidelity, -1)
        if optimizer.cost_s(step.candidate, step.start, fidelity) <= left_s
    )
    return next(affordable, step.fidelity)


def _incumbent(optimizer: Ours, seen: Sequence[Seen]) -> dict[str, Any] | None:
    """The checkpoint that would be handed over now: the highest score seen."""
    if optimizer.incumbent is None:
        return None
    candidate, fidelity = optimizer.incumbent
    pipeline = optimizer.problem.candidates[candidate]
    score = next(one.score for one in seen if (one.pipeline.id, one.fidelity) == (pipeline.id, fidelity))
    return {"pipeline": pipeline.to_json(), "fidelity": fidelity, "score": score}
