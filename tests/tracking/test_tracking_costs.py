"""`ftmeta costs` on a real database: sums, groups, what is not counted, and that tables say what the runs say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.cli import main
from ftmeta.costs import price_of, usd_of
from ftmeta.errors import FtmetaError, UserError
from ftmeta.schema import RunResult
from ftmeta.tracking import Tracker, spending, tracker
from ftmeta.tracking.rows import read_experiments
from ftmeta.tracking.table import from_json, to_json
from tests.test_tracking import a_result, database
from tests.tracking.conftest import results

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


def test_by_task(history: str) -> None:
    document = spending.costs(history, "task")
    made = results()
    for row in document["rows"]:
        runs = [one.run for one in made if one.run.task == row["task"]]
        more_s = 50.0 if row["task"] == "task2" else 0.0  # what the tuning took beside its runs
        assert row["runs"] == len(runs) == 4
        assert row["cost_s"] == pytest.approx(sum(run.cost_s for run in runs) + more_s)
    total = document["total"]
    assert total["runs"] == 12
    assert total["unpriced"] == 0
    runs_usd = sum(usd_of(one.run.cost_s, "cpu") or 0.0 for one in made)
    tuning_usd = 1.0 - (usd_of(made[10].run.cost_s, "cpu") or 0.0)
    assert total["cost_usd"] == pytest.approx(runs_usd + tuning_usd)
    assert document["currency"] == "USD"
    assert document["foreign_runs"] == 2
    assert document["experiments"] == ["collect", "finetune", "tune"]


@pytest.mark.parametrize("by", sorted(spending.BY))
def test_every_group_adds_up_to_the_total(history: str, by: str) -> None:
    document = spending.costs(history, by)
    for name in ("runs", "cost_s", "cost_usd"):
        assert sum(row[name] for row in document["rows"]) == pytest.approx(document["total"][name])
    if by == "month":
        assert [row["month"] for row in document["rows"]][:2] == ["2026-01", "2026-02"]
        assert document["rows"][1]["runs"] == 1


def test_predicted_costs_beside_what_came(history: str) -> None:
    compared = spending.costs(history)["predicted"]
    cost_s = results()[11].run.cost_s
    assert compared == {
        "runs": 1,
        "predicted_s": pytest.approx(1.5 * cost_s),
        "cost_s": pytest.approx(cost_s),
        "median_relative_error": pytest.approx(0.5),
    }
    assert spending.costs(history, experiments=["collect"])["predicted"] is None


def test_a_table_says_what_the_runs_say(history: str) -> None:
    from mlflow import MlflowClient

    def read() -> list:
        (found,) = read_experiments(history, ["collect"])
        return sorted(found.runs, key=lambda run: run.run_id)

    as_table = read()
    client = MlflowClient(tracking_uri=history)
    (found,) = read_experiments(history, ["collect"])
    (ended,) = [parent for parent in found.parents if parent.name == "ended"]
    client.update_run(ended.mlflow_id, status="RUNNING")  # its table does not count now
    try:
        assert read() == as_table
    finally:
        client.update_run(ended.mlflow_id, status="FINISHED")
    assert len(as_table) == 10
    assert from_json(to_json(as_table)) == as_table


def test_a_sweep_under_way_is_read_by_chunks_also_when_its_driver_was_killed(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri, made = database(tmp_path), [a_result(seed) for seed in range(7)]
    broken = RunResult(replace(made[6].run, status="error", error="died"), made[6].curve)
    for results_of_driver in ([broken, *made[:4]], made[4:]):  # the second makes again what had failed
        sweep = tracker(uri, "collect", usd=usd_of).sweep("smoke", "key")
        for result in results_of_driver:
            sweep.log(result)
        assert sweep.close("ok", {}) == 0
    client = MlflowClient(tracking_uri=uri)

    def read() -> tuple[set[str], float]:
        (found,) = read_experiments(uri, ["collect"])
        assert len(found.runs) == len(made)
        return {run.run_id for run in found.runs}, sum(run.cost_s or 0.0 for run in found.runs)

    whole = read()
    (found,) = read_experiments(uri, ["collect"])
    client.update_run(found.parents[0].mlflow_id, status="RUNNING")
    tags = client.get_run(found.parents[0].mlflow_id).data.tags
    assert sorted(value for name, value in tags.items() if name.startswith("chunk.")) == ["open", "open"]
    assert read() == whole
    assert whole[0] == {result.run.run_id for result in made}


def test_a_chunk_that_is_full_is_a_table(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri, made = database(tmp_path), [a_result(seed) for seed in range(5)]
    sweep = Tracker(uri, "collect", usd=usd_of, chunk=2).sweep("smoke", "key")
    for result in made:
        sweep.log(result)
    assert sweep.close("ok", {}) == 0
    client = MlflowClient(tracking_uri=uri)
    (found,) = read_experiments(uri, ["collect"])
    parent_id = found.parents[0].mlflow_id
    client.update_run(parent_id, status="RUNNING")
    states = [value for name, value in client.get_run(parent_id).data.tags.items() if name.startswith("chunk.")]
    assert sorted(states) == ["closed", "closed", "open"]
    assert len(client.list_artifacts(parent_id, "chunks")) == 2
    by_chunks = read_experiments(uri, ["collect"])[0].runs
    assert sorted(by_chunks, key=lambda run: run.run_id) == sorted(found.runs, key=lambda run: run.run_id)
    for table in tmp_path.glob("artifacts/*/artifacts/chunks/*.json"):
        table.write_text("torn")
    assert len(read_experiments(uri, ["collect"])[0].runs) == 5


@pytest.mark.parametrize("text", ["", "{", "{}", '{"format": 0, "columns": [], "data": []}', "[]"])
def test_a_table_that_is_torn_or_of_another_version_is_none(text: str) -> None:
    assert from_json(text) is None


def test_runs_of_a_parent_that_was_deleted_are_counted(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = database(tmp_path)
    for key in ("a", "b"):
        sweep = tracker(uri, "collect").sweep(key, key)
        sweep.log(a_result(seed=ord(key)))
        assert sweep.close("ok", {}) == 0
    (found,) = read_experiments(uri, ["collect"])
    MlflowClient(tracking_uri=uri).delete_run(found.parents[0].mlflow_id)
    document = spending.costs(uri)
    assert document["total"]["runs"] == 2
    assert document["total"]["cost_usd"] is None, "no price was known, and none is guessed"
    assert document["total"]["unpriced"] == 2


def test_a_sweep_that_goes_on_has_the_costs_of_both_times(tmp_path: Path) -> None:
    uri = database(tmp_path)
    for seed in (0, 1):
        sweep = tracker(uri, "collect", usd=usd_of).sweep("smoke", "key")
        sweep.log(a_result(seed))
        own = {"cost.device_seconds": 3.5, "cost.usd": usd_of(3.5, "cpu")}  # of this submission alone
        assert sweep.close("ok", own) == 0
    (found,) = read_experiments(uri, ["collect"])
    assert found.parents[0].cost_s == pytest.approx(7.0)
    assert found.parents[0].cost_usd == pytest.approx(usd_of(7.0, "cpu"))
    assert spending.costs(uri)["total"]["cost_s"] == pytest.approx(7.0)


def test_the_command(history: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ftmeta", "costs", "--by", "month", "--tracking-uri", history, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["by"] == "month"
    monkeypatch.setattr("sys.argv", ["ftmeta", "costs", "--tracking-uri", history])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "2 runs of others are in these experiments and not counted" in said
    assert "median error 50 %" in said
    monkeypatch.setattr("sys.argv", ["ftmeta", "costs", "--by", "colour", "--tracking-uri", history])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "choose one of task, pipeline" in capsys.readouterr().err


def test_what_is_not_there_is_said(history: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no experiment 'colect'; it has"):
        spending.costs(history, experiments=["colect"])
    with pytest.raises(UserError, match="is not there"):
        spending.costs(f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(FtmetaError, match="does not answer as it should"):
        spending.costs("http://127.0.0.1:9")


def test_a_price_is_told_with_its_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert price_of("cpu") == "0.09 USD an hour (cpu-core, as of 2025-07-01)"
    assert price_of("NVIDIA of tomorrow") is None
    own = tmp_path / "prices.yaml"
    own.write_text("currency: USD\nas_of: 2026-11-01\nprice_usd_per_hour: {cpu-core: 0.02, l4: null}\n")
    monkeypatch.setenv("FTMETA_PRICES", str(own))
    assert price_of("cpu") == "0.02 USD an hour (cpu-core, as of 2026-11-01)"
    assert price_of("NVIDIA L4") is None, "one's own table says that it is unknown"
