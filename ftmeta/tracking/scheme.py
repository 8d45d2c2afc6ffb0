"""The names under which everything lies in MLflow: docs/tracking.md is this file as a table.

An experiment for each sort of work, by the name of its command. In it a parent run for each sweep, tuning,
meta-training and benchmark (tag `kind`, and a tag of that name with the fingerprint that makes it the same one again),
and under it a run of kind `run` for each finetuning run. A finetuning run of its own has no parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SWEEP, TUNING, METATRAINING, BENCHMARK = "sweep", "tuning", "metatraining", "benchmark"  # kinds of parent runs
RUN = "run"  # the kind of a finetuning run

EXPERIMENTS = {  # name -> what a reader of its page is told
    "collect": "Sweeps (`ftmeta collect`): a parent run a sweep, and in it a run for each task, pipeline and seed.",
    "finetune": "Single finetuning runs (`ftmeta finetune` and its job), on one process or several workers.",
    "tune": "Live tuning (`ftmeta tune`): a parent run a tuning, and in it every run that was begun.",
    "metatrain": "Meta-training (`ftmeta metatrain`): a run a selector, and the versions in the model registry.",
    "benchmark": "Optimizers replayed on a meta-dataset (`ftmeta benchmark`): a run a benchmark.",
}

SYSTEM, JOULES = "system/", "energy_joules"  # a machine's metrics are SYSTEM/MACHINE/NAME
COST, COST_USD, ENERGY = "cost.device_seconds", "cost.usd", "cost.energy_joules"
PREDICTED_COST, PREDICTED_USD = "predicted.cost_device_seconds", "predicted.cost_usd"
PREDICTED_SCORE = "predicted.score"

CURVE_METRICS = {  # column of curves.parquet -> metric, one value a fidelity (the step)
    "score": "score",
    "val_nll": "val_nll",
    "val_token_accuracy": "val_token_accuracy",
    "test_score": "test_score",
    "test_nll": "test_nll",
    "train_loss": "train_loss",
    "cost_s": COST,
    "cost_train_s": "cost.train_device_seconds",
    "cost_eval_s": "cost.eval_device_seconds",
    "wall_s": "wall_s",
}
RUN_TAGS = (  # columns of runs.parquet that are tags of the same name
    *("run_id", "task", "base_model", "status", "error", "space", "device", "code_version", "task_fingerprint"),
    *("base_model_fingerprint", "started_at", "max_fidelity", "cost_s", "wall_s"),
)
GENERATION_METRICS = {f"gen_{name}": f"test_{name}" for name in ("exact_match", "f1", "rouge_l")}  # column -> metric
MADE_BY = "made_by"  # tag of a parent run that no driver of a sweep has made
TABLE = "runs.json"  # artifact of a parent run that has ended: its runs (table.py)
TABLE_TAG = "runs_table"  # says that the artifact is there, and with how many runs
CHUNK = "chunk"  # tag of a sweep's run: which chunk of its parent's runs it belongs to
CHUNK_STATE = "chunk."  # and the chunk's id: tag of the parent, OPEN or CLOSED
OPEN, CLOSED = "open", "closed"
CHUNK_TABLES = "chunks"  # artifacts of the parent: a table for each chunk that is closed


@dataclass(frozen=True)
class Dataset:
    """What work was done on, as MLflow lists it."""

    name: str
    fingerprint: str
    sort: Literal["task", "meta-dataset"] = "task"

    @property
    def context(self) -> str:
        return "training" if self.sort == "task" else "meta-training"


@dataclass(frozen=True)
class Prediction:
    """What a selector expected of a run before it was begun. Scores in [0, 1], the interval covers 80 %."""

    cost_s: float  # device-seconds of the whole run
    selector: str  # its version
    cost_usd: float | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None

    def metrics(self) -> dict[str, float]:
        named = {
            PREDICTED_COST: self.cost_s,
            PREDICTED_USD: self.cost_usd,
            PREDICTED_SCORE: self.score,
            f"{PREDICTED_SCORE}_low": self.score_low,
            f"{PREDICTED_SCORE}_high": self.score_high,
        }
        return {name: value for name, value in named.items() if value is not None}


def joules_of(metrics: Mapping[str, float]) -> float | None:
    """What all machines that have reported to a run have used together; None: none has said."""
    found = [value for name, value in metrics.items() if name.startswith(SYSTEM) and name.endswith(f"/{JOULES}")]
    return sum(found) if found else None
