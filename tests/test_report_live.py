"""The live report: its datasets, and its page from parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.tasks import bundled_tasks, load_task
from jobs.live_report.datasets import DATASETS, write
from jobs.live_report.page import page


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_is_a_task_the_same_every_time(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path / "one")
    assert path.read_bytes() == write(name, tmp_path / "two").read_bytes()
    task = load_task(str(path))
    assert len(task.train) > 800
    assert min(len(task.validation), len(task.test)) >= 100
    assert name not in bundled_tasks()
    kinds = {example.completion for example in task.train}
    assert len(kinds) >= 3


def a_part(dataset: str, method: str, seed: int, score: float) -> dict:
    part = {"dataset": dataset, "method": method, "seed": seed, "test": {"score": score}, "cost_s": 100.0, "runs": 12}
    live = {"budget_s": 150.0, "wall_s": 80.0, "slot_efficiency": 0.9, "fell_back": method == "ftmeta" and seed == 1}
    return part if method == "strong-default" else part | live


def test_the_page_says_what_the_parts_say() -> None:
    scores = {"strong-default": 0.5, "random": 0.45, "quicktune-transfer": 0.48, "ftmeta": 0.6}
    parts = [
        a_part(dataset, method, seed, score + 0.01 * seed)
        for dataset in ("colours", "time-zones")
        for seed in range(3)
        for method, score in scores.items()
    ]
    found = {
        "command": "the command",
        "hardware": "a machine",
        "whole_runs": 15,
        "selector": {"name": "s", "version": "v"},
        "replayed": {
            "candidates": {"a": 225},
            "regret": {method: {"50": 0.1, "100": 0.05} for method in ("random", "ftmeta")},
        },
        "parts": parts,
    }
    text = page(found)
    assert "| ours | 0.610 ± 0.010 | 0.610 ± 0.010 | 0.610 |" in text
    assert "Against random search, ours is better in 6 of 6 pairs, by +0.1500 in the mean" in text
    assert "| random search | 0.100 | 0.050 |" in text
    assert "| ours | 12.0 | 0.67 | 80 | 90 % |" in text
    assert "spoke up in 2 of ours" in text
    assert "There is no replay" in page(found | {"replayed": None})
