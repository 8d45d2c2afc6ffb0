"""The tables of docs/sizing.md, from planner, prices and manifests: `python -m tests.manifests.sizing`.

In: nothing. Out: Markdown on standard output. test_sizing.py holds the page to it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ftmeta.costs import usd
from ftmeta.orchestrate.sweep import load_sweep, make_plan
from ftmeta.planning.plan import plan
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task
from tests.manifests.overlays import ROOT, pods, ray_clusters, rendered
from tests.manifests.quantities import amount

MINI, MEDIUM = "microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-medium-4k-instruct"
EXAMPLES, EPOCHS = 10_000, 3
SWEEP_TOKENS = 128  # of a row of the bundled tasks, generously


@dataclass(frozen=True)
class Machines:
    hardware: str
    gpus: int
    nodes: int = 1

    def __str__(self) -> str:
        each = self.gpus // self.nodes
        return f"{self.nodes} x {each} {self.hardware}" if self.nodes > 1 else f"{each} {self.hardware}"


MACHINES = (
    *(Machines(name, 1) for name in ("l4", "a10g", "l40s", "a100-80gb", "h100-80gb", "h200")),
    *(Machines("a10g", 4), Machines("a10g", 8, 2), Machines("h100-80gb", 8)),
)


def planned(model: str, machines: Machines, sequence_length: int | None = None) -> dict[str, Any]:
    """What `ftmeta plan` answers."""
    return plan(
        model,
        load_pipeline("strong-default", load_space()),
        gpus=machines.gpus,
        nodes=machines.nodes,
        hardware=machines.hardware,
        sequence_length=sequence_length,
    )


def money(seconds: float, machines: Machines) -> str:
    """Of all devices for so long; `unknown` without a price."""
    price = usd(seconds * machines.gpus, machines.hardware)
    return "unknown" if price is None else f"${price:,.2f}"


def runs(model: str) -> list[str]:
    lines = [
        f"| GPUs | fits | how | 1,000 examples | {EXAMPLES:,} examples, {EPOCHS} epochs | money |",
        "|---|---|---|---|---|---|",
    ]
    for machines in MACHINES:
        document = planned(model, machines)
        chosen, time = document["plan"], document["time"]
        if chosen is None:
            lines.append(f"| {machines} | no | | | | |")
            continue
        rows = chosen["micro_batch"]
        how = f"{rows} row{'s' * (rows > 1)} at a time, ZeRO {chosen['zero_stage']}"
        how += ", checkpointing" if chosen["activation_checkpointing"] else ""
        seconds = time["per_1000_examples_s"] * EXAMPLES / 1000 * EPOCHS
        lines.append(
            f"| {machines} | {document['memory_gb']['total']:.0f} of {document['gpu_memory_gb']:g} GB | {how} | "
            f"{span(time['per_1000_examples_s'])} | {span(seconds)} | {money(seconds, machines)} |"
        )
    return lines


def sweep() -> list[str]:
    """The training of the sweep on 64 GPUs, if every pipeline took as long as the strong default."""
    lines = ["| GPU | GPU-hours | on 16 GPUs | on 64 GPUs | money |", "|---|---|---|---|---|"]
    examples = sum(runs * len(load_task(task).splits["train"]) for task, runs in sweep_runs().items())
    for hardware in ("l4", "a10g", "a100-80gb", "h100-80gb"):
        one = Machines(hardware, 1)
        seconds = examples / 1000 * planned(MINI, one, SWEEP_TOKENS)["time"]["per_1000_examples_s"]
        hours, cost = f"{seconds / 3600:,.0f}", money(seconds, one)
        lines.append(f"| {hardware} | {hours} | {span(seconds / 16)} | {span(seconds / 64)} | {cost} |")
    return lines


@functools.cache
def sweep_runs() -> dict[str, int]:
    """The runs of collect-64-gpus.yaml by task; the base model's weights are not needed for counting."""
    loaded = load_sweep(ROOT / "jobs" / "configs" / "collect-64-gpus.yaml")
    assert loaded.budget.epochs == 1
    assert loaded.budget.max_train_examples is None
    made = make_plan(loaded.model_copy(update={"base_model": "phi3-micro"}))
    return {task: sum(run.task == task for run in made.runs) for task in loaded.tasks}


def platforms() -> list[str]:
    lines = ["| overlay | pods | cores | memory | volumes |", "|---|---|---|---|---|"]
    for overlay in ("cpu-dev", "gpu", "gpu-kueue"):
        objects = rendered(overlay)
        count, cpus, memory = 0, 0.0, 0.0
        for replicas, requests in _standing(objects):
            count += replicas
            cpus += replicas * sum(amount(one["cpu"]) for one in requests)
            memory += replicas * sum(amount(one["memory"]) for one in requests)
        claims = [one["spec"] for one in objects if one["kind"] == "PersistentVolumeClaim"]
        claims += [c["spec"] for one in objects for c in one.get("spec", {}).get("volumeClaimTemplates", [])]
        disk = sum(amount(claim["resources"]["requests"]["storage"]) for claim in claims)
        lines.append(f"| `{overlay}` | {count} | {cpus:g} | {memory / 2**30:.1f} GiB | {disk / 2**30:.0f} GiB |")
    return lines


def _standing(objects: list[Any]) -> Iterable[tuple[int, list[dict[str, str]]]]:
    """Pods that are there without a job: how many, and what each of their containers requests."""
    for pod in pods(objects):
        if pod.owner["kind"] in ("Deployment", "StatefulSet"):
            yield pod.owner["spec"]["replicas"], [one["resources"]["requests"] for one in pod.spec["containers"]]
    for _, _, cluster in ray_clusters(objects):
        head = [one["resources"]["requests"] for one in cluster["headGroupSpec"]["template"]["spec"]["containers"]]
        yield 1, [*head, cluster["autoscalerOptions"]["resources"]["requests"]]
        for group in cluster["workerGroupSpecs"]:
            if group["minReplicas"]:
                containers = group["template"]["spec"]["containers"]
                yield group["minReplicas"], [one["resources"]["requests"] for one in containers]


def span(seconds: float) -> str:
    """Two figures are all that an estimate is worth."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


TABLES = {
    "mini": lambda: runs(MINI),
    "medium": lambda: runs(MEDIUM),
    "sweep": sweep,
    "platforms": platforms,
}

if __name__ == "__main__":
    for name, table in TABLES.items():
        sys.stdout.write(f"## {name}\n\n" + "\n".join(table()) + "\n\n")
