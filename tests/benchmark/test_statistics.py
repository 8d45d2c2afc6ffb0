"""Regrets, ranks and comparisons of made-up traces, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ftmeta.benchmark.statistics import GRID, comparisons, results_of, summary

BUDGET = 100.0


def unit(task: str, **methods: list[tuple[float, float]]) -> dict[str, Any]:
    """Of methods with one seed: times and test scores; worst score 0.2, best 0.7."""
    found = {
        name.replace("_", "-"): {
            "seeds": [
                {
                    "at_s": [t for t, _ in trace],
                    "test": [s for _, s in trace],
                    "validation": [s + 0.1 for _, s in trace],
                }
            ],
            "asks": 10,
            "overhead_s": 0.5,
        }
        for name, trace in methods.items()
    }
    common = {"base_model": "micro", "budget_s": BUDGET, "worst": 0.2, "best": 0.7, "has_test": True}
    return {"task": task, "methods": found, "learning_s": 0.0, "candidates": 5, **common}


@pytest.fixture
def units() -> list[dict[str, Any]]:
    return [
        unit("a", ftmeta=[(4, 0.7)], random=[(20, 0.45), (60, 0.7)], strong_default=[(9, 0.6)]),
        unit("b", ftmeta=[(9, 0.6), (30, 0.7)], random=[], strong_default=[(9, 0.6)]),
    ]


def test_regret_is_normalised_by_the_whole_table(units: list[dict[str, Any]]) -> None:
    found = summary(results_of(units))
    assert found["ftmeta"]["regret"] == {"5": 0.5, "10": 0.1, "25": 0.1, "50": 0.0, "100": 0.0}
    assert found["random"]["regret"] == {"5": 1.0, "10": 1.0, "25": 0.75, "50": 0.75, "100": 0.5}
    assert found["random"]["test_score"] == 0.35  # 0.7 on one task, and nothing but the base model on the other
    assert found["ftmeta"]["validation_test_gap"] == 0.1
    assert found["strong-default"]["regret"]["100"] == 0.2


def test_ranks_are_taken_within_a_task(units: list[dict[str, Any]]) -> None:
    """Task a: ftmeta 1 but at 100 %, where random is as good; task b at 10 %: ftmeta and the strong default share."""
    found = summary(results_of(units))
    assert next(iter(found)) == "ftmeta"
    a = (1 + 1 + 1 + 1 + 1.5) / 5
    b = (2 + 1.5 + 1.5 + 1 + 1) / 5
    assert found["ftmeta"]["average_rank"] == round((a + b) / 2, 4)
    low, high = found["ftmeta"]["average_rank_95"]
    assert low == a
    assert high == b


def test_the_area_is_over_the_logarithm_of_time(units: list[dict[str, Any]]) -> None:
    results = results_of(units)
    curve = results.curve_MDG[results.methods.index("ftmeta"), 0]
    np.testing.assert_array_equal(curve, np.where(GRID * BUDGET >= 4, 0.0, 1.0))
    assert results.auc_MD[results.methods.index("ftmeta"), 0] == pytest.approx(np.log(4) / np.log(100), abs=0.01)


def test_when_the_strong_default_is_reached(units: list[dict[str, Any]]) -> None:
    found = summary(results_of(units))
    assert found["ftmeta"]["beats_strong_default"] == {"tasks": 2, "median_share": 0.065}
    assert found["random"]["beats_strong_default"] == {"tasks": 1, "median_share": 0.6}


def test_three_comparisons_are_corrected(units: list[dict[str, Any]]) -> None:
    tasks = [
        unit(
            f"t{k}",
            ftmeta=[(2 + 0.1 * k, 0.7)],
            quicktune=[(50, 0.7)],
            quicktune_transfer=[(40 + k, 0.7)],
            strong_default=[(9, 0.7)],
        )
        for k in range(8)
    ]
    found = {one["against"]: one for one in comparisons(results_of(tasks))}
    assert set(found) == {"quicktune-transfer", "quicktune", "strong-default"}
    for one in found.values():
        assert one["better_on"] == 8
        assert one["p"] == 0.0078  # the least that eight tasks can give
        assert one["p_holm"] == round(3 * 2 / 2**8, 4)


def test_a_method_that_fails_on_a_task_is_left_out_with_its_reason(units: list[dict[str, Any]]) -> None:
    units[1]["methods"]["random"] = {"impossible": "no dice"}
    results = results_of(units)
    assert results.methods == ("ftmeta", "strong-default")
    assert results.impossible == {"random": "b: no dice"}
