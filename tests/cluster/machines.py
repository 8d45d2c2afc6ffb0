"""A head and workers as machines of their own, with Redis behind the head: `with Machines(logs) as machines: ...`.

In: a folder for the logs. Out: Ray nodes in network namespaces, each with an address on one switch (10.112.0.x), and
one more namespace, `outside`, with a client's computer and Redis, which the head keeps its state in (GCS fault
tolerance, as KubeRay sets it up). Any machine can be killed; the head can be started again at its address, empty, and
new workers can join. Nothing is reached from the machine's own network, and nothing outlives the block. Needs what
`why_not` looks for.

TwoNodes (two_nodes.py) cuts networks and takes nodes away from a run of Ray Train; here the head goes, too.

What was seen with Ray 2.60, head killed and started again at once:
- The new head takes the name of its session from Redis, and workers that were there join it again by themselves.
- Serve's proxies on the workers answer while the head is away; its controller comes back with the new head, as soon as
  the old head's node counts as dead (RAY_health_check_*).
- Drivers of jobs ran on the head and are gone; the actors of a gone driver are ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from ftmeta.orchestrate.local import MARK, OF_ANOTHER_CLUSTER
from ftmeta.version import VARIABLE, code_version
from tests.cluster.namespaces import Namespace, why_not_isolated
from tests.cluster.two_nodes import BIN, NOTICED_SOONER, ROOT, STARTED, Node

GCS, DASHBOARD, SERVE, REDIS = 6379, 8265, 8000, 6380  # the usual ones: each machine has all ports for itself
HEAD = 0


def why_not() -> str | None:
    """What is missing here; None when nothing is."""
    if shutil.which("redis-server") is None:
        return "not installed: redis-server (Debian package redis-server)"
    return why_not_isolated()


class Machines:
    """The cluster, while the `with` block lasts. `nodes[0]` is the head, which runs no tasks."""

    def __init__(
        self, logs: Path, *, workers: int = 2, num_cpus: int = 2, environment: Mapping[str, str] | None = None
    ) -> None:
        self.logs = logs
        self._workers, self._num_cpus = workers, num_cpus
        self._more = dict(environment or {})
        self._namespaces: list[Namespace] = []
        self._redis: subprocess.Popen[bytes] | None = None
        self.nodes: list[Node] = []
        self.token = secrets.token_hex(32)
        self.service_token = secrets.token_hex(32)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ftm-", dir="/tmp"))  # short: socket paths end at 107 bytes
        try:
            self._switch = self._opened()
            self._switch.run("ip", "link", "add", "bridge", "type", "bridge")
            self._switch.run("ip", "link", "set", "bridge", "up")
            self.outside = self._plugged_in("10.112.0.1")
            self._start_redis()
            self.start_head()
            for _ in range(self._workers):
                self.add_worker(wait=False)
            self.await_started(self.nodes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        for namespace in self._namespaces:
            for process in namespace.processes():  # clients that a failed test left
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            namespace.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def head(self) -> Node:
        return self.nodes[HEAD]

    @property
    def gcs_address(self) -> str:
        return f"{self.head.address}:{GCS}"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment as the nodes need it."""
        own = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CLUSTER}
        return {
            **own,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
            VARIABLE: code_version(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_worker_prestart": "0",
            "RAY_enable_metrics_collection": "0",
            "FTMETA_API_TOKENS_SHA256": hashlib.sha256(self.service_token.encode()).hexdigest(),
            **NOTICED_SOONER,
            **self._more,
        }

    def start_head(self) -> None:
        """The head, for the first time or again: at its address, with nothing of its own but what Redis has of it."""
        if not self.nodes:
            self.nodes = [Node(HEAD, "10.112.0.10", 0, self._plugged_in("10.112.0.10"))]
        password = (self.folder / "redis-password").read_text()
        where = [
            *("--head", "--port", str(GCS), "--include-dashboard", "true", "--dashboard-host", "0.0.0.0"),
            *("--dashboard-port", str(DASHBOARD), "--redis-password", password),
        ]
        # As KubeRay sets them (with the RayCluster's uid): what several clusters keep in one Redis does not mix.
        redis = {"RAY_REDIS_ADDRESS": f"10.112.0.1:{REDIS}", "RAY_external_storage_namespace": "the-uid-of-a-cluster"}
        self._start(self.head, where, redis)

    def add_worker(self, *, wait: bool = True, without: Path | None = None) -> Node:
        """A machine that was never there before, at an address of its own. `without`: a folder that the others share,
        which is another, empty one there."""
        index = len(self.nodes)
        address = f"10.112.0.{10 + index}"
        self.nodes.append(Node(index, address, self._num_cpus, self._plugged_in(address)))
        self._start(self.nodes[-1], ["--address", self.gcs_address], {}, without)
        if wait:
            self.await_started([self.nodes[-1]])
        return self.nodes[-1]

    def kill(self, node: Node) -> None:
        """SIGKILL to everything on a machine, until nothing is left; then keeps Ray's logs and loses its disk."""
        while left := node.processes():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=2)
        if node.main is not None:
            node.main.wait()
            node.main = None
        if node.temp_dir:
            with contextlib.suppress(OSError, shutil.Error):
                kept = self.logs / f"node{node.index}-{node.mark[:6]}"
                logs = Path(node.temp_dir) / "session_latest" / "logs"
                shutil.copytree(logs, kept, ignore_dangling_symlinks=True)
            shutil.rmtree(node.temp_dir, ignore_errors=True)
            node.temp_dir = ""

    def client(self, *command: str, token: str | None = None) -> subprocess.Popen[str]:
        """A command on the computer outside, which has the cluster's token, or another one; "" is none."""
        own = {name: value for name, value in self.environment.items() if not name.startswith(("RAY_", "FTMETA_API"))}
        token = self.token if token is None else token
        authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        environment = {
            **own,
            **authentication,
            "RAY_API_SERVER_ADDRESS": f"http://{self.head.address}:{DASHBOARD}",
            "RAY_DASHBOARD_ADDRESS": f"http://{self.head.address}:{DASHBOARD}",  # what `serve` reads
        }
        return subprocess.Popen(
            self.outside.inside(*command),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def titles(self, node: Node) -> list[str]:
        """What runs on a machine."""
        found = []
        for process in node.processes():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def redis(self, *words: str) -> str:
        environment = {**os.environ, "REDISCLI_AUTH": (self.folder / "redis-password").read_text()}
        command = self.outside.inside("redis-cli", "-h", "10.112.0.1", "-p", str(REDIS), *words)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout

    def await_started(self, nodes: Sequence[Node], wait_s: float = 120) -> None:
        """Returns when they are registered; on the head, when it takes jobs."""

        def started(node: Node) -> bool:
            said = self._log(node).read_text(encoding="utf-8", errors="replace")
            if node.main is None or node.main.poll() is not None:
                raise RuntimeError(f"node {node.index} did not start:\n{said[-3000:]}")
            return STARTED in said

        for node in nodes:
            wait_until(lambda node=node: started(node), wait_s)  # type: ignore[misc]

    def _opened(self) -> Namespace:
        self._namespaces.append(Namespace())
        return self._namespaces[-1]

    def _plugged_in(self, address: str) -> Namespace:
        """A namespace with a cable to the switch."""
        namespace = self._opened()
        port = f"port{len(self._namespaces)}"
        wire = ("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(namespace.pid))
        self._switch.run(*wire)
        self._switch.run("ip", "link", "set", port, "master", "bridge", "up")
        namespace.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        namespace.run("ip", "link", "set", "eth0", "up")
        return namespace

    def _start_redis(self) -> None:
        """With the settings of k8s/base/redis.yaml; the password comes by standard input."""
        password = secrets.token_hex(16)
        (self.folder / "redis-password").touch(mode=0o600)
        (self.folder / "redis-password").write_text(password)
        settings = [
            *("bind 10.112.0.1", f"port {REDIS}", f"dir {self.folder}", "appendonly yes", "maxmemory 400mb"),
            *("maxmemory-policy noeviction", f"requirepass {password}", ""),
        ]
        with (self.logs / "redis.log").open("wb") as log:
            command = self.outside.inside("redis-server", "-")
            self._redis = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        assert self._redis.stdin is not None
        self._redis.stdin.write("\n".join(settings).encode())
        self._redis.stdin.close()
        wait_until(lambda: "PONG" in self.redis("ping"), 30)

    def _start(self, node: Node, where: Sequence[str], more: Mapping[str, str], without: Path | None = None) -> None:
        node.mark = uuid.uuid4().hex
        node.temp_dir = tempfile.mkdtemp(prefix=f"{node.index}-", dir=self.folder)
        command = [
            *(str(BIN / "ray"), "start", "--block", "--log-style", "record", "--disable-usage-stats", *where),
            *("--node-ip-address", node.address, "--num-cpus", str(node.num_cpus), "--temp-dir", node.temp_dir),
            *("--object-store-memory", "100000000"),
        ]
        if without is not None:
            hidden = 'mount -t tmpfs none "$1" && shift && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hidden, "sh", str(without), *command]
        with self._log(node).open("wb") as log:
            node.main = subprocess.Popen(
                node.inside(*command),
                cwd=self.folder,
                env={**self.environment, **more, MARK: node.mark, "TMPDIR": node.temp_dir},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, node: Node) -> Path:
        return self.logs / f"node{node.index}.log"


def wait_until(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
