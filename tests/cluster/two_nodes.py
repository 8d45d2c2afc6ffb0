"""A two-node Ray cluster on one machine, to break: `with TwoNodes(logs) as cluster: cluster.driver(command); ...`.

In: a folder for the logs, cores for each node, more environment variables. Out: a head node and a second node, each in
a network namespace of its own (10.111.0.1, 10.111.0.2), joined by a bridge in a third one, with a token of their own.
Nothing of it is in the machine's own network, whose firewall is not in the way, and no namespace has a name: they live
as long as a process is in them, so ending the processes removes them. Clients run inside the head's (`driver`). Where
namespaces are not allowed (`why_not_isolated` says why) both nodes are on the machine itself, the second one as
127.0.0.2, and only what cuts the network is missing.

Which of Ray's clocks matter, as measured here with Ray 2.60:
- The head calls a node dead after RAY_health_check_failure_threshold (5) failed checks in a row. A node without power
  does not answer: each check waits RAY_health_check_timeout_ms (10,000), the next follows RAY_health_check_period_ms
  (3,000) later, and it is dead after 64 s (with NOTICED_SOONER 38 s). Where only the processes are killed, the kernel
  refuses connections at once, and it takes 15 s (6 s). Ray Train sees closed connections sooner, in a second.
- A network that is away for 20 s is survived: no five checks have failed, no connection is closed, and TCP sends again
  by itself, at growing intervals: a gloo all-reduce goes on 26.5 s after the cut, 6 s after the network is back.
- Away for longer than the checks allow, the node is dead to the head, and the work starts anew elsewhere. The node's
  processes live on until the network is back, when its raylet learns of its death and ends them all: until then there
  are two of each worker, and both see the shared disk.
- SIGTERM to `ray start --block` drains the node for RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S (30). Ray Train's workers get
  no signal; `ray.train.get_preemption_info()` tells them within RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S (5).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import psutil

from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import MARK, OF_ANOTHER_CLUSTER, Service
from ftmeta.version import VARIABLE, code_version
from tests.cluster.namespaces import Namespace, Network, why_not_isolated

ROOT = Path(__file__).parents[2]
HEAD, SECOND = 0, 1
STARTED = "Ray runtime started."  # what `ray start` prints when its node is registered and, on the head, jobs are taken
BIN = Path(sys.executable).parent
# A silent node is dead after 5 x (6 + 1) s instead of 5 x (10 + 3) s, which a cut of 20 s still survives.
NOTICED_SOONER = {"RAY_health_check_timeout_ms": "6000", "RAY_health_check_period_ms": "1000"}


@dataclass
class Node:
    """One raylet with what belongs to it; `main` is its `ray start --block`."""

    index: int
    address: str
    num_cpus: int
    namespace: Namespace | None
    mark: str = ""
    temp_dir: str = ""
    main: subprocess.Popen[bytes] | None = None

    def inside(self, *command: str) -> list[str]:
        return list(command) if self.namespace is None else self.namespace.inside(*command)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the node, drivers on the head included."""
        found = [] if self.namespace is None else self.namespace.processes()
        if self.main is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                service = Service(self.main.pid, psutil.Process(self.main.pid).create_time(), self.address)
                found += local._processes(self.mark, (service,))
        return [process for process in {process.pid: process for process in found}.values() if local._living(process)]


@dataclass(frozen=True)
class TrainWorker:
    """A process of a Ray Train worker group."""

    node: int
    pid: int


