"""From the sweep and the runs that were made again to findings: all that the report says in numbers, its verdict
included, as one JSON document.

Array legend: T tasks, P pipelines.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmeta.metadataset import MetaDataset
from ftmeta.metadataset.static import (
    Scores,
    best_static,
    best_static_of_others,
    between_seeds,
    chosen,
    normalised,
    rank_correlation,
    regret,
)
from ftmeta.schema import Pipeline, Task
from ftmeta.space import Space, named_pipelines
from ftmeta.tasks.bundled import bundled_tasks
from ftmeta.tasks.lengths import length_statistics

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LIMITS = (0.02, 0.05)  # regrets that are worth counting
GROUPS = ("all", "seen", "unseen")
KINDS = ("static", "static_of_others", "strong_default")  # pipelines that are not chosen on the task itself


def findings(
    meta: MetaDataset,
    scores: Scores,
    tasks: Mapping[str, Task],
    runs: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    commands: Sequence[str],
) -> dict[str, Any]:
    """`runs` are documents of report_tasks.measure: for each task the strong default, the pipeline that the sweep chose
    and the static ones, with several seeds each."""
    strong = scores.pipelines.index(named_pipelines(meta.space)["strong-default"])
    everywhere = np.full(len(scores.tasks), best_static(scores))
    choices_T = {
        "best": chosen(scores),
        "static": everywhere,
        "static_of_others": best_static_of_others(scores),
        "strong_default": np.full_like(everywhere, strong),
    }
    again_T = {kind: _again(scores, runs, pipeline_T) for kind, pipeline_T in choices_T.items()}
    deviation_T = np.array([_deviation(runs, task) for task in scores.tasks])
    deviation_T = normalised(deviation_T, scores.test_range)
    noise = 2 * math.sqrt(2) * float(np.sqrt((deviation_T**2).mean()))
    rows = []
    for t, name in enumerate(scores.tasks):
        taught = [run for run in runs if run["task"] == name and run["pipeline"] == scores.pipelines[strong].id]
        rows.append(
            {
                "task": name,
                **_properties(tasks[name], tokenizer),
                "zero_shot_nll": taught[0]["zero_shot"],
                "strong_default": _improvement(taught),
                "best": scores.pipelines[choices_T["best"][t]].id,
                "best_steps": _steps(scores.pipelines[choices_T["best"][t]], tasks[name], meta),
                "static_of_others": scores.pipelines[choices_T["static_of_others"][t]].id,
                "test_score": {
                    "best": _number(scores.test_TP[t, choices_T["best"][t]]),
                    "highest": _number(scores.test_TP[t].max()),
                    "lowest": _number(scores.test_TP[t].min()),
                    **{kind: _number(scores.test_TP[t, choices_T[kind][t]]) for kind in KINDS},
                },
                "deviation_between_seeds": _number(deviation_T[t]),
            }
        )
    for kind in KINDS:
        again = normalised(again_T["best"] - again_T[kind], scores.test_range)
        for row, once, fresh in zip(rows, regret(scores, choices_T[kind]), again, strict=True):
            row.setdefault("regret", {})[kind] = _number(once)
            row.setdefault("regret_again", {})[kind] = _number(fresh)
    rows.sort(key=lambda row: -row["train"])
    return {
        "made": _made(meta, runs, commands),
        "tasks": rows,
        "static": scores.pipelines[everywhere[0]].id,
        "noise": _number(noise),
        "pipelines": _pipelines(scores, meta.space),
        "rank_correlation": _correlation(scores),
        "moves_the_best": _moves(rows, scores),
        "verdict": _verdict(rows, noise),
        "scores": {
            "tasks": list(scores.tasks),
            "pipelines": [pipeline.id for pipeline in scores.pipelines],
            "validation": np.round(scores.validation_TP, 4).tolist(),
            "test": np.round(scores.test_TP, 4).tolist(),
        },
    }


def _properties(task: Task, tokenizer: Tokenizer) -> dict[str, Any]:
    answers = length_statistics(task, tokenizer)["train"]["completion_tokens"]
    return {
        "train": len(task.train),
        "answer_tokens": {"p50": answers["p50"], "p90": answers["p90"]},
        "seen_share": task.card.details.get("seen_share"),
        "answer_noise": task.card.details.get("answer_noise"),
    }


def _improvement(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one pipeline on one task, means over its seeds. A run that diverged has gained nothing."""
    share = {group: [_share(run, group) for run in runs] for group in GROUPS}
    tuned = {group: [(run["finetuned"] or run["zero_shot"])[group] for run in runs] for group in GROUPS}
    return {
        "seeds": [run["seed"] for run in runs],
        "diverged": sum(run["finetuned"] is None for run in runs),
        "nll": {group: _number(np.mean(tuned[group])) for group in GROUPS},
        "score": {group: _number(np.mean(share[group])) for group in GROUPS},
        "scores": {group: [_number(value) for value in share[group]] for group in GROUPS},
        "nats_gained": {group: _number(runs[0]["zero_shot"][group] - np.mean(tuned[group])) for group in GROUPS},
        "cost_s": _number(np.mean([run["cost_s"] for run in runs]), 2),
    }


