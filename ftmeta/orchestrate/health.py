"""A Ray cluster as it is: what each node says of itself, and whether what they need of each other is there.

    facts = gather(cluster_address(None))

In: the address of a cluster, and the folder that its nodes should share. Out: `ClusterFacts`, for `ftmeta doctor
--cluster` to judge (ftmeta/doctor/cluster.py). A probe (probe.py) is started on each node and asked; a node that does
not answer within `wait_s` is told apart, not waited for.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.orchestrate import local
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.probe import mlflow_settings
from ftmeta.orchestrate.shell import state_dir

SEEN_WITHIN_S = 40.0  # network file systems remember for 30 s what was not there
_CLOCK_READINGS = 3
_ANSWER_S = 60.0  # for a node that answered before


@dataclass(frozen=True)
class NodeFacts:
    """One node. Memory is that of its container, where it is in one. None: not there, or not known."""

    node_id: str
    address: str
    hostname: str
    is_head: bool
    versions: Mapping[str, str | None]
    token_mode: bool
    ray_gpus: float
    nvidia_gpus: int | None
    torch_gpus: int | None
    clock_ahead_s: float  # of the head's
    clock_doubt_s: float  # half of what it took to ask
    disk: str  # the folder of Ray's sessions, where objects go that memory does not hold
    disk_total_gb: float
    disk_free_gb: float
    memory_total_gb: float
    memory_free_gb: float
    shared_memory_gb: float
    object_store_gb: float
    state: str | None  # $FTMETA_STATE

    @property
    def label(self) -> str:
        return self.address if self.hostname == self.address else f"{self.hostname} ({self.address})"


@dataclass(frozen=True)
class Storage:
    """What became of a file that each node wrote. `folder` None: no node names one."""

    folder: str | None
    not_written: Mapping[str, str]  # node -> why
    not_seen: Mapping[str, Sequence[str]]  # node -> the nodes whose files it did not see


@dataclass(frozen=True)
class Endpoint:
    """A service that was asked: `status` of HTTP, or `error`, why there was no answer. Both None: not asked."""

    address: str | None
    status: int | None
    error: str | None


@dataclass(frozen=True)
class Service:
    """Ray Serve: its applications with their status (none: not in use), and what each node's proxy says."""

    applications: Mapping[str, str]
    proxies: Mapping[str, Endpoint]  # by node
    error: str | None = None  # why it is not known


@dataclass(frozen=True)
class ClusterFacts:
    address: str
    nodes: Sequence[NodeFacts]
    silent: Mapping[str, str]  # nodes that count as alive and gave no answer -> why
    job_server: Endpoint  # asked without a token
    storage: Storage
    mlflow: Endpoint
    service: Service


def cluster_address(given: str | None) -> str:
    """`given`, `$RAY_ADDRESS` (which a job has), or the local cluster's, whose token is taken too.

    Raises ConfigError where there is none of them.
    """
    if named := given or os.environ.get("RAY_ADDRESS"):
        return named
    cluster = local.find()
    if cluster is None or not cluster.alive:
        raise ConfigError(
            f"no cluster is named and none runs in {state_dir()}; give --address HOST:6379 (of its head) on one of its "
            "nodes, or run this as a job: ray job submit -- ftmeta doctor --cluster"
        )
    for name in local.OF_ANOTHER_CLUSTER:
        os.environ.pop(name, None)
    os.environ.update(cluster.environment)
    return cluster.gcs_address


def gather(address: str, shared: Path | None = None, *, wait_s: float = 60.0) -> ClusterFacts:
    """Everything, in some seconds. `shared` None: what the nodes say ($FTMETA_STATE). Raises FtmetaError for a cluster
    that cannot be joined."""
    from ray.exceptions import RayError

    try:
        with connected(address):
            return _gathered(address, shared, wait_s)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:500]
        raise FtmetaError(f"the cluster at {address} cannot be joined: {said}") from None
    except RayError as error:
        said = " ".join(str(error).split())[:500] or type(error).__name__
        raise FtmetaError(f"a node of the cluster at {address} answered once and no more: {said}; ask again") from None


def _gathered(address: str, shared: Path | None, wait_s: float) -> ClusterFacts:
    import ray

    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    probes = {node_id: _probe(node_id) for node_id in alive}
    asked = {
        node_id: probe.facts.remote(alive[node_id]["Resources"].get("GPU", 0.0)) for node_id, probe in probes.items()
    }
    told, silent = _answers(asked, wait_s)
    probes = {node_id: probes[node_id] for node_id in told}
    clocks = {node_id: _clock(probe) for node_id, probe in probes.items()}
    head_id = next((node_id for node_id in told if _is_head(alive[node_id])), None)
    reference_s = clocks[head_id][0] if head_id is not None else 0.0
    nodes = [
        NodeFacts(
            node_id=node_id,
            address=alive[node_id]["NodeManagerAddress"],
            is_head=_is_head(alive[node_id]),
            ray_gpus=alive[node_id]["Resources"].get("GPU", 0.0),
            clock_ahead_s=clocks[node_id][0] - reference_s,
            clock_doubt_s=clocks[node_id][1],
            object_store_gb=alive[node_id]["Resources"].get("object_store_memory", 0.0) / 1e9,
            **facts,
        )
        for node_id, facts in told.items()
    ]
    nodes.sort(key=lambda node: (not node.is_head, node.address))
    labels = {node.node_id: node.label for node in nodes}
    folder = _folder(shared, nodes)
    context: Any = ray.init(ignore_reinit_error=True, log_to_driver=False)  # the one that there is
    dashboard = context.address_info.get("webui_url")
    on_head = probes.get(head_id) if head_id is not None else None
    return ClusterFacts(
        address=address,
        nodes=nodes,
        silent={alive[node_id]["NodeManagerAddress"]: why for node_id, why in silent.items()},
        job_server=_job_server(on_head, dashboard),
        mlflow=_mlflow(on_head),
        service=_service(on_head, dashboard, probes, labels),
        storage=_storage(probes, labels, folder, wait_s),  # last: a probe on a file system that hangs says no more
    )


