"""What breaks first at 100 and 1,000 GPUs: `make bench-scale` (at most ten minutes), or one part of it:

    python -m jobs.bench_scale --part driver --part mlflow

In: nothing. Out: docs/reports/scale.json after each measurement, and docs/reports/scale.md, which is made of it. What a
run, a row, a question and a node cost is measured (bench_scale_parts.py), in CPU-seconds, which other load on the
machine hardly moves; what that makes at 100 and 1,000 GPUs is reckoned from it (bench_scale_page.py). No GPU is needed.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.errors import UserError
from ftmeta.files import DATA, write_json, write_text
from ftmeta.orchestrate.shell import exit_codes
from jobs.bench_scale_page import page
from jobs.bench_scale_schedule import efficiencies
from jobs.measuring import in_a_process

REPORT = Path("docs/reports/scale.json")
TASKS = sorted(path.name for path in (DATA / "tasks").iterdir() if path.is_dir())
# Two with the same number of runs a second, that differ in slots; and one with the reports of five runs in each.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "driver": ("driver", {"slots": 16, "runs": 128, "run_s": 4.0, "fidelities": 10}),
    "driver, more reports": ("driver", {"slots": 16, "runs": 128, "run_s": 4.0, "fidelities": 50}),
    "driver, 2 slots": ("driver", {"slots": 2, "runs": 80, "run_s": 0.5, "fidelities": 10}),
    "ledger": ("ledger", {"rows": 3000}),
    "mlflow": ("mlflow", {"runs": 60}),
    "objects": ("objects", {"tasks": TASKS}),
    "service": ("service", {"questions": 40}),
    "nodes": ("nodes", {"more": 6, "watched_s": 15.0}),
}
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_enable_worker_prestart": "0"}


def main(
    part: Annotated[list[str] | None, typer.Option(help="May be repeated. Default: all.")] = None,
    out: Annotated[Path, typer.Option(help="The numbers; the report lies beside them.")] = REPORT,
) -> None:
    """Measures, writing after each part."""
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"parts": {}}
    for name in CASES if part is None else part:
        if name not in CASES:
            raise UserError(f"unknown part '{name}'; choose one of {', '.join(CASES)}")
        module_part, settings = CASES[name]
        sys.stderr.write(f"{name}\n")
        load, began = os.getloadavg()[0], time.monotonic()
        measured = in_a_process("jobs.bench_scale_parts", module_part, json.dumps(settings), environment=_ENVIRONMENT)
        took_s = time.monotonic() - began
        found["parts"][name] = {**measured, "settings": settings, "load": [load, os.getloadavg()[0]], "took_s": took_s}
        found["circumstances"] = _circumstances()
        write_json(out, found)
    if "driver" in found["parts"]:
        found["schedule"] = efficiencies(found["parts"]["driver"]["driver_s"])
        write_json(out, found)
    write_text(out.with_suffix(".md"), page(found))
    sys.stdout.write(f"{out.with_suffix('.md')}\n")


def _circumstances() -> dict[str, Any]:
    import torch

    from ftmeta.finetune.provenance import device_name, library_versions
    from ftmeta.version import code_version

    return {
        "command": "python -m jobs.bench_scale",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores",
        "versions": {**library_versions(), "ftmeta": code_version()},
    }


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
