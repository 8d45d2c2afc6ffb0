"""What is wrong with a Ray cluster and what to do: pure functions over what health.py gathered.

Each check speaks of the whole cluster, and where something is wrong it names the nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from ftmeta.doctor.check import Check
from ftmeta.orchestrate.health import ClusterFacts, Endpoint, NodeFacts

PART = "cluster"
MAX_CLOCK_SKEW_S = 5.0  # well below the 60 s after which a driver that says nothing counts as dead
MIN_FREE_DISK = 0.1  # of the disk: at 5 % Ray stops to keep objects there
MIN_FREE_MEMORY = 0.1  # of the node: at 5 % Ray ends workers
_SHOWN = 5  # nodes that are named; more are counted


def check_cluster(facts: ClusterFacts) -> list[Check]:
    """Every check, in the order in which to mend what is wrong."""
    return [
        _nodes(facts),
        *(_version(facts.nodes, name) for name in ("python", "ray", "torch", "ftmeta")),
        _libraries(facts.nodes),
        _token(facts),
        _gpus(facts.nodes),
        _storage(facts),
        _clocks(facts.nodes),
        _disk(facts.nodes),
        _memory(facts.nodes),
        _shared_memory(facts.nodes),
        _mlflow(facts.mlflow),
        _service(facts),
    ]


def _check(name: str, wrong: Sequence[str], fine: str, wanted: str, fix: str) -> Check:
    """A check that is fine where nothing is wrong."""
    found = fine if not wrong else "; ".join(wrong[:_SHOWN])
    if len(wrong) > _SHOWN:
        found += f"; and {len(wrong) - _SHOWN} more"
    return Check(name, PART, not wrong, found, wanted, fix)


def _nodes(facts: ClusterFacts) -> Check:
    silent = [f"{address}: {why}" for address, why in facts.silent.items()]
    heads = sum(node.is_head for node in facts.nodes)
    if not heads:
        silent.append("the head is none of those that answer")
    fine = f"{len(facts.nodes)} at {facts.address} answer"
    fix = "read raylet.out and the worker logs of that node (/tmp/ray/session_latest/logs); take it out if it hangs"
    return _check("nodes", silent, fine, "every node answers", fix)


def _version(nodes: Sequence[NodeFacts], name: str) -> Check:
    where = _by(nodes, lambda node: node.versions.get(name) or "missing")
    wrong = [f"{version} on {_names(on)}" for version, on in where.items()]
    if len(where) == 1 and "missing" not in where:
        wrong = []
    fix = (
        "the same image (k8s/components/site), or the same virtual environment, on every node"
        if name != "ftmeta"
        else "the same image or checkout on every node; FTMETA_CODE_VERSION names it where there is no .git"
    )
    return _check(name, wrong, next(iter(where), "no node"), "the same on every node", fix)


def _libraries(nodes: Sequence[NodeFacts]) -> Check:
    """The others that a run's curve depends on, in one check."""
    wrong = [_version(nodes, name) for name in ("transformers", "peft", "deepspeed")]
    said = [f"{check.name}: {check.found}" for check in wrong if not check.ok]
    fine = ", ".join(f"{check.name} {check.found}" for check in wrong)
    return _check("libraries", said, fine, "the same on every node", "as above; constraints.txt has the versions")


def _token(facts: ClusterFacts) -> Check:
    wrong = [f"off on {node.label}" for node in facts.nodes if not node.token_mode]
    server = facts.job_server
    if server.error is not None:
        wrong.append(f"the job server {server.address} does not answer: {server.error}")
    elif server.status is not None and server.status not in (401, 403):
        wrong.append(f"the job server {server.address} answers {server.status} without a token")
    fine = "on every node" + ("" if server.status is None else f"; without it the job server answers {server.status}")
    fix = (
        "RAY_AUTH_MODE=token and a token (RAY_AUTH_TOKEN_PATH) for every node before `ray start`; on Kubernetes "
        "authOptions: {mode: token}"
    )
    return _check("token", wrong, fine, "asked for everywhere", fix)


def _gpus(nodes: Sequence[NodeFacts]) -> Check:
    wrong = []
    for node in nodes:
        seen = node.torch_gpus if node.nvidia_gpus else node.torch_gpus or 0
        if node.ray_gpus == seen:
            continue  # fewer than nvidia-smi's: CUDA_VISIBLE_DEVICES hides some from this node
        driver = "no driver" if node.nvidia_gpus is None else f"nvidia-smi {node.nvidia_gpus}"
        wrong.append(f"{node.label}: Ray {node.ray_gpus:g}, torch {_or(node.torch_gpus)}, {driver}")
    total = sum(node.ray_gpus for node in nodes)
    with_gpus = sum(node.ray_gpus > 0 for node in nodes)
    fine = f"{total:g} on {with_gpus} nodes" if total else "none, and none is seen"
    fix = (
        "fewer in torch than nvidia-smi: torch is a CPU build, or its CUDA is newer than the driver; more in Ray: "
        "correct --num-gpus, or the pod's nvidia.com/gpu; fewer in Ray: start the node again, with its driver loaded"
    )
    return _check("GPUs", wrong, fine, "Ray counts those that torch sees", fix)


