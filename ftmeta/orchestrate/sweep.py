"""A sweep: which pipelines run on which tasks, with which seeds and budget. YAML in, a list of runs out.

    name: collect-spine
    space: lora-v1                      # a bundled name or a path
    tasks: [world-facts, elements]      # anything that `ftmeta recommend` takes: bundled names, files, hub ids
    base_model: phi3-micro
    pipelines:
      include: [default, strong-default, {like: strong-default, but: {lora_rank: 64}}]    # named ones or files
      sample: 48                                              # Sobol points of the space; and a `seed`
      around: {pipeline: strong-default, sample: 16, change: 3}   # near a good one: three values drawn anew in each
    seeds: [0]
    replicates: {pipelines: 8, seeds: [1, 2]}                   # the first 8 once more: what the noise between seeds is
    budget: {eval_examples: 200}        # what differs from the space's own budget
    runs_per_slot: 16                   # left out: one; else so many at once on one base model (lora, rslora), or auto
    workers_per_run: 4                  # left out: one process a run; else Ray Train with DeepSpeed (and `zero`)

Paths are relative to the working directory, which for a job is the submitted one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ftmeta.errors import ConfigError
from ftmeta.files import fingerprint
from ftmeta.orchestrate.config import load_config
from ftmeta.schema import BaseModelInfo, Budget, Pipeline, RunSpec, Task, Value
from ftmeta.space import Space, load_pipeline, load_space

Seed = Annotated[int, Field(ge=0, strict=True)]


class Around(BaseModel):
    """Pipelines near one that is known to be good: experience is worth most where people will look."""

    model_config = ConfigDict(extra="forbid")
    pipeline: str = "strong-default"
    sample: int = Field(ge=1)
    change: int = Field(default=3, ge=1)  # hyperparameters that are drawn anew in each
    seed: int = 0


class Changed(BaseModel):
    """A known pipeline with some values of one's own. What they make inactive is left out."""

    model_config = ConfigDict(extra="forbid")
    like: str
    but: dict[str, Value] = Field(min_length=1)


