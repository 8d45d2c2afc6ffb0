"""From incumbents over time to regrets, ranks and how sure they are.

Normalised regret of a checkpoint: (best - score) / (best - worst), with best and worst test score over the task's whole
table; before there is a checkpoint it is 1. Means are taken over seeds first, then methods are ranked within each task,
then ranks are averaged over tasks; intervals come from resampling tasks (bootstrap, 95 %), because seeds on one task
are not independent tasks.

Array legend: M methods, D tasks, B shares of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

SHARES = (0.05, 0.10, 0.25, 0.50, 1.0)
GRID = np.geomspace(0.01, 1.0, 81)  # shares of the budget, for curves and areas
COMPARED = ("quicktune-transfer", "quicktune", "strong-default")  # with ours; named beforehand
OURS = "ftmeta"
_RESAMPLES = 2000


@dataclass(frozen=True)
class Results:
    """Means over seeds."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    curve_MDG: np.ndarray  # regret at the shares of GRID
    regret_MDB: np.ndarray  # regret at SHARES
    test_MD: np.ndarray  # test score of the last incumbent
    gap_MD: np.ndarray  # its validation score minus its test score
    beats_MD: np.ndarray  # share of the budget until the strong default's test score is reached; inf: never
    impossible: Mapping[str, str]  # methods that could not run on some task, and why
    overhead_ms: Mapping[str, float]  # per ask
    asks_per_s: Mapping[str, float]  # of the optimizer's own time

    @property
    def rank_MDB(self) -> np.ndarray:
        """1 is best; equal regrets share their mean rank."""
        return rankdata(np.round(self.regret_MDB, 9), axis=0)

    @property
    def auc_MD(self) -> np.ndarray:
        """Mean regret over the logarithm of time, from 1 % of the budget on."""
        return self.curve_MDG.mean(axis=2)


def is_ablation(method: str) -> bool:
    """Ours with something taken away (ablations.py)."""
    return "/" in method


def results_of(units: Sequence[Mapping[str, Any]], *, ablations: bool = False) -> Results:
    """From the units of all tasks: all methods but ablations, or ours and its ablations. A method that was impossible
    on a task is left out altogether."""
    tasks = list(dict.fromkeys((unit["task"], unit["base_model"]) for unit in units))
    of_method: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    impossible: dict[str, str] = {}
    for unit in units:
        for name, found in unit["methods"].items():
            if is_ablation(name) != ablations and not (ablations and name in (OURS, "strong-default")):
                continue
            if "impossible" in found:
                impossible.setdefault(name, f"{unit['task']}: {found['impossible']}")
            else:
                of_method.setdefault(name, {})[unit["task"], unit["base_model"]] = {**unit, **found}
    methods = [name for name, found in of_method.items() if len(found) == len(tasks)]
    shape = len(methods), len(tasks)
    curve = np.empty((*shape, len(GRID)))
    regret, test, gap, beats = np.empty((*shape, len(SHARES))), np.empty(shape), np.empty(shape), np.full(shape, np.inf)
    for d, task in enumerate(tasks):
        target = _strong_default_test(of_method, task)
        for m, name in enumerate(methods):
            one = of_method[name][task]
            span, budget_s = max(one["best"] - one["worst"], 1e-12), one["budget_s"]
            seeds = one["seeds"]
            curve[m, d] = np.mean([_at(seed, GRID * budget_s, one["best"], span) for seed in seeds], axis=0)
            shares = np.array(SHARES) * budget_s
            regret[m, d] = np.mean([_at(seed, shares, one["best"], span) for seed in seeds], axis=0)
            test[m, d] = np.mean([seed["test"][-1] if seed["test"] else 0.0 for seed in seeds])
            ended = [seed for seed in seeds if seed["test"]]
            gap[m, d] = np.mean([seed["validation"][-1] - seed["test"][-1] for seed in ended]) if ended else np.nan
            if target is not None:
                beats[m, d] = np.median([_first_at(seed, target) / budget_s for seed in seeds])
    overhead = {
        name: (sum(u["overhead_s"] for u in of_method[name].values()), sum(u["asks"] for u in of_method[name].values()))
        for name in methods
    }
    return Results(
        tuple(methods),
        tuple(task if len({t for t, _ in tasks}) == len(tasks) else f"{task} ({model})" for task, model in tasks),
        curve,
        regret,
        test,
        gap,
        beats,
        impossible,
        {name: 1000 * seconds / max(asks, 1) for name, (seconds, asks) in overhead.items()},
        {name: asks / max(seconds, 1e-9) for name, (seconds, asks) in overhead.items()},
    )