def _share(run: dict[str, Any], group: str) -> float:
    """The share of the group's own zero-shot NLL that is gone; below 0 where finetuning made it worse."""
    return 1 - run["finetuned"][group] / run["zero_shot"][group] if run["finetuned"] is not None else 0.0


def _again(scores: Scores, runs: Sequence[dict[str, Any]], pipeline_T: np.ndarray) -> np.ndarray:
    """[T] the mean score over the fresh seeds, on the whole test split; NaN where the pipeline was not run again."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        found.setdefault((run["task"], run["pipeline"]), []).append(max(0.0, _share(run, "all")))
    pairs = zip(scores.tasks, (scores.pipelines[p].id for p in pipeline_T), strict=True)
    return np.array([np.mean(found[pair]) if pair in found else math.nan for pair in pairs])


def _deviation(runs: Sequence[dict[str, Any]], task: str) -> float:
    """Between the seeds of a pipeline, pooled over the pipelines that were repeated on `task`."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        if run["task"] == task:
            groups.setdefault(run["pipeline"], []).append(max(0.0, _share(run, "all")))
    return between_seeds(list(groups.values()))


def _steps(pipeline: Pipeline, task: Task, meta: MetaDataset) -> int:
    examples = min(len(task.train), meta.budget.max_train_examples or len(task.train))
    return math.ceil(math.ceil(meta.budget.epochs * examples) / int(pipeline["batch_size"]))


def _pipelines(scores: Scores, space: Space) -> list[dict[str, Any]]:
    """All of them, the best in the mean over tasks first."""
    regret_TP = np.stack([regret(scores, p) for p in range(len(scores.pipelines))], axis=1)
    best_P = np.bincount(chosen(scores), minlength=len(scores.pipelines))
    return [
        {
            "id": scores.pipelines[p].id,
            "words": in_words(scores.pipelines[p], space),
            "values": dict(scores.pipelines[p].values),
            "mean_test_score": _number(scores.test_TP[:, p].mean()),
            "mean_regret": _number(regret_TP[:, p].mean()),
            "worst_regret": _number(regret_TP[:, p].max()),
            "best_on": int(best_P[p]),
        }
        for p in regret_TP.mean(axis=0).argsort(kind="stable")
    ]


def in_words(pipeline: Pipeline, space: Space) -> str:
    """`2 x rate, batch 16, lora 16`, then what else differs from the strong default."""
    values, usual = dict(pipeline.values), space.default().values
    parts = [
        f"{values.pop('lr_multiplier'):g} x rate",
        f"batch {values.pop('batch_size')}",
        " ".join(str(values.pop(name)) for name in ("peft_method", "lora_rank") if name in values),
        *(f"{name} {value}" for name, value in values.items() if value != usual.get(name)),
    ]
    names = [name for name, known in named_pipelines(space).items() if known.id == pipeline.id]
    return ", ".join(parts) + (f" ({names[0]})" if names else "")