class Pipelines(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sample: int = Field(default=0, ge=0)
    seed: int = 0
    include: list[str | Changed] = []
    around: Around | None = None


class Replicates(BaseModel):
    """The first pipelines of the list once more with other seeds: the noise between seeds."""

    model_config = ConfigDict(extra="forbid")
    pipelines: int = Field(ge=1)
    seeds: list[Seed] = Field(min_length=1)


class BudgetChanges(BaseModel):
    """What a sweep may change of its space's budget; see ftmeta.schema.Budget."""

    model_config = ConfigDict(extra="forbid")
    epochs: float | None = Field(default=None, gt=0)
    max_fidelity: int | None = Field(default=None, ge=1)
    max_train_examples: int | None = Field(default=None, ge=1)
    eval_examples: int | None = Field(default=None, ge=1)


class Sweep(BaseModel):
    """The content of a sweep's YAML file."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    space: str = "lora-v1"
    tasks: list[str] = Field(min_length=1)
    base_model: str = "phi3-micro"
    pipelines: Pipelines = Pipelines(include=["default", "strong-default"])
    seeds: list[Seed] = Field(default=[0], min_length=1)
    replicates: Replicates | None = None
    budget: BudgetChanges = BudgetChanges()
    slots: int | None = Field(default=None, ge=1)  # runs at a time; None: as many as the cluster has room for
    cpus_per_slot: float = Field(default=1, gt=0)  # with workers_per_run: of each worker
    gpus_per_slot: float = Field(default=0, ge=0)
    runs_per_slot: Annotated[int, Field(ge=1, strict=True)] | Literal["auto"] | None = None
    workers_per_run: int | None = Field(default=None, ge=1)
    zero: Literal[0, 2, 3] = 2
    device: Literal["cpu", "cuda"] = "cpu"
    worker: Literal["finetune", "simulated"] = "finetune"

    @model_validator(mode="after")
    def _fits_together(self) -> Sweep:
        if self.workers_per_run is not None and self.gpus_per_slot != (self.device == "cuda"):
            raise ValueError(
                f"workers_per_run with device {self.device} and gpus_per_slot {self.gpus_per_slot:g}: a worker drives "
                "one GPU (device: cuda, gpus_per_slot: 1) or none (device: cpu)"
            )
        if self.runs_per_slot is not None and (self.workers_per_run is not None or self.worker == "simulated"):
            other = "workers_per_run" if self.workers_per_run is not None else "worker: simulated"
            raise ValueError(f"runs_per_slot and {other} exclude each other; give one of them")
        return self

    @property
    def cpus_per_run(self) -> float:
        return self.cpus_per_slot * (self.workers_per_run or 1)

    @property
    def gpus_per_run(self) -> float:
        return self.gpus_per_slot * (self.workers_per_run or 1)

    @property
    def fingerprint(self) -> str:
        """Over what is run, not over how many at a time: it names the sweep's parent run in MLflow."""
        how = {"slots", "cpus_per_slot", "gpus_per_slot", "workers_per_run", "zero", "runs_per_slot"}
        return fingerprint(self.model_dump(exclude=how))


@dataclass(frozen=True)
class Plan:
    """A sweep with its names looked up: all its runs, in the order in which they are started."""

    sweep: Sweep
    space: Space
    tasks: Mapping[str, Task]
    base_model: BaseModelInfo
    budget: Budget
    runs: tuple[RunSpec, ...]


def load_sweep(path: Path | str) -> Sweep:
    """Raises ConfigError that says which key is wrong and why."""
    return load_config(path, Sweep)


def make_plan(sweep: Sweep) -> Plan:
    """Loads the space, the tasks and the base model's description, and lists the runs.

    A pipeline runs on all tasks before the next one starts, and replicates come last, so an interrupted sweep is a
    smaller whole one. Raises UserError for names that cannot be found.
    """
    from ftmeta.models import resolve
    from ftmeta.tasks import load_task

    space = load_space(sweep.space)
    chosen = _pipelines(sweep.pipelines, space)
    if not chosen:
        raise ConfigError(f"sweep '{sweep.name}' names no pipeline; give pipelines.sample or pipelines.include")
    base_model = resolve(sweep.base_model)
    if sweep.worker == "simulated":  # its rows must never pass for those of real runs
        base_model = replace(
            base_model, name=f"simulated-{base_model.name}", fingerprint=f"simulated-{base_model.fingerprint}"
        )
    loaded = [load_task(name) for name in sweep.tasks]
    tasks = {task.name: task for task in loaded}
    if len(tasks) < len(loaded):
        names = sorted({task.name for task in loaded if [other.name for other in loaded].count(task.name) > 1})
        raise ConfigError(f"sweep '{sweep.name}': two tasks are called {names[0]}; name each task once")
    budget = space.budget(**sweep.budget.model_dump(exclude_none=True))
    runs = tuple(
        RunSpec(task.name, task.fingerprint, base_model.name, base_model.fingerprint, pipeline, seed, budget)
        for pipeline, seed in _seeded(sweep, chosen)
        for task in loaded
    )
    return Plan(sweep, space, tasks, base_model, budget, runs)


def _seeded(sweep: Sweep, pipelines: Sequence[Pipeline]) -> list[tuple[Pipeline, int]]:
    """Each pipeline with each of its seeds once, in the order in which they run."""
    pairs = [(pipeline, seed) for pipeline in pipelines for seed in sweep.seeds]
    if sweep.replicates is not None:
        again = pipelines[: sweep.replicates.pipelines]
        pairs += [(pipeline, seed) for pipeline in again for seed in sweep.replicates.seeds]
    return list({(pipeline.id, seed): (pipeline, seed) for pipeline, seed in pairs}.values())


def _pipelines(wanted: Pipelines, space: Space) -> list[Pipeline]:
    """The named ones first, then the samples; each once."""
    named = [_named(one, space) for one in wanted.include]
    sampled = space.sample(wanted.sample, wanted.seed) if wanted.sample else []
    near = _near(wanted.around, space) if wanted.around else []
    return list({pipeline.id: pipeline for pipeline in (*named, *sampled, *near)}.values())


def _named(one: str | Changed, space: Space) -> Pipeline:
    if isinstance(one, str):
        return load_pipeline(one, space)
    values = {**load_pipeline(one.like, space).values, **one.but}
    # What `but` names is kept even where it is inactive or unknown, for `validate` to refuse.
    return space.validate({name: v for name, v in values.items() if name in one.but or space.is_active(name, values)})


def _near(around: Around, space: Space) -> list[Pipeline]:
    """Distinct pipelines that take `around.change` values, at random places, from a Sobol point each."""
    centre, rng = load_pipeline(around.pipeline, space), random.Random(around.seed)
    near: dict[str, Pipeline] = {}
    for point in space.sample(8 * around.sample, around.seed):
        shared = sorted(set(point.values) & set(centre.values))
        changed = {name: point[name] for name in rng.sample(shared, min(around.change, len(shared)))}
        values = {**centre.values, **changed}
        pipeline = space.validate({name: value for name, value in values.items() if space.is_active(name, values)})
        near.setdefault(pipeline.id, pipeline)
        near.pop(centre.id, None)
        if len(near) == around.sample:
            return list(near.values())
    raise ConfigError(f"pipelines.around: fewer than {around.sample} pipelines differ in {around.change} values")


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    return {**asdict(spec), "pipeline": spec.pipeline.to_json()}


def spec_from_json(document: Mapping[str, Any]) -> RunSpec:
    pipeline = Pipeline(document["pipeline"]["space"], document["pipeline"]["values"])
    return RunSpec(**{**document, "pipeline": pipeline, "budget": Budget(**document["budget"])})
