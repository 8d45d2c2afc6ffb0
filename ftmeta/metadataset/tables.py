"""The Parquet tables: their columns, types, and the way between them and `RunResult`.

runs.parquet has one row a run, with a column `p_<name>` for each hyperparameter (null where it is inactive);
curves.parquet one row a run and fidelity (0: before training); tasks.parquet one row a task and base model, with a
column `mf_<name>` a meta-feature. Types are fixed here, never guessed from the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ftmeta.schema import CurvePoint, Pipeline, RunResult, RunRow
from ftmeta.space import Categorical, Ordinal, Space

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

RUN_COLUMNS: dict[str, pa.DataType] = {
    "run_id": _TEXT,
    "task": _TEXT,
    "base_model": _TEXT,
    "seed": _INT,
    "status": _TEXT,
    "error": _TEXT,
    "max_fidelity": _INT,
    "fidelity": _INT,
    "cost_s": _FLOAT,
    "wall_s": _FLOAT,
    "peak_memory_gb": _FLOAT,
    "device": _TEXT,
    "code_version": _TEXT,
    "task_fingerprint": _TEXT,
    "base_model_fingerprint": _TEXT,
    "space": _TEXT,
    "started_at": _TEXT,
    "libraries": _TEXT,  # JSON: library -> version
    "gen_exact_match": _FLOAT,
    "gen_f1": _FLOAT,
    "gen_rouge_l": _FLOAT,
}

CURVE_COLUMNS: dict[str, pa.DataType] = {
    "run_id": _TEXT,
    "fidelity": _INT,
    "step": _INT,
    "examples": _INT,
    "tokens": _INT,
    "score": _FLOAT,
    "val_nll": _FLOAT,
    "val_token_accuracy": _FLOAT,
    "test_score": _FLOAT,
    "test_nll": _FLOAT,
    "train_loss": _FLOAT,
    "cost_train_s": _FLOAT,
    "cost_eval_s": _FLOAT,
    "cost_s": _FLOAT,
    "wall_s": _FLOAT,
}


def runs_schema(space: Space) -> pa.Schema:
    columns = {**RUN_COLUMNS, **{f"p_{name}": _hyperparameter_type(space, name) for name in space.hyperparameters}}
    return pa.schema(list(columns.items()))


def curves_schema() -> pa.Schema:
    return pa.schema(list(CURVE_COLUMNS.items()))


def tasks_schema(metafeatures: Iterable[str]) -> pa.Schema:
    return pa.schema([("task", _TEXT), ("base_model", _TEXT), *((f"mf_{name}", _FLOAT) for name in metafeatures)])


def _hyperparameter_type(space: Space, name: str) -> pa.DataType:
    domain = space.domains[name]
    if isinstance(domain, Categorical):
        return _TEXT
    if isinstance(domain, Ordinal):
        return _INT if all(isinstance(value, int) for value in domain.values) else _FLOAT
    return _INT if domain.type == "int" else _FLOAT


def runs_table(results: Sequence[RunResult], space: Space) -> pa.Table:
    rows = []
    for result in sorted(results, key=lambda result: result.run.run_id):
        run = result.run
        generation = run.generation or {}
        row: dict[str, Any] = {name: getattr(run, name) for name in RUN_COLUMNS if hasattr(run, name)}
        row["libraries"] = json.dumps(dict(run.libraries), sort_keys=True)
        row |= {f"gen_{name}": generation.get(name) for name in ("exact_match", "f1", "rouge_l")}
        row |= {f"p_{name}": run.pipeline.values.get(name) for name in space.hyperparameters}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=runs_schema(space))


def curves_table(results: Sequence[RunResult]) -> pa.Table:
    rows = [
        {"run_id": result.run.run_id, **{name: getattr(point, name) for name in CURVE_COLUMNS if name != "run_id"}}
        for result in sorted(results, key=lambda result: result.run.run_id)
        for point in sorted(result.curve, key=lambda point: point.fidelity)
    ]
    return pa.Table.from_pylist(rows, schema=curves_schema())


def tasks_table(metafeatures: Mapping[tuple[str, str], Mapping[str, float]]) -> pa.Table:
    names = sorted({name for features in metafeatures.values() for name in features})
    rows = [
        {"task": task, "base_model": base_model, **{f"mf_{name}": features.get(name) for name in names}}
        for (task, base_model), features in sorted(metafeatures.items())
    ]
    return pa.Table.from_pylist(rows, schema=tasks_schema(names))


def results_of(runs: pa.Table, curves: pa.Table, space: Space) -> list[RunResult]:
    """The runs of two tables, by run_id: `runs_table` and `curves_table` backwards. What foreign tables do not say is
    None, also where ftmeta's own runs always have a value."""
    points: dict[str, list[CurvePoint]] = {}
    for row in sorted(curves.to_pylist(), key=lambda row: row["fidelity"]):
        points.setdefault(row["run_id"], []).append(
            CurvePoint(**{name: row[name] for name in CURVE_COLUMNS if name != "run_id"})
        )
    results = []
    for row in sorted(runs.to_pylist(), key=lambda row: row["run_id"]):
        values = {name: row[f"p_{name}"] for name in space.hyperparameters if row[f"p_{name}"] is not None}
        generation = {name: row[f"gen_{name}"] for name in ("exact_match", "f1", "rouge_l")}
        run: dict[str, Any] = {name: row[name] for name in RUN_COLUMNS if not name.startswith("gen_")}
        run |= {
            "pipeline": Pipeline(space.name, values),
            "libraries": json.loads(row["libraries"] or "{}"),
            "generation": {name: value for name, value in generation.items() if value is not None} or None,
        }
        results.append(RunResult(RunRow(**run), tuple(points.get(row["run_id"], ()))))
    return results
