"""docs/reports/sweep-throughput.md, from what `jobs.bench_sweep` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

ALONE, TRL = "one at a time", "trl, a process a run"
_COLUMNS = (("runs", 0), ("runs_per_hour", 0), ("tokens_per_s", 0), ("device_s_per_run", 2), ("peak_memory_gb", 1))

Results = Mapping[str, Sequence[Mapping[str, float]]]  # by side, one a round


def page(found: Mapping[str, Any]) -> str:
    """The report."""
    parts = [
        "# Throughput of sweeps: many adapters on one base",
        f"`{found['command']}` (`make bench-sweep`; on a GPU with `--device cuda`). The same sixteen runs, or "
        "a multiple, in turns: by our worker one at a time, by the vectorised worker (ftmeta/finetune/vectorized.py) "
        "with so many places; and the first few of them by a process of trl's SFTTrainer each, one after the other. "
        "Medians of the rounds, smallest and "
        "largest beside them; runs per hour of one process, evaluation included and generated answers left out. "
        "Device-seconds are CPU-seconds on a CPU, which other load moves less than wall time; the last column compares "
        "them (runs per hour for trl).",
    ]
    for name, case in found["cases"].items():
        parts += _case(name, case)
    if not any(case["device"] == "cuda" for case in found["cases"].values()):
        parts.append(
            "**On a GPU nothing is measured yet.** The products of all adapters are one there "
            "(ftmeta/finetune/stacked.py), and tests hold them to the runs alone on a CPU; what they gain is to be "
            f"measured by `{found['command']} --device cuda`."
        )
    return "\n\n".join(parts) + "\n"


def _case(name: str, case: Mapping[str, Any]) -> Iterator[str]:
    sides: Results = case["sides"]
    yield f"## {name}, {case['dtype']}, {case['task']}"
    head = "| | runs | runs/h | training tokens/s | device-seconds a run | peak memory, GB | against one at a time |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    lines += [_line(side, results, sides) for side, results in sides.items() if "runs_per_hour" in results[0]]
    yield "\n".join(lines)
    if case.get("beside"):
        yield f"Beside it: {case['beside']}."
    waste = [one["padding"] for results in sides.values() for one in results if "padding" in one]
    if waste:
        yield f"Padding in attention: at most {100 * max(waste):.0f} % of what is computed there; elsewhere none."
    decided = {side: results[0] for side, results in sides.items() if "decision_s" in results[0]}
    if decided:
        yield "Time to a decision, apart from throughput:"
        lines = ["| | runs | seconds | device-seconds | best validation NLL |", "|---|---|---|---|---|"]
        lines += [
            f"| {side} | {one['runs']:.0f} | {one['decision_s']:.0f} | {one['device_s']:.0f} "
            f"| {one['best_val_nll']:.3f} |"
            for side, one in decided.items()
        ]
        yield "\n".join(lines)


def _line(side: str, results: Sequence[Mapping[str, float]], sides: Results) -> str:
    cells = [_spread([one[key] for one in results if key in one], digits) for key, digits in _COLUMNS]
    key, up = ("runs_per_hour", 1) if side == TRL else ("device_s_per_run", -1)
    ours, alone = (median(one[key] for one in found) for found in (results, sides[ALONE]))
    return f"| {side} | " + " | ".join([*cells, f"{(ours / alone) ** up:.2f} x"]) + " |"


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    low, mid, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return mid if low == high else f"{mid} ({low} to {high})"
