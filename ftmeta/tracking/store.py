"""One experiment of an MLflow server or database: how a run of ours is written there, and found again.

In: a RunResult. Out: an MLflow run with the pipeline as parameters, what made it as tags, and one value of each metric
per fidelity (the step). The same run gives the same rows, so sending one twice adds nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ftmeta.costs import price_of
from ftmeta.schema import CurvePoint, RunResult, Status
from ftmeta.tracking.pages import tags_of_experiment
from ftmeta.tracking.scheme import (
    CHUNK,
    COST_USD,
    CURVE_METRICS,
    RUN,
    RUN_TAGS,
    Dataset,
    Prediction,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS_IN_MLFLOW: dict[Status, str] = {
    "ok": "FINISHED",
    "stopped": "KILLED",
    "diverged": "FAILED",
    "oom": "FAILED",
    "error": "FAILED",
}
_UNDER_WAY = "under way"  # tag `status` of a run that is reported while it lasts
_BATCH = 1000  # the most metrics that MLflow takes at once
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # whoever sends tries again itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass
class Store:
    """An open connection, for one thread."""

    client: MlflowClient
    experiment_id: str
    usd: Callable[[float, str], float | None]
    parent_id: str | None = None
    sent: dict[str, str | None] = field(default_factory=dict)  # run id -> status (None: begun by someone, or in doubt)
    is_remote: bool = True  # False: a database that this process reads itself
    chunk: str | None = None  # that new runs belong to


def new_client(uri: str) -> MlflowClient:
    """A client with short patience; nothing is asked of the server yet."""
    from mlflow import MlflowClient

    for setting, value in _SETTINGS.items():
        os.environ.setdefault(setting, value)
    return MlflowClient(tracking_uri=uri)


def open_store(uri: str, experiment: str, usd: Callable[[float, str], float | None]) -> Store:
    """Connects to the experiment, which is made where it is missing."""
    from mlflow.exceptions import MlflowException

    with _alone(uri):
        client = new_client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            with contextlib.suppress(MlflowException):  # another sweep may have made it meanwhile
                client.create_experiment(experiment, _artifacts_of(uri), tags_of_experiment(experiment))
            found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ConnectionError(f"experiment {experiment!r} could not be made")
    return Store(client, found.experiment_id, usd, is_remote=is_remote(uri))


# --- the runs ---------------------------------------------------------------------------------------------------------


def runs_there(store: Store) -> dict[str, str | None]:
    """Run id -> status (None: not complete), of all finetuning runs in the experiment, under whatever parent."""
    there: dict[str, str | None] = {}
    for run in search(store, f"tags.kind = '{RUN}'"):
        run_id = run.data.tags.get("run_id", "")
        there[run_id] = there.get(run_id) or (run.data.tags.get("status") if run.info.status != "RUNNING" else None)
    return there


def is_sent(store: Store, result: RunResult) -> bool:
    """Whether the experiment has the run as it is: one that failed and was made again ends otherwise."""
    return store.sent.get(result.run.run_id) == result.run.status


def find_run(store: Store, run_id: str) -> Any | None:
    return next(search(store, f"tags.run_id = {quoted(run_id)}"), None)


def send(
    store: Store,
    result: RunResult,
    *,
    look: bool = False,
    has_ended: bool = True,
    predicted: Prediction | None = None,
    artifacts: Mapping[str, Path] | None = None,
) -> None:
    """Writes a run, or completes it where it was begun; one that ended otherwise is replaced. `look`: someone may have
    begun it since `sent` was made. One that has not ended stays open, to be sent again with more points. `artifacts`:
    name -> a file or folder of this machine."""
    from mlflow.entities import RunTag

    run = result.run
    if is_sent(store, result):
        return
    begun = find_run(store, run.run_id) if look or store.parent_id is None or run.run_id in store.sent else None
    if begun is not None and begun.data.tags.get("status") not in (run.status, _UNDER_WAY):
        store.client.delete_run(begun.info.run_id)
        begun = None
    tags = _tags(result, store) | ({} if has_ended else {"status": _UNDER_WAY})
    if predicted is not None:
        tags["selector"] = predicted.selector
    was_under_way = begun is not None and begun.data.tags.get("status") == _UNDER_WAY
    if begun is None:
        begun = store.client.create_run(
            store.experiment_id,
            start_time=None if run.started_at is None else _milliseconds(run.started_at),
            tags=tags,
            run_name=f"{run.task} {run.pipeline.id}" + ("" if run.seed is None else f" seed {run.seed}"),
        )
    mlflow_id, started_ms = begun.info.run_id, begun.info.start_time
    params = params_of({**run.pipeline.values, "base_model": run.base_model, "seed": run.seed})
    metrics = _metrics(result, started_ms, store.usd, predicted)
    changed = [RunTag(name, value) for name, value in tags.items()] if was_under_way else []
    store.client.log_batch(mlflow_id, metrics=metrics[:_BATCH], params=params, tags=changed)
    for first in range(_BATCH, len(metrics), _BATCH):
        store.client.log_batch(mlflow_id, metrics=metrics[first : first + _BATCH])
    if not was_under_way and run.task_fingerprint is not None:  # imported runs may have none
        store.client.log_inputs(mlflow_id, [input_of(Dataset(run.task, run.task_fingerprint))])
    if not has_ended:
        store.sent[run.run_id] = None
        return
    for name, path in (artifacts or {}).items():
        log_folder(store, mlflow_id, path, name)
    ended_ms = started_ms + int((run.wall_s or 0.0) * 1000)
    store.client.set_terminated(mlflow_id, status=STATUS_IN_MLFLOW[run.status], end_time=ended_ms)
    store.sent[run.run_id] = run.status


def _metrics(
    result: RunResult,
    started_ms: int,
    usd: Callable[[float, str], float | None],
    predicted: Prediction | None,
) -> list[Any]:
    from mlflow.entities import Metric

    def at(point: CurvePoint, values: Mapping[str, float | None]) -> Iterator[Metric]:
        when_ms = started_ms + int((point.wall_s or 0.0) * 1000)
        for name, value in values.items():
            if value is not None:
                yield Metric(name, float(value), when_ms, point.fidelity)

    run = result.run
    rows: list[Any] = []
    for point in result.curve:
        priced = point.cost_s is not None and run.device is not None
        values = {metric: getattr(point, column) for column, metric in CURVE_METRICS.items()}
        rows += at(point, {**values, COST_USD: usd(point.cost_s, run.device) if priced else None})
    generation = {f"test_{name}": value for name, value in (run.generation or {}).items()}
    last, when_ms = (rows[-1].step, rows[-1].timestamp) if rows else (0, started_ms)
    expected = {} if predicted is None else predicted.metrics()
    once = {"peak_memory_gb": run.peak_memory_gb, **generation, **expected}
    return rows + [Metric(name, float(value), when_ms, last) for name, value in once.items() if value is not None]


def _tags(result: RunResult, store: Store) -> dict[str, str]:
    run = result.run
    known = {name: getattr(run, name) for name in RUN_TAGS}
    if run.cost_s is not None and run.device is not None:  # a run that broke off has cost more than its curve says
        known["cost_usd"] = store.usd(run.cost_s, run.device)
        known["price"] = None if known["cost_usd"] is None else price_of(run.device)
    return {
        **({} if store.parent_id is None else {"mlflow.parentRunId": store.parent_id}),
        "kind": RUN,
        **({} if store.chunk is None else {CHUNK: store.chunk}),
        "pipeline": run.pipeline.id,
        **({"libraries": json.dumps(dict(run.libraries), sort_keys=True)} if run.libraries else {}),
        **{name: str(value)[:5000] for name, value in known.items() if value is not None},
    }


def input_of(dataset: Dataset) -> Any:
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    source = json.dumps({"sort": dataset.sort, "name": dataset.name, "fingerprint": dataset.fingerprint})
    described = MlflowDataset(dataset.name[:500], dataset.fingerprint[:36], "ftmeta", source)
    return DatasetInput(described, [InputTag("mlflow.data.context", dataset.context)])


def params_of(values: Mapping[str, Any]) -> list[Any]:
    """Unknown ones (of imported runs) are left out."""
    from mlflow.entities import Param

    return [Param(name, _written(value)[:6000]) for name, value in values.items() if value is not None]


def _written(value: Any) -> str:
    """2 for 2.0 too: a ledger has 2 where a table's column has 2.0, and MLflow takes no other text for a parameter."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _milliseconds(started_at: str) -> int:
    when = datetime.fromisoformat(started_at)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def log_folder(store: Store, mlflow_id: str, path: Path, name: str) -> None:
    """A folder, or a file, as artifacts under `name`. Again replaces them."""
    if path.is_dir():
        store.client.log_artifacts(mlflow_id, str(path), name)
    else:
        store.client.log_artifact(mlflow_id, str(path))


