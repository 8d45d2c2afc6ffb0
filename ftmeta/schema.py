"""What the parts hand to each other. Plain frozen dataclasses; the units are in the names.

Validation happens at the edges (YAML, command line, HTTP, Parquet); here the types are trusted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ftmeta.files import fingerprint

Status = Literal["ok", "diverged", "oom", "error", "stopped"]
Value = str | int | float
Split = Literal["train", "validation", "test"]

WORKER_VERSION = 3  # raise it when a change of the worker moves learning curves: run ids then change with it


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """One prompt with the completion that is to be learned.

    `context` ends with a user message; `completion` is the assistant's answer to it. In a conversation of several
    turns the last answer is the completion and everything before is context. `fact` is what the question is about:
    examples of one fact may stand in several splits only where the task teaches it on purpose, and `seen_fact` then
    says whether the training split teaches it (None: unknown).
    """

    context: tuple[Message, ...]
    completion: str
    fact: str | None = None
    seen_fact: bool | None = None

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        return self.context[-1].content


@dataclass(frozen=True)
class TaskCard:
    """Where a task comes from."""

    domain: str = "unknown"
    source: str = "unknown"
    licence: str = "unknown"
    attribution: str = ""
    description: str = ""
    rebuild: str | None = None  # the command that makes the task again, byte for byte
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One finetuning dataset with its splits. `fingerprint` is taken of the examples and the splits they are in."""

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    fingerprint: str
    card: TaskCard = TaskCard()

    @property
    def splits(self) -> dict[Split, tuple[Example, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Pipeline:
    """One complete way to finetune: the values of the active hyperparameters of a search space."""

    space: str  # the name of the search space, as `lora-v1`
    values: Mapping[str, Value]

    @functools.cached_property
    def id(self) -> str:
        return fingerprint({"space": self.space, "values": dict(self.values)})[:12]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "space": self.space, "values": dict(self.values)}


@dataclass(frozen=True)
class Budget:
    """The full training budget of a run; fidelity t of max_fidelity is the share t / max_fidelity of it."""

    epochs: float = 3.0  # passes over the training split
    max_fidelity: int = 10
    max_train_examples: int | None = None  # a deterministic subset of the training split; None: all
    eval_examples: int = 200  # validation and test examples scored at each fidelity (a fixed subset)


@dataclass(frozen=True)
class RunSpec:
    """What defines a run. The same specification has the same id on every machine, and is run once."""

    task: str
    task_fingerprint: str
    base_model: str
    base_model_fingerprint: str
    pipeline: Pipeline
    seed: int
    budget: Budget = Budget()

    @property
    def run_id(self) -> str:
        return fingerprint(
            {
                "task": self.task_fingerprint,
                "base_model": self.base_model_fingerprint,
                "pipeline": self.pipeline.to_json(),
                "seed": self.seed,
                "budget": asdict(self.budget),
                "worker": WORKER_VERSION,
            }
        )


@dataclass(frozen=True)
class CurvePoint:
    """One row of curves.parquet. Fidelity 0 is the base model before training. All costs are cumulative.

    cost_eval_s counts the validation passes only: they are what choosing a pipeline needs. The test passes, which
    exist for reports, are in wall_s but not in any cost.
    """

    fidelity: int
    step: int  # optimizer steps taken
    examples: int  # training examples seen
    tokens: int  # training tokens seen, without padding
    score: float | None  # validation, in [0, 1]; None if it is not finite
    val_nll: float | None  # nats per answer token
    val_token_accuracy: float | None
    test_score: float | None
    test_nll: float | None
    train_loss: float | None  # mean over the steps since the last fidelity; None at fidelity 0
    cost_train_s: float  # device-seconds
    cost_eval_s: float  # device-seconds
    cost_s: float  # device-seconds, cost_train_s + cost_eval_s
    wall_s: float


@dataclass(frozen=True)
class RunRow:
    """One row of runs.parquet, without the `p_` columns, which are written from `pipeline`."""

    run_id: str
    task: str
    base_model: str
    seed: int
    status: Status
    error: str | None
    max_fidelity: int
    fidelity: int  # the last one reached
    cost_s: float
    wall_s: float
    peak_memory_gb: float
    device: str
    code_version: str
    task_fingerprint: str
    base_model_fingerprint: str
    space: str
    started_at: str  # ISO 8601, UTC
    pipeline: Pipeline
    libraries: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, float] | None = (
        None  # exact_match, f1, rouge_l on a fixed test sample at the last fidelity
    )


@dataclass(frozen=True)
class RunResult:
    """A run and its learning curve: what a worker hands to whoever keeps it."""

    run: RunRow
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a base model that its cost depends on."""

    parameters: int
    hidden_size: int
    intermediate_size: int
    layers: int
    vocab_size: int
    context_length: int


@dataclass(frozen=True)
class BaseModelInfo:
    """A base model that lies on disk, described without loading it; or one of which only the published sizes are known
    (`path` is empty)."""

    name: str
    path: str
    shape: ModelShape
    reference_lr: float
    fingerprint: str
    licence: str = "unknown"

    @property
    def is_here(self) -> bool:
        return bool(self.path)


@dataclass(frozen=True)
class Recommendation:
    """One ranked pipeline with what it is predicted to do. Scores are in [0, 1]; the interval covers 80 %."""

    pipeline: Pipeline
    score: float
    score_low: float
    score_high: float
    cost_s: float
    cost_usd: float | None
    curve: tuple[float, ...]  # predicted score at fidelities 1..max_fidelity
    curve_low: tuple[float, ...]  # its 80 % interval at each fidelity
    curve_high: tuple[float, ...]
    learning_rate: float | None  # None: the space has no learning rate
    label: str | None = None  # `default`, `strong-default`: a known pipeline that came out on top