def summary(results: Results) -> dict[str, Any]:
    """Key `methods` of `ftmeta benchmark --json`, best average rank first."""
    rank_M = results.rank_MDB.mean(axis=(1, 2))
    regret_MB = results.regret_MDB.mean(axis=1)
    rank_low, rank_high = _bootstrap(results.rank_MDB.mean(axis=2))
    regret_low, regret_high = _bootstrap(results.regret_MDB)
    keys = [f"{100 * share:.0f}" for share in SHARES]
    found = {}
    for m in np.argsort(rank_M, kind="stable"):
        name = results.methods[m]
        reached = results.beats_MD[m]
        found[name] = {
            "average_rank": _round(rank_M[m]),
            "average_rank_95": [_round(rank_low[m]), _round(rank_high[m])],
            "regret": {key: _round(value) for key, value in zip(keys, regret_MB[m], strict=True)},
            "regret_95": {
                key: [_round(low), _round(high)]
                for key, low, high in zip(keys, regret_low[m], regret_high[m], strict=True)
            },
            "auc": _round(results.auc_MD[m].mean()),
            "test_score": _round(results.test_MD[m].mean()),
            "validation_test_gap": _round(np.nanmean(results.gap_MD[m]))
            if np.isfinite(results.gap_MD[m]).any()
            else None,
            "beats_strong_default": {
                "tasks": int(np.isfinite(reached).sum()),
                "median_share": _round(np.median(reached[np.isfinite(reached)]))
                if np.isfinite(reached).any()
                else None,
            },
            "overhead_ms": _round(results.overhead_ms[name]),
            "asks_per_s": round(results.asks_per_s[name]),
        }
    return found


def comparisons(results: Results) -> list[dict[str, Any]]:
    """Ours against the three named beforehand: paired Wilcoxon over tasks of the area under regret, Holm-corrected."""
    if OURS not in results.methods:
        return []
    ours_D = results.auc_MD[results.methods.index(OURS)]
    found: list[dict[str, Any]] = []
    for name in COMPARED:
        if name in results.methods:
            difference_D = results.auc_MD[results.methods.index(name)] - ours_D
            p = float(wilcoxon(difference_D).pvalue) if np.any(difference_D != 0) else 1.0
            found.append(
                {"against": name, "better_on": int((difference_D > 0).sum()), "tasks": len(difference_D), "p": p}
            )
    running = 0.0
    for place, one in enumerate(sorted(found, key=lambda one: one["p"])):
        running = max(running, min(1.0, one["p"] * (len(found) - place)))
        one["p_holm"] = running
    return [{**one, "p": _round(one["p"]), "p_holm": _round(one["p_holm"])} for one in found]


def per_task(results: Results) -> dict[str, dict[str, Any]]:
    """Task -> method -> regrets at the shares, and the test score of the last incumbent."""
    keys = [f"{100 * share:.0f}" for share in SHARES]
    return {
        task: {
            name: {
                "regret": {key: _round(v) for key, v in zip(keys, results.regret_MDB[m, d], strict=True)},
                "auc": _round(results.auc_MD[m, d]),
                "test_score": _round(results.test_MD[m, d]),
            }
            for m, name in enumerate(results.methods)
        }
        for d, task in enumerate(results.tasks)
    }


def bands(results: Results) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of the mean regret over tasks, at the shares of GRID: low_MG, high_MG."""
    return _bootstrap(results.curve_MDG)


def _bootstrap(value_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 % and 97.5 % quantiles of the mean over the second axis, tasks drawn with replacement."""
    D = value_MD.shape[1]
    rows = np.random.default_rng(0).integers(D, size=(_RESAMPLES, D))
    weight_RD = np.stack([np.bincount(row, minlength=D) for row in rows]) / D
    means = np.einsum("rd,md...->rm...", weight_RD, value_MD)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def _at(seed: Mapping[str, Sequence[float]], times: np.ndarray, best: float, span: float) -> np.ndarray:
    """Regret at each time."""
    test = np.array([np.nan, *seed["test"]])
    index = np.searchsorted(np.array(seed["at_s"]), times, side="right")
    return np.clip(np.nan_to_num((best - test[index]) / span, nan=1.0), 0.0, 1.0)


def _first_at(seed: Mapping[str, Sequence[float]], target: float) -> float:
    return next((at for at, test in zip(seed["at_s"], seed["test"], strict=True) if test >= target), np.inf)


def _strong_default_test(
    of_method: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]], task: tuple[str, str]
) -> float | None:
    found = of_method.get("strong-default", {}).get(task)
    return float(found["seeds"][0]["test"][-1]) if found and found["seeds"][0]["test"] else None


def _round(value: Any) -> float:
    return round(float(value), 4)
