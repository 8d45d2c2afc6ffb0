"""The card of a meta-dataset: what is in it, made from the data and from what its `about.yaml` says, if there is one.

The card is Markdown with the YAML front matter that the hub of `datasets` reads. What the data do not give (replicates,
test scores, a second task, costs) is left out, or said to be unknown; a foreign table gets a card as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ftmeta.metadataset.about import About
from ftmeta.metadataset.ends import distinct_pipelines, ends
from ftmeta.metadataset.headroom import HeadRoom, head_room
from ftmeta.metadataset.machines import Machine, machines
from ftmeta.metadataset.noise import Noise, noise_of, pooled
from ftmeta.schema import Pipeline
from ftmeta.space import Space

if TYPE_CHECKING:
    import pandas as pd

    from ftmeta.metadataset.store import MetaDataset

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (math.inf, "n>1M"))
_KINDS = {
    "strong-default": "strong default",
    "default": "default",
    "static": "best static",
    "static_of_others": "static of others",
}


def card(meta: MetaDataset, about: About | None = None) -> str:
    """Markdown with front matter; its sections are those of `sections`."""
    about = about or About()
    parts = [_front_matter(meta, about), f"# {title(meta, about)}", *sections(meta, about).values()]
    return "\n\n".join(parts) + "\n"


def title(meta: MetaDataset, about: About) -> str:
    return about.title or f"Meta-dataset {meta.name}"


def sections(meta: MetaDataset, about: About) -> dict[str, str]:
    """`contents, origin, imported, tasks, noise, head_room, limits, recollect, licence` -> Markdown, where known."""
    noise = noise_of(meta)
    found = {
        "contents": "\n\n".join(part.strip() for part in (about.story, _contents(meta)) if part),
        "origin": _origin(meta, machines(meta)),
        "imported": _imported(meta.manifest.get("imported")),
        "tasks": _tasks(meta),
        "noise": _noise(noise),
        "head_room": "\n\n".join(_head_room(room, meta.space) for room in head_room(meta)),
        "limits": _limits(meta, noise, about),
        "recollect": f"## Collected again\n\n```sh\n{about.recollect.strip()}\n```" if about.recollect else "",
        "licence": _licence(about),
    }
    return {name: text.strip() for name, text in found.items() if text}


# --- what it is -------------------------------------------------------------------------------------------------------


def _front_matter(meta: MetaDataset, about: About) -> str:
    """Keys of the hub's dataset cards. The three tables are its three configurations."""
    tables = ("runs", "curves", "tasks")
    document: dict[str, Any] = {
        **({"license": about.licence} if about.licence else {}),
        "pretty_name": about.title or meta.name,
        "tags": ["meta-learning", "hyperparameter-optimization", "learning-curves", "finetuning", "tabular", "ftmeta"],
        "task_categories": ["tabular-regression"],
        "size_categories": [next(name for limit, name in _SIZES if len(meta.runs) < limit)],
        "configs": [
            {"config_name": table, "data_files": f"{table}.parquet", **({"default": True} if table == "runs" else {})}
            for table in tables
        ],
    }
    return f"---\n{yaml.safe_dump(document, sort_keys=False)}---"


def _contents(meta: MetaDataset) -> str:
    runs, models = meta.runs, sorted(meta.runs["base_model"].unique())
    n_seeds = runs["seed"].nunique()
    return (
        f"{len(runs):,} finetuning runs: {_n(runs['task'].nunique(), 'task')}, "
        f"{_n(len(distinct_pipelines(meta)), 'pipeline')} of the space `{meta.space.name}`, "
        f"base model{_s(models)} {', '.join(models)}, {_n(n_seeds, 'seed') + ', ' if n_seeds else ''}"
        f"{_n(meta.budget.max_fidelity, 'fidelity', 'fidelities')}. `runs.parquet` has one row a run, `curves.parquet` "
        "one row a run and fidelity (0: before training), `tasks.parquet` the meta-features of the tasks; `space.yaml` "
        "is the search space. Scores are in [0, 1], higher is better; costs are device-seconds."
    )


