"""What a tuning is of, kept beside its results so that it can be taken up again: `tune.json`.

In: the user's wishes. Out: a task, a base model, the problem (a pool of candidates) and the optimizer for it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ftmeta
from ftmeta.costs import usd
from ftmeta.errors import UserError
from ftmeta.files import write_json
from ftmeta.hardware import detect, load_hardware
from ftmeta.metadataset import load
from ftmeta.models import resolve
from ftmeta.optimizers import METHODS, Optimizer, Problem, experience_of
from ftmeta.optimizers.guarded import Guarded
from ftmeta.optimizers.ours import Transfer
from ftmeta.recommend import describe_task
from ftmeta.schema import BaseModelInfo, Budget, RunSpec, Task
from ftmeta.selector import Selector, load_selector
from ftmeta.surrogates.features import Context
from ftmeta.tasks import load_task
from ftmeta.tuning.limit import Kind, Limit

OURS = "ftmeta"
STRONG_DEFAULT = "strong-default"
DEFINITION = "tune.json"
_FORMAT = 1
_SHARE_OF_DEFAULT = 0.2  # of the budget: where a whole run of the strong default fits into it, that is the first run


@dataclass(frozen=True)
class Definition:
    """`data`, `base_model`, `selector` and `metadata` as the user named them; files as absolute paths."""

    data: str
    budget: float
    kind: Kind = "wall"
    base_model: str = "phi3-micro"
    method: str = OURS
    seed: int = 0
    selector: str | None = None
    metadata: str = "phi3-micro"  # for methods that learn from runs themselves
    slots: int | None = None  # None: as many as the cluster has room for when it begins
    cpus_per_slot: float = 1
    gpus_per_slot: float = 0
    runs_per_slot: int | None = None  # that train side by side on one base model; None: one
    top: int = 3  # runs that are looked at with care in the end, and whose adapters' checkpoints stay
    least_gain: float = 0.0005
    keep_paused: int = 20
    task_fingerprint: str = ""
    base_model_fingerprint: str = ""
    selector_version: str = ""
    hardware: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"unknown method '{self.method}'; choose of {', '.join(METHODS)}")
        if METHODS[self.method].make is METHODS["zero-shot"].make:
            raise UserError("method 'zero-shot' tries nothing, so there is nothing to tune; choose another")

    def save(self, folder: Path) -> None:
        write_json(folder / DEFINITION, {"format": _FORMAT, "ftmeta": ftmeta.__version__, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Definition:
        """Raises UserError for a folder that holds no tuning of this version."""
        try:
            values = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT:
                raise ValueError("another format")
            values.pop("ftmeta")
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} holds no tuning that can be taken up ({error}); name the folder of an earlier `ftmeta tune`"
            ) from None


@dataclass(frozen=True)
class Prepared:
    """Everything that a tuning needs before it starts."""

    definition: Definition
    task: Task
    base_model: BaseModelInfo
    budget: Budget  # of each run
    selector: Selector
    limit: Limit
    warnings: tuple[str, ...]

    def with_slots(self, count: int) -> Prepared:
        """With so many slots, where nothing was said."""
        slots = self.definition.slots or count
        return dataclasses.replace(self, definition=dataclasses.replace(self.definition, slots=slots))


def prepare(definition: Definition) -> Prepared:
    """Loads what is named. Raises UserError where it is not what it was when the tuning began."""
    info, task = resolve(definition.base_model), load_task(definition.data)
    selector = load_selector(definition.selector)
    found = (task.fingerprint, info.fingerprint, selector.version)
    before = (definition.task_fingerprint, definition.base_model_fingerprint, definition.selector_version)
    what = (f"the dataset {definition.data}", f"the base model {definition.base_model}", "the selector")
    for then, now, name in zip(before, found, what, strict=True):
        if then and then != now:
            raise UserError(
                f"{name} has changed since the tuning began (fingerprint {then} then, {now} now); bring back what it "
                "was, or start anew in another folder"
            )
    whole = dataclasses.replace(
        definition,
        task_fingerprint=found[0],
        base_model_fingerprint=found[1],
        selector_version=found[2],
        hardware=definition.hardware or detect(),
    )
    limit = Limit(whole.kind, whole.budget, usd(1.0, whole.hardware))
    return Prepared(whole, task, info, selector.surrogates.budget, selector, limit, _warnings(selector, task))


def _warnings(selector: Selector, task: Task) -> tuple[str, ...]:
    if task.name in selector.surrogates.tasks:
        return (f"the selector has learned from {task.name} itself; what it expects of it is no proof of transfer",)
    return ()


def problem_of(prepared: Prepared, slots: int) -> tuple[Problem, tuple[RunSpec, ...], list[str]]:
    """The candidates as runs, and what to be careful about."""
    selector, task, info, definition = prepared.selector, prepared.task, prepared.base_model, prepared.definition
    features, notes = describe_task(selector, task, info)
    warnings, _ = selector.cautions(features, info)
    pool = tuple(selector.candidates)
    problem = Problem(
        space=selector.space,
        candidates=pool,
        max_fidelity=prepared.budget.max_fidelity,
        budget_s=prepared.limit.work_s(slots),
        context=Context(features, info.shape),
        named={selector.labels[one.id]: n for n, one in enumerate(pool) if one.id in selector.labels},
    )
    specs = tuple(
        RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, one, definition.seed, prepared.budget)
        for one in pool
    )
    return problem, specs, [*prepared.warnings, *notes, *warnings]


def optimizer_of(prepared: Prepared, problem: Problem) -> Callable[[], Optimizer]:
    """Makes the optimizer, the same each time. Methods that learn from runs need the meta-dataset of the definition,
    without this very task."""
    definition = prepared.definition
    if definition.method == OURS:
        transfer = Transfer(prepared.selector.surrogates, load_hardware(definition.hardware))
        return lambda: Guarded(problem, transfer, definition.seed, first=_first(problem, transfer))
    method = METHODS[definition.method]
    meta = load(definition.metadata)
    if meta.space.fingerprint != problem.space.fingerprint:
        raise UserError(
            f"the meta-dataset {definition.metadata} is of the space '{meta.space.name}', and the selector's "
            f"candidates of '{problem.space.name}'; name a meta-dataset of that space"
        )
    experience = experience_of(meta, (prepared.task.name,), seed=definition.seed)
    return lambda: method.make(problem, experience, definition.seed)


def _first(problem: Problem, transfer: Transfer) -> tuple[int, ...]:
    """The strong default, which everything is compared with, unless it would take too much of the budget."""
    n = problem.named.get(STRONG_DEFAULT)
    if n is None:
        return ()
    cost_s = transfer.learned.cost.predict([problem.candidates[n]], problem.context, transfer.hardware)[0, -1]
    return (n,) if cost_s <= _SHARE_OF_DEFAULT * problem.budget_s else ()
