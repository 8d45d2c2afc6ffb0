"""The team's server for real: MLflow with the options of mlflow/compose.yaml, passwords on, and Debian's PostgreSQL."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ftmeta.costs import usd_of
from ftmeta.errors import FtmetaError
from ftmeta.tracking import spending, tracker
from ftmeta.tracking.rows import read_experiments
from tests.test_tracking import a_result
from tests.tracking.compose import MLFLOW, server_arguments, services
from tests.tracking.servers import Server, mlflow_server, postgres_binaries, postgres_server

USER, PASSWORD = "ftmeta", "the-password-of-a-test"
DRIVERS = ("psycopg2", "flask_wtf")  # as cluster/mlflow-requirements.txt has them

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
    pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL is missing: apt-get install postgresql"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in DRIVERS),
        reason="psycopg2-binary or flask-wtf is missing: pip install psycopg2-binary flask-wtf",
    ),
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("setpriv") is None,
        reason="setpriv is missing, and PostgreSQL does not run as root: apt-get install util-linux",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The options of the compose file, with this machine's addresses in the place of the containers'."""
    folder = tmp_path_factory.mktemp("mlflow")
    given = services()
    with postgres_server(given["postgres"]["environment"], PASSWORD) as postgres:
        here = {
            "postgres:5432": f"127.0.0.1:{postgres.port}",
            "s3://mlflow/artifacts": str(folder / "artifacts"),
            "--workers=2": "--workers=1",
        }

        def at_home(text: str) -> str:
            for there, place in here.items():
                text = text.replace(there, place)
            return text

        (folder / "auth.ini").write_text(at_home((MLFLOW / "auth.ini").read_text(encoding="utf-8")))
        arguments = [at_home(one) for one in server_arguments() if not one.startswith(("--host=", "--port="))]
        own = {"PGPASSWORD": PASSWORD, "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini")}
        environment = {**given["mlflow"]["environment"], **own, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
        with mlflow_server(folder, arguments, environment) as running:
            yield running


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


@pytest.mark.usefixtures("logged_in")
def test_a_smoke_sweep_goes_there_with_costs_and_artifacts(server: Server, tmp_path: Path) -> None:
    sweep = {
        "name": "postgres-smoke",
        "tasks": ["elements"],
        "pipelines": {"include": ["default", "strong-default"]},
        "budget": {"epochs": 0.1, "max_fidelity": 2, "max_train_examples": 64, "eval_examples": 16},
        "slots": 1,
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    command = [sys.executable, "-m", "ftmeta.cli", "collect", "sweep.yaml", "--out", "out", "--json"]
    program = "import sys; from ftmeta.cli import main; sys.argv[0] = 'ftmeta'; main()"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", program, *command[3:]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=160)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert (summary["done"], summary["failed"], summary["untracked"]) == (2, 0, 0)

    (found,) = read_experiments(server.uri, ["collect"])
    (parent,) = [one for one in found.parents if one.name == "postgres-smoke"]
    assert parent.status == "FINISHED"
    mine = [run for run in found.runs if run.parent_id == parent.mlflow_id]
    assert [run.status for run in mine] == ["ok", "ok"]
    assert parent.cost_s == pytest.approx(sum(run.cost_s or 0.0 for run in mine))
    document = spending.costs(server.uri, "task")
    assert [row["task"] for row in document["rows"]] == ["elements"]
    assert document["total"]["cost_usd"] == pytest.approx(sum(usd_of(run.cost_s or 0.0, "cpu") or 0.0 for run in mine))


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD), ("", "")])
def test_a_wrong_password_costs_a_warning_that_says_so_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, user: str, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with caplog.at_level(logging.WARNING, logger="ftmeta.tracking"):
        sweep = tracker(server.uri, "collect").sweep("refused", "key")
        sweep.log(a_result())
        assert sweep.close("ok", {}) == 1
    assert "MLFLOW_TRACKING_PASSWORD" in caplog.text
    assert "1 finished runs are not in MLflow" in caplog.text
    assert password == "" or password not in caplog.text
    with pytest.raises(FtmetaError, match="MLFLOW_TRACKING_PASSWORD"):
        spending.costs(server.uri)


@pytest.mark.usefixtures("logged_in")
def test_one_who_may_only_look_is_told_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = tracker(server.uri, "ours").sweep("a", "key")
    tracked.log(a_result())
    assert tracked.close("ok", {}) == 0
    (found,) = read_experiments(server.uri, ["ours"])
    with httpx.Client(base_url=f"{server.uri}/api", auth=(USER, PASSWORD), trust_env=False) as client:
        ada = {"username": "ada", "password": "a good password"}
        assert client.post("/2.0/mlflow/users/create", json=ada).status_code == 200
        ours = {"resource_type": "experiment", "resource_id": found.experiment_id}
        allowed = {**ours, "username": "ada", "permission": "READ"}
        assert client.post("/3.0/mlflow/users/permissions/grant", json=allowed).status_code == 200
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a good password")
    assert spending.costs(server.uri, experiments=["ours"])["total"]["runs"] == 1
    tracked = tracker(server.uri, "ours").sweep("b", "another key")
    tracked.log(a_result(seed=1))
    assert tracked.close("ok", {}) == 1
