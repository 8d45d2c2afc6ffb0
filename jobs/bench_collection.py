"""The collection machine under load and under fire: `make bench-collection`, or one part of it:

    python -m jobs.bench_collection scale        # the driver's work with 1,000, 10,000 and 100,000 simulated runs
    python -m jobs.bench_collection schedule     # simulation: 2 to 64 slots, failures, stragglers, orders
    python -m jobs.bench_collection trl          # runs per hour against a process of trl's SFTTrainer a run
    python -m jobs.bench_collection faults       # kill -9 of worker, driver, head and MLflow, twenty times
    python -m jobs.bench_collection page         # measures nothing, writes the report

Out: docs/reports/collection.json after each measurement, and docs/reports/collection.md, which is made of it and says
of a part that was not measured that it was not. Exit code 1 if a target that was measured is missed. What a part
measures is in the docstring of its file, jobs/bench_collection_<part>.py.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.errors import UserError
from ftmeta.files import DATA, write_json, write_text
from ftmeta.orchestrate.shell import exit_codes
from jobs.bench_collection_page import page, verdicts

REPORT = Path("docs/reports/collection.json")
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Out = Annotated[Path, typer.Option(help="The numbers; the report stands beside them.")]


@app.command()
def scale(
    sizes: Annotated[str, typer.Option(help="Numbers of runs, with commas.")] = "1000,10000,100000", out: Out = REPORT
) -> None:
    """The driver's work with the number of runs. A size that the file has already is measured anew."""
    from jobs.bench_collection_scale import measure

    for size in map(int, sizes.split(",")):
        sys.stderr.write(f"scale: {size} simulated runs\n")
        before = _read(out).get("scale", {}).get("measured", {})
        _record(
            out, "scale", {**before, str(size): measure(size)}, f"scale --sizes {','.join({**before, str(size): 0})}"
        )
    _finish(out)


@app.command()
def schedule(
    metadata: Annotated[Path, typer.Option(help="A meta-dataset whose runs' durations are used.")] = (
        DATA / "meta" / "spine"
    ),
    seed: int = 0,
    out: Out = REPORT,
) -> None:
    """Makespan and slot efficiency on up to 64 slots, simulated on the durations of real runs."""
    from jobs.bench_collection_schedule import measure

    _record(out, "schedule", measure(metadata, _driver_s_per_run(out), seed), "schedule")
    _finish(out)


@app.command()
def trl(runs: Annotated[int, typer.Option(min=2, max=24)] = 24, out: Out = REPORT) -> None:
    """Runs per hour of our sweep and of a process of SFTTrainer a run."""
    from jobs.bench_collection_trl import Setup, measure

    _record(out, "trl", measure(Setup(runs=runs)), f"trl --runs {runs}")
    _finish(out)


@app.command()
def faults(
    times_each: Annotated[int, typer.Option(min=1, help="How often each of the four is killed.")] = 5,
    runs: Annotated[int, typer.Option(min=2, help="As many as keep two cores at work until the last kill.")] = 120,
    seed: int = 0,
    out: Out = REPORT,
) -> None:
    """kill -9 at random moments, and what there is afterwards."""
    from jobs.bench_collection_faults import measure

    _record(out, "faults", measure(runs, times_each, seed), f"faults --times-each {times_each} --seed {seed}")
    _finish(out)


@app.command("page")
def page_command(out: Out = REPORT) -> None:
    """Measures nothing, writes the report."""
    _finish(out)


def _read(numbers: Path) -> dict[str, Any]:
    return dict(json.loads(numbers.read_text(encoding="utf-8"))) if numbers.is_file() else {}


def _record(out: Path, part: str, measured: dict[str, Any], command: str) -> None:
    """Puts a part into the file."""
    write_json(out, {**_read(out), part: {"measured": measured, "circumstances": _circumstances(command)}})


def _finish(out: Path) -> None:
    results = _read(out)
    write_text(out.with_suffix(".md"), page(results))
    sys.stdout.write(f"{out.with_suffix('.md')}\n")
    raise typer.Exit(int(not all(verdicts(results))))


def _driver_s_per_run(out: Path) -> float:
    """What a run costs the driver, from the largest size that was measured."""
    measured = _read(out).get("scale", {}).get("measured", {})
    if not measured:
        raise UserError(f"{out} does not say what a run costs the driver; measure `scale` before `schedule`")
    marks = max(measured.values(), key=lambda one: one["runs"])["marks"]
    return float(marks[-1]["cpu_s"] / marks[-1]["runs"])


def _circumstances(command: str) -> dict[str, Any]:
    import torch

    from ftmeta.finetune.provenance import device_name, library_versions
    from ftmeta.version import code_version

    return {
        "command": f"python -m jobs.bench_collection {command}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores",
        "versions": {**library_versions(), "ftmeta": code_version()},
    }


if __name__ == "__main__":
    with exit_codes():
        app()
