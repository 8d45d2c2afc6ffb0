"""`ftmeta benchmark` on Ray: what it prints and leaves, how it goes on, and tables of others."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftmeta.benchmark.units import Settings, units_of
from ftmeta.errors import UserError
from ftmeta.metadataset import load
from tests.surrogates.synthetic import write_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

METHODS = ["random", "strong-default", "portfolio", "ftmeta", "oracle"]


def ftmeta(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ftmeta.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_report_and_how_it_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--methods", ",".join(METHODS), "--seeds", 2, "--budget-fraction", 0.05, "--out", out, "--json"]
    first = document(ftmeta("benchmark", "--metadata", "spine", *options))
    assert set(first["methods"]) == set(METHODS)
    for row in first["methods"].values():
        assert 1 <= row["average_rank"] <= len(METHODS)
        assert list(row["regret"]) == ["5", "10", "25", "50", "100"]
        assert all(0 <= regret <= 1 for regret in row["regret"].values())
    assert set(first["per_task"]) == {"elements", "python-stdlib", "world-facts"}
    assert first["methods"]["oracle"]["average_rank"] == min(row["average_rank"] for row in first["methods"].values())
    assert json.loads((out / "benchmark.json").read_text()) == first
    report = (out / "report.md").read_text()
    for plot in ("regret", "ranks", "tasks"):
        assert f"({plot}.svg)" in report
        assert (out / f"{plot}.svg").read_text().lstrip().startswith("<?xml")

    assert first["computed"] == len(list((out / "parts").iterdir())) == 6
    (out / "parts").joinpath(sorted(part.name for part in (out / "parts").iterdir())[0]).write_text('{"torn')
    again = document(ftmeta("benchmark", "--metadata", "spine", *options))
    assert again["computed"] == 1
    meta = load("spine")
    (unit, *_), _ = units_of(meta, Settings(tuple(METHODS), seeds=2))
    made_of = {unit.made_of(meta, Settings(tuple(METHODS), seeds=seeds)) for seeds in (1, 2, 2)}
    assert len(made_of) == 2  # what was made with other settings is made again


def test_tables_of_others(tmp_path: Path) -> None:
    """Twelve tasks x 27 configurations with curves of differing length, no meta-features, another space."""
    (tmp_path / "space.yaml").write_text(
        "name: theirs\nmax_fidelity: 6\nhyperparameters:\n"
        "  learning_rate: {type: float, low: 1.0e-5, high: 1.0e-1, log: true, default: 1.0e-3}\n"
        "  depth: {type: ordinal, values: [1, 2, 4], default: 2}\n"
        "  optimizer: {type: categorical, choices: [adam, sgd, lion], default: adam}\n"
    )
    rng = np.random.default_rng(0)
    runs, curves = [], []
    for task in range(12):
        for n in range(27):
            rate, depth = 10.0 ** -(1 + n % 9 / 2.25), (1, 2, 4)[n // 9]
            optimizer, run_id = ("adam", "sgd", "lion")[n % 3], f"t{task}-{n}"
            row = {"run_id": run_id, "task": f"t{task}", "status": "ok", "learning_rate": rate}
            runs.append({**row, "depth": depth, "optimizer": optimizer})
            top = 80 - 10 * abs(np.log10(rate) + 3 + 0.1 * rng.normal()) + depth
            points = range(1, 3 + (task + n) % 5)
            curves += [
                {"run_id": run_id, "fidelity": t, "score": top * (1 - 0.5**t), "cost_s": t * depth} for t in points
            ]
    for name, rows in (("runs", runs), ("curves", curves)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    tables = ["--space", tmp_path / "space.yaml", "--runs", tmp_path / "runs.csv", "--curves", tmp_path / "curves.csv"]
    assert document(ftmeta("metadata", "import", *tables, "--out", tmp_path / "theirs", "--json"))["runs"] == 12 * 27
    methods = ["random", "portfolio", "ftmeta", "strong-default"]
    options = ["--methods", ",".join(methods), "--seeds", 1, "--out", tmp_path / "report", "--json"]
    found = document(ftmeta("benchmark", "--metadata", tmp_path / "theirs", *options))
    assert set(found["methods"]) == {*methods} - {"strong-default"}
    assert any(one.startswith("strong-default: ") for one in found["left_out"])  # another space has none
    assert found["without_test_scores"] == sorted(f"t{task}" for task in range(12))
    assert found["methods"]["ftmeta"]["auc"] < found["methods"]["random"]["auc"]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    result = ftmeta("benchmark", "--metadata", "spine", "--methods", "random,rnadom", "--out", tmp_path)
    assert result.returncode == 2
    assert "unknown method 'rnadom'; choose of zero-shot, default, " in result.stderr
    write_sweep(tmp_path / "one", 1, 8)
    result = ftmeta("benchmark", "--metadata", tmp_path / "one", "--methods", "random", "--out", tmp_path / "x")
    assert result.returncode == 2
    assert "two tasks and a method are needed" in result.stderr
    with pytest.raises(UserError, match=r"the budget fraction is 1.5; give more than 0 and at most 1"):
        Settings(("random",), budget_fraction=1.5)
