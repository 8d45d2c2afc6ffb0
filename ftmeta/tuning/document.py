"""What a tuning has come to, in one document: what `ftmeta tune --json` prints and the report page shows.

In: the journal, the problem, the documents of the runs that were scored on the test split. Out: plain values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmeta.optimizers import Optimizer, Problem
from ftmeta.optimizers.guarded import Guarded
from ftmeta.schema import RunResult, RunRow, RunSpec
from ftmeta.tuning.definition import STRONG_DEFAULT, Prepared
from ftmeta.tuning.ending import Finalist
from ftmeta.tuning.journal import Journal, Trial
from ftmeta.tuning.loop import FELL_BACK
from ftmeta.version import code_version

Z_80 = 1.2816  # half of an 80 % interval, in standard deviations


def document_of(
    prepared: Prepared,
    problem: Problem,
    specs: Sequence[RunSpec],
    journal: Journal,
    optimizer: Optimizer,
    slots: int,
    why: str,
    chosen: Sequence[Finalist],
    scored: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    """`scored`: by `incumbent` and `strong-default`, the document of `ftmeta finetune` at that checkpoint."""
    definition, limit, spent = prepared.definition, prepared.limit, journal.spent
    labels = {specs[n].run_id: name for name, n in problem.named.items()}
    by_id = {spec.run_id: spec for spec in specs}
    best = scored.get("incumbent")
    searching_s = journal.said.get("stopped", {}).get("t_s", spent.wall_s)
    return {
        "task": {"name": prepared.task.name, "fingerprint": prepared.task.fingerprint},
        "base_model": prepared.base_model.name,
        "method": definition.method,
        "seed": definition.seed,
        "budget_s": limit.work_s(slots) if limit.kind != "wall" else limit.amount,
        "budget": {"kind": limit.kind, "amount": limit.amount},
        "spent_s": spent.wall_s if limit.kind == "wall" else spent.device_s,
        "spent": {"wall_s": spent.wall_s, "device_s": spent.device_s, "usd": limit.usd(spent)},
        "slots": slots,
        "slot_efficiency": spent.busy_s / (slots * searching_s) if searching_s else 0.0,
        "stopped": why,
        "incumbent": None
        if not chosen
        else {
            "run_id": chosen[0].run_id,
            "pipeline": by_id[chosen[0].run_id].pipeline.to_json(),
            "label": labels.get(chosen[0].run_id),
            "learning_rate": None if best is None else best["learning_rate"],
            "fidelity": chosen[0].fidelity,
            "score": chosen[0].score,
            "whole_validation_nll": chosen[0].whole_nll,
        },
        "finalists": [dataclasses.asdict(one) for one in chosen],
        "zero_shot": None if best is None else best["zero_shot"],
        "test": None if best is None else best["test"],
        "strong_default": _strong_default(scored, journal, labels),
        "guard": _guard(optimizer, journal),
        "trace": _trace(journal),
        "runs": [
            _run(run_id, trial, by_id[run_id], labels, problem.max_fidelity) for run_id, trial in journal.trials.items()
        ],
        "warnings": list(warnings),
        "hardware": definition.hardware,
        "selector": prepared.selector.describe(),
        "out": str(out),
        "adapter": None if best is None else best["adapter"],
        "report": str(out / "report.html"),
    }


def _strong_default(
    scored: Mapping[str, Mapping[str, Any]], journal: Journal, labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """None: it was not run."""
    run_id = next((one for one in journal.trials if labels.get(one) == STRONG_DEFAULT), None)
    if run_id is None or not journal.trials[run_id].curve:
        return None
    curve = journal.trials[run_id].curve
    document = scored.get(STRONG_DEFAULT)
    return {
        "run_id": run_id,
        "fidelity": max(curve),
        "score": max(curve.values()),
        "test": None if document is None else document["test"],
    }


def _guard(optimizer: Optimizer, journal: Journal) -> dict[str, Any] | None:
    """How well experience fits the task; None for methods without a guard."""
    if not isinstance(optimizer, Guarded):
        return None
    return {
        "candidates": len(optimizer.errors),
        "doubt": optimizer.doubt,
        "fell_back": optimizer.has_fallen_back,
        "at_s": journal.said.get(FELL_BACK, {}).get("t_s"),
    }


def _trace(journal: Journal) -> list[dict[str, Any]]:
    """Every validation score in the order in which it was there; `incumbent`: it was the best so far."""
    seen = [
        (trial.seen_at_s[fidelity], run_id, fidelity, score)
        for run_id, trial in journal.trials.items()
        for fidelity, score in trial.curve.items()
    ]
    found, best = [], 0.0
    for at_s, run_id, fidelity, score in sorted(seen):
        better = score > best
        best = max(best, score)
        found.append({"t_s": at_s, "run_id": run_id, "fidelity": fidelity, "score": score, "incumbent": better})
    return found


def _run(run_id: str, trial: Trial, spec: RunSpec, labels: Mapping[str, str], max_fidelity: int) -> dict[str, Any]:
    expected = trial.expected
    return {
        "run_id": run_id,
        "pipeline": spec.pipeline.to_json(),
        "label": labels.get(run_id),
        "status": trial.status,
        "error": trial.error,
        "fidelity": trial.reached,
        "score": max(trial.curve.values(), default=None),
        "curve": [{"fidelity": t, "score": score, "t_s": trial.seen_at_s[t]} for t, score in trial.curve.items()],
        "expected": None
        if expected is None
        else {
            "fidelity": max_fidelity,
            "score": min(max(expected[0], 0.0), 1.0),
            "score_low": min(max(expected[0] - Z_80 * expected[1], 0.0), 1.0),
            "score_high": min(max(expected[0] + Z_80 * expected[1], 0.0), 1.0),
        },
        "device_s": trial.device_s,
        "wall_s": trial.wall_s,
    }


def result_of(trial: Trial, spec: RunSpec) -> RunResult:
    """The run as far as it has come, as a row and a curve."""
    row = RunRow(
        run_id=spec.run_id,
        task=spec.task,
        base_model=spec.base_model,
        seed=spec.seed,
        status=trial.status,
        error=trial.error,
        max_fidelity=spec.budget.max_fidelity,
        fidelity=trial.reached,
        cost_s=trial.device_s,
        wall_s=trial.wall_s,
        peak_memory_gb=trial.peak_memory_gb,
        device=trial.device or "unknown",
        code_version=code_version(),
        task_fingerprint=spec.task_fingerprint,
        base_model_fingerprint=spec.base_model_fingerprint,
        space=spec.pipeline.space,
        started_at=trial.began_at,
        pipeline=spec.pipeline,
    )
    return RunResult(row, tuple(point for _, point in sorted(trial.points.items())))
