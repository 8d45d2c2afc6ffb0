"""Speed and memory of the spine against its targets: `make bench`, or `python -m jobs.bench --out REPORT.md`.

Each case is a fresh process, run several times, the cases in turns so that a noisy minute hits all of them. Out: a
Markdown report with the machine, the command, and median and range for each case; exit code 1 if a target is missed.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ftmeta.files import write_text

COLD_ROWS = 2000
LONG_WORDS = 300  # of a row of a task with long texts
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True)
class Case:
    """One measured quantity. `measure` returns the values of one repetition, in the units of `targets`."""

    name: str
    command: str
    measure: Callable[[Path], dict[str, float]]
    targets: dict[str, float]  # quantity with its unit -> the most it may be


def _wall_s(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def _ftmeta(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "from ftmeta.cli import main; main()", *arguments)


def _import(_: Path) -> dict[str, float]:
    return {"wall s": _wall_s(sys.executable, "-c", "import ftmeta")}


def _help(_: Path) -> dict[str, float]:
    return {"wall s": _wall_s(*_ftmeta("--help"))}


def _rows(folder: Path, task: str, words: int | None = None) -> Path:
    """COLD_ROWS rows: the task's examples over and over, or its running text, `words` a row, a fifth of them answer."""
    data = folder / f"{task}-{words or 'as-they-are'}.jsonl"
    if data.exists():
        return data
    from ftmeta.tasks import load_task

    examples = [example for split in load_task(task).splits.values() for example in split]
    over_and_over = enumerate(itertools.islice(itertools.cycle(examples), COLD_ROWS))
    pairs = [(f"{example.prompt} ({i})", example.completion) for i, example in over_and_over]
    if words is not None:
        text = [word for pair in pairs for word in " ".join(pair).split()]
        answer = words // 5
        cut = [text[(i * words) % (len(text) - words) :][:words] for i in range(COLD_ROWS)]
        pairs = [(f"{' '.join(one[:-answer])} ({i})", " ".join(one[-answer:])) for i, one in enumerate(cut)]
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in pairs)
    write_text(data, "\n".join(lines) + "\n")
    return data


def _recommend(folder: Path) -> dict[str, float]:
    data = _rows(folder, "world-facts")
    return {"wall s": _wall_s(*_ftmeta("recommend", str(data), "--json"))}


def _metafeatures(words: int | None) -> Callable[[Path], dict[str, float]]:
    program = (
        "import sys; from ftmeta.metafeatures import metafeatures; from ftmeta.models import fast_tokenizer, resolve; "
        "from ftmeta.tasks import load_task; "
        "metafeatures(load_task(sys.argv[1]), fast_tokenizer(resolve('phi3-micro')))"
    )

    def measure(folder: Path) -> dict[str, float]:
        return {"wall s": _wall_s(sys.executable, "-c", program, str(_rows(folder, "web-platform", words)))}

    return measure


def _run(task: str) -> Callable[[Path], dict[str, float]]:
    def measure(folder: Path) -> dict[str, float]:
        out = folder / f"run-{time.monotonic_ns()}"
        options = ("--pipeline", "strong-default", "--threads", "1", "--out", str(out), "--json")
        done = subprocess.run(_ftmeta("finetune", task, *options), check=True, capture_output=True, env=ENVIRONMENT)
        document = json.loads(done.stdout)
        return {"device-seconds": document["cost_s"], "GB at peak": document["peak_memory_gb"]}

    return measure


CASES = (
    Case("import ftmeta", 'python -c "import ftmeta"', _import, {"wall s": 0.5}),
    Case("help", "ftmeta --help", _help, {"wall s": 0.5}),
    Case(f"recommend, {COLD_ROWS:,} rows, cold", "ftmeta recommend rows.jsonl --json", _recommend, {"wall s": 5.0}),
    *(
        Case(
            f"meta-features, {COLD_ROWS:,} rows of {rows}, cold",
            'python -c "metafeatures(load_task(rows.jsonl), fast_tokenizer(resolve(phi3-micro)))"',
            _metafeatures(words),
            {"wall s": 2.0},
        )
        for rows, words in (("web-platform", None), (f"{LONG_WORDS} words", LONG_WORDS))
    ),
    *(
        Case(
            f"one run, {task}",
            f"ftmeta finetune {task} --pipeline strong-default --threads 1",
            _run(task),
            {"device-seconds": 15.0, "GB at peak": 1.5},
        )
        for task in ("world-facts", "elements", "python-stdlib")
    ),
)


def main(
    out: Annotated[Path, typer.Option(help="The report to write.")] = Path("docs/reports/spine.md"),
    repetitions: Annotated[int, typer.Option(min=1, help="How often each case is run.")] = 5,
) -> None:
    """Measures every case and writes the report."""
    measured: dict[str, list[dict[str, float]]] = {case.name: [] for case in CASES}
    with tempfile.TemporaryDirectory() as scratch:
        for repetition in range(1, repetitions + 1):
            for case in CASES:
                sys.stderr.write(f"{repetition}/{repetitions}  {case.name}\n")
                measured[case.name].append(case.measure(Path(scratch)))
    lines, missed = _table(measured)
    write_text(out, _report(lines, repetitions))
    sys.stdout.write("\n".join(lines) + f"\n\n{out}\n")
    raise typer.Exit(int(missed))


def _table(measured: dict[str, list[dict[str, float]]]) -> tuple[list[str], bool]:
    lines = ["| case | quantity | median | range | target | |", "|---|---|---|---|---|---|"]
    missed = False
    for case in CASES:
        for quantity, target in case.targets.items():
            values = [repetition[quantity] for repetition in measured[case.name]]
            median = statistics.median(values)
            missed |= median > target
            verdict = "met" if median <= target else "**missed**"
            spread = f"{min(values):.2f} to {max(values):.2f}"
            lines.append(f"| {case.name} | {quantity} | {median:.2f} | {spread} | {target:g} | {verdict} |")
    return lines, missed


def _report(lines: list[str], repetitions: int) -> str:
    commands = "\n".join(f"- {case.name}: `{case.command}`" for case in CASES)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        "# Speed and memory of the spine\n\n"
        f"Made by `make bench` on {today}: {_machine()}. {repetitions} repetitions of each case in turns, each in a "
        "fresh process with one thread.\n\n" + "\n".join(lines) + f"\n\nThe commands:\n\n{commands}\n"
    )


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cores = os.cpu_count()
    return f"{models[0] if models else platform.processor()}, {cores} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    typer.run(main)