def _storage(facts: ClusterFacts) -> Check:
    storage = facts.storage
    wrong = [f"{node} cannot write to {storage.folder}: {why}" for node, why in storage.not_written.items()]
    wrong += [f"{node} does not see what {_names(others)} wrote" for node, others in storage.not_seen.items()]
    told = _by(facts.nodes, lambda node: node.state or "nothing")
    if len(told) > 1 and storage.folder in told:
        wrong += [f"FTMETA_STATE is {state} on {_names(on)}" for state, on in told.items()]
    if storage.folder is None:
        wrong = ["no node has FTMETA_STATE, so no folder was tried"]
    fix = (
        "mount one file system at the same path on every node, writable for the user that Ray runs as, and set "
        "FTMETA_STATE to a folder on it before `ray start`; or name the folder to try: --shared DIR"
    )
    return _check("storage", wrong, f"{storage.folder} is shared", "what one node writes, all others see", fix)


def _clocks(nodes: Sequence[NodeFacts]) -> Check:
    def beyond(node: NodeFacts) -> bool:
        return abs(node.clock_ahead_s) - node.clock_doubt_s > MAX_CLOCK_SKEW_S

    wrong = [f"{node.label} is {_ahead(node.clock_ahead_s)}" for node in nodes if beyond(node)]
    most = max((abs(node.clock_ahead_s) for node in nodes), default=0.0)
    doubt = max((node.clock_doubt_s for node in nodes), default=0.0)
    fine = f"at most {most:.3f} s apart (+- {doubt:.3f})"
    fix = "run an NTP client (chrony, systemd-timesyncd) on the machines"
    return _check("clocks", wrong, fine, f"within {MAX_CLOCK_SKEW_S:g} s of the head's", fix)


def _disk(nodes: Sequence[NodeFacts]) -> Check:
    wrong = [
        f"{node.label}: {node.disk_free_gb:.1f} of {node.disk_total_gb:.0f} GB free at {node.disk}"
        for node in nodes
        if node.disk_free_gb < MIN_FREE_DISK * node.disk_total_gb
    ]
    least = min((node.disk_free_gb for node in nodes), default=0.0)
    fix = "remove old Ray sessions and model caches there, or put Ray elsewhere: ray start --temp-dir"
    return _check("disk", wrong, f"at least {least:.0f} GB free", f"{100 * MIN_FREE_DISK:.0f} % free", fix)


def _memory(nodes: Sequence[NodeFacts]) -> Check:
    wrong = [
        f"{node.label}: {node.memory_free_gb:.1f} of {node.memory_total_gb:.0f} GB free"
        for node in nodes
        if node.memory_free_gb < MIN_FREE_MEMORY * node.memory_total_gb
    ]
    least = min((node.memory_free_gb for node in nodes), default=0.0)
    fix = "see what runs there (ray list actors, ps); give the node more memory, or its slots fewer runs"
    return _check("memory", wrong, f"at least {least:.1f} GB free", f"{100 * MIN_FREE_MEMORY:.0f} % free", fix)


def _shared_memory(nodes: Sequence[NodeFacts]) -> Check:
    wrong = [
        f"{node.label}: {node.shared_memory_gb:.2f} GB for an object store of {node.object_store_gb:.2f} GB"
        for node in nodes
        if node.shared_memory_gb < node.object_store_gb
    ]
    fix = "a larger /dev/shm (Kubernetes: an emptyDir of medium Memory; docker: --shm-size), or --object-store-memory"
    return _check("/dev/shm", wrong, "holds the object store", "as large as Ray's object store", fix)


def _mlflow(server: Endpoint) -> Check:
    wrong = [] if server.error is None else [f"{server.address}: {server.error}"]
    if server.status in (401, 403):
        wrong = [f"{server.address} answers {server.status}"]
        fix = (
            "401: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the head are not a user's; 403: the name in "
            "MLFLOW_TRACKING_URI is not in the server's --allowed-hosts"
        )
    else:
        fix = "see whether the server runs and a firewall or network policy is between the head and it"
        if server.status not in (None, 200):
            wrong = [f"{server.address} answers {server.status}"]
    fine = "not in use (MLFLOW_TRACKING_URI is not set)"
    if server.address is not None:
        fine = f"{server.address} answers" if server.status else f"{server.address}, a database of the head's own"
    return _check("MLflow", wrong, fine, "the head reaches it, with its password", fix)


def _service(facts: ClusterFacts) -> Check:
    service = facts.service
    wrong = [] if service.error is None else [service.error]
    wrong += [f"application {name} is {status}" for name, status in service.applications.items() if status != "RUNNING"]
    for node, proxy in service.proxies.items():
        said = proxy.error or (None if proxy.status == 200 else f"answers {proxy.status}")
        wrong += [f"{node}: {proxy.address} {said}"] if said else []
    if service.applications and not service.proxies and not wrong:
        wrong = ["no node has a proxy, so requests reach no replica"]
    fine = (
        f"{', '.join(service.applications)} on {len(service.proxies)} nodes" if service.applications else "not in use"
    )
    fix = "serve status says why; the replicas' logs are in /tmp/ray/session_latest/logs/serve on their nodes"
    return _check("Serve", wrong, fine, "what is deployed runs, and every proxy answers", fix)


def _by(nodes: Sequence[NodeFacts], what: Callable[[NodeFacts], str]) -> dict[str, list[str]]:
    """What is said -> the labels of those that say it, the most common first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        found[what(node)].append(node.label)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


def _names(labels: Iterable[str]) -> str:
    listed = list(labels)
    return (
        ", ".join(listed) if len(listed) <= _SHOWN else f"{', '.join(listed[:_SHOWN])} and {len(listed) - _SHOWN} more"
    )


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"


def _or(count: int | None) -> str:
    return "unknown" if count is None else str(count)
