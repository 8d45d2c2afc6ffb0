"""The report of jobs/bench_scale.py: what was measured, and what it makes at 100 and 1,000 GPUs, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.bench_scale_schedule import KINDS, RUNS_A_SLOT

GPUS = (100, 1000)
FIDELITIES = 10
GPUS_A_NODE = 4  # as k8s/overlays/gpu and the files in cluster/ have them
BASE_MODEL_GB = 7.6  # Phi-3-mini in bfloat16
REDIS_MB = 400  # maxmemory in k8s/base/redis.yaml
FILE_SYSTEM_MS = 5.0  # an assumption: one operation on a busy network file system
STORAGE_GB_PER_S = 5.0  # an assumption: what a shared file system reads for all nodes together


def seconds_per_run(parts: dict[str, Any]) -> dict[str, float]:
    """What is busy with a run, one run at a time -> for how many seconds. Only what was measured."""
    found = {}
    if "driver" in parts:
        found["driver of a sweep"] = parts["driver"]["driver_s"]
        found["GCS of the head"] = parts["driver"]["gcs_s"]
    if "mlflow" in parts:
        found["the thread that sends to MLflow"] = parts["mlflow"]["send_s"] + parts["mlflow"]["server_s"]
        found["MLflow's server with one worker on sqlite"] = parts["mlflow"]["server_s"]
    if "ledger" in parts:
        found["ledger on a local disk"] = parts["ledger"]["put_s"]
    if "driver" in parts and "ledger" in parts:
        waits_s = parts["ledger"]["operations"] * FILE_SYSTEM_MS / 1000
        found[f"driver whose ledger takes {FILE_SYSTEM_MS:g} ms an operation"] = parts["driver"]["driver_s"] + waits_s
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def full_at(seconds: float, run_s: float) -> float:
    """How many GPUs keep something busy all the time that each run of `run_s` needs for `seconds`."""
    return run_s / seconds


def page(found: dict[str, Any]) -> str:
    """The report; parts that were not measured are left out, and named at the end."""
    parts = found["parts"]
    sections = ["# What breaks first at 100 and 1,000 GPUs", _intro()]
    for title, section in _SECTIONS.items():
        if body := section(parts, found):
            sections += [f"## {title}", *body]
    sections += [f"## {'How it was measured'}", _made(found, parts)]
    return "\n\n".join(sections) + "\n"


def _intro() -> str:
    return (
        "`make bench-scale` (ten minutes, no GPU) measures what a run, a row, a question and a node cost the parts of "
        "the system that there is one of; `scale.json` has all numbers. What that makes at 100 and 1,000 GPUs is "
        "arithmetic, and said to be so. Nobody has run ftmeta on that many GPUs."
    )


def _first(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    costs = seconds_per_run(parts)
    if not costs:
        return []
    rows = []
    for name, seconds in costs.items():
        cells = [_gpus(full_at(seconds, run_s)) for run_s in KINDS.values()]
        rows.append([name, f"{1000 * seconds:.1f}", *cells])
    columns = ["", "ms a run", *(f"full at so many GPUs: {kind} ({run_s:g} s)" for kind, run_s in KINDS.items())]
    short = next(iter(KINDS.values()))
    full = {gpus: [name for name, seconds in costs.items() if full_at(seconds, short) < gpus] for gpus in GPUS}
    said = [f"with {gpus:,} GPUs {', '.join(names) or 'nothing is'}" for gpus, names in full.items()]
    return [
        f"A sweep with one run a GPU, {FIDELITIES} fidelities; what is full first is at the top. Full with runs of "
        f"{short:g} s: {'; '.join(said)}. The lengths of runs are the planner's estimates (docs/sizing.md).",
        _table(columns, rows),
        f"{FILE_SYSTEM_MS:g} ms for an operation on a network file system is an assumption: put in what yours takes.",
    ]


def _driver(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "driver" not in parts:
        return []
    rows = []
    for name in ("driver", "driver, more reports", "driver, 2 slots"):
        if name in parts:
            one = parts[name]
            rows.append(
                [
                    one["settings"]["slots"],
                    f"{one['settings']['run_s']:g}",
                    one["settings"]["fidelities"] + 1,
                    f"{1 / one['wall_s']:.1f}",
                    f"{1000 * one['driver_s']:.1f}",
                    f"{1000 * one['gcs_s']:.1f}",
                    f"{1000 * one['raylet_s']:.1f}",
                    f"{one['workers']} for {one['runs']}",
                ]
            )
    columns = ["slots", "s a run", "reports a run", "runs/s", "driver, ms a run", "GCS, ms", "raylet, ms", "processes"]
    said = [
        "Workers that compute nothing and take their time, so that all slots are at work and the driver is not waited "
        "for. CPU time of the driver (Tune's loop, the ledger), of the GCS and of the raylet.",
        _table(columns, rows),
    ]
    if "driver, more reports" in parts:
        few, many = parts["driver"], parts["driver, more reports"]
        more = many["settings"]["fidelities"] - few["settings"]["fidelities"]
        said.append(f"So a report costs the driver {1000 * (many['driver_s'] - few['driver_s']) / more:.2f} ms.")
    one = parts["driver"]
    said.append(
        "Processes are what was started for so many runs; with each slot's process used again there would be as many "
        "as slots. As Tune 2.60 is written, a process that is free goes to a run that still waits for one of its own, "
        "and the one that was starting is ended; and of runs that end between two turns of its loop only one hands its "
        "process on. So processes are lost while others start, if that takes longer than a run (other work slowed it "
        "here), and where runs are short. Each new one loads the base model anew."
    )
    said.append(
        "What to do: `runs_per_slot` (many runs in a process, docs/vectorized.md); the same sweep submitted twice, "
        "which shares its runs between two drivers on two machines; or sweeps of a task each."
    )
    return said


def _schedule(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["kind"],
            f"{row['slots']:,}",
            f"{row['runs']:,}",
            f"{row['efficiency']:.2f}",
            f"{row['without_barriers']:.2f}",
        ]
        for row in found.get("schedule", [])
    ]
    if not rows:
        return []
    return [
        "A simulation with the driver's cost from above: the share of time that slots are at work, from the first "
        f"worker's start to the last row, with {RUNS_A_SLOT} runs a slot. A sweep is a row of experiments of 5,000 "
        "runs, and between two of them all slots wait for the slowest run and start anew.",
        _table(["runs", "slots", "runs in all", "slots at work", "if it were one experiment"], rows),
        "Above 64 slots the barrier weighs; larger experiments cost the driver 34 KB of memory a run.",
    ]


def _ledger(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "ledger" not in parts:
        return []
    one = parts["ledger"]
    return [
        f"A row is a file of {one['row_bytes'] / 1000:.1f} KB: {1000 * one['put_s']:.2f} ms of CPU and "
        f"{one['operations']} operations that change or list a folder. To look whether a run is there takes "
        f"{1e6 * one['has_s']:.0f} µs, to list all ids {1e6 * one['ids_s']:.1f} µs a row "
        f"({one['ids_s'] * 1e5:.1f} s for 100,000), `--status` {1e6 * one['brief_s']:.0f} µs a row "
        f"({one['brief_s'] * 1e5:.0f} s for 100,000).",
        "The driver writes each row itself before it goes on, so that no row is lost; on a slow network file system "
        "this is what it waits for. What to do: the ledger on the fastest shared folder there is, or on the head's own "
        "disk, copied at the end; data and models may stay on the slow one.",
    ]


def _mlflow(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "mlflow" not in parts:
        return []
    one = parts["mlflow"]
    per_s = 1 / (one["send_s"] + one["server_s"])
    return [
        f"A run with {FIDELITIES + 1} points takes {1000 * one['server_s']:.0f} ms of the server's CPU (one worker, "
        f"sqlite) and {1000 * one['send_s']:.0f} ms of the driver's second thread, one after the other: {per_s:.0f} "
        f"runs/s at most, on cores of their own. On this busy machine it was {1 / one['wall_s']:.1f}.",
        "A sweep is not held up: what waits is sent afterwards (for at most five minutes), what waits beyond 10,000 "
        "runs is dropped there and kept in the ledger, and `ftmeta metadata to-mlflow DIR` sends it later. One thread "
        "sends, run after run: PostgreSQL and more workers of the server, as in k8s/, help other clients, and a sweep "
        "that is submitted twice has two such threads.",
    ]


def _objects(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "objects" not in parts:
        return []
    one = parts["objects"]
    short, bytes_a_run = next(iter(KINDS.values())), one["run_bytes"] + FIDELITIES * one["report_bytes"]
    rows = []
    for gpus in GPUS:
        nodes = gpus // GPUS_A_NODE
        rows.append(
            [
                f"{gpus:,}",
                nodes,
                f"{nodes * one['tasks_bytes'] / 1e6:,.0f} MB",
                f"{nodes * BASE_MODEL_GB:,.0f} GB",
                f"{nodes * BASE_MODEL_GB / STORAGE_GB_PER_S / 60:.1f} min",
                f"{gpus / short * bytes_a_run / 1000:.0f} KB/s",
                f"{gpus * one['beacon_bytes_1000'] / 1000 / 1000:.0f} KB",
            ]
        )
    columns = [
        "GPUs",
        f"nodes of {GPUS_A_NODE}",
        "tasks, to all nodes",
        "Phi-3-mini, read by all nodes",
        f"that at {STORAGE_GB_PER_S:g} GB/s",
        f"rows and reports, runs of {short:g} s",
        "the driver's word for --status, each 5 s",
    ]
    packages = REDIS_MB * 1e6 / one["package_bytes"]
    return [
        f"The object store holds the tasks only ({one['tasks']} bundled ones: {one['tasks_bytes'] / 1e6:.1f} MB, once "
        f"a node); a finished run is {one['run_bytes'] / 1000:.1f} KB, too small for it, and comes with the answer. "
        "Models do not pass through it: each node reads its own.",
        _table(columns, rows),
        f"So what breaks at the start is the shared file system ({STORAGE_GB_PER_S:g} GB/s is an assumption): put the "
        "base model into the image or on the nodes' own disks.",
        f"A job's package, which `ray job submit --working-dir .` puts into the GCS and so into Redis, is "
        f"{one['package_bytes'] / 1e6:.0f} MB: {packages:.0f} different ones fill the {REDIS_MB} MB that k8s/ gives "
        "Redis, which then refuses to write, whereupon the GCS ends (seen with Ray 2.60). Ray removes a package when "
        "no job uses it, ten minutes after it was brought at the earliest.",
    ]


def _service(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "service" not in parts:
        return []
    one = parts["service"]
    rows = [
        [name, f"{1000 * one[key]:.1f}", f"{1 / one[key]:,.0f}"]
        for name, key in (
            ("recommendation, a new task by its meta-features", "new_task_s"),
            ("recommendation, 1,000 rows", "1000_rows_s"),
            ("recommendation, the same task again", "same_task_s"),
            ("suggestion in a live tuning", "suggestion_s"),
        )
    ]
    short = next(iter(KINDS.values()))
    asked = [gpus * FIDELITIES / short for gpus in GPUS]
    cores = [rate * one["suggestion_s"] for rate in asked]
    return [
        "CPU time of the application; Ray Serve's proxy and network come on top (docs/reports/serve.md).",
        _table(["question", "ms", "a second and core"], rows),
        "Sweeps and `ftmeta tune` do not ask the service. If all GPUs tuned by it, a suggestion for each fidelity of "
        f"runs of {short:g} s, that would be {asked[0]:.0f} and {asked[1]:.0f} suggestions/s on 100 and 1,000 GPUs: "
        f"{cores[0]:.1f} and {cores[1]:.1f} cores. Replicas keep nothing, so more of them is the answer; k8s/ has two "
        "to eight with a core each.",
    ]


def _nodes(parts: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "nodes" not in parts:
        return []
    one = parts["nodes"]
    rows = [
        [
            title,
            f"{100 * one[kind]:.1f} %",
            f"{100 * max(one[f'{kind}_per_node'], 0.0):.2f} %",
            *(f"{100 * (one[kind] + gpus // GPUS_A_NODE * max(one[f'{kind}_per_node'], 0.0)):.0f} %" for gpus in GPUS),
        ]
        for kind, title in (("gcs", "GCS"), ("dashboard", "dashboard and job server"), ("raylet", "raylet of the head"))
    ]
    columns = [
        "of a core, while nothing is done",
        "one node",
        "each further node",
        *(f"{gpus:,} GPUs" for gpus in GPUS),
    ]
    return [
        f"Measured with {one['more']} more nodes, all on one machine; nodes of {GPUS_A_NODE} GPUs. The last two "
        "columns are a straight line through that, far beyond what was measured.",
        _table(columns, rows),
    ]


def _made(found: dict[str, Any], parts: dict[str, Any]) -> str:
    circumstances = found["circumstances"]
    versions = circumstances["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("ray", "torch", "transformers") if name in versions)
    took_s = sum(one["took_s"] for one in parts.values())
    loads = [load for one in parts.values() for load in one["load"]]
    return (
        f"`{circumstances['command']}`, {circumstances['date']}, {circumstances['hardware']}, {named}, ftmeta "
        f"{versions['ftmeta']}; {took_s / 60:.0f} min. Other work ran beside it (load {min(loads):.0f} to "
        f"{max(loads):.0f} on these cores), so only CPU times count; caches that others empty make them larger, by how "
        "much is not known. One measurement of each, so no spread is known."
    )


def _gpus(count: float) -> str:
    return f"{count:,.0f}" if count < 100_000 else "more than 100,000"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


_SECTIONS = {
    "What is full first": _first,
    "Driver": _driver,
    "Slots at work": _schedule,
    "Ledger": _ledger,
    "MLflow": _mlflow,
    "Object store, storage, Redis": _objects,
    "Serve": _service,
    "Head and nodes": _nodes,
}