def _origin(meta: MetaDataset, found: Sequence[Machine]) -> str:
    runs, versions = meta.runs, meta.manifest["code_versions"]
    started = sorted(str(moment) for moment in runs["started_at"].dropna())
    lines = []
    if started:
        lines.append(
            f"- Made from {started[0]} to {started[-1]}" + (f", code version{_s(versions)} " if versions else "")
        )
        lines[-1] += ", ".join(map(str, versions)) + "."
    if meta.space.epochs is not None and "imported" not in meta.manifest:  # a foreign budget is not known
        most = meta.budget.max_train_examples
        lines.append(
            f"- Full budget of a run: {meta.budget.epochs:g} pass{'' if meta.budget.epochs == 1 else 'es'} over the "
            f"training split{f', of at most {most:,} examples' if most else ''}; {meta.budget.eval_examples} "
            "validation examples and as many test examples scored at each fidelity."
        )
    costs = runs["cost_s"].dropna().astype(float)
    if len(costs):
        memory = runs["peak_memory_gb"].dropna().astype(float)
        lines.append(
            f"- Cost: {costs.sum():,.0f} device-seconds ({costs.sum() / 3600:.1f} hours), {costs.median():.1f} in the "
            f"median run" + (f"; at most {memory.max():.2f} GB of memory." if len(memory) else ".")
        )
    lines.append("- Status: " + ", ".join(f"{n:,} {status}" for status, n in meta.manifest["statuses"].items()) + ".")
    lines.append(f"- Fingerprint `{meta.fingerprint}`.")
    return "## How it was made\n\n" + "\n".join(lines) + _devices(found)


def _imported(facts: Mapping[str, Any] | None) -> str:
    """Of tables that came from elsewhere (importing.py): their source, what was left out, and the scores' scales."""
    if facts is None:
        return ""
    rejected = sum(facts["rejected"].values())
    text = f"Imported from {facts['source']}" + (f"; {_n(rejected, 'row')} could not be used." if rejected else ".")
    text += "".join(f" {note}" for note in facts["notes"])
    if facts["scales"] is None:
        return f"## Imported\n\n{text} Scores are as they were given."
    rows = [
        [task, f"{scale['low']:.6g}", f"{scale['high']:.6g}", str(scale["clipped"])]
        for task, scale in facts["scales"].items()
    ]
    return (
        f"## Imported\n\n{text} Scores were put on [0, 1]: what was given is low x (1 - score) + high x score.\n\n"
        + _table(("task", "low", "high", "scores outside, counted as 0 or 1"), rows)
    )


def _devices(found: Sequence[Machine]) -> str:
    if not found:
        return ""
    rows = [
        [
            one.device,
            one.profile or "–",
            f"{one.runs:,}",
            f"{one.cost_s:,.0f}",
            _number(one.relative_cost, 2),
            "–" if one.spread is None else f"{one.spread[0]:.2f} to {one.spread[1]:.2f}",
        ]
        for one in found
    ]
    head = ("device", "hardware profile", "runs", "device-seconds", "cost of a pass", "80 % of passes")
    return (
        "\n\n"
        + _table(head, rows)
        + "\n\n*Cost of a pass*: the validation pass before training is the same work in every run of a task; its "
        "median cost, relative to the device with the most runs (geometric mean over tasks). *80 % of passes* cost "
        "that many times the median of their task on the device: what other load and the clock do to a measured second."
    )


# --- scores -----------------------------------------------------------------------------------------------------------


