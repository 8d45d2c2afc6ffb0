"""A Ray cluster and an MLflow server on this machine: `python -m ftmeta.orchestrate.local up | stop | status | env`.

In: nothing but a state folder (`$FTMETA_STATE`, or `.ftmeta` in the working directory). Out: in that folder the token
(mode 0600), MLflow's database, the logs, and `cluster.json` with the addresses and process ids. Job submission, the
dashboard and all of Ray's own traffic ask for the token; the dashboard and MLflow listen on loopback only. `stop` ends
exactly the processes that `up` started, wherever their parents have gone, and no other cluster's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import typer

from ftmeta.errors import FtmetaError
from ftmeta.files import write_json
from ftmeta.orchestrate.shell import exit_codes, state_dir
from ftmeta.version import VARIABLE, code_version

MARK = "FTMETA_CLUSTER_ID"  # every process of a cluster inherits it: how `stop` knows its own
# Variables that would lead a client to another cluster than the one it wants.
OF_ANOTHER_CLUSTER = frozenset({"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_HEADERS"})


@dataclass(frozen=True)
class Service:
    """A process that `up` started. `started` (seconds since the epoch) tells it from a later one with its pid."""

    pid: int
    started: float
    address: str

    @property
    def process(self) -> psutil.Process | None:
        """The running process, or None when it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


@dataclass(frozen=True)
class LocalCluster:
    """What runs and where: the content of `cluster.json`."""

    id: str
    state: str  # the state folder, absolute
    ray: Service  # its address is the dashboard's and the job server's
    mlflow: Service
    gcs_address: str  # for nodes that join: `ray start --address`
    serve_port: int  # kept free for the Serve app
    temp_dir: str  # Ray's sessions; short, because socket paths may not be longer than 107 bytes

    @property
    def token_file(self) -> Path:
        return Path(self.state) / "token"

    @property
    def alive(self) -> bool:
        return self.ray.process is not None and self.mlflow.process is not None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs: with these set, `ray job submit` and MLflow find the cluster and the token."""
        return {
            "FTMETA_STATE": self.state,
            "FTMETA_SERVE_PORT": str(self.serve_port),
            "MLFLOW_TRACKING_URI": self.mlflow.address,
            "RAY_API_SERVER_ADDRESS": self.ray.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
        }

    def client_environment(self) -> dict[str, str]:
        """This process's environment as a client of the cluster needs it: nothing in it names another cluster."""
        own = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CLUSTER}
        return {**own, **self.environment}


def find(state: Path | None = None) -> LocalCluster | None:
    """The cluster of a state folder as it was started, alive or not; None when there is none.

    Raises FtmetaError for a cluster.json that is torn or of another version.
    """
    path = (state or state_dir()) / "cluster.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return LocalCluster(**{**stored, "ray": Service(**stored["ray"]), "mlflow": Service(**stored["mlflow"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FtmetaError(
            f"{path} is torn or of another version of ftmeta ({type(error).__name__}: {error}), so which processes the "
            f"cluster has is not known; end those that name {path.parent.absolute()} or a folder /tmp/ftmeta-* (`ps "
            f"axww` lists them), then remove {path}"
        ) from None


def up(
    state: Path | None = None,
    *,
    num_cpus: int | None = None,
    object_store_gb: float = 0.5,
    wait_s: float = 180.0,
) -> LocalCluster:
    """Starts the cluster of a state folder, or returns the one that runs; takes about 15 s.

    Raises FtmetaError with the last lines of the log when a part does not answer within `wait_s` seconds; nothing is
    left running then.
    """
    folder = (state or state_dir()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if (running := find(folder)) is not None:
            if running.alive:
                return running
            _end(running)
        cluster = _start(folder, num_cpus, object_store_gb)
        try:
            _await(cluster, wait_s)
        except BaseException:
            _end(cluster)
            raise
        return cluster


def stop(state: Path | None = None) -> bool:
    """Ends what `up` started; False when nothing ran. Token, logs, MLflow's database and results stay."""
    folder = (state or state_dir()).absolute()
    if not folder.is_dir():
        return False
    with _lock(folder):
        cluster = find(folder)
        if cluster is not None:
            _end(cluster)
        return cluster is not None


def processes(cluster: LocalCluster) -> list[psutil.Process]:
    """Every living process of the cluster: the services, what descends from them, and orphans that bear its mark."""
    return _processes(cluster.id, (cluster.ray, cluster.mlflow))


def _processes(cluster_id: str, services: Sequence[Service]) -> list[psutil.Process]:
    # Descendants are looked up too because Ray's workers rename themselves, which overwrites their environment.
    found: dict[int, psutil.Process] = {}
    for service in services:
        if (main := service.process) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {process.pid: process for process in (main, *main.children(recursive=True))}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == cluster_id:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _living(process)]


