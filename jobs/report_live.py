"""Live tuning against its rivals, for real: `make report-live`, or `python -m jobs.report_live --work out/live`.

On three datasets that no bundled task uses, with a device budget worth 15 whole runs of the strong default: ours, the
paper's transfer-only Quick-Tune and random search by `ftmeta tune` on two slots, and the strong default by itself, each
with three seeds. Out: docs/reports/live.md and live.json: scores on the test split, which nothing was chosen by, and
beside them what the replay on the meta-dataset (docs/reports/benchmark/benchmark.json) says of the same methods at the
same share of a budget.

Each finished part is a file in the work folder, so the job goes on where it stopped. The whole takes about two hours on
two cores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer

from ftmeta.files import require_writable, write_json, write_text
from ftmeta.finetune.provenance import device_name
from ftmeta.finetune.single import finetune_to_folder
from ftmeta.models import resolve
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.selector import load_selector
from ftmeta.space import load_pipeline
from ftmeta.tasks import load_task
from jobs.live_report.datasets import DATASETS, write
from jobs.live_report.page import page

METHODS = ("ftmeta", "quicktune-transfer", "random")
WHOLE_RUNS = 15
_SLOTS = 2
_COMMAND = "python -m jobs.report_live"


def main(
    work: Annotated[Path, typer.Option(help="Where finished parts are kept.")] = Path("out/live"),
    out: Annotated[Path, typer.Option(help="The report; JSON goes beside it.")] = Path("docs/reports/live.md"),
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    replayed: Annotated[Path, typer.Option(help="The benchmark's numbers, to stand beside the live ones.")] = Path(
        "docs/reports/benchmark/benchmark.json"
    ),
) -> None:
    """Makes what is missing and writes the report."""
    require_writable(out)
    parts: list[dict[str, Any]] = []
    for name in DATASETS:
        data = write(name, work / "data")
        for seed in range(seeds):
            default = _kept(work / "parts" / f"{name}-strong-default-{seed}.json", lambda: _default(data, seed))  # noqa: B023
            parts.append(default)
            budget_s = WHOLE_RUNS * mean(
                part["cost_s"] for part in parts if part["dataset"] == name and part["method"] == "strong-default"
            )
            for method in METHODS:
                path = work / "parts" / f"{name}-{method}-{seed}.json"
                parts.append(_kept(path, lambda: _tuned(data, method, seed, budget_s, work / "tuning")))  # noqa: B023
    found = {
        "command": _COMMAND,
        "hardware": f"{device_name(torch.device('cpu'))}, {_SLOTS} slots",
        "whole_runs": WHOLE_RUNS,
        "selector": load_selector().describe(),
        "replayed": _replayed(replayed),
        "parts": parts,
    }
    write_json(out.with_suffix(".json"), found)
    write_text(out, page(found))


def _kept(path: Path, make: Any) -> dict[str, Any]:
    if not path.is_file():
        sys.stderr.write(f"{path.stem}\n")
        write_json(path, make())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _default(data: Path, seed: int) -> dict[str, Any]:
    """The strong default by itself, a whole run, at its last fidelity."""
    selector = load_selector()
    task, info = load_task(str(data)), resolve("phi3-micro")
    out = data.parent / "strong-default"
    document = finetune_to_folder(
        load_pipeline("strong-default", selector.space),
        task,
        info,
        seed,
        budget=selector.surrogates.budget,
        out=out,
        replace=True,
        threads=1,
    )
    shutil.rmtree(out, ignore_errors=True)
    return {
        **_part(data, "strong-default", seed, task.fingerprint),
        "score": document["curve"][-1]["score"],
        "test": document["test"],
        "zero_shot": document["zero_shot"],
        "cost_s": document["cost_s"],
        "runs": 1,
    }


def _tuned(data: Path, method: str, seed: int, budget_s: float, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    code = "from ftmeta.cli import main; main()"
    command = [sys.executable, "-c", code, "tune", str(data), "--method", method, "--seed", str(seed)]
    command += ["--budget-device", f"{budget_s:.1f}", "--slots", str(_SLOTS), "--out", str(out), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    document = json.loads(done.stdout)
    shutil.rmtree(out, ignore_errors=True)
    best = document["incumbent"]
    return {
        **_part(data, method, seed, document["task"]["fingerprint"]),
        "score": None if best is None else best["score"],
        "test": document["test"],
        "zero_shot": document["zero_shot"],
        "cost_s": document["spent"]["device_s"],
        "wall_s": document["spent"]["wall_s"],
        "budget_s": budget_s,
        "runs": len(document["runs"]),
        "stopped": document["stopped"],
        "slot_efficiency": document["slot_efficiency"],
        "fell_back": None if document["guard"] is None else document["guard"]["fell_back"],
        "trace": [one for one in document["trace"] if one["incumbent"]],
    }


def _part(data: Path, method: str, seed: int, fingerprint: str) -> dict[str, Any]:
    return {"dataset": data.stem, "fingerprint": fingerprint, "method": method, "seed": seed}


def _replayed(path: Path) -> dict[str, Any] | None:
    """Of each method: normalised regret in the replay, by percent of its budget. None: no benchmark was made."""
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    methods = {name: document["methods"][name]["regret"] for name in document["methods"] if name in _COMPARED}
    return {"candidates": document["candidates"], "budget_s": document["budget_s"], "regret": methods}


_COMPARED = (*METHODS, "strong-default")

if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