def _probe(node_id: str) -> Any:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ftmeta.orchestrate import probe

    cloudpickle.register_pickle_by_value(probe)
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(probe.Probe).options(num_cpus=0, scheduling_strategy=here).remote()


def _answers(asked: Mapping[str, Any], wait_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """What each node answered within `wait_s`, and why others did not."""
    import ray

    ray.wait(list(asked.values()), num_returns=len(asked), timeout=wait_s)
    told, silent = {}, {}
    for node_id, reference in asked.items():
        try:
            told[node_id] = ray.get(reference, timeout=0.1)
        except Exception as error:  # whatever it is, it is the finding
            silent[node_id] = _why(error, wait_s)
    return told, silent


def _is_head(node: Mapping[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]


def _clock(probe: Any) -> tuple[float, float]:
    """How far the node's clock is ahead of ours, and the doubt: of some readings the quickest."""
    import time

    import ray

    readings = []
    for _ in range(_CLOCK_READINGS):
        before_s = time.time()
        there_s = ray.get(probe.clock.remote(), timeout=_ANSWER_S)
        after_s = time.time()
        readings.append(((after_s - before_s) / 2, there_s - (before_s + after_s) / 2))
    doubt_s, ahead_s = min(readings)
    return ahead_s, doubt_s


def _folder(shared: Path | None, nodes: Sequence[NodeFacts]) -> str | None:
    """The head's word counts: drivers are there."""
    if shared is not None:
        return str(shared)
    return next((node.state for node in nodes if node.state is not None), None)


def _storage(probes: Mapping[str, Any], labels: Mapping[str, str], folder: str | None, wait_s: float) -> Storage:
    import ray

    if folder is None:
        return Storage(None, {}, {})
    place = str(Path(folder) / f".doctor-{uuid.uuid4().hex}")
    wrote, hang = _answers({node_id: probe.write.remote(place, node_id) for node_id, probe in probes.items()}, wait_s)
    not_written = {**{node_id: why for node_id, why in wrote.items() if why is not None}, **hang}
    there = [node_id for node_id in probes if node_id not in not_written]
    looked = {node_id: probes[node_id].missing.remote(place, there, SEEN_WITHIN_S) for node_id in wrote}
    missing, blind = _answers(looked, SEEN_WITHIN_S + wait_s)
    ray.wait([probes[node_id].forget.remote(place) for node_id in missing], num_returns=len(missing), timeout=wait_s)
    return Storage(
        folder,
        {labels[node_id]: why for node_id, why in {**not_written, **blind}.items()},
        {labels[node_id]: [labels[other] for other in others] for node_id, others in missing.items() if others},
    )


def _job_server(head: Any, dashboard: str | None) -> Endpoint:
    """Asked on the head, because it may listen there only."""
    import ray

    if head is None or not dashboard:
        return Endpoint(None, None, None)
    answer = ray.get(head.ask.remote(f"http://{dashboard}/api/jobs/"), timeout=_ANSWER_S)
    return Endpoint(f"http://{dashboard}", answer["status"], answer["error"])


def _mlflow(head: Any) -> Endpoint:
    """Asked where drivers are: on the head, by its settings or else by ours."""
    import ray

    if head is None:
        return Endpoint(None, None, None)
    answer = ray.get(head.mlflow.remote(mlflow_settings()), timeout=_ANSWER_S)
    return Endpoint(answer["uri"], answer["status"], answer["error"])


def _service(head: Any, dashboard: str | None, probes: Mapping[str, Any], labels: Mapping[str, str]) -> Service:
    import ray

    if head is None or not dashboard:
        return Service({}, {}, "there is no dashboard to ask")
    answer = ray.get(head.ask_job_server.remote(f"http://{dashboard}/api/serve/applications/"), timeout=_ANSWER_S)
    if not isinstance(answer["document"], dict):
        return Service({}, {}, answer["error"] or f"the dashboard answers {answer['status']}")
    details = answer["document"]
    applications = {name: str(one["status"]) for name, one in details.get("applications", {}).items()}
    http = details.get("http_options") or {}
    path = "/readyz" if "ftmeta" in applications else "/-/healthz"
    proxies = {}
    for node_id, proxy in (details.get("proxies") or {}).items():
        if node_id not in probes or proxy.get("status") in ("DRAINING", "DRAINED"):
            continue  # Serve takes proxies away from nodes that have no replica
        host = http.get("host", "127.0.0.1")
        address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', 'localhost') else host}:{http.get('port', 8000)}"
        said = ray.get(probes[node_id].ask.remote(address + path), timeout=_ANSWER_S)
        bad = None if proxy.get("status") == "HEALTHY" else f"Serve says {proxy.get('status')}"
        proxies[labels[node_id]] = Endpoint(address + path, said["status"], said["error"] or bad)
    return Service(applications, proxies)


def _why(error: Exception, wait_s: float) -> str:
    from ray.exceptions import GetTimeoutError

    if isinstance(error, GetTimeoutError):
        return f"no answer within {wait_s:.0f} s"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
