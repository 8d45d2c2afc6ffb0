"""docs/reports/live.md, from what jobs/report_live.py found.

In: its document. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

_NAMES = {
    "strong-default": "strong default, one run",
    "random": "random search",
    "quicktune-transfer": "Quick-Tune, transfer only (the paper)",
    "ftmeta": "ours",
}
_SHARES = ("50", "100")  # percent of the replay's budget


def page(found: dict[str, Any]) -> str:
    parts = found["parts"]
    datasets = list(dict.fromkeys(part["dataset"] for part in parts))
    seeds = 1 + max(part["seed"] for part in parts)
    return f"""# Live tuning

`{found["command"]}` (`make report-live`) on {found["hardware"]}. Base model phi3-micro, selector \
{found["selector"]["name"]} version {found["selector"]["version"]}, which knows none of these datasets. A budget is the
device time of {found["whole_runs"]} whole runs of the strong default, everything but the last scoring inside; {seeds} \
seeds each.

## Score on the test split

The share of the base model's loss that finetuning removed; mean over seeds, with the standard deviation between them.

{_table(parts, datasets)}

{_paired(parts, datasets)}

## What the replay says

{_replay(found)}

## What was spent

{_spent(parts, datasets)}

The datasets are made by [jobs/live_report/datasets.py](../../jobs/live_report/datasets.py): Unicode characters, time
zones of the IANA database, and colours of the XKCD survey. All numbers are in [live.json](live.json).
"""


def _of(parts: Sequence[dict[str, Any]], dataset: str | None, method: str) -> list[dict[str, Any]]:
    return [part for part in parts if part["method"] == method and dataset in (None, part["dataset"])]


def _score(part: dict[str, Any]) -> float:
    return 0.0 if part["test"] is None else float(part["test"]["score"])


def _table(parts: Sequence[dict[str, Any]], datasets: Sequence[str]) -> str:
    head = "| | " + " | ".join([*datasets, "mean"]) + " |\n|---|" + "---|" * (len(datasets) + 1)
    rows = []
    for method, name in _NAMES.items():
        means = [mean(map(_score, _of(parts, dataset, method))) for dataset in datasets]
        cells = [
            f"{middle:.3f} ± {_deviation(list(map(_score, _of(parts, dataset, method)))):.3f}"
            for dataset, middle in zip(datasets, means, strict=True)
        ]
        rows.append(f"| {name} | " + " | ".join([*cells, f"{mean(means):.3f}"]) + " |")
    return "\n".join([head, *rows])


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _paired(parts: Sequence[dict[str, Any]], datasets: Sequence[str]) -> str:
    """Ours against each other method, by dataset and seed."""
    sentences = []
    for method, name in _NAMES.items():
        if method == "ftmeta":
            continue
        gains = [
            _score(ours) - _score(theirs)
            for dataset in datasets
            for ours, theirs in zip(_of(parts, dataset, "ftmeta"), _of(parts, dataset, method), strict=True)
        ]
        better = sum(gain > 0 for gain in gains)
        sentences.append(
            f"Against {name}, ours is better in {better} of {len(gains)} pairs, by {mean(gains):+.4f} in the mean "
            f"({min(gains):+.4f} to {max(gains):+.4f})."
        )
    return " ".join(sentences)


def _replay(found: dict[str, Any]) -> str:
    replayed = found["replayed"]
    if replayed is None:
        return "There is no replay to compare with; `ftmeta benchmark` makes one."
    head = "| | " + " | ".join(f"regret at {share} % of its budget" for share in _SHARES) + " |\n|---|---|---|"
    rows = [
        f"| {name} | " + " | ".join(f"{replayed['regret'][method][share]:.3f}" for share in _SHARES) + " |"
        for method, name in _NAMES.items()
        if method in replayed["regret"]
    ]
    most = max(replayed["candidates"].values())
    return (
        "Normalised regret in the replay on the meta-dataset, leaving the task out, whose budget is a tenth of running "
        f"all of its up to {most} candidates: 0 is the best candidate, 1 the worst. The live pool is larger, and its "
        "best candidate is not known, so the order of the methods is what can be compared.\n\n"
        + "\n".join([head, *rows])
    )


def _spent(parts: Sequence[dict[str, Any]], datasets: Sequence[str]) -> str:
    head = "| | runs begun | device time / budget | wall seconds | slots at work |\n|---|---|---|---|---|"
    rows = []
    for method, name in _NAMES.items():
        mine = [part for part in _of(parts, None, method) if "budget_s" in part]
        if mine:
            rows.append(
                f"| {name} | {mean(part['runs'] for part in mine):.1f} | "
                f"{mean(part['cost_s'] / part['budget_s'] for part in mine):.2f} | "
                f"{mean(part['wall_s'] for part in mine):.0f} | "
                f"{100 * mean(part['slot_efficiency'] for part in mine):.0f} % |"
            )
    fell = sum(bool(part.get("fell_back")) for part in parts)
    return "\n".join([head, *rows]) + f"\n\nThe guard against negative transfer spoke up in {fell} of ours."
