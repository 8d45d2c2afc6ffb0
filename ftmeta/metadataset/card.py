"""The card of a meta-dataset: what is in it, made from the data and from nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ftmeta.metadataset.store import MetaDataset


def card(meta: MetaDataset) -> str:
    """Markdown: origin, counts, statuses and scores a task, cost, noise between seeds, validation against test."""
    runs, manifest = meta.runs, meta.manifest
    profiles = meta.hardware
    made_on = ", ".join(
        f"{device} (hardware profile `{profiles[device].name}`)" if device in profiles else device
        for device in sorted(runs["device"].unique())
    )
    lines = [
        f"# Meta-dataset {meta.name}",
        "",
        f"{len(runs)} finetuning runs: {runs['task'].nunique()} tasks, {_n_pipelines(meta)} pipelines of the space "
        f"`{meta.space.name}`, base model{_s(manifest['base_models'])} {', '.join(manifest['base_models'])}, "
        f"{runs['seed'].nunique()} seed{_s(runs['seed'].unique())}, {meta.budget.max_fidelity} fidelities.",
        "",
        f"- Made from {runs['started_at'].min()} to {runs['started_at'].max()} on {made_on}"
        + f", code version{_s(manifest['code_versions'])} {', '.join(manifest['code_versions'])}.",
        f"- Full budget of a run: {meta.budget.epochs:g} passes over the training split"
        + (f", of at most {meta.budget.max_train_examples} examples" if meta.budget.max_train_examples else "")
        + f"; {meta.budget.eval_examples} validation examples scored at each fidelity.",
        f"- Cost: {runs['cost_s'].sum():.0f} device-seconds, {runs['cost_s'].median():.1f} in the median run; at most "
        f"{runs['peak_memory_gb'].max():.2f} GB of memory.",
        "- Status: " + ", ".join(f"{n} {status}" for status, n in manifest["statuses"].items()) + ".",
        f"- {_noise(meta)}",
        f"- {_validation_and_test(meta)}",
        f"- Fingerprint `{meta.fingerprint}`.",
        "",
        "Scores are validation scores at the last fidelity reached, in [0, 1], higher is better.",
        "",
        *_task_table(meta),
        "",
    ]
    return "\n".join(lines)


def last_points(meta: MetaDataset) -> pd.DataFrame:
    """Each run's last curve point after fidelity 0, with the run's columns beside it."""
    reached = meta.curves[meta.curves["fidelity"] > 0].sort_values("fidelity").groupby("run_id").tail(1)
    columns = ["run_id", "fidelity", "score", "test_score"]
    return meta.runs.drop(columns=["fidelity"]).merge(reached[columns], on="run_id")


def _task_table(meta: MetaDataset) -> list[str]:
    last = last_points(meta)
    rows = ["| task | runs | ok | diverged | score: best | median | cost_s: median |", "|---|---|---|---|---|---|---|"]
    for task, runs in meta.runs.groupby("task"):
        scores = last[last["task"] == task]["score"].dropna()
        best, median = (f"{scores.max():.3f}", f"{scores.median():.3f}") if len(scores) else ("-", "-")
        statuses = runs["status"].value_counts()
        rows.append(
            f"| {task} | {len(runs)} | {statuses.get('ok', 0)} | {statuses.get('diverged', 0)} | {best} | {median} "
            f"| {runs['cost_s'].median():.1f} |"
        )
    return rows


def _noise(meta: MetaDataset) -> str:
    """The standard deviation between seeds of the same pipeline, pooled over (task, base model, pipeline)."""
    last = last_points(meta).dropna(subset=["score"])
    columns = ["task", "base_model", *(f"p_{name}" for name in meta.space.hyperparameters)]
    groups = last.groupby(columns, dropna=False)["score"].agg(["var", "count"])
    groups = groups[groups["count"] > 1]
    if groups.empty:
        return "Noise: unknown; no pipeline was run with several seeds on a task."
    pooled = (groups["var"] * (groups["count"] - 1)).sum() / (groups["count"] - 1).sum()
    return (
        f"Noise: {pooled**0.5:.4f} is the standard deviation of the score between seeds "
        f"({len(groups)} replicated pipelines)."
    )


def _validation_and_test(meta: MetaDataset) -> str:
    last = last_points(meta).dropna(subset=["score", "test_score"])
    correlations = [
        task["score"].corr(task["test_score"])
        for _, task in last.groupby("task")
        if len(task) > 2 and task["score"].nunique() > 1 and task["test_score"].nunique() > 1
    ]
    if not correlations:
        return "Validation and test scores: too few to correlate."
    mean = sum(correlations) / len(correlations)
    return f"Validation and test scores correlate by {mean:.3f} (Pearson, mean over tasks)."


def _n_pipelines(meta: MetaDataset) -> int:
    return len({pipeline.id for pipeline in meta.pipelines().values()})


def _s(items: object) -> str:
    return "" if len(items) == 1 else "s"  # type: ignore[arg-type]
