"""To and from MLflow, with real databases: gaps filled, killed half-way and again, exact round trips, foreign runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftmeta.cli import main
from ftmeta.errors import DataError, FtmetaError, UserError
from ftmeta.metadataset import Ledger, MetaDataset, read, write
from ftmeta.metadataset.folder import runs_in
from ftmeta.metadataset.importing import import_tables
from ftmeta.schema import RunResult
from ftmeta.space import load_space, parse_space
from ftmeta.tracking import tracker
from ftmeta.tracking.filling import Filled, Parent, fill
from ftmeta.tracking.history import import_experiment
from ftmeta.tracking.reading import Names
from tests.surrogates.synthetic import BASE_MODEL, HARDWARE, sweep, task_metafeatures

pytestmark = [
    # MLflow's own use of its dependencies' older names, not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]

SPACE = load_space()
NOT_IN_MLFLOW = ["step", "examples", "tokens"]
FOREIGN = parse_space(
    """\
name: mine
max_fidelity: 4
hyperparameters:
  optimizer: {type: categorical, choices: [adam, sgd], default: adam}
  learning_rate: {type: float, low: 1.0e-5, high: 1.0, log: true, default: 1.0e-3}
""",
    "mine",
)


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def some_results() -> list[RunResult]:
    """Eight runs of two tasks, with all that a run of ftmeta's own may have."""
    results = [RunResult(replace(one.run, libraries={"torch": "2.13"}), one.curve) for one in sweep(2, 4)]
    first, second, third = results[:3]
    results[0] = RunResult(replace(first.run, generation={"exact_match": 0.25, "f1": 0.5}), first.curve)
    results[1] = RunResult(replace(second.run, status="error", error="it's broken", fidelity=0, cost_s=1.25), ())
    cut = (*third.curve[:3], replace(third.curve[3], score=None, val_nll=None))
    results[2] = RunResult(replace(third.run, status="diverged", fidelity=3), cut)
    return results


def written(folder: Path, results: list[RunResult]) -> Path:
    write(
        folder,
        results,
        space=SPACE,
        metafeatures={(task, BASE_MODEL.name): mf for task, mf in task_metafeatures(2).items()},
        base_models={BASE_MODEL.name: BASE_MODEL},
        hardware={"cpu": HARDWARE},
        budget=SPACE.budget(eval_examples=77),
        name="smoke",
    )
    return folder


def budget_params(meta: MetaDataset) -> dict[str, str]:
    return {f"budget.{name}": str(value) for name, value in meta.manifest["budget"].items()}


