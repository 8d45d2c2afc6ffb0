"""The folder for ftmeta itself: `pipeline.yaml` and the data in one file, as `ftmeta finetune` reads them."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ftmeta.export.recipe import NotCarried, Recipe, Written, jsonl, messages
from ftmeta.schema import Example
from ftmeta.space import load_space, pipeline_yaml


def write(recipe: Recipe) -> Written:
    name = _file_name(recipe.task.name)
    rows = [{**_row(example), "split": split} for split, examples in recipe.task.splits.items() for example in examples]
    of_run = ["--seed", str(recipe.seed), "--out", "output"]
    return Written(
        tool="ftmeta",
        files={"pipeline.yaml": pipeline_yaml(recipe.pipeline), name: jsonl(rows)},
        install=None,
        command=shlex.join(
            ["ftmeta", "finetune", name, "--pipeline", "pipeline.yaml", "--base-model", recipe.name, *of_run]
        ),
        carried=dict.fromkeys(recipe.pipeline.values, "`pipeline.yaml`"),
        not_carried=_budget(recipe),
    )


def _row(example: Example) -> dict[str, Any]:
    more = {"fact": example.fact, "seen_fact": example.seen_fact}
    return {"messages": messages(example), **{key: value for key, value in more.items() if value is not None}}


def _budget(recipe: Recipe) -> tuple[NotCarried, ...]:
    """`ftmeta finetune` takes the budget of the space; the training examples are cut in the file."""
    usual = load_space().budget()
    return tuple(
        NotCarried(
            name, value, f"`ftmeta finetune --pipeline FILE` takes the search space's own, {getattr(usual, name)}"
        )
        for name in ("epochs", "max_fidelity", "eval_examples")
        if (value := getattr(recipe.budget, name)) != getattr(usual, name)
    )


def _file_name(task: str) -> str:
    """The task's name where a file can have it; `ftmeta finetune` names the task after the file."""
    plain = re.sub(r"[^\w.-]+", "-", task).strip("-.")[:80]
    return f"{plain or 'task'}.jsonl"
