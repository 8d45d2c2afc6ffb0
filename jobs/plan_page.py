"""The report of jobs/bench_plan.py: its results as Markdown."""

from __future__ import annotations

import datetime
import statistics
import textwrap
from typing import Any

_ON_CPU = """\
Each case is a run of the worker in fresh processes with one thread: two steps of two micro-batches, the peak of the
second. `measured` is resident memory and `model` the planner's total, both without the libraries. `error` is
model / measured - 1; `of the step` leaves out what is there between steps (weights, adapter, optimizer), whose size is
known. glibc is told to give freed memory back at once; `as usual` is one more run without that, of which see below. The
forward pass `ours` is ftmeta/finetune/decoder.py. Labels are those of a row; all rows are of one length."""
_ON_H100 = """\
The peaks of docs/reports/gpu.md (`torch.cuda.max_memory_allocated`), one run each, and the model's answer for the
micro-batch of those runs that needs most. The model was not fitted to them."""
_MISSING = """\
Not measured: no CUDA device was at hand. Where torch finds one, the same command measures {waiting} settings of the
whole architecture with random weights, activation checkpointing and rows longer than the sliding window among them.
ZeRO stages are not measured at all: they need several GPUs."""


def page(results: dict[str, Any], waiting: int) -> str:
    """The report; `waiting` is the number of cases that a CUDA device is missing for."""
    cases = results["cases"]
    on_cpu = {name: one for name, one in cases.items() if one["case"]["device"] == "cpu"}
    on_cuda = {name: one for name, one in cases.items() if name not in on_cpu}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    measured_on_cuda = _table(on_cuda) if on_cuda else _MISSING.format(waiting=waiting)
    libraries = _range([value for one in on_cpu.values() for value in one["libraries_gb"]])
    parts = [
        "# The planner's memory model against measured peaks",
        f"Made by `make bench-plan` on {today}: {results['machine']}, {_versions(on_cpu)}.\n"
        "`plan.json` has all numbers. What the model counts is told in docs/planning.md.",
        _summary(on_cpu, on_cuda, results["earlier"]),
        "## On the CPU",
        _ON_CPU,
        _table(on_cpu),
        f"What the libraries take before the first tensor: {libraries} GB.",
        textwrap.fill(_usual(on_cpu), 120),
        textwrap.fill(_times(cases), 120),
        "## The full architecture on an H100, measured earlier",
        _ON_H100,
        _earlier_table(results["earlier"]),
        "## On a CUDA device",
        measured_on_cuda,
    ]
    return "\n\n".join(parts) + "\n"


def _summary(on_cpu: dict[str, Any], on_cuda: dict[str, Any], earlier: list[dict[str, Any]]) -> str:
    lines = []
    groups = (
        (f"CPU, {len(on_cpu)} cases", [one["error"] for one in on_cpu.values()]),
        (f"CUDA, {len(on_cuda)} cases", [one["error"] for one in on_cuda.values()]),
        (f"H100 earlier, {len(earlier)} runs", [one["error"] for one in earlier]),
    )
    for name, errors in groups:
        if errors:
            worst = max(errors, key=abs)
            mean = sum(abs(error) for error in errors) / len(errors)
            lines.append(f"- {name}: mean absolute error {mean:.1%}, worst {worst:+.1%}.")
    return "\n".join(lines)


def _table(cases: dict[str, Any]) -> str:
    lines = [
        "| case | forward pass | measured GB | model GB | error | of the step | as usual GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in cases.items():
        total = sum(one["model_gb"].values())
        usual = f"{one['usual_peak_gb']:.2f}" if "usual_peak_gb" in one else "–"
        lines.append(
            f"| {name} | {one['forward_pass']} | {_range(one['measured_gb'])} | {total:.3f} | {one['error']:+.1%} | "
            f"{one['step_error']:+.1%} | {usual} |"
        )
    return "\n".join(lines)


def _usual(on_cpu: dict[str, Any]) -> str:
    ratios = {
        name: one["usual_peak_gb"] / (sum(one["measured_gb"]) / len(one["measured_gb"])) for name, one in on_cpu.items()
    }
    most = max(ratios, key=lambda name: ratios[name])
    return (
        f"As usual, glibc keeps what was freed: resident memory was {min(ratios.values()):.2f} to "
        f"{max(ratios.values()):.2f} times as large (most for {most}). A plan for a CPU has to allow for that; on CUDA "
        "torch's own allocator does the like, which is what the headroom is for."
    )


def _times(cases: dict[str, Any]) -> str:
    """The model's seconds of a step over the measured ones, where a hardware profile fits."""
    ratios = {}
    for name, one in cases.items():
        if one["model_step_s"] is not None:
            ratios[name] = one["model_step_s"] / (sum(one["step_s"]) / len(one["step_s"]))
    middle = statistics.median(ratios.values())
    return (
        "Time, of which this is no benchmark (other work ran beside it): by the hardware profiles a step takes "
        f"{middle:.2f} times what it took, in the median of {len(ratios)} cases, and {min(ratios.values()):.2f} to "
        f"{max(ratios.values()):.2f} times at the ends."
    )


def _earlier_table(earlier: list[dict[str, Any]]) -> str:
    lines = ["| run | micro-batch | measured GB | model GB | error |", "|---|---|---|---|---|"]
    for one in earlier:
        shape = f"{one['rows']} x {one['length']}"
        lines.append(f"| {one['run']} | {shape} | {one['measured_gb']} | {one['model_gb']} | {one['error']:+.1%} |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def _versions(cases: dict[str, Any]) -> str:
    found = next(iter(cases.values()))["versions"]
    return ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "transformers", "peft"))
