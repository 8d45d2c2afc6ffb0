"""Real servers for the tests: MLflow in a process of its own, PostgreSQL under a user that is not root."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOBODY = 65534  # PostgreSQL refuses to run as root
_WAIT_S = 120  # others may have the cores


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Server:
    """An MLflow server; `kill` and `start` may follow each other, on the same port and the same files."""

    folder: Path
    port: int
    arguments: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.folder,  # not the repository: relative files of the server stay here
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _WAIT_S
        while not self._is_well():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                said = (self.folder / "server.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"MLflow {'ended' if ended else 'does not answer'}:\n{said}")
            time.sleep(0.2)

    def kill(self) -> None:
        """At once, with its workers, as a lost machine does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait(30)
            self.process = None

    def _is_well(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def mlflow_server(
    folder: Path, arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """On sqlite in `folder`, unless told otherwise."""
    usual = [
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = Server(folder, free_port(), usual if arguments is None else arguments, {**quiet, **(environment or {})})
    server.start()
    try:
        yield server
    finally:
        server.kill()


def postgres_binaries() -> Path | None:
    """Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@dataclass(frozen=True)
class Postgres:
    folder: Path
    port: int
    password: str

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "mlflow", "PGPASSWORD": self.password}
        path = f"{postgres_binaries()}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **where, "PATH": path, "LC_ALL": "C", **more}
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}
        return subprocess.run([*become, *command], env=environment, cwd=self.folder, **options)


@contextlib.contextmanager
def postgres_server(settings: Mapping[str, str], password: str) -> Iterator[Postgres]:
    """With the user, the database and the ways to log in that the environment `settings` of its image ask for."""
    with tempfile.TemporaryDirectory(prefix="ftmeta-pg-", dir="/tmp") as name:  # short, for its socket
        server = Postgres(Path(name), free_port(), password)
        (server.folder / "password").write_text(password)
        if os.geteuid() == 0:
            for path in (server.folder, *server.folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        options = [f"--username={settings['POSTGRES_USER']}", f"--pwfile={server.folder}/password"]
        made = server.run(
            "initdb", "-D", "data", "--auth-local=trust", *options, *settings["POSTGRES_INITDB_ARGS"].split()
        )
        assert made.returncode == 0, made.stderr
        where = f"-h 127.0.0.1 -p {server.port} -k {server.folder}"
        started = server.run("pg_ctl", "-D", "data", "-w", "-t", "90", "-l", "log", "-o", where, "start")
        assert started.returncode == 0, started.stdout + started.stderr
        try:
            made = server.run("createdb", settings["POSTGRES_DB"])
            assert made.returncode == 0, made.stderr
            yield server
        finally:
            server.run("pg_ctl", "-D", "data", "-m", "fast", "-w", "stop")
