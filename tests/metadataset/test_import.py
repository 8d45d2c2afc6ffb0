"""Foreign tables: what is taken, what is rejected and why, the scale of the scores, and files that are no tables."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftmeta.cli import main
from ftmeta.errors import DataError, MetaDatasetError
from ftmeta.metadataset import describe, join, read
from ftmeta.metadataset.admission import Admitted, Rules, admit
from ftmeta.metadataset.given import read_csv
from ftmeta.metadataset.importing import import_tables
from ftmeta.metadataset.scaling import scaled, scales_of
from ftmeta.space import Space, parse_space

SPACE_YAML = """\
name: mine
max_fidelity: 4
hyperparameters:
  optimizer: {type: categorical, choices: [adam, sgd, none], default: adam}
  learning_rate: {type: float, low: 1.0e-5, high: 1.0e-1, log: true, default: 1.0e-3}
  momentum: {type: float, low: 0.0, high: 1.0, default: 0.9, when: {optimizer: [sgd]}}
  depth: {type: ordinal, values: [1, 2, 4], default: 2}
"""
SPACE = parse_space(SPACE_YAML, "mine")
Cells = Mapping[str, Any]


def a_run(run_id: str, task: str = "cats", **cells: Any) -> Cells:
    adam = {"optimizer": "adam", "learning_rate": 0.001, "momentum": "", "depth": 2}
    return {"run_id": run_id, "task": task, "status": "ok", **adam, **cells}


def a_curve(run_id: str, scores: Sequence[Any], first: int = 1, **cells: Any) -> list[Cells]:
    points = enumerate(scores, start=first)
    return [{"run_id": run_id, "fidelity": t, "score": score, "cost_s": 2.0 * t, **cells} for t, score in points]


def write_csv(path: Path, rows: Iterable[Cells], delimiter: str = ",") -> Path:
    rows = list(rows)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def importing(tmp_path: Path, runs: Iterable[Cells], curves: Iterable[Cells], **options: Any) -> dict[str, Any]:
    files = write_csv(tmp_path / "runs.csv", runs), write_csv(tmp_path / "curves.csv", curves)
    return import_tables(SPACE, *files, tmp_path / "out", **options)


def checked(tmp_path: Path, runs: Iterable[Cells], curves: Iterable[Cells]) -> tuple[Admitted, dict[Any, str]]:
    """What is let in, and the reasons by table and row."""
    files = write_csv(tmp_path / "runs.csv", runs), write_csv(tmp_path / "curves.csv", curves)
    given = read_csv(files[0], "runs", SPACE).rows, read_csv(files[1], "curves", SPACE).rows
    admitted = admit(*given, SPACE, Rules(SPACE.max_fidelity))
    return admitted, {(one.table, one.row): one.why for one in admitted.rejected}


def reasons(document: dict[str, Any], table: str) -> dict[Any, str]:
    return {one["row"]: one["why"] for one in document["rejected"] if one["table"] == table}


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_tables_become_a_meta_dataset(tmp_path: Path) -> None:
    runs = [
        a_run("a", mf_size=100, base_model="llama", seed=3, device="NVIDIA A100-SXM4-80GB"),
        a_run("b/2", "dogs", optimizer="sgd", momentum=0.5, depth="4.0", mf_size=7),
        a_run("c", "dogs", status="diverged", optimizer="none"),
    ]
    curves = [*a_curve("a", [0.1, 0.2, 0.3, 0.4], test_score=0.35), *a_curve("b/2", [0.5, 0.6])]
    document = importing(tmp_path, runs, reversed(curves), name="history")
    assert {key: document[key] for key in ("runs", "tasks", "rejected", "curve_rows", "scales", "ignored_columns")} == {
        "runs": 3,
        "tasks": 2,
        "rejected": [],
        "curve_rows": 6,
        "scales": None,
        "ignored_columns": [],
    }
    meta = read(tmp_path / "out")
    assert meta.name == "history"
    pipelines = meta.pipelines()
    assert dict(pipelines["b/2"].values) == {"optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.5, "depth": 4}
    assert dict(pipelines["c"].values) == {"optimizer": "none", "learning_rate": 0.001, "depth": 2}
    a, b, c = meta.runs.to_dict("records")
    assert (a["seed"], a["fidelity"], a["cost_s"], a["base_model"]) == (3, 4, 8.0, "llama")
    assert (b["fidelity"], b["cost_s"], b["max_fidelity"], b["base_model"]) == (2, 4.0, 4, "unknown")
    assert (c["status"], c["fidelity"]) == ("diverged", 0)
    assert np.isnan(c["cost_s"])
    for unknown in ("wall_s", "peak_memory_gb", "code_version", "task_fingerprint", "started_at", "error"):
        assert meta.runs[unknown].isna().all()
    assert meta.curves["score"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert meta.metafeatures() == {("cats", "llama"): {"size": 100.0}, ("dogs", "unknown"): {"size": 7.0}}
    assert {device: profile.name for device, profile in meta.hardware.items()} == {"NVIDIA A100-SXM4-80GB": "a100-80gb"}


def test_what_the_tables_do_not_say_is_unknown_in_the_description_and_the_card(tmp_path: Path) -> None:
    importing(tmp_path, [a_run("a")], a_curve("a", [0.5] * 4, cost_s=""))
    described = describe(tmp_path / "out")
    assert described["cost_s"] is None
    assert described["hardware"] == []
    assert described["imported"]["source"] == "the tables runs.csv and curves.csv"
    card = (tmp_path / "out" / "card.md").read_text()
    assert "runs.csv" in card
    assert "nan" not in card.lower().replace("finance", "")


def test_an_imported_meta_dataset_can_be_learned_from(tmp_path: Path) -> None:
    from ftmeta.surrogates import metatrain

    rng = random.Random(0)
    runs, curves = [], []
    for task, run in itertools.product(range(3), range(12)):
        rate, run_id = 10 ** rng.uniform(-5, -1), f"{task}-{run}"
        runs.append(a_run(run_id, f"task{task}", learning_rate=rate, depth=rng.choice([1, 2, 4])))
        best = -10.0 * (task + 1) - (np.log10(rate) + 3) ** 2
        curves += a_curve(run_id, [best - 4 / t for t in range(1, 5)])
    importing(tmp_path, runs, curves)
    surrogates = metatrain(read(tmp_path / "out"))
    assert surrogates.runs == 36
    tau = surrogates.quality["kendall_tau"]
    assert tau is not None
    assert tau > 0.5


def test_the_tables_of_a_meta_dataset_can_be_imported_again(tmp_path: Path) -> None:
    importing(
        tmp_path, [a_run("a"), a_run("b", optimizer="sgd", momentum=0.25)], a_curve("a", [0.1]) + a_curve("b", [1])
    )
    first = read(tmp_path / "out")
    first.runs.to_csv(tmp_path / "runs.csv", index=False)
    first.curves.to_csv(tmp_path / "curves.csv", index=False)
    import_tables(SPACE, tmp_path / "runs.csv", tmp_path / "curves.csv", tmp_path / "again")
    assert read(tmp_path / "again").fingerprint == first.fingerprint


def test_hyperparameters_called_like_a_column_are_given_with_p(tmp_path: Path) -> None:
    space = parse_space(SPACE_YAML + "  seed: {type: int, low: 0, high: 9, default: 1}\n", "mine")
    runs = write_csv(tmp_path / "runs.csv", [a_run("a", seed=77, p_seed=5)])
    curves = write_csv(tmp_path / "curves.csv", a_curve("a", [0.5]))
    import_tables(space, runs, curves, tmp_path / "out")
    meta = read(tmp_path / "out")
    assert meta.runs["seed"].tolist() == [77]
    assert meta.pipelines()["a"]["seed"] == 5
    write_csv(runs, [a_run("a", seed=77)])
    with pytest.raises(DataError, match="lacks the column p_seed"):
        import_tables(space, runs, curves, tmp_path / "out")


# --- what is rejected -------------------------------------------------------------------------------------------------

BAD_RUNS: dict[str, tuple[Cells, str]] = {
    "no id": (a_run(""), "run_id is empty"),
    "twice": (a_run("good"), "run 'good' stands in row 2 already"),
    "no task": (a_run("x", ""), "task is empty"),
    "no status": (a_run("x", status=""), "status is empty; give one of ok, diverged"),
    "unknown status": (a_run("x", status="done"), "'done' is no status; give one of ok"),
    "outside": (a_run("x", learning_rate=0.5), "'learning_rate' is 0.5; give a number from 1e-05 to 0.1"),
    "no number": (a_run("x", learning_rate="fast"), "'learning_rate' is 'fast'"),
    "infinite": (a_run("x", learning_rate="inf"), "'learning_rate' is inf"),
    "no choice": (a_run("x", optimizer="Adam"), "'optimizer' is 'Adam'; give one of adam, none, sgd"),
    "between": (a_run("x", depth=3), "'depth' is 3; give one of 1, 2, 4"),
    "missing": (a_run("x", depth=""), "'depth' is missing"),
    "inactive": (a_run("x", momentum=0.5), "'momentum' is given, but it is active only with optimizer in ['sgd']"),
    "seed": (a_run("x", seed="1.5"), "seed is 1.5; give a whole number"),
    "huge seed": (a_run("x", seed=10**30), "seed is 1000000000000000000000000000000; give a whole number"),
    "memory": (a_run("x", peak_memory_gb=-1), "peak_memory_gb is -1; it cannot be negative"),
    "feature": (a_run("x", mf_size="big"), "mf_size is 'big'; give a number"),
    "contradiction": (a_run("x", mf_size=2), "mf_size is 2, and 1 for the same task in row 2"),
    "no curve": (a_run("x"), "status is ok, and no row of curves is kept for run 'x'"),
    "stopped without curve": (a_run("x", status="stopped"), "status is stopped, and no row of curves"),
    "space": (a_run("x", space="other"), "is of the space 'other', and 'mine' is imported"),
    "fidelities": (a_run("x", max_fidelity=10), "max_fidelity is 10, and 4 in the others"),
    "started": (a_run("x", started_at="yesterday"), "started_at is 'yesterday'; give ISO 8601"),
    "libraries": (a_run("x", libraries="torch"), "libraries is no JSON object"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_run_that_cannot_be_used_is_named_with_its_row_and_the_others_stay(tmp_path: Path, name: str) -> None:
    bad, why = BAD_RUNS[name]
    admitted, rejected = checked(tmp_path, [a_run("good", mf_size=1), bad], a_curve("good", [0.5]))
    assert list(rejected) == [("runs", 3)]
    assert why in rejected["runs", 3]
    assert [run["run_id"] for run in admitted.runs] == ["good"]
    assert admitted.metafeatures == {("cats", "unknown"): {"size": 1.0}}


BAD_POINTS: dict[str, tuple[Cells, str]] = {
    "no run": ({"run_id": "z"}, "there is no run 'z'"),
    "no id": ({"run_id": ""}, "run_id is empty"),
    "rejected run": ({"run_id": "bad"}, "its run was rejected (row 3)"),
    "twice": ({"fidelity": 2}, "fidelity 2 of run 'good' stands in row 3 already"),
    "zero": ({"fidelity": 0}, "fidelity is 0; give a whole number from 1 to 4"),
    "above": ({"fidelity": 5}, "fidelity is 5; give a whole number from 1 to 4"),
    "half": ({"fidelity": 2.5}, "fidelity is 2.5"),
    "no fidelity": ({"fidelity": ""}, "fidelity is empty"),
    "nan": ({"score": "nan"}, "score is nan; give a finite number"),
    "none": ({"score": ""}, "score is empty; give a finite number"),
    "infinite": ({"score": "-inf"}, "score is -inf; give a finite number"),
    "overflow": ({"score": "1e400"}, "score is 1e400; give a finite number"),
    "text": ({"score": "good"}, "score is 'good'; give a number"),
    "underscore": ({"score": "0_5"}, "score is '0_5'; give a number"),
    "test": ({"test_score": "inf"}, "test_score is inf"),
    "cost falls": ({"cost_s": 1.0}, "cost_s is 1 at fidelity 3 and 4 at 2; it is cumulative"),
    "cost below zero": ({"cost_s": -1}, "cost_s is -1; it cannot be negative"),
}


@pytest.mark.parametrize("name", BAD_POINTS)
def test_a_point_that_cannot_be_used_is_named_with_its_row_and_the_others_stay(tmp_path: Path, name: str) -> None:
    change, why = BAD_POINTS[name]
    runs = [a_run("good"), a_run("bad", depth=3)]
    bad = {**a_curve("good", [0.5], first=3)[0], **change}
    admitted, rejected = checked(tmp_path, runs, [*a_curve("good", [0.1, 0.2]), bad])
    assert sorted(rejected) == [("curves", 4), ("runs", 3)]
    assert why in rejected["curves", 4]
    assert [(point["run_id"], point["score"]) for point in admitted.curves] == [("good", 0.1), ("good", 0.2)]


def test_rows_add_up_and_the_rejected_ones_lie_beside_the_tables(tmp_path: Path) -> None:
    runs = [a_run(str(n), depth=n % 6) for n in range(60)]
    curves = [point for n in range(60) for point in a_curve(str(n), [0.1, "nan", 0.3])]
    document = importing(tmp_path, runs, curves)
    assert document["runs"] + len(reasons(document, "runs")) == 60
    assert document["curve_rows"] + len(reasons(document, "curves")) == 180
    with (tmp_path / "out" / "rejected.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(document["rejected"])
    importing(tmp_path, runs[1:2], curves[3:4])  # again, without anything to reject
    assert not (tmp_path / "out" / "rejected.csv").exists()


def test_a_run_without_a_curve_is_kept_where_it_failed(tmp_path: Path) -> None:
    failed = [a_run(status, status=status, error="why") for status in ("diverged", "oom", "error")]
    document = importing(tmp_path, [a_run("good"), *failed], a_curve("good", [0.5]))
    assert document["statuses"] == {"diverged": 1, "error": 1, "ok": 1, "oom": 1}


# --- scales -----------------------------------------------------------------------------------------------------------


def test_scores_outside_0_to_1_get_a_scale_a_task_that_can_be_undone(tmp_path: Path) -> None:
    given = {"a": [-300.0, -250.0, -240.0], "b": [-260.0, -230.0, -200.0], "c": [0.2, 0.5, 0.7], "d": [0.4, 0.6, 0.9]}
    tasks = {"a": "rewards", "b": "rewards", "c": "accuracies", "d": "accuracies"}
    curves = [point for run_id, scores in given.items() for point in a_curve(run_id, scores, test_score=scores[0])]
    document = importing(tmp_path, [a_run(run_id, task) for run_id, task in tasks.items()], curves)
    assert document["scales"] == {
        "accuracies": {"low": 0.2, "high": 0.9, "clipped": 0},
        "rewards": {"low": -300.0, "high": -200.0, "clipped": 0},
    }
    meta = read(tmp_path / "out")
    for run_id, scores in given.items():
        kept = meta.curves[meta.curves["run_id"] == run_id]
        assert kept["score"].between(0, 1).all()
        scale = meta.scales[tasks[run_id]]
        assert [scale.undo(score) for score in kept["score"]] == pytest.approx(scores)
        assert [scale.undo(score) for score in kept["test_score"]] == pytest.approx([scores[0]] * 3)
    assert "-300" in (tmp_path / "out" / "card.md").read_text()


def test_one_scale_keeps_how_tasks_differ(tmp_path: Path) -> None:
    runs = [a_run("a", "easy"), a_run("b", "hard")]
    document = importing(tmp_path, runs, a_curve("a", [60, 90]) + a_curve("b", [10, 20]), one_scale=True)
    assert document["scales"]["easy"] == document["scales"]["hard"] == {"low": 10.0, "high": 90.0, "clipped": 0}


def test_a_wild_score_does_not_squeeze_the_others_together() -> None:
    rng = np.random.default_rng(0)
    given_N = np.append(-2.0 - rng.random(40), -1e30)
    task_N, nothing_N = np.full(41, "t"), np.full(41, np.nan)
    scales = scales_of(task_N, given_N, nothing_N, np.ones(41, dtype=bool))
    assert scales is not None
    assert scales["t"].clipped == 1
    score_N = scaled(task_N, given_N, scales)
    assert score_N[-1] == 0.0
    low, high = np.quantile(score_N[:-1], [0.1, 0.9])
    assert high - low > 0.04
    assert scales["t"].undo(score_N[3]) == pytest.approx(given_N[3])


def test_scores_that_are_all_alike_are_all_zero() -> None:
    task_N, given_N = np.array(["t"] * 3), np.array([5.0, 5.0, 5.0])
    scales = scales_of(task_N, given_N, np.full(3, np.nan), np.ones(3, dtype=bool))
    assert scaled(task_N, given_N, scales).tolist() == [0.0, 0.0, 0.0]
    assert scales is not None
    assert scales["t"].undo(0.0) == 5.0


def test_meta_datasets_on_different_scales_are_not_joined(tmp_path: Path) -> None:
    for name, scores in (("a", [1, 2]), ("b", [1, 3]), ("c", [2, 1])):
        (tmp_path / name).mkdir()
        importing(tmp_path / name, [a_run(name)], a_curve(name, scores))
    a, b, c = (read(tmp_path / name / "out") for name in "abc")
    with pytest.raises(MetaDatasetError, match="scores of task 'cats' are on another scale"):
        join([a, b])
    assert join([a, c]).scales == a.scales


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_as_spreadsheets_write_them(tmp_path: Path) -> None:
    runs = write_csv(tmp_path / "runs.csv", [a_run("ä", learning_rate="0,01", mf_size="2,5")], ";")
    curves = write_csv(tmp_path / "curves.csv", a_curve("ä", ["0,25", "0,5"]), "\t")
    runs.write_bytes(b"\xef\xbb\xbf" + runs.read_bytes() + b"\r\n;;;;;;;\r\n")
    document = import_tables(SPACE, runs, curves, tmp_path / "out")
    assert document["rejected"] == []
    meta = read(tmp_path / "out")
    assert meta.curves["score"].tolist() == [0.25, 0.5]
    assert meta.pipelines()["ä"]["learning_rate"] == 0.01
    assert meta.metafeatures() == {("cats", "unknown"): {"size": 2.5}}


def test_a_row_of_another_length_is_rejected(tmp_path: Path) -> None:
    runs, curves = write_csv(tmp_path / "r", [a_run("a")]), write_csv(tmp_path / "c", a_curve("a", [0.5, 0.6]))
    curves.write_text(curves.read_text() + "a,3,0.7\na,4,0.7,8.0,more\n")
    document = import_tables(SPACE, runs, curves, tmp_path / "out")
    assert reasons(document, "curves") == {
        4: "has 3 cells, and the header has 4",
        5: "has 5 cells, and the header has 4",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        ("run_id,task,status\n".encode("utf-16"), "is not UTF-8 text"),
        (b"run_id,task,status,optimizer,learning_rate,momentum,depth\n\xe4,cats,ok,adam,0.1,,2\n", "is not UTF-8 text"),
        (b"run_id,task,status,learning_rate,depth\n", "lacks the columns optimizer, momentum; it has run_id"),
        (b"run_id,optimizer,learning_rate,momentum,depth\n", "lacks the columns task, status"),
        (b"run_id,task,task\n", "has the column 'task' twice"),
        (b'run_id,task,status,optimizer,learning_rate,momentum,depth\n"a,cats,ok,adam,0.1,,2\n', "is not CSV"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    curves = write_csv(tmp_path / "curves.csv", a_curve("a", [0.5]))
    with pytest.raises(DataError, match=said):
        import_tables(SPACE, tmp_path / "runs.csv", curves, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_places_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    runs, curves = write_csv(tmp_path / "r", [a_run("a")]), write_csv(tmp_path / "c", a_curve("a", [0.5]))
    with pytest.raises(DataError, match="cannot be read"):
        import_tables(SPACE, tmp_path / "none.csv", curves, tmp_path / "out")
    with pytest.raises(DataError, match="cannot be read"):
        import_tables(SPACE, tmp_path, curves, tmp_path / "out")
    with pytest.raises(MetaDatasetError, match="is a file"):
        import_tables(SPACE, runs, curves, runs)
    (tmp_path / "sweep" / "ledger").mkdir(parents=True)
    with pytest.raises(MetaDatasetError, match="was not imported; choose a new folder"):
        import_tables(SPACE, runs, curves, tmp_path / "sweep")


def test_many_rows(tmp_path: Path) -> None:
    runs = [a_run(str(n), f"task{n % 50}") for n in range(2000)]
    curves = [point for n in range(2000) for point in a_curve(str(n), [n, n + 1, n + 2, n + 3])]
    admitted, rejected = checked(tmp_path, runs, curves)
    assert (len(admitted.runs), len(admitted.curves), rejected) == (2000, 8000, {})


# --- the command ------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ftmeta", "metadata", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yaml").write_text(SPACE_YAML)
    write_csv(tmp_path / "runs.csv", [a_run("a"), a_run("b", depth=3)])
    write_csv(tmp_path / "curves.csv", a_curve("a", [-5, -4]))
    monkeypatch.chdir(tmp_path)
    import_ = ("import", "--space", "space.yaml", "--runs", "runs.csv", "--curves", "curves.csv", "--out", "out")
    assert command(monkeypatch, *import_, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["runs"], document["tasks"]) == (1, 1)
    assert [(one["table"], one["row"]) for one in document["rejected"]] == [("runs", 3)]
    assert command(monkeypatch, *import_) == 0
    assert "1 row rejected" in capsys.readouterr().out
    assert command(monkeypatch, "describe", "out") == 0
    assert "scores rescaled" in capsys.readouterr().out

    write_csv(tmp_path / "runs.csv", [a_run("b", depth=3)])
    assert command(monkeypatch, *import_[:-1], "nothing", "--json") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no run is left, nothing is written: all 3 rows were rejected. runs row 2: pipeline does not fit" in said.err
    assert not (tmp_path / "nothing" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["import", "from-mlflow", "to-mlflow", "describe"])
def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert command(monkeypatch, name, "--help") == 0
    helped = capsys.readouterr().out
    assert "Example: ftmeta metadata" in helped
    assert "--json" in helped


def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-history.md").read_text(encoding="utf-8")
    files = re.findall(r"```(?:yaml|csv)\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    assert [name for name, _ in files] == ["space.yaml", "runs.csv", "curves.csv"]
    for name, content in files:
        (tmp_path / name).write_text(content)
    shown = re.search(r"\$ ftmeta metadata (.*?)\n(.*?)```", page, flags=re.DOTALL)
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert command(monkeypatch, *shown[1].split()) == 0
    assert capsys.readouterr().out.split() == shown[2].split()


def test_the_space_is_kept(tmp_path: Path) -> None:
    importing(tmp_path, [a_run("a")], a_curve("a", [0.5]))
    kept: Space = read(tmp_path / "out").space
    assert kept.fingerprint == SPACE.fingerprint
