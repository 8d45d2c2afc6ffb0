"""The benchmark in units that are computed apart: one task, and the methods that learn the same from the other tasks.

In: a meta-dataset and `Settings`. Out: for each method and seed the incumbents over time, with their validation and
test scores. A unit is computed by one process from the tables alone, so units can run anywhere and in any order; those
that are there already are not computed again.

Array legend: N candidates, T fidelities.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import ftmeta
from ftmeta.benchmark.ablations import ABLATIONS
from ftmeta.benchmark.replay import Trace, problem_of, replay
from ftmeta.benchmark.statistics import OURS
from ftmeta.benchmark.table import Table, tables_of
from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import fingerprint
from ftmeta.metadataset import MetaDataset
from ftmeta.optimizers import METHODS, Experience, Method, experience_of
from ftmeta.optimizers.in_order import InOrder
from ftmeta.space import Space

ORACLE = "oracle"
ALL_METHODS = (*METHODS, ORACLE)
_KNOWN = {*ALL_METHODS, *ABLATIONS}


def methods_of(names: Iterable[str]) -> tuple[str, ...]:
    """The names, `all` and `ablations` spelled out."""
    found: dict[str, None] = {}
    for name in (name.strip() for name in names):
        found |= dict.fromkeys({"all": ALL_METHODS, "ablations": (OURS, *ABLATIONS)}.get(name, (name,) if name else ()))
    return tuple(found)


@dataclass(frozen=True)
class Settings:
    methods: tuple[str, ...]
    seeds: int = 20
    budget_fraction: float = 0.1  # of what running every candidate to its end costs
    charge_overhead: bool = True  # an optimizer's own time counts

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in _KNOWN]
        if unknown or not self.methods:
            found = f"unknown method '{unknown[0]}'" if unknown else "no method is named"
            raise UserError(f"{found}; choose of {', '.join((*ALL_METHODS, *ABLATIONS))}")
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
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(settings.methods):
        method = _method(name)
        missing = [package for package in method.needs if importlib.util.find_spec(package) is None]
        if missing:
            left_out.append(f"{name}: the package {missing[0]} is not installed (pip install 'ftmeta[baselines]')")
        else:
            alone = name in ABLATIONS and ABLATIONS[name].change is not None
            groups.setdefault((*method.learns, name) if alone else method.learns, []).append(name)
    if len({table.task for table in tables}) < 2 or not groups:
        why = "; ".join(left_out) or f"there are only runs of {', '.join(table.task for table in tables)}"
        raise UserError(
            f"nothing to benchmark: two tasks and a method are needed, because what is known of one task is "
            f"learned on the others ({why})"
        )
    ordered = sorted(groups, key=len, reverse=True)
    return [Unit(t.task, t.base_model, tuple(groups[key])) for key in ordered for t in tables], left_out


def about(name: str) -> str:
    """What a method does, in a few words."""
    words = _method(name).about
    return (
        words if name not in ABLATIONS or ABLATIONS[name].change is None else name.partition("/")[2].replace("-", " ")
    )


def compute(meta: MetaDataset, unit: Unit, settings: Settings) -> dict[str, Any]:
    """The unit's result, as it is kept: JSON."""
    import torch

    torch.set_num_threads(1)
    ((table,), _) = tables_of(meta, only=(unit.task, unit.base_model))
    budget_s = settings.budget_fraction * table.total_cost_s
    experience = experience_of(meta, (table.task,))
    found: dict[str, Any] = {}
    learning_s = 0.0
    for name in unit.methods:
        try:
            found[name], took_s = _replays(name, table, experience, meta.space, budget_s, settings)
            learning_s = max(learning_s, took_s)
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
        "has_test": table.has_test,
        "learning_s": learning_s,
        "methods": found,
    }


def _replays(
    name: str, table: Table, experience: Experience, space: Space, budget_s: float, settings: Settings
) -> tuple[dict[str, Any], float]:
    """The method's part of the document, and how long it learned from the other tasks at most."""
    method = _method(name, table)
    change = ABLATIONS[name].change if name in ABLATIONS else None
    charged = settings.charge_overhead and name != ORACLE
    seeds, asks, overhead_s, learning_s = [], 0, 0.0, 0.0
    for seed in range(1 if method.one_seed else settings.seeds):
        its_table, its_experience = table, experience
        if change is not None:
            its_table, its_experience = change(table, experience, np.random.default_rng(seed))
        learning_s = max(learning_s, _learn(its_experience, method))
        problem = problem_of(its_table, space, budget_s)
        trace = replay(
            functools.partial(method.make, problem, its_experience, seed), its_table, budget_s, charge_overhead=charged
        )
        seeds.append(_scores(trace, its_table))
        asks += trace.asks
        overhead_s += trace.overhead_s
    return {"seeds": seeds, "asks": asks, "overhead_s": overhead_s}, learning_s


def _learn(experience: Experience, method: Method) -> float:
    """Learns now what the method will look at, so that its clock does not pay for it; the seconds this took."""
    started = time.perf_counter()
    for what in method.learns:
        getattr(experience, what)
    return time.perf_counter() - started


def _method(name: str, table: Table | None = None) -> Method:
    """`table` is what the oracle looks at."""
    if name == ORACLE:
        best = 0 if table is None else int(np.nanmax(np.nan_to_num(table.test_NT, nan=-1.0), axis=1).argmax())
        return Method(
            "the best candidate by its test score, run at once",
            lambda problem, experience, seed: InOrder(problem, [best]),
            one_seed=True,
        )
    return ABLATIONS[name].method if name in ABLATIONS else METHODS[name]


def _scores(trace: Trace, table: Table) -> dict[str, Sequence[float]]:
    rows = [(candidate, fidelity - 1) for candidate, fidelity in trace.incumbent]
    return {
        "at_s": [round(at_s, 3) for at_s in trace.at_s],
        "validation": [round(float(table.validation_NT[row]), 6) for row in rows],
        "test": [round(float(table.test_NT[row]), 6) for row in rows],
    }
