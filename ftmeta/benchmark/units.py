"""The benchmark in units that are computed apart: one task, and the methods that learn the same from the other tasks.

In: a meta-dataset and `Settings`. Out: for each method and seed the incumbents over time, with their validation and
test scores. A unit is computed by one process from the tables alone, so units can run anywhere and in any order; those
that are there already are not computed again.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import ftmeta
from ftmeta.benchmark.replay import Trace, problem_of, replay
from ftmeta.benchmark.table import Table, tables_of
from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import fingerprint
from ftmeta.metadataset import MetaDataset
from ftmeta.optimizers import METHODS, Experience, Optimizer, Problem, experience_of
from ftmeta.optimizers.in_order import InOrder

ORACLE = "oracle"
ALL_METHODS = (*METHODS, ORACLE)


@dataclass(frozen=True)
class Settings:
    methods: tuple[str, ...]
    seeds: int = 20
    budget_fraction: float = 0.1  # of what running every candidate to its end costs
    charge_overhead: bool = True  # an optimizer's own time counts

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in ALL_METHODS]
        if unknown or not self.methods:
            found = f"unknown method '{unknown[0]}'" if unknown else "no method is named"
            raise UserError(f"{found}; choose of {', '.join(ALL_METHODS)}")
        if not 0 < self.budget_fraction <= 1:
            raise UserError(f"the budget fraction is {self.budget_fraction}; give more than 0 and at most 1")


@dataclass(frozen=True)
class Unit:
    task: str
    base_model: str
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.task}--{self.base_model}--{'+'.join(self.methods)}".replace("/", "_")

    def made_of(self, meta: MetaDataset, settings: Settings) -> str:
        """What its result depends on; a result made of something else is not used."""
        everything = dataclasses.asdict(settings) | {"methods": None, "unit": self.name}
        return fingerprint({"meta": meta.fingerprint, "ftmeta": ftmeta.__version__, **everything})


def units_of(meta: MetaDataset, settings: Settings) -> tuple[list[Unit], list[str]]:
    """The longest first, and what is left out, in words. Raises UserError where no task is left."""
    tables, left_out = tables_of(meta)
    methods = []
    for name in dict.fromkeys(settings.methods):
        missing = [] if name == ORACLE else [p for p in METHODS[name].needs if importlib.util.find_spec(p) is None]
        if missing:
            left_out.append(f"{name}: the package {missing[0]} is not installed (pip install 'ftmeta[baselines]')")
        else:
            methods.append(name)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in methods:
        groups.setdefault(() if name == ORACLE else METHODS[name].learns, []).append(name)
    if len({table.task for table in tables}) < 2 or not methods:
        why = "; ".join(left_out) or f"there are only runs of {', '.join(table.task for table in tables)}"
        raise UserError(
            f"nothing to benchmark: two tasks and a method are needed, because what is known of one task is "
            f"learned on the others ({why})"
        )
    ordered = sorted(groups.values(), key=lambda group: -len(METHODS[group[0]].learns) if group[0] != ORACLE else 0)
    return [Unit(t.task, t.base_model, tuple(group)) for group in ordered for t in tables], left_out


def compute(meta: MetaDataset, unit: Unit, settings: Settings) -> dict[str, Any]:
    """The unit's result, as it is kept: JSON."""
    import time

    import torch

    torch.set_num_threads(1)
    (table,) = (t for t in tables_of(meta)[0] if (t.task, t.base_model) == (unit.task, unit.base_model))
    budget_s = settings.budget_fraction * table.total_cost_s
    problem = problem_of(table, meta.space, budget_s)
    experience = experience_of(meta, (table.task,))
    found: dict[str, Any] = {}
    learning_s = 0.0
    for name in unit.methods:
        started = time.perf_counter()
        try:
            if name != ORACLE:
                for what in METHODS[name].learns:
                    getattr(experience, what)
            learning_s = max(learning_s, time.perf_counter() - started)
            found[name] = _replays(name, problem, experience, table, settings)
        except FtmetaError as error:
            found[name] = {"impossible": str(error)}
    low, high = table.test_range
    return {
        "unit": unit.name,
        "made_of": unit.made_of(meta, settings),
        "task": unit.task,
        "base_model": unit.base_model,
        "candidates": len(table.candidates),
        "budget_s": budget_s,
        "worst": low,
        "best": high,
        "best_validation": float(np.nanmax(table.validation_NT)),
        "has_test": table.has_test,
        "learning_s": learning_s,
        "methods": found,
    }


def _replays(name: str, problem: Problem, experience: Experience, table: Table, settings: Settings) -> dict[str, Any]:
    seeds = 1 if name == ORACLE or METHODS[name].one_seed else settings.seeds
    traces = [
        replay(
            lambda seed=seed: _make(name, problem, experience, table, seed),  # type: ignore[misc]
            table,
            problem.budget_s,
            charge_overhead=settings.charge_overhead and name != ORACLE,
        )
        for seed in range(seeds)
    ]
    return {
        "seeds": [_scores(trace, table) for trace in traces],
        "asks": sum(trace.asks for trace in traces),
        "overhead_s": sum(trace.overhead_s for trace in traces),
    }


def _make(name: str, problem: Problem, experience: Experience, table: Table, seed: int) -> Optimizer:
    if name == ORACLE:
        return InOrder(problem, [int(np.nanargmax(np.nanmax(np.nan_to_num(table.test_NT, nan=-1.0), axis=1)))])
    return METHODS[name].make(problem, experience, seed)


def _scores(trace: Trace, table: Table) -> dict[str, Sequence[float]]:
    rows = [(candidate, fidelity - 1) for candidate, fidelity in trace.incumbent]
    return {
        "at_s": [round(at_s, 3) for at_s in trace.at_s],
        "validation": [round(float(table.validation_NT[row]), 6) for row in rows],
        "test": [round(float(table.test_NT[row]), 6) for row in rows],
    }