def _start(folder: Path, num_cpus: int | None, object_store_gb: float) -> LocalCluster:
    token_file = folder / "token"
    if not token_file.exists():
        descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    gcs, dashboard, mlflow, serve, client, agent = _free_ports(6379, 8265, 5000, 8000, 10001, 52365)
    cluster_id = uuid.uuid4().hex
    temp_dir = tempfile.mkdtemp(prefix="ftmeta-", dir="/tmp")  # short whatever $TMPDIR says, for the sockets in it
    mlflow_url = f"http://127.0.0.1:{mlflow}"
    bin_dir = Path(sys.executable).parent
    environment = {
        **{key: value for key, value in os.environ.items() if key not in OF_ANOTHER_CLUSTER},
        MARK: cluster_id,
        VARIABLE: code_version(),  # a job's working directory is a copy without .git
        "PATH": f"{bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # a job's `python` is this one
        "TMPDIR": temp_dir,  # what killed processes leave there goes with it
        "FTMETA_STATE": str(folder),
        "FTMETA_SERVE_PORT": str(serve),
        "MLFLOW_TRACKING_URI": mlflow_url,
        "RAY_AUTH_MODE": "token",  # said explicitly: Ray turns it on by itself only for some clusters
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # a stopped sweep first writes what is finished
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its queue of background jobs is not used
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    mlflow_command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow/mlflow.db"),
        *("--artifacts-destination", str(folder / "mlflow" / "artifacts")),
    ]
    ray_command = [
        *(str(bin_dir / "ray"), "start", "--head", "--block", "--log-style", "record", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--ray-client-server-port", str(client)),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        *("--dashboard-agent-listen-port", str(agent)),
        *("--temp-dir", temp_dir, "--object-store-memory", str(int(object_store_gb * 1e9))),
        *(() if num_cpus is None else ("--num-cpus", str(num_cpus))),
    ]
    spawned: list[Service] = []
    try:
        (folder / "mlflow").mkdir(exist_ok=True)
        spawned.append(_spawn(ray_command, folder, "ray", environment, f"http://127.0.0.1:{dashboard}"))
        spawned.append(_spawn(mlflow_command, folder, "mlflow", environment, mlflow_url))
        cluster = LocalCluster(
            id=cluster_id,
            state=str(folder),
            ray=spawned[0],
            mlflow=spawned[1],
            gcs_address=f"127.0.0.1:{gcs}",
            serve_port=serve,
            temp_dir=temp_dir,
        )
        write_json(folder / "cluster.json", asdict(cluster))
    except BaseException:  # without cluster.json nothing could end them later
        _end_processes(cluster_id, spawned)
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    return cluster


def _spawn(command: list[str], folder: Path, name: str, environment: Mapping[str, str], address: str) -> Service:
    (folder / "logs").mkdir(exist_ok=True)
    # In the state folder, because a folder that happens to be called mlflow or ray must not be in the way of imports.
    with (folder / "logs" / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder / "logs",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(process.pid, psutil.Process(process.pid).create_time(), address)


def _await(cluster: LocalCluster, wait_s: float) -> None:
    """Returns when the job server and MLflow answer."""
    token = cluster.token_file.read_text(encoding="utf-8")
    deadline = time.monotonic() + wait_s
    for name, service, path in (("ray", cluster.ray, "/api/version"), ("mlflow", cluster.mlflow, "/health")):
        while not _answers(service.address + path, token if name == "ray" else None):
            ended = service.process is None
            if ended or time.monotonic() > deadline:
                log = Path(cluster.state) / "logs" / f"{name}.log"
                said = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                what = "ended" if ended else f"did not answer within {wait_s:.0f} s"
                raise FtmetaError(f"{name} {what} while starting; see {log}:\n{said}")
            time.sleep(0.2)


def _answers(url: str, token: str | None) -> bool:
    request = urllib.request.Request(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    try:
        with direct.open(request, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _end(cluster: LocalCluster) -> None:
    """Ends the processes of a cluster; keeps Ray's logs and removes the rest of its sessions."""
    _end_processes(cluster.id, (cluster.ray, cluster.mlflow))
    sessions = Path(cluster.temp_dir)
    if sessions.is_dir():
        kept = Path(cluster.state) / "logs" / "ray-last-session"
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(OSError):
            shutil.copytree(sessions / "session_latest" / "logs", kept, ignore_dangling_symlinks=True)
        shutil.rmtree(sessions, ignore_errors=True)
    (Path(cluster.state) / "cluster.json").unlink(missing_ok=True)


def _end_processes(cluster_id: str, services: Sequence[Service]) -> None:
    """Asks the services, then whatever is left of the cluster, to end; kills what does not."""
    everything = _processes(cluster_id, services)
    mains = {service.pid for service in services}
    _end_all([process for process in everything if process.pid in mains], wait_s=20)
    left = {process.pid: process for process in everything if _living(process)}
    left |= {process.pid: process for process in _processes(cluster_id, services)}
    _end_all(list(left.values()), wait_s=5)


def _end_all(targets: list[psutil.Process], wait_s: float) -> None:
    for process in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and any(_living(process) for process in targets):
        time.sleep(0.1)
    for process in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _living(process: psutil.Process) -> bool:
    """False for a process that has ended, also one that no parent has collected yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_ports(*usual: int) -> list[int]:
    """The usual ports where they are free, others where not. All are held until all are found, so they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for port in usual:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", port))  # on every interface, as some of Ray's servers do
            except OSError:
                listener.bind(("", 0))
            ports.append(listener.getsockname()[1])
        return ports


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One `up` or `stop` at a time in a state folder; the lock goes with the process that holds it."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.splitlines()[0] if __doc__ else None)
_STATE = typer.Option(None, "--state", help="The state folder. Default: $FTMETA_STATE, or .ftmeta here.")


@app.command("up")
def up_command(
    state: Path | None = _STATE,
    num_cpus: int | None = typer.Option(None, help="Cores that Ray may give out. Default: all."),
    object_store_gb: float = typer.Option(0.5, help="Ray's shared memory."),
) -> None:
    """Start the cluster and MLflow, or say where they run already."""
    sys.stderr.write("Starting Ray and MLflow on this machine (about 15 s) ...\n")
    cluster = up(state, num_cpus=num_cpus, object_store_gb=object_store_gb)
    typer.echo(_addresses(cluster))


@app.command("stop")
def stop_command(state: Path | None = _STATE) -> None:
    """End what `up` started. Results, logs and MLflow's database stay."""
    typer.echo("Stopped." if stop(state) else "Nothing was running.")


@app.command("status")
def status_command(state: Path | None = _STATE) -> None:
    """Say what runs and where; exit code 1 when it is not running."""
    cluster = find(state)
    if cluster is None or not cluster.alive:
        typer.echo("Not running." if cluster is None else "Part of the cluster has ended; `up` starts it again.")
        raise typer.Exit(1)
    typer.echo(_addresses(cluster))


@app.command("env")
def env_command(state: Path | None = _STATE) -> None:
    """Print what sets the variables that clients need, and unsets those of other clusters, for `eval "$(... env)"`."""
    cluster = find(state)
    if cluster is None:
        sys.stderr.write("Not running; start it with 'up'.\n")
        raise typer.Exit(1)
    others = sorted(OF_ANOTHER_CLUSTER - cluster.environment.keys())
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    typer.echo("\n".join([f"unset {' '.join(others)}", *exports]))


def _addresses(cluster: LocalCluster) -> str:
    service = f"http://127.0.0.1:{cluster.serve_port}"
    return "\n".join(
        (
            f"Ray dashboard and jobs  {cluster.ray.address}  (it asks for the token in {cluster.token_file})",
            f"MLflow                  {cluster.mlflow.address}",
            *([f"Service                 {service}"] if _answers(f"{service}/readyz", None) else []),
            f"State and logs          {cluster.state}",
        )
    )


if __name__ == "__main__":
    with exit_codes():
        app()
