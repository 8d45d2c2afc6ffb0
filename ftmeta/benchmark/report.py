"""The benchmark's document and its report in Markdown, with plots. Every sentence is true whatever the numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ftmeta
from ftmeta.benchmark.plots import draw
from ftmeta.benchmark.statistics import OURS, SHARES, Results, comparisons, is_ablation, per_task, results_of, summary
from ftmeta.benchmark.units import Settings, about
from ftmeta.files import write_text
from ftmeta.metadataset import MetaDataset

_SPEED_TARGET = 2000  # asks a second of cheap optimizers


def document_of(
    units: Sequence[Mapping[str, Any]], settings: Settings, meta: MetaDataset, left_out: Sequence[str]
) -> dict[str, Any]:
    """What `ftmeta benchmark --json` prints, but for the time it took."""
    results, parts = results_of(units), results_of(units, ablations=True)
    budgets = {f"{unit['task']}/{unit['base_model']}": unit["budget_s"] for unit in units}
    learned: dict[str, float] = {}
    for unit in units:
        learned["+".join(unit["methods"])] = max(learned.get("+".join(unit["methods"]), 0.0), unit["learning_s"])
    return {
        "meta_dataset": {"name": meta.name, "fingerprint": meta.fingerprint, "runs": len(meta.runs)},
        "ftmeta": ftmeta.__version__,
        "seeds": settings.seeds,
        "budget_fraction": settings.budget_fraction,
        "budget_s": {task: round(value, 1) for task, value in budgets.items()},
        "overhead_charged": settings.charge_overhead,
        "methods": summary(results),
        "comparisons": comparisons(results),
        "ablations": summary(parts) if any(is_ablation(name) for name in parts.methods) else {},
        "per_task": per_task(results),
        "candidates": {unit["task"]: unit["candidates"] for unit in units},
        "learning_s": {names: round(seconds, 1) for names, seconds in learned.items() if seconds >= 0.1},
        "without_test_scores": sorted({unit["task"] for unit in units if not unit["has_test"]}),
        "left_out": [*left_out, *(f"{name}: {why}" for name, why in results.impossible.items())],
    }


def write_report(out: Path, document: Mapping[str, Any], units: Sequence[Mapping[str, Any]]) -> None:
    results = results_of(units)
    plots = draw(results, out)
    write_text(out / "report.md", markdown(document, results, {name: path.name for name, path in plots.items()}))


def markdown(document: Mapping[str, Any], results: Results, plots: Mapping[str, str]) -> str:
    parts = [
        f"# Benchmark on {document['meta_dataset']['name']}",
        _how(document, results),
        _table(document),
        *(f"![{caption}]({plots[name]})" for name, caption in _CAPTIONS.items() if name in plots),
        _claim(document),
        _compared(document),
        _ablations(document),
        _tasks(document),
        _times(document),
        _left_out(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_CAPTIONS = {
    "regret": "Normalised regret over time, mean over tasks, with 95 % bootstrap bands",
    "ranks": "Average rank over time",
    "tasks": "Normalised regret over time on each task",
}


def _how(document: Mapping[str, Any], results: Results) -> str:
    meta = document["meta_dataset"]
    charged = "is charged" if document["overhead_charged"] else "is not charged"
    return (
        f"{meta['runs']:,} runs (fingerprint `{meta['fingerprint']}`), {len(results.tasks)} tasks, each left out in "
        f"turn: what a method knows it learned on the others. {document['seeds']} seeds, paired between methods (one "
        f"seed where a method has no chance in it). The budget of a task is {100 * document['budget_fraction']:g} % of "
        f"the device-seconds that all its runs cost; the time a method itself takes {charged}. Chosen on validation "
        "scores, reported on test scores. Regret is normalised by the best and worst test score in the task's whole "
        "table. Ranks are taken within a task after averaging over seeds, and averaged over tasks and the five shares "
        "of the budget; intervals (95 %) come from drawing tasks anew."
    )


def _table(document: Mapping[str, Any]) -> str:
    shares = [f"{100 * share:.0f}" for share in SHARES]
    head = ["method", "average rank", *(f"regret at {share} %" for share in shares), "area", "test score", "gap"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, row in document["methods"].items():
        low, high = row["average_rank_95"]
        gap = row["validation_test_gap"]
        cells = [
            f"**{name}**" if name == OURS else name,
            f"{row['average_rank']:.2f} ({low:.2f} to {high:.2f})",
            *(f"{row['regret'][share]:.3f}" for share in shares),
            f"{row['auc']:.3f}",
            f"{row['test_score']:.3f}",
            "–" if gap is None else f"{gap:+.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    meanings = "; ".join(f"`{name}`: {about(name)}" for name in document["methods"])
    return "\n".join(
        ["## Methods", "", *lines, "", f"{meanings}. Gap: validation minus test score of what is handed over."]
    )


PAPER = "quicktune-transfer"
PAPERS_BASELINES = ("zero-shot", "default", "random", "dehb", "quicktune")


def _claim(document: Mapping[str, Any]) -> str:
    """Strangmann et al. 2024: transfer alone had the best test performance of these at the end of the budget."""
    against = [name for name in PAPERS_BASELINES if name in document["methods"]]
    if PAPER not in document["methods"] or not against:
        return ""
    tasks = document["per_task"].values()
    lines = []
    for name in against:
        ahead = sum(row[PAPER]["test_score"] > row[name]["test_score"] for row in tasks)
        behind = sum(row[PAPER]["test_score"] < row[name]["test_score"] for row in tasks)
        sooner = sum(row[PAPER]["auc"] < row[name]["auc"] for row in tasks)
        means = [document["methods"][one]["test_score"] for one in (PAPER, name)]
        verdict = "holds" if means[0] > means[1] else "does not hold"
        lines.append(
            f"- against {name}: {verdict}. Mean test score {means[0]:.3f} against {means[1]:.3f}; higher on {ahead} "
            f"and lower on {behind} of {len(tasks)} tasks; smaller area under regret on {sooner}"
        )
    return "\n".join(
        [
            "## The paper's claim on these tasks",
            "",
            "Strangmann et al. 2024: at the end of the budget, transfer without refitting gives the best test scores "
            "of all methods they compare. Here:",
            "",
            *lines,
        ]
    )


def _compared(document: Mapping[str, Any]) -> str:
    if not document["comparisons"]:
        return ""
    lines = [
        f"- against {one['against']}: better on {one['better_on']} of {one['tasks']} tasks, p = {one['p']:.4f}, "
        f"after Holm's correction {one['p_holm']:.4f}"
        for one in document["comparisons"]
    ]
    return "\n".join(
        [
            f"## {OURS} against three methods named beforehand",
            "",
            "Area under regret over the logarithm of time; Wilcoxon's signed-rank test over tasks, two-sided.",
            "",
            *lines,
        ]
    )


def _ablations(document: Mapping[str, Any]) -> str:
    if not document["ablations"]:
        return ""
    shares = [f"{100 * share:.0f}" for share in SHARES]
    head = ["method", *(f"regret at {share} %" for share in shares), "area"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, row in sorted(document["ablations"].items(), key=lambda item: item[1]["auc"]):
        regrets = " | ".join(f"{row['regret'][share]:.3f}" for share in shares)
        lines.append(f"| {name} | {regrets} | {row['auc']:.3f} |")
    meanings = "; ".join(f"`{name}`: {about(name)}" for name in document["ablations"] if is_ablation(name))
    return "\n".join([f"## What {OURS} owes to what", "", *lines, "", f"{meanings}."])


def _tasks(document: Mapping[str, Any]) -> str:
    methods = list(document["methods"])
    lines = ["| task | " + " | ".join(methods) + " |", "| --- " * (len(methods) + 1) + "|"]
    for task, row in document["per_task"].items():
        lines.append(f"| {task} | " + " | ".join(f"{row[name]['regret']['100']:.3f}" for name in methods) + " |")
    return "\n".join(["## Regret at the whole budget, by task", "", *lines])


def _times(document: Mapping[str, Any]) -> str:
    beats = [
        f"| {name} | {row['beats_strong_default']['tasks']} | "
        + (
            "–"
            if row["beats_strong_default"]["median_share"] is None
            else f"{100 * row['beats_strong_default']['median_share']:.1f} %"
        )
        + f" | {row['overhead_ms']:.2f} | {row['asks_per_s']:,} |"
        for name, row in document["methods"].items()
    ]
    learned = "; ".join(f"{names} {seconds:g} s" for names, seconds in document["learning_s"].items())
    return "\n".join(
        [
            "## Time",
            "",
            "Tasks on which the median seed reaches the strong default's test score, and after what share of the "
            "budget; what a method takes for itself, in milliseconds an ask (its tell included) and asks a second.",
            "",
            "| method | tasks | budget | ms an ask | asks a second |",
            "| --- | --- | --- | --- | --- |",
            *beats,
            "",
            f"Learning from the other tasks, the slowest task: {learned or 'nothing that takes a tenth of a second'}.",
        ]
    )


def _left_out(document: Mapping[str, Any]) -> str:
    notes = list(document["left_out"])
    if document["without_test_scores"]:
        notes.append(f"no test scores, validation scores stand in: {', '.join(document['without_test_scores'])}")
    return "\n".join(["## Left out", "", *(f"- {one}" for one in notes)]) if notes else ""
