"""MLflow's backup and its restoration, with the very commands of the manifests and a real PostgreSQL, where one is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.overlays import pods, rendered

NOBODY = 65534  # PostgreSQL refuses to run as root
PASSWORD = "a-password-of-the-test"


def binaries() -> Path | None:
    """Debian keeps them out of PATH."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(on_path).parent if on_path else found[-1].parent if found else None


pytestmark = [
    pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("setpriv") is None,
        reason="setpriv is not installed, and PostgreSQL does not run as root",
    ),
]


@dataclass(frozen=True)
class Postgres:
    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        path = f"{binaries()}{os.pathsep}{os.environ['PATH']}"
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "mlflow", "PGDATABASE": "mlflow"}
        return {**os.environ, **where, "PATH": path, "PGPASSWORD": PASSWORD}

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        environment = {**self.environment, **more}
        return subprocess.run(
            [*become, *command], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )

    def sql(self, statement: str, **more: str) -> str:
        done = self.run("psql", "--no-psqlrc", "-qAt", "-c", statement, **more)
        return done.stdout.strip() + done.stderr.strip()


def container(overlay: str, where: str) -> dict[str, Any]:
    (pod,) = [one for one in pods(rendered(overlay)) if one.where == where]
    return dict(pod.spec["containers"][0])


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server with the manifest's user, database and ways to log in."""
    with tempfile.TemporaryDirectory(prefix="ftmeta-pg-", dir="/tmp") as name:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            server = Postgres(Path(name), free.getsockname()[1])
        (server.folder / "password").write_text(PASSWORD)
        (server.folder / "backups").mkdir()
        if os.geteuid() == 0:
            for path in (server.folder, *server.folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        given = {entry["name"]: entry.get("value", "") for entry in container("gpu", "StatefulSet postgres")["env"]}
        options = [f"--username={given['POSTGRES_USER']}", f"--pwfile={server.folder}/password"]
        made = server.run("initdb", "-D", "data", *options, *given["POSTGRES_INITDB_ARGS"].split())
        assert made.returncode == 0, made.stderr
        settings = f"-h 127.0.0.1 -p {server.port} -k {server.folder}"
        started = server.run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", settings, "start")
        assert started.returncode == 0, started.stdout + started.stderr
        try:
            server.sql(f"CREATE DATABASE {given['POSTGRES_DB']}", PGDATABASE="postgres")
            yield server
        finally:
            server.run("pg_ctl", "-D", "data", "-m", "fast", "-w", "stop")


def script(overlay: str, where: str, folder: Path) -> list[str]:
    shell, options, text = container(overlay, where)["command"]
    return [shell, options, text.replace("/backups", str(folder / "backups"))]


def test_a_backup_can_be_put_back_and_a_torn_one_changes_nothing(postgres: Postgres) -> None:
    assert "t" in postgres.sql("CREATE TABLE runs (id text PRIMARY KEY); INSERT INTO runs VALUES ('a'); SELECT true")
    today = time.strftime("%a")
    backup = script("gpu", "CronJob backup", postgres.folder)
    done = postgres.run(*backup, LC_ALL="C")
    assert done.returncode == 0, done.stderr
    file = postgres.folder / "backups" / f"mlflow-{today}.dump"
    assert [one.name for one in file.parent.iterdir()] == [file.name]

    postgres.sql("INSERT INTO runs VALUES ('b'); CREATE TABLE more (id text)")
    restore = script("tasks/mlflow-restore", "Job mlflow-restore", postgres.folder)
    done = postgres.run(*restore, DAY=today)
    assert done.returncode == 0, done.stderr
    assert postgres.sql("SELECT string_agg(id, ',') FROM runs") == "a"

    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 40])
    postgres.sql("INSERT INTO runs VALUES ('c')")
    done = postgres.run(*restore, DAY=today)
    assert done.returncode != 0
    assert postgres.sql("SELECT string_agg(id, ',' ORDER BY id) FROM runs") == "a,c"


def test_a_backup_that_fails_leaves_the_last_one(postgres: Postgres) -> None:
    postgres.sql("CREATE TABLE IF NOT EXISTS runs (id text PRIMARY KEY)")
    backup = script("gpu", "CronJob backup", postgres.folder)
    assert postgres.run(*backup, LC_ALL="C").returncode == 0
    file = postgres.folder / "backups" / f"mlflow-{time.strftime('%a')}.dump"
    before = file.read_bytes()
    assert postgres.run(*backup, LC_ALL="C", PGPASSWORD="another").returncode != 0
    assert file.read_bytes() == before


def test_nobody_comes_in_without_the_password(postgres: Postgres) -> None:
    assert "password authentication failed" in postgres.sql("SELECT 1", PGPASSWORD="another")
    assert "no password supplied" in postgres.sql("SELECT 1", PGPASSWORD="", PGPASSFILE="/dev/null")


def test_the_probe_finds_it_ready(postgres: Postgres) -> None:
    probe = container("gpu", "StatefulSet postgres")["readinessProbe"]["exec"]["command"]
    assert postgres.run(*probe).returncode == 0
