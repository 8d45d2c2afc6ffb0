"""Live tuning's own speed: `python -m jobs.bench_tune` (`make bench-tune`, about six minutes).

- What a step of one fidelity costs beside its work: as a call of an actor (what `ftmeta tune` does) and as a short
  trial of Ray Tune on actors that are used again, in turns, with steps that do nothing.
- From the command to the first work on a slot, on a running cluster and without one.
- The share of slot time that is training and evaluation, in a tuning of two slots.

Out: docs/reports/tune.json and tune.md. The machine should be quiet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from ftmeta.files import write_json, write_text
from ftmeta.finetune.provenance import device_name
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.shell import exit_codes

_STEPS = 60
_SLOTS = 2
_COMMAND = "python -m jobs.bench_tune"


def main(
    out: Annotated[Path, typer.Option(help="The results, as JSON; the page lies beside it.")] = Path(
        "docs/reports/tune.json"
    ),
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    budget_s: Annotated[float, typer.Option(min=30, help="Of the tuning whose slots are watched.")] = 90,
) -> None:
    """Measures and writes both files."""
    steps: dict[str, list[float]] = {"actor": [], "tune": []}
    starts: dict[str, list[float]] = {"cluster": [], "alone": []}
    with connected(num_cpus=_SLOTS):
        import ray

        address = ray.get_runtime_context().gcs_address
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
            steps["actor"].append(_actor_step_s())
            steps["tune"].append(_tune_step_s())
            starts["cluster"].append(_start_s({"RAY_ADDRESS": address}))
    for _ in range(rounds):
        starts["alone"].append(_start_s({}))
    found = {
        "command": _COMMAND,
        "hardware": f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores",
        "slots": _SLOTS,
        "step_s": steps,
        "first_work_s": starts,
        "tuning": _tuning(budget_s),
    }
    write_json(out, found)
    write_text(out.with_suffix(".md"), page(found))


def _actor_step_s() -> float:
    """Slot-seconds of a step of nothing, as a call."""
    import ray

    class Nothing:
        def do(self) -> int:
            return 0

    slots: list[Any] = [ray.remote(num_cpus=1)(Nothing).remote() for _ in range(_SLOTS)]
    ray.get([slot.do.remote() for slot in slots])
    began = time.perf_counter()
    at_work = {slot.do.remote(): slot for slot in slots}
    for _ in range(_STEPS - _SLOTS):
        (done,), _ = ray.wait(list(at_work), num_returns=1)
        slot = at_work.pop(done)
        at_work[slot.do.remote()] = slot
    ray.get(list(at_work))
    took_s = (time.perf_counter() - began) * _SLOTS / _STEPS
    for slot in slots:
        ray.kill(slot)
    return took_s


def _tune_step_s() -> float:
    """Slot-seconds of a step of nothing, as a trial; the start of the experiment is left out by a difference."""
    few_s, many_s = (_experiment_s(steps) for steps in (_SLOTS, _STEPS + _SLOTS))
    return (many_s - few_s) * _SLOTS / _STEPS


def _experiment_s(trials: int) -> float:
    from ray import tune

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tune.Tuner(
            tune.with_resources(Nothing, {"cpu": 1}),
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=_SLOTS, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        return time.perf_counter() - began


def _start_s(more: dict[str, str]) -> float:
    """From the command to the beginning of the first work on a slot."""
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tuning"
        command = [*_tune("web-platform", out), "--budget", "10m", "--slots", str(_SLOTS)]
        began = time.monotonic()
        with subprocess.Popen(command, env={**own, **more}, stderr=subprocess.DEVNULL) as process:
            try:
                while (first := _first_answer(out)) is None:
                    if process.poll() is not None or time.monotonic() - began > 300:
                        raise RuntimeError("the tuning did not start")
                    time.sleep(0.02)
                return time.monotonic() - began - float(first["wall_s"])
            finally:
                process.terminate()
                time.sleep(0.2)
                process.terminate()  # at once


def _tune(data: str, out: Path) -> list[str]:
    code = "import sys; from ftmeta.cli import main; sys.argv = ['ftmeta', *sys.argv[1:]]; main()"
    return [sys.executable, "-c", code, "tune", data, "--out", str(out)]


def _first_answer(out: Path) -> dict[str, Any] | None:
    journal = out / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    events = (json.loads(line) for line in lines if line.endswith(b"\n"))
    return next((event for event in events if event["event"] == "advanced"), None)


def _tuning(budget_s: float) -> dict[str, Any]:
    """One whole tuning. Of the time between the first work and the end of the search, what slots trained and scored."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tuning"
        command = [*_tune("web-platform", out), "--budget", f"{budget_s}s", "--slots", str(_SLOTS), "--json"]
        own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        began = time.monotonic()
        done = subprocess.run(command, env=own, stdout=subprocess.PIPE, check=True)
        wall_s = time.monotonic() - began
        document = json.loads(done.stdout)
        events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    answers = [event for event in events if event["event"] == "advanced"]
    (stopped,) = (event for event in events if event["event"] == "stopped")
    first_s = answers[0]["t_s"] - answers[0]["wall_s"]
    search_s = stopped["t_s"] - first_s
    return {
        "budget_s": budget_s,
        "spent_s": document["spent_s"],
        "command_s": wall_s,
        "first_work_s": first_s,
        "steps": len(answers),
        "runs": len(document["runs"]),
        "busy_share": sum(one["busy_s"] for one in answers) / (_SLOTS * search_s),
        "checkpoint_share": sum(one["wall_s"] - one["busy_s"] for one in answers) / (_SLOTS * search_s),
        "busy_share_of_all": document["slot_efficiency"],
    }


def page(found: dict[str, Any]) -> str:
    """The report, from what `main` wrote."""
    steps, starts, tuning = found["step_s"], found["first_work_s"], found["tuning"]

    def spread(values: list[float], unit: float = 1.0, digits: int = 1) -> str:
        low, mid, high = (f"{unit * value:.{digits}f}" for value in (min(values), median(values), max(values)))
        return f"{mid} ({low} to {high})"

    return f"""# Live tuning: speed

`{found["command"]}` (`make bench-tune`) on {found["hardware"]}; medians of {len(steps["actor"])} rounds, with the
smallest and the largest.

| | measured | target |
|---|---|---|
| a step beside its work, as a call of an actor (what `ftmeta tune` does), ms | {spread(steps["actor"], 1000, 2)} | |
| the same as a trial of Ray Tune on reused actors, ms | {spread(steps["tune"], 1000)} | |
| from the command to the first work on a slot, on a running cluster, s | {spread(starts["cluster"])} | 10 |
| the same without a cluster, s | {spread(starts["alone"])} | 20 |
| share of slot time in training and evaluation, from the first work to the end of the search | \
{100 * tuning["busy_share"]:.1f} % | 90 % |
| the same from the command on | {100 * tuning["busy_share_of_all"]:.1f} % | |

The tuning: `web-platform`, {tuning["budget_s"]:.0f} s of wall time, {found["slots"]} slots; {tuning["steps"]} steps \
of {tuning["runs"]} runs. It spent {tuning["spent_s"]:.1f} s, and the command took {tuning["command_s"]:.1f} s with the
scores on the test split, which come after the budget. Writing and reading checkpoints took \
{100 * tuning["checkpoint_share"]:.1f} % of slot time.
"""


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