def everything_in(uri: str, experiment: str = "collect") -> dict[str, Any]:
    """All that MLflow holds of an experiment, in one comparable value."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    held = {}
    for run in client.search_runs([found.experiment_id]):
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        rows = {name: [(m.step, m.value, m.timestamp) for m in metrics] for name, metrics in history.items()}
        tags = {name: value for name, value in run.data.tags.items() if name != "runs_table"}
        held[run.info.run_id] = (dict(run.info), run.data.params, tags, rows)
    return held


def run_ids(held: dict[str, Any]) -> list[str]:
    return sorted(tags["run_id"] for _, _, tags, _ in held.values() if tags["kind"] == "run")


def same(one: pd.DataFrame, other: pd.DataFrame, key: list[str]) -> list[str]:
    """Names of columns that differ."""
    one, other = (frame.sort_values(key, ignore_index=True) for frame in (one, other))
    assert len(one) == len(other)
    return [name for name in one if not (one[name].eq(other[name]) | one[name].isna() & other[name].isna()).all()]


# --- to MLflow --------------------------------------------------------------------------------------------------------


def test_what_mlflow_lacks_is_sent_and_again_changes_nothing(tmp_path: Path) -> None:
    results, uri = some_results(), database(tmp_path)
    owner = tracker(uri, "collect", usd=lambda cost_s, device: cost_s / 3600)
    tracked = owner.sweep("smoke", "key", {"tasks": "two"})
    for result in results[:3]:
        tracked.log(result)
    tracked.close("ok", {"runs.done": 3.0})
    before = everything_in(uri)

    assert fill(owner, results, Parent("another name")) == Filled(sent=5, already_there=3, failed=0)
    held = everything_in(uri)
    assert {run: held[run] for run in before} == before  # the sweep's own runs and its parent stay as they were
    assert run_ids(held) == sorted(result.run.run_id for result in results)
    (parent,) = [run for run, (_, _, tags, _) in held.items() if tags["kind"] == "sweep"]
    assert {tags["mlflow.parentRunId"] for _, _, tags, _ in held.values() if tags["kind"] == "run"} == {parent}

    assert fill(owner, results, Parent("another name")) == Filled(sent=0, already_there=8, failed=0)
    assert everything_in(uri) == held
    again = owner.sweep("smoke", "key")  # the sweep goes on and knows them
    for result in results:
        again.log(result)
    assert again.close("ok", {}) == 0
    assert run_ids(everything_in(uri)) == run_ids(held)


def test_a_sweep_that_mlflow_never_saw_gets_a_parent_and_goes_on_under_it(tmp_path: Path) -> None:
    results, uri = some_results(), database(tmp_path)
    owner = tracker(uri, "collect")
    parent = Parent("smoke", "key", {"space": "lora-v1"}, "name: smoke\n")
    assert fill(owner, results[:4], parent).sent == 4
    assert fill(owner, results, parent).sent == 4
    (found,) = [one for one in everything_in(uri).values() if one[2]["kind"] == "sweep"]
    assert [value for _, value, _ in found[3]["runs.done"]] == [3.0, 7.0]
    tracked = owner.sweep("smoke", "key")
    for result in results:
        tracked.log(result)
    assert tracked.close("ok", {}) == 0
    held = everything_in(uri)
    (found,) = [one for one in held.values() if one[2]["kind"] == "sweep"]
    assert (found[0]["status"], found[0]["run_name"], found[1]) == ("FINISHED", "smoke", {"space": "lora-v1"})
    assert "made_by" not in found[2]  # it is the sweep's own now
    assert run_ids(held) == sorted(result.run.run_id for result in results)
    assert [file.read_text() for file in (tmp_path / "artifacts").rglob("sweep.yaml")] == ["name: smoke\n"]


def test_a_run_begun_from_the_ledger_is_completed_from_the_table(tmp_path: Path) -> None:
    """A table's column of numbers has 2.0 where the ledger has 2; MLflow takes one text for a parameter."""
    uri = database(tmp_path)
    (from_ledger,) = sweep(1, 1)
    values = from_ledger.run.pipeline.values
    assert isinstance(values["alpha_per_rank"], int)
    pipeline = replace(from_ledger.run.pipeline, values={**values, "alpha_per_rank": float(values["alpha_per_rank"])})
    from_table = replace(from_ledger, run=replace(from_ledger.run, pipeline=pipeline))
    assert fill(tracker(uri, "collect"), [from_ledger], Parent("smoke")).sent == 1
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (found,) = [key for key, one in everything_in(uri).items() if one[2]["kind"] == "run"]
    client.update_run(found, status="RUNNING")  # as when it was killed before its end
    assert fill(tracker(uri, "collect"), [from_table], Parent("smoke")) == Filled(sent=1, already_there=0, failed=0)
    info, params, _, _ = everything_in(uri)[found]
    assert (info["status"] != "RUNNING", params["alpha_per_rank"]) == (True, str(values["alpha_per_rank"]))


