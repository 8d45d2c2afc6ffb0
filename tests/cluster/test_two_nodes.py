"""The two-node cluster that the fault tests break: real nodes, a network that can be cut, and nothing left of it.

What Ray and a run make of it when it breaks: test_faults.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.namespaces import why_not_isolated
from tests.cluster.two_nodes import SECOND, TwoNodes

pytestmark = pytest.mark.cluster

needs_namespaces = pytest.mark.skipif(
    why_not_isolated() is not None, reason=f"no network namespaces: {why_not_isolated()}"
)
ASK = """
import json, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(logging_level="error", log_to_driver=False)
alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
where = ray.remote(ray.util.get_node_ip_address)
on = {id: where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)) for id in alive}
ran = ray.get([task.remote() for task in on.values()], timeout=60) if RUN else []
print(json.dumps({"alive": sorted(alive.values()), "ran": sorted(ran)}))
"""


def ask(cluster: TwoNodes, *, run: bool) -> dict[str, Any]:
    """The addresses of the nodes that the head takes for alive, and of those that a task, sent to each, ran on."""
    driver = cluster.driver([sys.executable, "-c", ASK.replace("RUN", str(run))])
    said, complaint = driver.communicate(timeout=120)
    assert driver.returncode == 0, complaint
    return dict(json.loads(said.splitlines()[0]))  # Ray may print warnings of a raylet's after it


def reach(cluster: TwoNodes) -> str:
    """What the second node's network says to the head when asked for a port at which no one listens."""
    script = f"import socket; socket.create_connection(({cluster.second.address!r}, 9), timeout=2)"
    driver = cluster.driver([sys.executable, "-c", script])
    return driver.communicate(timeout=60)[1].splitlines()[-1]


def links() -> list[str]:
    return sorted(psutil.net_if_stats())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with TwoNodes(tmp_path_factory.mktemp("two")) as cluster:
        yield cluster


def test_both_nodes_are_alive_at_addresses_of_their_own_and_run_tasks(cluster: TwoNodes) -> None:
    found = ask(cluster, run=True)
    assert len(set(found["alive"])) == 2
    assert found["ran"] == found["alive"]
    if cluster.isolated:
        assert found["alive"] == [node.address for node in cluster.nodes]


@needs_namespaces
def test_the_network_can_be_cut(cluster: TwoNodes) -> None:
    assert "ConnectionRefusedError" in reach(cluster)
    with cluster.network_cut():
        assert "TimeoutError" in reach(cluster)
    assert "ConnectionRefusedError" in reach(cluster)


def test_only_processes_of_the_cluster_are_signalled(cluster: TwoNodes) -> None:
    with pytest.raises(AssertionError, match="is not of this cluster"):
        cluster.terminate(psutil.Process().pid)


def test_after_stop_nothing_is_left(cluster: TwoNodes) -> None:
    before = links()
    everything = [process for node in cluster.nodes for process in node.processes()]
    namespaces = [node.namespace for node in cluster.nodes if node.namespace is not None]
    assert len(everything) > 10
    cluster.stop()
    assert not any(process.is_running() for process in everything)
    assert [process for node in cluster.nodes for process in node.processes()] == []
    if namespaces:
        # A namespace without a name and without a process is none.
        listed = subprocess.run(["lsns", "--type", "net", "--output", "NS"], capture_output=True, text=True, check=True)
        assert not {str(namespace.inode) for namespace in namespaces} & set(listed.stdout.split())
    assert links() == before
    assert not cluster.folder.exists()
    cluster.stop()  # once more does no harm


@pytest.mark.long
def test_a_node_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    cluster = TwoNodes(tmp_path, num_cpus=(1, -1))
    with pytest.raises(TimeoutError, match=f"node {SECOND} did not start(.|\n)*must be nonnegative"):
        cluster.start()
    assert [process for node in cluster.nodes for process in node.processes()] == []
    assert not cluster.folder.exists()


@pytest.mark.long
def test_without_namespaces_there_are_two_nodes_too(tmp_path: Path) -> None:
    with TwoNodes(tmp_path, isolated=False) as cluster:
        assert len(set(ask(cluster, run=False)["alive"])) == 2
        victims = cluster.second.processes()
        assert any("raylet" in process.name() for process in victims)
        cluster.kill_node()
        assert cluster.second.processes() == []
        assert not any(process.is_running() for process in victims)
    assert [process for node in cluster.nodes for process in node.processes()] == []