def _tasks(meta: MetaDataset) -> str:
    ended = ends(meta)
    several = meta.runs["base_model"].nunique() > 1
    rows, correlations = [], []
    for (task, base_model), runs in ended.groupby(["task", "base_model"]):
        well = runs[runs["status"] == "ok"]
        correlation = _correlation(well["score"], well["test_score"])
        correlations += [] if correlation is None else [correlation]
        counts, scores = runs["status"].value_counts(), well["score"].dropna()
        rows.append(
            [
                f"{task} ({base_model})" if several else str(task),
                str(len(runs)),
                str(counts.get("ok", 0)),
                str(counts.get("diverged", 0)),
                str(len(runs) - counts.get("ok", 0) - counts.get("diverged", 0)),
                _number(scores.max()),
                _number(scores.median()),
                _number(runs["cost_s"].astype(float).median(), 1),
                _number(correlation),
            ]
        )
    head = ("task", "runs", "ok", "diverged", "failed", "score: best", "median", "cost_s: median", "validation, test")
    text = (
        "Scores are validation scores at the last fidelity of the runs that ended well. *Validation, test*: Pearson's "
        "correlation of the two scores over those runs"
    )
    if correlations:
        text += f"; {np.mean(correlations):.3f} in the mean, {min(correlations):.3f} at the lowest"
    return f"## Tasks\n\n{text}.\n\n{_table(head, rows)}"


def _correlation(first: pd.Series, second: pd.Series) -> float | None:
    known = first.notna() & second.notna()
    first, second = first[known], second[known]
    if len(first) < 3 or first.nunique() < 2 or second.nunique() < 2:
        return None
    return float(first.corr(second))


def _noise(noise: Sequence[Noise]) -> str:
    if not noise:
        return "## Between seeds\n\nNoise: unknown; no pipeline was run several times on a task and ended well."
    score, test, cost = (pooled(noise, what) for what in ("score", "test_score", "cost"))
    several = len({one.base_model for one in noise}) > 1
    pairs, undecided = sum(one.pipelines for one in noise), sum(one.undecided for one in noise)
    text = (
        f"Noise: {score:.4f} is the standard deviation of the validation score between seeds of the same pipeline on "
        "the same task"
        + (f", {test:.4f} that of the test score" if test is not None else "")
        + (f", {100 * cost:.1f} % that of the cost on one device" if cost is not None else "")
        + f". Pooled over {_n(pairs, 'pair')} of task and pipeline with several runs that ended well."
    )
    if undecided:
        text += f" Of {_n(undecided, 'pair')} some seeds diverged and others did not."
    rows = [
        [
            f"{one.task} ({one.base_model})" if several else one.task,
            str(one.pipelines),
            _number(one.score, 4),
            _number(one.test_score, 4),
            _number(one.correlation, 2),
            "–" if one.cost is None else f"{100 * one.cost:.1f} %",
        ]
        for one in noise
    ]
    head = ("task", "replicated pipelines", "validation score", "test score", "their correlation", "cost")
    return f"## Between seeds\n\n{text}\n\n{_table(head, rows)}"


# --- head-room --------------------------------------------------------------------------------------------------------


def _head_room(room: HeadRoom, space: Space) -> str:
    scores, kinds = room.scores, [kind for kind in _KINDS if kind in room.regret]
    static, rows = in_words(scores.pipelines[room.static], space), []
    for t, task in enumerate(scores.tasks):
        test_P = scores.test_TP[t]
        rows.append(
            [
                task,
                _number(test_P[room.chosen_T[t]]),
                _number(test_P[room.static]),
                *(_number(room.regret[kind][t]) for kind in kinds),
                _number(room.noise_T[t]),
                _number(room.luck_T[t]),
            ]
        )
    means = (float(np.mean(room.regret[kind])) for kind in kinds)
    rows.append(["**mean**", "", "", *map(_number, means), _mean(room.noise_T), _mean(room.luck_T)])
    regrets = (f"regret: {_KINDS[kind]}" if not at else _KINDS[kind] for at, kind in enumerate(kinds))
    head = ("task", "test score: chosen", "best static", *regrets, "noise", "luck")
    left_out = f" ({room.left_out} more are not known on all of them)" if room.left_out else ""
    return (
        f"## Head-room of a choice that looks at the dataset ({room.base_model})\n\n"
        f"Compared: {_n(len(scores.pipelines), 'pipeline')}{left_out} on {_n(len(scores.tasks), 'task')}. *Chosen*: "
        "the task's best validation score. *Best static*: the one pipeline with the smallest mean normalised "
        f"validation regret over all tasks, its choice having seen them all ({static}). "
        "*Static of others*: chosen in the same way without the task it is judged on. Regret: (test score of the "
        "chosen - test score of this one) / (best - worst test score of the task); a run that diverged scores 0.\n\n"
        + _table(head, rows)
        + f"\n\n{_verdict(room)}\n\n{_alike(room)}"
    )


