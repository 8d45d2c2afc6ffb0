"""The runs of a parent run as one table: what `ftmeta costs` and `ftmeta report` read of a sweep that has ended.

MLflow hands out a thousand runs a second, whole or not at all. So a parent run that ends gets the artifact `runs.json`
with a row for each of its runs, and ten thousand runs are read with one request. While a sweep is under way, its runs
belong to chunks, and each chunk that is full gets such a table; only the runs of open chunks are read one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from ftmeta.tracking.scheme import COST, COST_USD, ENERGY, PREDICTED_COST, PREDICTED_SCORE, RUN

FORMAT = 1


@dataclass(frozen=True)
class RunInMlflow:
    """A finetuning run as MLflow has it; None: not known there. Money is what was written at the time."""

    mlflow_id: str
    parent_id: str | None
    run_id: str
    task: str
    base_model: str
    pipeline: str
    seed: int | None
    status: str
    error: str | None
    device: str | None
    started_ms: int
    score: float | None
    test_score: float | None
    cost_s: float | None
    cost_usd: float | None
    energy_j: float | None
    wall_s: float | None
    predicted_cost_s: float | None
    predicted_score: float | None

    @classmethod
    def of(cls, run: Any) -> RunInMlflow:
        """From a run of kind `run`, as MLflow's client hands it out."""
        tags, metrics = run.data.tags, run.data.metrics
        seed = run.data.params.get("seed")
        return cls(
            mlflow_id=run.info.run_id,
            parent_id=tags.get("mlflow.parentRunId"),
            run_id=tags.get("run_id", ""),
            task=tags.get("task", "unknown"),
            base_model=tags.get("base_model", "unknown"),
            pipeline=tags.get("pipeline", "unknown"),
            seed=int(seed) if seed is not None and seed.isdigit() else None,
            status=tags.get("status", run.info.status.lower()),
            error=tags.get("error"),
            device=tags.get("device"),
            started_ms=run.info.start_time,
            score=metrics.get("score"),
            test_score=metrics.get("test_score"),
            # A run that broke off between two fidelities has cost more than its curve says.
            cost_s=_number(tags.get("cost_s"), metrics.get(COST)),
            cost_usd=_number(tags.get("cost_usd"), metrics.get(COST_USD)),
            energy_j=metrics.get(ENERGY),
            wall_s=_number(tags.get("wall_s"), metrics.get("wall_s")),
            predicted_cost_s=metrics.get(PREDICTED_COST),
            predicted_score=metrics.get(PREDICTED_SCORE),
        )


_COLUMNS = [field.name for field in fields(RunInMlflow)]


def is_run(run: Any) -> bool:
    return bool(run.data.tags.get("kind") == RUN)


def to_json(runs: Sequence[RunInMlflow]) -> str:
    """Columns and rows, as a table of MLflow's own is written: its page shows it as one."""
    document = {"format": FORMAT, "columns": _COLUMNS, "data": [astuple(run) for run in runs]}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> list[RunInMlflow] | None:
    """None for a table of another version, or a torn one: the runs themselves are read then."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT or document["columns"] != _COLUMNS:
            return None
        return [RunInMlflow(*row) for row in document["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _number(written: str | None, otherwise: float | None) -> float | None:
    try:
        return otherwise if written is None else float(written)
    except ValueError:
        return otherwise
