from __future__ import annotations

from dataclasses import replace

import pytest

from ftmeta.costs import usd_of
from ftmeta.schema import RunResult
from ftmeta.tracking import tracker
from ftmeta.tracking.scheme import Dataset, Prediction
from tests.surrogates.synthetic import sweep


def results() -> list[RunResult]:
    """Twelve runs of three tasks; one broke off before its first point, one began in another month."""
    made = sweep(3, 4)
    first, second = made[0], made[1]
    made[0] = RunResult(replace(first.run, status="error", error="the worker died", fidelity=0, cost_s=3.0), ())
    made[1] = RunResult(replace(second.run, started_at="2026-02-03T00:00:00+00:00"), second.curve)
    return made


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a sweep that has ended, one that runs, a tuning, a recommended run, and runs of others."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("history")
    uri, made = f"sqlite:///{folder}/mlflow.db", results()
    owner = tracker(uri, "collect", usd=usd_of)
    ended = owner.sweep("ended", "a", {"tasks": "two"}, datasets=[Dataset("task0", "f" * 16)])
    for result in made[:8]:
        ended.log(result)
    assert ended.close("ok", {"runs.done": 7.0}) == 0
    running = owner.sweep("running", "b")
    for result in made[8:10]:
        running.log(result)
    assert running.close("ok", {}) == 0
    client = MlflowClient(tracking_uri=uri)
    collect = client.get_experiment_by_name("collect")
    assert collect is not None
    (parent,) = client.search_runs([collect.experiment_id], "attributes.run_name = 'running'")
    client.update_run(parent.info.run_id, status="RUNNING")  # as a driver that was killed leaves it

    tuning = tracker(uri, "tune", usd=usd_of).sweep("task2 ftmeta", "c", {"data": "task2"}, kind="tuning")
    tuning.log(made[10])
    cost_s = made[10].run.cost_s
    assert tuning.close("ok", {"cost.device_seconds": cost_s + 50.0, "cost.usd": 1.0}) == 0

    single = tracker(uri, "finetune", usd=usd_of).single()
    single.log(made[11], predicted=Prediction(made[11].run.cost_s * 1.5, "dbf4acb35d38", score=0.5))
    assert single.close("ok", {}) == 0

    for _ in range(2):
        client.create_run(collect.experiment_id, run_name="somebody else's")
    return uri
