"""Is there room on the cluster for so many workers? Says what is missing, within a stated time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from ftmeta.errors import ConfigError


@dataclass(frozen=True)
class Workers:
    """How many workers a run gets, and of what size. Each lies on one node; `gpus_each` above 0 means CUDA.

    `wait_s`: seconds to wait for nodes to come (a cluster that grows) or for other work to make room, before the run is
    given up; also after a node has died. `fewest`: with how many the run may go on when there is no room for `count`;
    None: not with fewer. `placement` is Ray's: PACK puts workers side by side where it can, SPREAD on different nodes.
    """

    count: int
    cpus_each: float = 1
    gpus_each: float = 0
    wait_s: float = 60.0
    fewest: int | None = None
    placement: Literal["PACK", "SPREAD"] = "PACK"

    @property
    def each(self) -> dict[str, float]:
        """As Ray names resources."""
        return {"CPU": self.cpus_each, **({"GPU": self.gpus_each} if self.gpus_each else {})}

    def __str__(self) -> str:
        gpus = f" and {self.gpus_each:g} GPU" if self.gpus_each else ""
        return f"{self.count} workers with {self.cpus_each:g} CPU{gpus} each"


def require_room(workers: Workers) -> None:
    """Waits until the nodes of the cluster are large enough for the workers, whoever uses them now.

    Raises ConfigError after `wait_s` that says what there is and what is missing.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    deadline = time.monotonic() + workers.wait_s
    has_asked = False
    try:
        while True:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            places = sum(_places(node, workers.each) for node in nodes)
            if places >= (workers.fewest or workers.count):
                return
            if time.monotonic() > deadline:
                raise ConfigError(f"{lacking(workers, nodes, places)} (waited {workers.wait_s:g} s)")
            if not has_asked:  # a cluster that grows does so for what is asked for; others take no notice
                request_resources(bundles=[workers.each] * workers.count)
                has_asked = True
            time.sleep(0.5)
    finally:
        if has_asked:  # the workers themselves keep the nodes from here on
            request_resources(bundles=[])


def lacking(workers: Workers, nodes: list[dict[str, Any]], places: int) -> str:
    """What was wanted, what is there, and what to do."""
    there = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
    return (
        f"{workers} were asked for, and the cluster has places for {places}: {workers.count - places} are missing "
        f"({len(nodes)} nodes: {there}); ask for fewer or smaller workers, or start more nodes"
    )


def _places(node: dict[str, Any], each: dict[str, float]) -> int:
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in each.items())
