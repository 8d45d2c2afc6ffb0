"""The service measured: `make bench-serve`, or one part of it:

    python -m jobs.bench_serve speed     # beside an empty Serve deployment, in turns; needs wrk
    python -m jobs.bench_serve kills     # 100,000 requests on 32 connections while replicas are killed
    python -m jobs.bench_serve page      # measures nothing, writes the report

Out: docs/reports/serve.json after each measurement, and docs/reports/serve.md, which is made of it and says of a part
that was not measured that it was not. Exit code 1 if a target that was measured is missed.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ftmeta.files import write_json, write_text
from ftmeta.hardware import cpu_name
from ftmeta.orchestrate.shell import exit_codes
from ftmeta.version import code_version
from jobs.bench_serve_page import page, verdicts

REPORT = Path("docs/reports/serve.json")
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Out = Annotated[Path, typer.Option(help="The numbers; the report stands beside them.")]


@app.command()
def speed(
    rounds: Annotated[int, typer.Option(min=1, help="How often each case is measured.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, help="How long each time.")] = 10,
    out: Out = REPORT,
) -> None:
    """Latency and throughput against an empty deployment, and the memory of a replica."""
    from jobs.bench_serve_speed import measure

    _record(out, "speed", lambda: measure(rounds, seconds), f"speed --rounds {rounds} --seconds {seconds}")


@app.command()
def kills(requests: Annotated[int, typer.Option(min=1)] = 100_000, out: Out = REPORT) -> None:
    """Load while a replica is killed every ten seconds."""
    from jobs.bench_serve_kills import measure

    _record(out, "kills", lambda: measure(requests), f"kills --requests {requests}")


@app.command("page")
def page_command(out: Out = REPORT) -> None:
    """Measures nothing, writes the report."""
    _finish(out, _read(out))


def _record(out: Path, part: str, measure: Any, command: str) -> None:
    """Measures a part, puts it into the file, and ends with what became of the targets."""
    import ray

    before = os.getloadavg()[0]
    measured = measure()
    circumstances = {
        "command": f"python -m jobs.bench_serve {command}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_before": round(before, 1),
        "versions": f"ray {ray.__version__}, ftmeta {code_version()}",
    }
    results = {**_read(out), part: {"measured": measured, "circumstances": circumstances}}
    write_json(out, results)
    _finish(out, results)


def _read(numbers: Path) -> dict[str, Any]:
    return dict(json.loads(numbers.read_text(encoding="utf-8"))) if numbers.is_file() else {}


def _finish(out: Path, results: dict[str, Any]) -> None:
    write_text(out.with_suffix(".md"), page(results))
    sys.stdout.write(f"{out.with_suffix('.md')}\n")
    raise typer.Exit(int(not all(met for _, _, met in verdicts(results))))


if __name__ == "__main__":
    with exit_codes():
        app()