# --- MLflow's ways ----------------------------------------------------------------------------------------------------


def search(store: Store, where: str) -> Iterator[Any]:
    """All runs of the experiment that fit, page by page, as an iterator."""
    page = store.client.search_runs([store.experiment_id], where, max_results=1000)
    while True:
        yield from page
        if not page.token:
            return
        page = store.client.search_runs([store.experiment_id], where, max_results=1000, page_token=page.token)


def quoted(text: str) -> str:
    """As MLflow's filters take it. Foreign run ids may hold any character but, there, both kinds of quotes."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def refused_for_good(error: Exception) -> bool:
    """True where sending the same again would be refused again."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


def first_line(error: Exception) -> str:
    """What went wrong, without the password that an address in it may hold."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403):
        return (
            "it refuses this user; give the right ones in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "have the user allowed to edit the experiment"
        )
    said = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    return shown(said)[:300]


def shown(text: str) -> str:
    """An address, or a text with addresses, without the passwords that may stand in them."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def is_remote(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time opens a database file: two that make its tables at once get in each other's way. A server
    does so by itself."""
    file = _database_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / f".{file.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a shared disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _database_file(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else Path(path).absolute()


def _artifacts_of(uri: str) -> str | None:
    """Artifacts of a database file lie beside it (MLflow would put them into the working directory); None: as is."""
    file = _database_file(uri)
    return None if file is None else str(file.parent / "artifacts")
