"""The report on a meta-dataset: its card, with plots, the importance of hyperparameters and all rank correlations.

Every number is one of findings.py or of the card; every sentence is true whatever the numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmeta.metadataset import MetaDataset
from ftmeta.metadataset.about import About
from ftmeta.metadataset.card import sections, title

_LISTED = 10  # hyperparameters in the table; the others are in the JSON document
_CAPTIONS = {
    "curves": "Curves of all runs, the known defaults and the best",
    "cost": "Score against cost",
    "replicates": "What runs of one pipeline differ by",
    "regret": "Regret of one pipeline for all tasks",
    "importance": "Importance of hyperparameters",
}


def markdown(found: dict[str, Any], meta: MetaDataset, about: About, plots: Mapping[str, Path], command: str) -> str:
    """`plots` are those of plots.draw, which draws none of what is not known."""
    parts = dict(sections(meta, about))
    after = {"tasks": ("curves", "cost"), "noise": ("replicates",), "head_room": ("regret",)}
    for section, names in after.items():
        shown = [f"![{_CAPTIONS[name]}]({plots[name].name})" for name in names if name in plots]
        if section in parts:
            parts[section] = "\n\n".join([parts[section], *([_legend(meta)] if section == "tasks" else []), *shown])
    closing = {name: parts.pop(name) for name in ("limits", "recollect", "licence") if name in parts}
    written = [
        f"# {title(meta, about)}: what it shows",
        *parts.values(),
        *(_correlations(room) for room in found["head_room"]),
        _importance(found, plots),
        *closing.values(),
        f"## How this page was made\n\n`{command}`; all numbers are in the JSON document beside it.",
    ]
    return "\n\n".join(part for part in written if part) + "\n"


def _legend(meta: MetaDataset) -> str:
    return (
        "The plots: validation scores; *best* is the run with the task's best score at the end. The Pareto front joins "
        "the runs that no other beats in both score and cost."
        + (
            " Costs are put on the seconds of the device with the most runs, by the cost of a pass."
            if meta.runs["device"].nunique() > 1
            else ""
        )
    )


def _correlations(room: Mapping[str, Any]) -> str:
    names = list(room["rank_correlation"])
    lines = ["| |" + "|".join(f" {name} " for name in names) + "|", "|---" * (len(names) + 1) + "|"]
    for name, row in room["rank_correlation"].items():
        cells = ("–" if row[other] is None else f"{row[other]:.2f}" for other in names)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return (
        f"## How alike the tasks rank the pipelines ({room['base_model']})\n\n"
        f"Spearman's correlation of the test scores of {room['pipelines']} pipelines.\n\n" + "\n".join(lines)
    )


def _importance(found: dict[str, Any], plots: Mapping[str, Path]) -> str:
    everything, better = found["importance"], found["importance_better_half"]
    if everything is None:
        return ""
    tasks = everything["tasks"]
    text = (
        "## Which hyperparameters the score depends on\n\n"
        "A random forest a task learns the validation score at the end from the pipeline (a diverged run scores 0). On "
        "held-out pipelines (five folds) the values of one hyperparameter are exchanged; the squared error that this "
        "adds, over twice the variance of the score, estimates the share of the variance that is gone when the "
        "hyperparameter is fixed, interactions included (total Sobol index). Hyperparameters that were not varied "
        "independently of each other stand for each other, and shares may go to the wrong one. What the forest has not "
        "understood it gives to none: its R² on held-out pipelines is "
        f"{everything['mean']['r2']:.2f} in the mean ({_range([task['r2'] for task in tasks])})"
    )
    if better is not None:
        text += (
            f", and {better['mean']['r2']:.2f} ({_range([task['r2'] for task in better['tasks']])}) among the better "
            "half of each task's pipelines, which asks what matters once the worst mistakes are not made; shares under "
            "an R² near 0 mean nothing"
        )
    names = list(everything["mean"]["share"])[:_LISTED]
    lines = ["| task | pipelines | R² |" + "".join(f" {name} |" for name in names), "|---" * (len(names) + 3) + "|"]
    lines += [_row(one, names) for one in (everything["mean"], *tasks)]
    if better is not None:
        lines.append(_row(better["mean"], names, "**mean, better half**"))
    shown = f"\n\n![{_CAPTIONS['importance']}]({plots['importance'].name})" if "importance" in plots else ""
    return f"{text}.\n\n" + "\n".join(lines) + shown


def _row(one: Mapping[str, Any], names: Sequence[str], label: str | None = None) -> str:
    shares = "".join(f" {round(one['share'][name], 2) + 0.0:.2f} |" for name in names)  # + 0.0: no minus before 0.00
    return f"| {label or one['task'] or '**mean**'} | {one['pipelines']} | {one['r2']:.2f} |{shares}"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