def _verdict(room: HeadRoom) -> str:
    if not np.isfinite(room.noise_T).any():
        return "The noise is unknown (no replicates), so how much of these regrets is luck is not known."
    known = int(np.isfinite(room.noise_T).sum())
    kinds = [kind for kind in _KINDS if kind in room.regret]
    parts = []
    for kind in kinds:
        above = room.above_noise(kind)
        named = f" ({', '.join(above)})" if 0 < len(above) < known and kind == "static" else ""
        parts.append(f"the {_KINDS[kind]} on {len(above)}{named}")
    return (
        "*Noise*: two runs of equally good pipelines differ by more than this once in twenty times (2 √2 standard "
        "deviations between seeds). *Luck*: what the chosen run is expected to owe to its seed, having been chosen for "
        "being best (by a bootstrap that takes the table for true). No choice could give it again, and the regrets of "
        f"other pipelines contain it. Of {_n(known, 'task')} with replicates, more than the noise lose: "
        f"{'; '.join(parts)}."
    )


def _alike(room: HeadRoom) -> str:
    first, second = np.triu_indices(len(room.scores.tasks), k=1)
    pairs = room.rank_correlation_TT[first, second]
    if not np.isfinite(pairs).any():
        return "How alike tasks rank the pipelines is not defined: all pipelines score the same on all tasks but one."
    names = room.scores.tasks
    lowest, highest = int(np.nanargmin(pairs)), int(np.nanargmax(pairs))
    return (
        "Spearman's rank correlation of the pipelines' test scores between two tasks: median "
        f"{np.nanmedian(pairs):.2f}, lowest {pairs[lowest]:.2f} ({names[first[lowest]]} and {names[second[lowest]]}), "
        f"highest {pairs[highest]:.2f} ({names[first[highest]]} and {names[second[highest]]})."
    )


def in_words(pipeline: Pipeline, space: Space) -> str:
    """What differs from the space's default: `batch_size 4, lora_rank 64`."""
    usual = space.default().values
    return ", ".join(f"{name} {value}" for name, value in pipeline.values.items() if value != usual.get(name)) or (
        "the space's default"
    )


# --- what to keep in mind ---------------------------------------------------------------------------------------------


def _limits(meta: MetaDataset, noise: Sequence[Noise], about: About) -> str:
    runs, limits = meta.runs, list(about.limits)
    cells = ends(meta).groupby(["task", "base_model", "pipeline"]).size()
    if (cells == 1).any() and noise:
        limits.append(f"{int((cells == 1).sum()):,} of {len(cells):,} pairs of task and pipeline were run once.")
    if runs["device"].nunique() > 1:
        limits.append("Costs come from several devices; they are comparable only within one (see the table above).")
    missing = runs["task"].nunique() * runs["base_model"].nunique() * len(distinct_pipelines(meta)) - len(cells)
    if missing:
        limits.append(f"{missing:,} pairs of task and pipeline have no run.")
    return "## Known limits\n\n" + "\n".join(f"- {limit.strip()}" for limit in limits) if limits else ""


def _licence(about: About) -> str:
    if about.licence is None and about.licence_text is None:
        return "## Licence\n\nNot stated: whoever shares this meta-dataset says under which one (`about.yaml`)."
    return f"## Licence\n\n{about.licence_text or about.licence}"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _number(value: Any, digits: int = 3) -> str:
    """A dash for what is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _mean(value_T: np.ndarray) -> str:
    return _number(float(np.mean(value_T[np.isfinite(value_T)]))) if np.isfinite(value_T).any() else "–"


def _n(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _s(items: Sequence[object]) -> str:
    return "" if len(items) == 1 else "s"