class TwoNodes:
    """The cluster, while the `with` block lasts. `logs` is where Ray's logs are kept afterwards."""

    def __init__(
        self,
        logs: Path,
        *,
        num_cpus: tuple[int, int] = (2, 2),
        object_store_mb: int = 100,
        environment: Mapping[str, str] | None = None,
        isolated: bool | None = None,
    ) -> None:
        self.logs = logs
        self.isolated = why_not_isolated() is None if isolated is None else isolated
        self._num_cpus = num_cpus
        self._object_store = object_store_mb * 1_000_000
        self._more = dict(environment or {})
        self._network: Network | None = None
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def head(self) -> Node:
        return self.nodes[HEAD]

    @property
    def second(self) -> Node:
        return self.nodes[SECOND]

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment as nodes and clients of the cluster need it."""
        own = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CLUSTER}
        return {
            **own,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),  # what a driver pickles by name is found by the workers too
            VARIABLE: code_version(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_worker_prestart": "0",  # idle workers that no one asked for are slow to start on two cores
            "RAY_enable_metrics_collection": "0",
            # The machine's name is loopback to each node; on real machines it is resolved.
            **({"GLOO_SOCKET_IFNAME": "eth0"} if self.isolated else {}),
            **self._more,
        }

    def start(self, wait_s: float = 120) -> None:
        """Returns when both nodes are registered and the head takes jobs. Nothing is left when that fails."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ft2-", dir="/tmp"))  # short: socket paths end at 107 bytes
        try:
            (self.folder / "token").touch(mode=0o600)
            (self.folder / "token").write_text(secrets.token_hex(32))
            self._network = Network() if self.isolated else None
            ports = local._free_ports(6379, 8265)
            self.nodes = [
                Node(
                    index,
                    f"127.0.0.{index + 1}" if self._network is None else self._network.address(index),
                    self._num_cpus[index],
                    None if self._network is None else self._network.nodes[index],
                )
                for index in (HEAD, SECOND)
            ]
            self.gcs_address = f"{self.head.address}:{ports[0]}"
            self.dashboard = f"http://{self.head.address}:{ports[1]}"
            for node in self.nodes:
                self._spawn(node)
            self._await(self.nodes, wait_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process, and with them the namespaces and the bridge; keeps Ray's logs."""
        for node in reversed(self.nodes):
            self._kill(node)
        if self._network is not None:
            self._network.close()
            self._network = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def driver(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Starts a client on the head node, as a driver has to be; standard output is a pipe."""
        return subprocess.Popen(
            self.head.inside(*command),
            cwd=ROOT,
            env={
                **self.environment,
                MARK: self.head.mark,
                "RAY_ADDRESS": self.gcs_address,
                "RAY_API_SERVER_ADDRESS": self.dashboard,
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def kill_node(self, *, power_cut: bool = True) -> None:
        """The second node is gone: every process of it by SIGKILL, all at once.

        With `power_cut` its cable goes first, as when a machine loses power: no peer gets a word of farewell (a killed
        process's sockets are closed by the kernel, which tells the other end).
        """
        if power_cut and self._network is not None:
            self._network.plug(SECOND, "down")
        self._kill(self.second)

    def restart_node(self, wait_s: float = 120) -> None:
        """The second node is back, empty, at its old address. Returns when it is registered."""
        if self._network is not None:
            self._network.plug(SECOND, "up")
        self._spawn(self.second)
        self._await([self.second], wait_s)

    @contextlib.contextmanager
    def network_cut(self) -> Iterator[None]:
        """The cable between the nodes is out while the block lasts; each still reaches itself."""
        assert self._network is not None, f"only with namespaces: {why_not_isolated()}"
        self._network.plug(SECOND, "down")
        try:
            yield
        finally:
            self._network.plug(SECOND, "up")

    def cut_network(self, seconds: float) -> None:
        with self.network_cut():
            time.sleep(seconds)

    def train_workers(self) -> list[TrainWorker]:
        """The processes of Ray Train's workers, on both nodes; not the controller, which is on the driver's node."""
        return [
            TrainWorker(node.index, process.pid)
            for node in self.nodes
            for process in node.processes()
            if "RayTrainWorker" in _title(process)
        ]

    def terminate(self, pid: int, signal_number: int = signal.SIGTERM) -> None:
        """Sends a signal to a process of the cluster, and to no other."""
        assert pid in {process.pid for node in self.nodes for process in node.processes()}, (
            f"{pid} is not of this cluster"
        )
        os.kill(pid, signal_number)

    def preempt_node(self) -> None:
        """SIGTERM to the second node's `ray start --block`, as a cloud or Kubernetes gives it before it takes a node.

        Ray drains the node first: for RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S its work goes on and nothing new comes.
        """
        assert self.second.main is not None
        self.second.main.terminate()

    def _spawn(self, node: Node) -> None:
        node.mark = uuid.uuid4().hex
        node.temp_dir = tempfile.mkdtemp(prefix=f"{node.index}-", dir=self.folder)
        gcs_port, dashboard_port = self.gcs_address.rpartition(":")[2], self.dashboard.rpartition(":")[2]
        (agent,) = local._free_ports(52365)
        command = [
            *(str(BIN / "ray"), "start", "--block", "--log-style", "record", "--disable-usage-stats"),
            *("--node-ip-address", node.address, "--num-cpus", str(node.num_cpus), "--temp-dir", node.temp_dir),
            *("--object-store-memory", str(self._object_store), "--dashboard-agent-listen-port", str(agent)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),  # any: without namespaces the nodes share them
        ]
        if node.index == HEAD:
            command += ["--head", "--port", gcs_port, "--ray-client-server-port", str(local._free_ports(10001)[0])]
            command += ["--include-dashboard", "true", "--dashboard-host", node.address]
            command += ["--dashboard-port", dashboard_port]
        else:
            command += ["--address", self.gcs_address]
        environment = {**self.environment, MARK: node.mark, "TMPDIR": node.temp_dir}
        with self._log(node).open("wb") as log:
            node.main = subprocess.Popen(
                node.inside(*command),
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, node: Node) -> Path:
        return self.logs / f"node{node.index}.log"

    def _await(self, nodes: Sequence[Node], wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        waiting = list(nodes)
        while waiting:
            for node in list(waiting):
                said = self._log(node).read_text(encoding="utf-8", errors="replace")
                if STARTED in said:
                    waiting.remove(node)
                elif node.main is None or node.main.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError(f"node {node.index} did not start:\n{said[-3000:]}")
            time.sleep(0.05)

    def _kill(self, node: Node) -> None:
        """Kills until nothing is left, because what is being started escapes a first look; then keeps the logs."""
        while left := node.processes():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=2)
        if node.main is not None:
            node.main.wait()
            node.main = None
        if node.temp_dir:
            kept = self.logs / f"node{node.index}-{node.mark[:6]}"
            with contextlib.suppress(OSError, shutil.Error):
                sessions = Path(node.temp_dir) / "session_latest" / "logs"
                shutil.copytree(sessions, kept, ignore_dangling_symlinks=True)
            shutil.rmtree(node.temp_dir, ignore_errors=True)
            node.temp_dir = ""


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(what: Any, seconds: float = 120) -> Any:
    """The first true answer of `what()`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found
