"""The report of jobs/bench_collection.py: what was measured, as Markdown, and whether the targets are met."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

GROWTH = 1.5  # a later thousand may cost the driver so many times the processor time of the first, at most
TRL_RATIO, TRL_RUNS = 4.0, 24
EFFICIENCY = 0.95
_MISSING = "Not measured yet: `python -m jobs.bench_collection {part}` does it and writes it here."


def page(results: dict[str, Any]) -> str:
    """The report; each part's section says so where the part is missing."""
    parts = [
        "# Collection: the sweep's machine under load and under fire",
        "`make bench-collection` measures all of it, `python -m jobs.bench_collection PART` one part. "
        "`collection.json` has all numbers.",
    ]
    for part, (title, section) in _SECTIONS.items():
        parts.append(f"## {title}")
        if part in results:
            parts += [*section(results[part]["measured"]), _made(results[part]["circumstances"])]
        else:
            parts.append(_MISSING.format(part=part))
    return "\n\n".join(parts) + "\n"


def verdicts(results: dict[str, Any]) -> Iterator[bool]:
    """Whether each target is met, for what has been measured as the targets say."""
    for one in results.get("scale", {}).get("measured", {}).values():
        yield _growth(one) <= GROWTH
    if "trl" in results and results["trl"]["measured"]["runs"] >= TRL_RUNS:
        yield results["trl"]["measured"]["ratio"] >= TRL_RATIO
    if "faults" in results:
        yield _exactly_once(results["faults"]["measured"]["audit"])


def _scale(sizes: dict[str, Any]) -> Iterator[str]:
    yield (
        "A sweep with the worker `simulated`, which trains nothing: what is left is the driver's own work, Tune's and "
        "Ray's. Processor time is the driver process's. To resume is to submit a finished sweep with one row missing: "
        "the time from the call to that row, in a new process that starts Ray."
    )
    rows = []
    for one in sorted(sizes.values(), key=lambda one: one["runs"]):
        cpu_ms, resume = _cpu_ms(one), one["resume"]
        wall_s = one["marks"][-1]["at_s"] - one["first_run_s"]
        rows.append(
            [
                f"{one['runs']:,}",
                f"{one['runs'] / wall_s:.1f}",
                f"{cpu_ms[0]:.1f}",
                f"{cpu_ms[-1]:.1f}",
                "met" if _growth(one) <= GROWTH else "**missed**",
                f"{one['marks'][0]['memory_mb']:.0f} / {max(mark['memory_mb'] for mark in one['marks']):.0f}",
                f"{one['peak_with_tables_mb']:.0f}",
                f"{one['tables_s']:.0f}",
                f"{resume['to_first_run_s']:.0f} ({resume['plan_s']:.1f} + {resume['read_s']:.1f})",
                f"{resume['status_s']:.1f}",
                f"{one['load'][0]:.0f}, {one['load'][1]:.0f}",
            ]
        )
    columns = [
        "runs",
        "runs/s",
        "driver, ms a run: first 1,000",
        "last 1,000",
        f"each thousand at most {GROWTH:g} x the first",
        "memory, MB: after 1,000 / most",
        "with the tables",
        "writing the tables, s",
        "to resume, s (plan + ledger)",
        "--status, s",
        "load of the machine",
    ]
    yield _table(columns, rows)
    missing = sorted({"1000", "10000", "100000"} - set(sizes), key=int)
    if missing:
        yield f"Not measured yet: {', '.join(f'{int(size):,}' for size in missing)} runs."


def _cpu_ms(one: dict[str, Any]) -> list[float]:
    """Milliseconds of the driver's processor time for a run, thousand by thousand; the first has the start in it."""
    at = [0.0, *(mark["cpu_s"] for mark in one["marks"])]
    return [after - before for before, after in itertools.pairwise(at)]