@pytest.mark.parametrize("runs_before_the_kill", [0, 2])
def test_killed_half_way_and_again_is_whole(tmp_path: Path, runs_before_the_kill: int) -> None:
    """The process is killed as soon as the database has a number of runs, at whatever request it then is."""
    results, uri = sweep(2, 10), database(tmp_path)
    folder = written(tmp_path / "meta", results)
    command = [sys.executable, "-m", "ftmeta", "metadata", "to-mlflow", str(folder), "--tracking-uri", uri]
    code = "import sys; from ftmeta.cli import main; sys.argv = sys.argv[1:]; main()"
    command = [sys.executable, "-c", code, "ftmeta", *command[3:]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while rows_of(tmp_path / "mlflow.db") <= runs_before_the_kill and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    filled = fill(tracker(uri, "collect"), results, Parent("smoke"))
    assert (filled.sent + filled.already_there, filled.failed) == (20, 0)
    held = everything_in(uri)
    assert run_ids(held) == sorted(result.run.run_id for result in results)
    assert all(info["status"] != "RUNNING" for info, _, _, _ in held.values())
    import_experiment(uri, "collect", SPACE, tmp_path / "back", Names())
    assert (
        same(read(folder).curves.drop(columns=NOT_IN_MLFLOW), read(tmp_path / "back").curves, ["run_id", "fidelity"])
        == []
    )


def rows_of(path: Path) -> int:
    """Runs in the database; 0 while it is being made."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.Error:
        return 0
    try:
        return int(connection.execute("select count(*) from runs").fetchone()[0])
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def test_a_server_that_is_down_is_said_and_one_that_goes_away_leaves_the_rest_for_later(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(FtmetaError, match="does not answer as it should") as failed:
        fill(tracker(address, "collect"), some_results(), Parent("smoke"))
    assert "secret" not in str(failed.value)
    with pytest.raises(FtmetaError, match="does not answer as it should") as failed:
        import_experiment(address, "collect", SPACE, tmp_path / "out", Names())
    assert "secret" not in str(failed.value)

    results, uri = some_results(), database(tmp_path)
    aside = tmp_path / "aside"
    aside.mkdir()
    seen = []

    def each() -> None:  # after the third run the database cannot be written any more
        seen.append(1)
        if len(seen) == 3:
            with sqlite3.connect(tmp_path / "mlflow.db") as connection:
                connection.execute("alter table runs rename to elsewhere")
            connection.close()

    filled = fill(tracker(uri, "collect"), results, Parent("smoke"), each=each, pauses_s=(0.0, 0.0))
    assert filled == Filled(sent=3, already_there=0, failed=5)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("alter table elsewhere rename to runs")
    connection.close()
    assert fill(tracker(uri, "collect"), results, Parent("smoke")) == Filled(sent=5, already_there=3, failed=0)


def test_imported_runs_can_be_sent_though_much_of_them_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "run_id,task,status,optimizer,learning_rate\nit's,cats,ok,adam,0.1\nb,cats,oom,sgd,1\n"
    )
    (tmp_path / "curves.csv").write_text("run_id,fidelity,score,cost_s\nit's,1,-7,2.5\nit's,2,-6,\n")
    import_tables(FOREIGN, tmp_path / "runs.csv", tmp_path / "curves.csv", tmp_path / "meta")
    results, problems = runs_in(tmp_path / "meta")
    assert problems == []
    uri = database(tmp_path)
    for sent in (2, 0):
        assert fill(tracker(uri, "collect"), results, Parent("smoke")) == Filled(sent, 2 - sent, 0)
    import_experiment(uri, "collect", FOREIGN, tmp_path / "back", Names())
    there, back = read(tmp_path / "meta"), read(tmp_path / "back")
    assert same(there.runs, back.runs, ["run_id"]) == []
    assert same(there.curves, back.curves, ["run_id", "fidelity"]) == []


# --- from MLflow, ftmeta's own runs -----------------------------------------------------------------------------------


def test_what_ftmeta_has_sent_comes_back_as_it_was(tmp_path: Path) -> None:
    results, uri = some_results(), database(tmp_path)
    there = read(written(tmp_path / "meta", results))
    fill(tracker(uri, "collect"), results, Parent("smoke", "key", budget_params(there)))
    document = import_experiment(uri, "collect", SPACE, tmp_path / "back", Names(), name="smoke")
    assert (document["runs"], document["rejected"], document["scales"]) == (8, [], None)
    back = read(tmp_path / "back")
    assert same(there.runs, back.runs, ["run_id"]) == []
    assert same(there.curves.drop(columns=NOT_IN_MLFLOW), back.curves, ["run_id", "fidelity"]) == []
    assert back.curves[NOT_IN_MLFLOW].isna().all().all()
    assert back.pipelines() == there.pipelines()
    assert back.budget == there.budget
    assert back.budget.eval_examples == 77


def test_bundled_tasks_and_models_are_described_again(tmp_path: Path) -> None:
    from ftmeta.models import resolve
    from ftmeta.tasks.bundled import card_json

    model, uri = resolve("phi3-micro"), database(tmp_path)
    results = [
        RunResult(
            replace(
                one.run,
                task="elements",
                task_fingerprint=card_json("elements")["fingerprint"] if number else "an older version",
                base_model=model.name,
                base_model_fingerprint=model.fingerprint,
            ),
            one.curve,
        )
        for number, one in enumerate(sweep(1, 3))
    ]
    fill(tracker(uri, "collect"), results[1:], Parent("smoke"))
    import_experiment(uri, "collect", SPACE, tmp_path / "back", Names())
    back = read(tmp_path / "back")
    assert back.shapes == {"phi3-micro": model.shape}
    features = back.metafeatures()["elements", "phi3-micro"]
    assert features["log10_train_examples"] > 1
    fill(tracker(uri, "older"), results[:1], Parent("smoke"))
    import_experiment(uri, "older", SPACE, tmp_path / "older", Names())
    assert read(tmp_path / "older").metafeatures() == {("elements", "phi3-micro"): {}}


def test_runs_of_another_budget_or_space_and_unfinished_ones_are_rejected(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    results, uri = sweep(2, 3), database(tmp_path)
    there = read(written(tmp_path / "meta", results))
    owner, params = tracker(uri, "collect"), budget_params(there)
    fill(owner, results[:3], Parent("smoke", "key", params))
    fill(owner, results[3:4], Parent("longer", "other key", {**params, "budget.epochs": "9.0"}))
    elsewhere = RunResult(replace(results[4].run, space="other"), results[4].curve)
    fill(owner, [elsewhere], Parent("smoke", "key", params))
    held = everything_in(uri)
    by_id = {tags.get("run_id"): run for run, (_, _, tags, _) in held.items()}
    MlflowClient(tracking_uri=uri).update_run(by_id[results[2].run.run_id], status="RUNNING")
    document = import_experiment(uri, "collect", SPACE, tmp_path / "back", Names())
    assert document["runs"] == 2
    why = {one["row"]: one["why"] for one in document["rejected"] if one["table"] == "runs"}
    assert "is running" in why[by_id[results[2].run.run_id]]
    assert "has another budget" in why[by_id[results[3].run.run_id]]
    assert "is of the space 'other'" in why[by_id[results[4].run.run_id]]


# --- from MLflow, runs of others --------------------------------------------------------------------------------------


def foreign_run(
    uri: str,
    *,
    scores: dict[int, float],
    status: str = "FINISHED",
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    costs: dict[int, float] | None = None,
    ended_s: float = 60.0,
) -> str:
    """A run that began at 1,000 s and logged a score every ten seconds."""
    from mlflow.entities import Metric, Param

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("theirs")
    experiment = found.experiment_id if found else client.create_experiment("theirs")
    run = client.create_run(experiment, start_time=1_000_000, tags={"task": "cats"} if tags is None else tags)
    metrics = [
        Metric("accuracy", v, 1_000_000 + 10_000 * n, step) for n, (step, v) in enumerate(scores.items(), start=1)
    ]
    metrics += [Metric("seconds", v, 1_000_000, step) for step, v in (costs or {}).items()]
    given = {"optimizer": "adam", "learning_rate": 0.01, "unrelated": "x", **(params or {})}
    client.log_batch(run.info.run_id, metrics, [Param(name, str(value)) for name, value in given.items()])
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status, end_time=1_000_000 + int(ended_s * 1000))
    return str(run.info.run_id)


def curve_of(meta: MetaDataset, run_id: str, *columns: str) -> list[tuple[Any, ...]]:
    rows = meta.curves[meta.curves["run_id"] == run_id]
    return [tuple(row) for row in rows[list(columns)].to_numpy().tolist()]


def test_foreign_runs_are_read_by_the_names_that_are_given(tmp_path: Path) -> None:
    uri = database(tmp_path)
    by_metric = foreign_run(
        uri, scores={1: 0.5, 2: 0.6, 3: 0.7}, costs={1: 5.0, 3: 9.0}, tags={"task": "dogs", "mf_size": "3"}
    )
    by_clock = foreign_run(uri, scores={1: 0.4, 2: 0.45}, params={"base_model": "llama", "seed": 4, "device": "cpu"})
    failed = foreign_run(uri, scores={}, status="FAILED")
    killed = foreign_run(uri, scores={1: 0.3}, status="KILLED")
    once = foreign_run(uri, scores={0: 0.8})
    group = foreign_run(uri, scores={}, params={"learning_rate": "many"})
    foreign_run(uri, scores={1: 0.2}, tags={"task": "cats", "mlflow.parentRunId": group})
    document = import_experiment(uri, "theirs", FOREIGN, tmp_path / "out", Names(score="accuracy", cost="seconds"))
    assert document["rejected"] == []
    assert document["statuses"] == {"error": 1, "ok": 4, "stopped": 1}
    assert document["cost_by_clock"] == 4
    meta = read(tmp_path / "out")
    assert curve_of(meta, by_metric, "fidelity", "score", "cost_s") == [(1, 0.5, 5.0), (2, 0.6, 5.0), (3, 0.7, 9.0)]
    assert curve_of(meta, by_clock, "fidelity", "score", "cost_s") == [(1, 0.4, 10.0), (2, 0.45, 60.0)]
    assert curve_of(meta, once, "fidelity", "score", "cost_s") == [(4, 0.8, 60.0)]
    assert curve_of(meta, failed, "fidelity") == []
    runs = meta.runs.set_index("run_id")
    assert runs.loc[killed, "status"] == "stopped"
    assert (runs.loc[by_clock, "base_model"], runs.loc[by_clock, "seed"], runs.loc[by_clock, "wall_s"]) == (
        "llama",
        4,
        60.0,
    )
    assert meta.metafeatures()["dogs", "unknown"] == {"size": 3.0}
    card = (tmp_path / "out" / "card.md").read_text()
    assert "4 runs have no metric `seconds`" in card
    assert "`accuracy`" in card


def test_losses_are_turned_round_and_steps_are_put_into_fidelities(tmp_path: Path) -> None:
    uri = database(tmp_path)
    run = foreign_run(uri, scores={100: 5.0, 500: 4.0, 900: 3.0, 1000: 2.0, 2000: 1.0})
    other = foreign_run(uri, scores={500: 4.5, 2500: 0.5})
    names = Names(score="-accuracy", steps_per_fidelity=500)
    document = import_experiment(uri, "theirs", FOREIGN, tmp_path / "out", names)
    meta = read(tmp_path / "out")
    scale = meta.scales["cats"]
    assert [(t, scale.undo(score)) for t, score in curve_of(meta, run, "fidelity", "score")] == [
        (1, pytest.approx(-4.0)),
        (2, pytest.approx(-2.0)),
        (4, pytest.approx(-1.0)),
    ]
    (rejected,) = document["rejected"]
    assert rejected["row"] == f"{other} step 2500"
    assert "--steps-per-fidelity" in rejected["why"]

    epochs = foreign_run(uri, scores={0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}, tags={"dataset": "birds"})
    names = Names(score="accuracy", task="dataset", first_step=0)
    document = import_experiment(uri, "theirs", FOREIGN, tmp_path / "epochs", names)
    assert document["runs"] == 1
    assert curve_of(read(tmp_path / "epochs"), epochs, "fidelity", "score") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert {one["why"] for one in document["rejected"] if one["table"] == "runs"} == {"task is empty"}


def test_foreign_runs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    uri = database(tmp_path)
    bad = {
        foreign_run(uri, scores={1: 0.5}, status="RUNNING"): "is running",
        foreign_run(uri, scores={}): "has no metric 'accuracy'; it has none",
        foreign_run(uri, scores={1: 0.5}, params={"optimizer": "lion"}): "'optimizer' is 'lion'",
        foreign_run(uri, scores={1: float("nan")}): "no row of curves is kept",
        foreign_run(uri, scores={1: 0.5}, tags={}): "task is empty",
    }
    good = foreign_run(uri, scores={1: 0.5, 2: float("nan"), 3: 0.7})
    document = import_experiment(uri, "theirs", FOREIGN, tmp_path / "out", Names(score="accuracy"))
    assert read(tmp_path / "out").runs["run_id"].tolist() == [good]
    why = {one["row"]: one["why"] for one in document["rejected"]}
    for run, said in bad.items():
        assert said in why[run]
    assert why[f"{good} step 2"] == "score is nan; a score is a finite number"


def test_the_dataset_that_a_run_has_logged_is_its_task(tmp_path: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput

    from mlflow import MlflowClient

    uri = database(tmp_path)
    run = foreign_run(uri, scores={1: 0.5}, tags={})
    dataset = Dataset(name="birds", digest="1", source_type="local", source="{}")
    MlflowClient(tracking_uri=uri).log_inputs(run, [DatasetInput(dataset)])
    import_experiment(uri, "theirs", FOREIGN, tmp_path / "out", Names(score="accuracy"))
    assert read(tmp_path / "out").runs["task"].tolist() == ["birds"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    uri, out = database(tmp_path), tmp_path / "out"
    with pytest.raises(UserError, match=r"mlflow\.db is not there"):
        import_experiment(uri, "theirs", FOREIGN, out, Names())
    assert not (tmp_path / "mlflow.db").exists()
    foreign_run(uri, scores={1: 0.5})
    with pytest.raises(UserError, match=r"no experiment 'mine'; it has .*theirs"):
        import_experiment(uri, "mine", FOREIGN, out, Names())
    with pytest.raises(UserError, match="has the metric 'score'; name one with --score: accuracy"):
        import_experiment(uri, "theirs", FOREIGN, out, Names())
    with pytest.raises(DataError, match="no run is left"):
        import_experiment(uri, "theirs", SPACE, out, Names(score="accuracy"))
    assert not out.exists()


# --- the commands -----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """Exit code, and the document or what was said on standard error."""
    monkeypatch.setattr(sys, "argv", ["ftmeta", "metadata", *map(str, arguments)])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    return int(code or 0), json.loads(said.out) if said.out.startswith("{") else said.out + said.err  # type: ignore[call-overload]


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results, folder = some_results(), tmp_path / "sweep"
    ledger = Ledger(folder / "ledger")
    assert command(monkeypatch, capsys, "to-mlflow", folder) == (
        2,
        "error: no MLflow is named; give --tracking-uri, or set MLFLOW_TRACKING_URI\n",
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database(tmp_path))
    code, said = command(monkeypatch, capsys, "to-mlflow", folder)
    assert code == 2
    assert "is no meta-dataset" in said
    for result in results[:5]:
        ledger.put(result)
    (folder / "ledger" / "torn.json").write_text("{")
    expected = {"runs": 5, "sent": 5, "already_there": 0, "failed": 0}
    assert command(monkeypatch, capsys, "to-mlflow", folder, "--json") == (0, expected)
    written(folder, results)  # the tables are behind the ledger or before it: the ledger is the truth
    for result in results[5:]:
        ledger.put(result)
    (tmp_path / "sweep.yaml").write_text("name: smoke\ntasks: [elements]\n")
    expected = {"runs": 8, "sent": 3, "already_there": 5, "failed": 0}
    arguments = ("to-mlflow", folder, "--sweep", tmp_path / "sweep.yaml", "--json")
    assert command(monkeypatch, capsys, *arguments) == (0, expected)
    (tmp_path / "sweep.yaml").rename(folder / "sweep.yaml")  # where a driver may leave it
    assert "0 sent, 8 already there" in command(monkeypatch, capsys, "to-mlflow", folder)[1]

    back = ("from-mlflow", "--experiment", "collect", "--space", "lora-v1", "--out", tmp_path / "back")
    code, document = command(monkeypatch, capsys, *back, "--json")
    assert (code, document["runs"], document["rejected"]) == (0, 8, [])
    code, said = command(monkeypatch, capsys, *back, "--score", "nll")
    assert code == 2
    assert "name one with --score" in said
    code, document = command(monkeypatch, capsys, *back, "--score", "-val_nll", "--json")
    assert code == 0
    assert document["scales"] is not None


@pytest.mark.cluster
def test_through_a_server(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", database(tmp_path), "--artifacts-destination", str(tmp_path / "files")),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        results = some_results()
        there = read(written(tmp_path / "meta", results))
        parent = Parent("smoke", "key", budget_params(there), "name: smoke\n")
        while True:
            try:
                filled = fill(tracker(uri, "collect"), results, parent)
                break
            except FtmetaError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert filled.failed == 0
        assert fill(tracker(uri, "collect"), results, parent) == Filled(sent=0, already_there=8, failed=0)
        import_experiment(uri, "collect", SPACE, tmp_path / "back", Names(), name="smoke")
        back = read(tmp_path / "back")
        assert same(there.runs, back.runs, ["run_id"]) == []
        assert same(there.curves.drop(columns=NOT_IN_MLFLOW), back.curves, ["run_id", "fidelity"]) == []
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