def _correlation(scores: Scores) -> dict[str, Any]:
    correlation_TT = rank_correlation(scores)
    first, second = np.triu_indices(len(scores.tasks), k=1)
    pairs = correlation_TT[first, second]
    lowest = int(np.nanargmin(pairs))
    return {
        "matrix": [[_number(value, 2) for value in row] for row in correlation_TT],
        "median": _number(np.nanmedian(pairs), 2),
        "lowest": _number(pairs[lowest], 2),
        "lowest_pair": [scores.tasks[first[lowest]], scores.tasks[second[lowest]]],
    }


def _moves(rows: Sequence[dict[str, Any]], scores: Scores) -> dict[str, Any]:
    """Spearman's correlation over tasks of what the best pipeline has with the number of training examples."""
    best = {pipeline.id: pipeline for pipeline in scores.pipelines}
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "optimizer steps": lambda row: row["best_steps"],
        "batch size": lambda row: float(best[row["best"]]["batch_size"]),
        "learning-rate multiple": lambda row: float(best[row["best"]]["lr_multiplier"]),
    }
    train = [row["train"] for row in rows]
    return {name: _spearman(train, [measure(row) for row in rows]) for name, measure in measures.items()}


def _spearman(x: Sequence[float], y: Sequence[float]) -> dict[str, float] | None:
    from scipy.stats import spearmanr

    if len(set(x)) < 2 or len(set(y)) < 2 or len(x) < 3:
        return None
    found = spearmanr(x, y)
    return {"correlation": round(float(found.statistic), 2), "p": round(float(found.pvalue), 3)}


def _verdict(rows: Sequence[dict[str, Any]], noise: float) -> dict[str, Any]:
    """Names of the tasks of which each statement is true."""

    def where(holds: Callable[[dict[str, Any]], bool]) -> list[str]:
        return [row["task"] for row in rows if holds(row)]

    def seeds(row: dict[str, Any], group: str) -> np.ndarray:
        return np.array(row["strong_default"]["scores"][group])

    def losing(measure: str, kind: str) -> dict[str, list[str]]:
        limits = {**{f"{limit:g}": limit for limit in LIMITS}, "noise": noise}
        known = [row for row in rows if row[measure][kind] is not None]
        return {name: [row["task"] for row in known if row[measure][kind] > limit] for name, limit in limits.items()}

    return {
        "improved": where(lambda row: row["strong_default"]["score"]["all"] > 0),
        "improved_with_every_seed": where(lambda row: bool((seeds(row, "all") > 0).all())),
        "seen_more_than_unseen": where(
            lambda row: row["strong_default"]["score"]["seen"] > row["strong_default"]["score"]["unseen"]
        ),
        "seen_more_with_every_seed": where(lambda row: bool((seeds(row, "seen") > seeds(row, "unseen")).all())),
        **{measure: {kind: losing(measure, kind) for kind in KINDS} for measure in ("regret", "regret_again")},
    }


def _made(meta: MetaDataset, runs: Sequence[dict[str, Any]], commands: Sequence[str]) -> dict[str, Any]:
    return {
        "on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commands": list(commands),
        "base_model": str(meta.runs["base_model"].iloc[0]),
        "devices": sorted({*meta.runs["device"], *(run["device"] for run in runs)}),
        "libraries": runs[0]["libraries"],
        "code_versions": sorted({*meta.runs["code_version"], *(run["code_version"] for run in runs)}),
        "bundled_tasks": len(bundled_tasks()),
        "sweep": {
            "name": meta.name,
            "runs": len(meta.runs),
            "seeds": sorted(set(meta.runs["seed"].tolist())),
            "statuses": meta.manifest["statuses"],
            "cost_s": _number(meta.runs["cost_s"].sum(), 0),
            "budget": meta.manifest["budget"],
            "fingerprint": meta.fingerprint,
        },
        "again": {
            "runs": len(runs),
            "seeds": sorted({run["seed"] for run in runs}),
            "cost_s": _number(sum(run["cost_s"] for run in runs), 0),
            "max_fidelity": meta.space.max_fidelity,
        },
    }


def _number(value: Any, digits: int = 4) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
