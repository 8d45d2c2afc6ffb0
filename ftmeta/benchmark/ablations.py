"""What a method owes to what: the same method with something taken away, as `ftmeta/no-meta-features`.

A `Change` takes the table and the experience that a method gets on a task, and gives back what it gets instead; the
score counts on the whole table all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from ftmeta.benchmark.table import Table
from ftmeta.costs import TOKEN_METAFEATURES
from ftmeta.optimizers import METHODS, Experience, Method
from ftmeta.optimizers.ours import Ours
from ftmeta.surrogates.features import Context
from ftmeta.surrogates.history import Group

Change = Callable[[Table, Experience, np.random.Generator], tuple[Table, Experience]]


@dataclasses.dataclass(frozen=True)
class Ablation:
    method: Method
    change: Change | None = None  # draws with the seed: what is learned then differs from seed to seed


def _no_metafeatures(table: Table, experience: Experience, rng: np.random.Generator) -> tuple[Table, Experience]:
    """Only the counts that costs are worked out from are left."""
    return _with_contexts(
        table, experience, [_costs_only(group.context) for group in experience.groups], _costs_only(table.context)
    )


def _shuffled_metafeatures(table: Table, experience: Experience, rng: np.random.Generator) -> tuple[Table, Experience]:
    """Each source task has another's meta-features, but for what costs are worked out from."""
    contexts = [group.context for group in experience.groups]
    order = rng.permutation(len(contexts))
    mixed = [
        Context({**contexts[other].metafeatures, **_costs_only(own).metafeatures}, own.shape)
        for own, other in zip(contexts, order, strict=True)
    ]
    return _with_contexts(table, experience, mixed, table.context)


def _fewer_tasks(table: Table, experience: Experience, rng: np.random.Generator, *, n: int) -> tuple[Table, Experience]:
    """`n` source tasks, drawn at random."""
    tasks = sorted({group.task for group in experience.groups})
    kept = set(rng.permutation(tasks)[:n])
    return table, _fresh(experience, [group for group in experience.groups if group.task in kept])


def _smaller_pool(
    table: Table, experience: Experience, rng: np.random.Generator, *, share: float
) -> tuple[Table, Experience]:
    """A random part of the candidates; what was learned is the same."""
    kept = np.sort(rng.permutation(len(table.candidates))[: max(3, round(share * len(table.candidates)))])
    parts = {name: getattr(table, name)[kept] for name in ("validation_NT", "test_NT", "cost_NT")}
    smaller = dataclasses.replace(table, candidates=tuple(table.candidates[n] for n in kept), **parts)
    return smaller, experience


def _costs_only(context: Context) -> Context:
    known = {name: context.metafeatures[name] for name in TOKEN_METAFEATURES if name in context.metafeatures}
    return Context(known, context.shape)


def _with_contexts(
    table: Table, experience: Experience, contexts: list[Context], own: Context
) -> tuple[Table, Experience]:
    groups = [dataclasses.replace(g, context=c) for g, c in zip(experience.groups, contexts, strict=True)]
    return dataclasses.replace(table, context=own), _fresh(experience, groups)


def _fresh(experience: Experience, groups: list[Group]) -> Experience:
    """Nothing is learned from it yet."""
    return Experience(experience.space, experience.budget, tuple(groups), experience.hardware, experience.seed)


_OURS = METHODS["ftmeta"]
_SOURCES: tuple[int, ...] = (2, 4, 8)
_POOLS: tuple[float, ...] = (0.25, 0.5)

ABLATIONS: dict[str, Ablation] = {
    "ftmeta/unguarded": Ablation(
        Method("ours, whether experience fits the new task or not", Ours, ("learned",), one_seed=True)
    ),
    "ftmeta/transfer-only": Ablation(
        Method(
            "ours, blind to the new task's scores but for the best",
            partial(Ours, conditioned=False),
            ("learned",),
            one_seed=True,
        )
    ),
    "ftmeta/free-steps": Ablation(
        Method("ours, blind to what steps cost", partial(Ours, cost_aware=False), ("learned",), one_seed=True)
    ),
    "ftmeta/no-meta-features": Ablation(dataclasses.replace(_OURS, one_seed=True), _no_metafeatures),
    "ftmeta/shuffled-meta-features": Ablation(_OURS, _shuffled_metafeatures),
    **{f"ftmeta/{n}-source-tasks": Ablation(_OURS, partial(_fewer_tasks, n=n)) for n in _SOURCES},
    **{f"ftmeta/{100 * s:.0f}-percent-pool": Ablation(_OURS, partial(_smaller_pool, share=s)) for s in _POOLS},
}
