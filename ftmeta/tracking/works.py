"""Meta-training, benchmarks and single finetuning runs in MLflow: a run each, found again by what it was made of.

In: what the command prints, and the folder that it has written. Out: how many could not be sent (0 or 1); like all
tracking it never raises, and does nothing without an address.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmeta.costs import usd, usd_of
from ftmeta.errors import DataError, FtmetaError
from ftmeta.files import fingerprint
from ftmeta.hardware import profile_of
from ftmeta.recommend import describe_task
from ftmeta.schema import BaseModelInfo, Pipeline, RunResult, Task
from ftmeta.selector import load_selector
from ftmeta.surrogates.quality import Z_80
from ftmeta.tracking.scheme import BENCHMARK, METATRAINING, Dataset, Prediction
from ftmeta.tracking.sweeps import tracker

log = logging.getLogger("ftmeta.tracking")

_PLOTS = (".svg", ".png")


def log_metatraining(document: Mapping[str, Any], uri: str | None = None) -> int:
    """`document`: that of `ftmeta metatrain --json`; `uri` None: $MLFLOW_TRACKING_URI, and none of both is off.

    The same selector is the same run: `ftmeta registry register` finds it by its version.
    """
    of, out = document["meta_dataset"], Path(document["out"])
    tracked = tracker(_address(uri), "metatrain").sweep(
        f"{of['name']} {document['version']}",
        document["version"],
        {"meta_dataset": of["name"], "runs": document["runs"], "tasks": document["tasks"]},
        kind=METATRAINING,
        datasets=[Dataset(of["name"], of["fingerprint"], "meta-dataset")],
    )
    quality = {f"quality.{name}": value for name, value in document["quality"].items()}
    return tracked.close("ok", {**quality, "wall_s": document["seconds"]}, {"surrogates": out})


def log_benchmark(document: Mapping[str, Any], out: Path, uri: str | None = None) -> int:
    """`document`: that of `ftmeta benchmark --json`; `out`: its folder. One that goes on is the same run."""
    of = document["meta_dataset"]
    settings = {name: document[name] for name in ("seeds", "budget_fraction") if name in document}
    methods = sorted(document["methods"])
    tracked = tracker(_address(uri), "benchmark").sweep(
        f"{of['name']}, {len(methods)} methods",
        fingerprint({"meta_dataset": of["fingerprint"], "methods": methods, **settings}),
        {"meta_dataset": of["name"], "methods": ", ".join(methods), "tasks": len(document["per_task"]), **settings},
        kind=BENCHMARK,
        datasets=[Dataset(of["name"], of["fingerprint"], "meta-dataset")],
    )
    metrics: dict[str, float | None] = {"wall_s": document["seconds"]}
    for method, row in document["methods"].items():
        name = re.sub(r"[^\w./ -]", "_", method)  # as MLflow takes it
        metrics[f"{name}.average_rank"] = row["average_rank"]
        metrics[f"{name}.regret_at_10_percent"] = row["regret"]["10"]
        metrics[f"{name}.regret_at_100_percent"] = row["regret"]["100"]
        metrics[f"{name}.test_score"] = row["test_score"]
    report = [out / name for name in ("report.md", "benchmark.json")]
    plots = [path for path in sorted(out.rglob("*")) if path.suffix in _PLOTS]
    return tracked.close("ok", metrics, {path.name: path for path in (*report, *plots) if path.is_file()})


def _address(uri: str | None) -> str | None:
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def log_finetuning(
    result: RunResult, folder: Path | None, *, predicted: Prediction | None = None, uri: str | None = None
) -> int:
    """A finetuning run of no sweep. `folder`: its adapter, pipeline and curve, which go along; None: it left none."""
    tracked = tracker(_address(uri), "finetune", usd=usd_of).single()
    tracked.log(result, predicted=predicted, artifacts={} if folder is None else {"run": folder})
    return tracked.close("ok", {})


def expectation(
    pipeline: Pipeline, task: Task, base_model: BaseModelInfo, device: str, *, selector: str | None = None
) -> Prediction | None:
    """What the selector that recommended `pipeline` expects of it on `device` (a run's row names it so); None where the
    device has no profile, the selector no cost for the task, or the selector is gone. Compared with what came, by
    `ftmeta costs`."""
    try:
        return _expectation(pipeline, task, base_model, device, selector)
    except FtmetaError as error:
        log.warning("what was expected of this run is not noted: %s", error)
        return None


def _expectation(
    pipeline: Pipeline, task: Task, base_model: BaseModelInfo, device: str, selector: str | None
) -> Prediction | None:
    chosen, hardware = load_selector(selector), profile_of(device)
    if hardware is None:
        return None
    features, _ = describe_task(chosen, task, base_model)
    surrogates = chosen.surrogates
    try:
        cost_s = float(surrogates.predict_cost([pipeline], features, base_model, hardware)[0, -1])
    except DataError:
        return None
    mean_NT, deviation_NT = surrogates.predict_curve([pipeline], features, base_model)
    mean, spread = float(mean_NT[0, -1]), Z_80 * float(deviation_NT[0, -1])
    return Prediction(
        cost_s=cost_s,
        selector=chosen.version,
        cost_usd=usd(cost_s, hardware.name),
        score=mean,
        score_low=max(mean - spread, 0.0),
        score_high=min(mean + spread, 1.0),
    )