def _growth(one: dict[str, Any]) -> float:
    """The median of the later thousands against the first. One of them also starts workers anew, hence the median."""
    first, *later = _cpu_ms(one)
    return sorted(later)[len(later) // 2] / first if later else 1.0


def _schedule(measured: dict[str, Any]) -> Iterator[str]:
    source, check = measured["source"], measured["check"]
    yield (
        f"A simulation, not a measurement: {measured['runs']:,} runs whose durations are those of "
        f"`{measured['metadata']}` ({source['runs']} runs of {source['tasks']} tasks, {source['mean_s']:.1f} s in the "
        f"mean, {source['max_s']:.0f} s at most), drawn pipeline by pipeline; {measured['start_s']:.0f} s to start a "
        f"worker; {1000 * measured['driver_s_per_run']:.1f} ms of the driver a run, as measured above; means of "
        f"{measured['repeats']} draws. As a check, the sweep that the durations come from: simulated on two slots its "
        f"{source['runs']} runs take {check['makespan_s'] / 60:.1f} min at an efficiency of "
        f"{check['slot_efficiency']:.2f}."
    )
    for scenario in dict.fromkeys(row["scenario"] for row in measured["rows"]):
        rows = [row for row in measured["rows"] if row["scenario"] == scenario]
        orders = list(dict.fromkeys(row["order"] for row in rows))
        usual = max(row["per_experiment"] for row in rows)
        lines = []
        for slots in dict.fromkeys(row["slots"] for row in rows):
            by_order = {row["order"]: row for row in rows if row["slots"] == slots and row["per_experiment"] == usual}
            planned = by_order["as planned"]
            lines.append(
                [
                    slots,
                    f"{planned['makespan_s'] / 60:.1f}",
                    *(f"{by_order[order]['slot_efficiency']:.3f}" for order in orders),
                    f"{planned['driver_share']:.1%}",
                    f"{planned['lost_share']:.1%}",
                ]
            )
        yield f"**{scenario[0].upper()}{scenario[1:]}.**"
        columns = ["slots", "minutes, as planned", *(f"efficiency, {order}" for order in orders)]
        yield _table([*columns, "the driver at work", "lost with dead workers"], lines)
    yield _barriers(measured["rows"])
    yield (
        "The longest run first is what no driver knows before; tasks with long runs first is what it could learn from "
        "the first pipelines. Both would give up that an interrupted sweep is a smaller whole one, so runs start as "
        "planned."
    )


def _barriers(rows: Sequence[dict[str, Any]]) -> str:
    """What the number of runs in one experiment of Tune does at the largest number of slots."""
    slots = max(row["slots"] for row in rows)
    calm = [row for row in rows if row["slots"] == slots and row["order"] == "as planned"]
    first = calm[0]["scenario"]
    by_size = {row["per_experiment"]: row["slot_efficiency"] for row in calm if row["scenario"] == first}
    said = ", ".join(f"{size:,} runs: {efficiency:.3f}" for size, efficiency in sorted(by_size.items()))
    return (
        f"Between two experiments of Tune all slots wait for the slowest run. Efficiency on {slots} slots by the runs "
        f"in an experiment: {said}."
    )


def _trl(measured: dict[str, Any]) -> Iterator[str]:
    setup, ours, theirs = measured["setup"], measured["ours"], measured["trl"]
    small = measured["runs"] < TRL_RUNS
    yield (
        f"{measured['runs']} runs of phi3-micro on two tasks: {setup['epochs']:g} epoch, {theirs['evaluations']} "
        f"evaluations of {setup['eval_examples']} examples a run on both sides, {setup['slots']} cores. Ours is one "
        "`python -m jobs.collect` with Ray's start, and it also generates answers at the end of each run; theirs is a "
        "process a run, one a core at a time, from import to exit, activation checkpointing off."
    )
    met = "" if small else "met" if measured["ratio"] >= TRL_RATIO else "**missed**"
    yield _table(
        ["", "wall, s", "runs an hour", "validation NLL, median of the runs"],
        [
            [
                name,
                f"{side['wall_s']:.0f}",
                f"{measured['runs_per_hour'][key]:.0f}",
                f"{_median(side['validation_nll']):.3f}",
            ]
            for name, key, side in (("ours", "ours", ours), ("SFTTrainer", "trl", theirs))
        ],
    )
    yield (
        f"Ratio {measured['ratio']:.2f}; at least {TRL_RATIO:g} wanted on {TRL_RUNS} runs{': ' + met if met else ''}. "
        f"Load of the machine before, between and after: {', '.join(f'{load:.1f}' for load in measured['load'])}. Slot "
        f"efficiency of ours {ours['slot_efficiency']:.2f}, start included."
    )
    if small:
        yield (
            f"This is a small version that shows that both sides work: with {measured['runs']} runs the start of Ray "
            "weighs as much as the runs. `python -m jobs.bench_collection trl` measures all 24."
        )


def _faults(measured: dict[str, Any]) -> Iterator[str]:
    audit, faults = measured["audit"], measured["faults"]
    kinds = dict.fromkeys(fault["kind"] for fault in faults)
    counts = ", ".join(f"{sum(fault['kind'] == kind for fault in faults)} x {kind}" for kind in kinds)
    yield (
        f"kill -9 at {len(faults)} random moments (of {measured['wanted']} wanted, seed {measured['seed']}) of a sweep "
        f"of {audit['planned']} short real runs on a Ray head with MLflow: {counts}. What was killed was started "
        "again, and a driver that was killed or had lost its head was submitted again; "
        f"{measured['wall_s'] / 60:.0f} min."
    )
    columns = ["killed", "after, s", "rows by then", "processes", "the driver"]
    yield _table(columns, [[f["kind"], f"{f['at_s']:.0f}", f["rows"], f["killed"], f["driver"]] for f in faults])
    yield (
        f"Afterwards: {'each planned run exists exactly once' if _exactly_once(audit) else '**not as it should be**'}. "
        + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in audit.items())
        + "."
    )


def _exactly_once(audit: dict[str, int]) -> bool:
    whole = all(audit[name] == audit["planned"] for name in ("in_ledger", "in_tables", "in_mlflow"))
    flaws = ("torn", "twice_in_tables", "twice_in_mlflow", "foreign", "failed", "curves_that_end_early")
    return whole and not any(audit[name] for name in flaws)


def _made(circumstances: dict[str, Any]) -> str:
    versions = circumstances["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("ray", "torch", "transformers") if name in versions)
    return (
        f"`{circumstances['command']}`, {circumstances['date']}, {circumstances['hardware']}"
        f"{', ' + named if named else ''}, ftmeta {versions['ftmeta']}."
    )


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


_SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "scale": ("The driver's work does not grow", _scale),
    "schedule": ("Up to 64 slots", _schedule),
    "trl": ("Against a process of SFTTrainer a run", _trl),
    "faults": ("Faults", _faults),
}
