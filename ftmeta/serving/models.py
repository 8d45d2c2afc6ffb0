"""What a request may hold and what an answer holds: the contract of the HTTP interface, with its limits.

Types are strict (no "30" where a number is wanted, no NaN, no unknown field), because everything here comes from
outside. The models also make the OpenAPI document.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ftmeta.schema import Value

MAX_BODY_BYTES = 20_000_000
MAX_ROWS = 100_000
MAX_TEXT_CHARACTERS = 100_000  # of one field of one row
MAX_COLUMNS = 64
MAX_MESSAGES = 200  # of one conversation
MAX_TOP_K = 50
MAX_OBSERVATIONS = 1_000  # of one request; conditioning on them takes their cube
MAX_UNDER_WAY = 100


def _record(row: Any) -> dict[str, Any]:
    """A row as the task loader may see it: flat, bounded, plain JSON. What its columns mean is the loader's affair."""
    if not isinstance(row, dict):
        raise PydanticCustomError("record", "must be an object such as {'question': .., 'answer': ..}")
    if len(row) > MAX_COLUMNS:
        raise PydanticCustomError("record", f"has {len(row)} columns; at most {MAX_COLUMNS} are read")
    for name, value in row.items():
        if len(name) > 200:
            raise PydanticCustomError("record", "has a column name of more than 200 characters")
        if name == "messages":
            _check_messages(value)
        elif isinstance(value, list | dict):
            raise PydanticCustomError("record", f"column '{name}' is nested; give text, a number, true, false or null")
        else:
            _check_scalar(name, value)
    return row


def _check_scalar(name: str, value: Any) -> None:
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS:
        found = f"column '{name}' has {len(value)} characters; at most {MAX_TEXT_CHARACTERS} are read"
        raise PydanticCustomError("record_too_long", found)
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("record", f"column '{name}' is not a finite number")


def _check_messages(value: Any) -> None:
    wanted = "column 'messages' must be a list of {'role': .., 'content': ..}"
    if not isinstance(value, list) or len(value) > MAX_MESSAGES:
        raise PydanticCustomError("record", f"{wanted}, at most {MAX_MESSAGES} of them")
    for message in value:
        if not isinstance(message, dict) or any(not isinstance(message.get(key), str) for key in ("role", "content")):
            raise PydanticCustomError("record", f"{wanted} with text in both")
        if len(message) > MAX_COLUMNS:
            raise PydanticCustomError("record", f"{wanted} and little else")
        for key, text in message.items():
            _check_scalar(f"messages.{key}", text)
            if isinstance(text, list | dict):
                raise PydanticCustomError("record", f"{wanted}; '{key}' is nested")


Record = Annotated[dict[str, Any], BeforeValidator(_record)]


class _Input(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Dataset(_Input):
    """The dataset itself or what describes it, one of the two. Never a name, a path or an address."""

    records: list[Record] | None = Field(
        default=None,
        fail_fast=True,
        min_length=1,
        max_length=MAX_ROWS,
        description="Rows of question/answer, prompt/completion, instruction(+input)/output, or messages.",
    )
    metafeatures: dict[Annotated[str, Field(max_length=200)], Annotated[float, Field(ge=-1e12, le=1e12)]] | None = (
        Field(
            default=None,
            min_length=1,
            max_length=500,
            description="The dataset's meta-features, as ftmeta recommend --json prints them; the rows stay at home.",
        )
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Dataset:
        if (self.records is None) == (self.metafeatures is None):
            raise PydanticCustomError("dataset", "give either 'records' or 'metafeatures', and not both")
        return self


class Question(_Input):
    """What every request says: the dataset, and what it would be finetuned with."""

    dataset: Dataset
    base_model: str | None = Field(
        default=None, max_length=200, description="One of the names that /v1/selector lists; its default if left out."
    )
    hardware: str | None = Field(
        default=None, max_length=200, description="One of the names that /v1/selector lists; its default if left out."
    )


class RecommendationRequest(Question):
    budget_s: float | None = Field(
        default=None, gt=0, le=1e9, description="Device-seconds that a full run may take; any if left out."
    )
    budget_usd: float | None = Field(default=None, gt=0, le=1e9, description="Money that a full run may cost, in USD.")
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K, description="How many pipelines to rank.")
    front: bool = Field(
        default=False, description="Whether to add the pipelines that no cheaper one beats: score against cost."
    )


class GivenPipeline(_Input):
    """A pipeline as answers have it; `values` say it all."""

    values: dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=200)] | int | float] = Field(
        max_length=200, description="Each active hyperparameter of the space that /v1/selector describes."
    )
    id: str | None = Field(default=None, max_length=200, description="Not looked at.")
    space: str | None = Field(default=None, max_length=200, description="If given, the name of the selector's space.")


class GivenObservation(_Input):
    pipeline: GivenPipeline
    fidelity: int = Field(ge=1, le=10_000, description="How far the run had come: 1 to the space's max_fidelity.")
    score: float | None = Field(
        ge=0, le=1, description="Of validation, higher is better; null: the run broke off on the way to this fidelity."
    )
    cost_s: float | None = Field(
        default=None, ge=0, le=1e9, description="Device-seconds of this run until then; null: what is predicted."
    )


class GivenStep(_Input):
    pipeline: GivenPipeline
    fidelity: int = Field(ge=1, le=10_000, description="The fidelity that it is being trained to.")


class SuggestionRequest(Question):
    budget_s: float = Field(gt=0, le=1e9, description="Device-seconds for the whole tuning, what is spent included.")
    observations: list[GivenObservation] = Field(
        default=[],
        fail_fast=True,
        max_length=MAX_OBSERVATIONS,
        description="All that was seen on this dataset so far, in any order.",
    )
    under_way: list[GivenStep] = Field(
        default=[],
        fail_fast=True,
        max_length=MAX_UNDER_WAY,
        description="Steps that are being run now, where several are run at once.",
    )
    only: dict[Annotated[str, Field(max_length=200)], Annotated[list[Value], Field(min_length=1, max_length=100)]] = (
        Field(
            default={},
            max_length=200,
            description="What your script can do: values by hyperparameter, {'peft_method': ['lora']}; else all.",
        )
    )


class ExportSplits(_Input):
    train: int = Field(ge=1, le=MAX_ROWS)
    validation: int = Field(ge=1, le=MAX_ROWS)
    test: int = Field(ge=1, le=MAX_ROWS)


class ExportRequest(_Input):
    """A pipeline to be written for another trainer. The rows are not needed: how many there are is."""

    pipeline: GivenPipeline
    format: str = Field(max_length=50, description="ftmeta, trl, llama-factory or axolotl.")
    base_model: str | None = Field(
        default=None, max_length=200, description="One of the names that /v1/selector lists; its default if left out."
    )
    name: str = Field(default="dataset", min_length=1, max_length=100, description="What the dataset is called.")
    splits: ExportSplits = Field(description="Rows in each split, as the recommendation's `task` says.")


class PipelineAnswer(BaseModel):
    id: str
    space: str
    values: dict[str, Value]


class RecommendationRow(BaseModel):
    pipeline: PipelineAnswer
    label: str | None = Field(description="default or strong-default: a known pipeline that came out on top.")
    learning_rate: float | None = Field(description="The rate that lr_multiplier stands for with this base model.")
    score: float = Field(description="In [0, 1]: the share of the zero-shot loss that finetuning removes.")
    score_low: float = Field(description="Of an interval that covers 80 %.")
    score_high: float
    cost_s: float = Field(description="Device-seconds of the full run.")
    cost_usd: float | None = Field(description="null where the hardware's price is unknown.")
    curve: list[float] = Field(description="The score at fidelities 1 to the last.")
    curve_low: list[float]
    curve_high: list[float]


class TaskAnswer(BaseModel):
    name: str
    fingerprint: str
    splits: dict[str, int] = Field(description="Rows in each split.")


class BaseModelAnswer(BaseModel):
    name: str
    parameters: int
    reference_lr: float


class SelectorVersion(BaseModel):
    name: str
    version: str
    meta_dataset: str


class FrontRow(BaseModel):
    pipeline: PipelineAnswer
    score: float
    cost_s: float
    cost_usd: float | None


class RecommendationAnswer(BaseModel):
    request_id: str
    task: TaskAnswer | None = Field(description="null where the request gave meta-features only.")
    base_model: BaseModelAnswer
    hardware: str
    metafeatures: dict[str, float]
    recommendations: list[RecommendationRow] = Field(description="Best first.")
    front: list[FrontRow] | None = Field(default=None, description="Only if asked for: the cheapest first.")
    warnings: list[str]
    selector: SelectorVersion


class Incumbent(BaseModel):
    pipeline: PipelineAnswer
    fidelity: int
    score: float


class SuggestionAnswer(BaseModel):
    request_id: str
    pipeline: PipelineAnswer | None = Field(description="To be trained next; null where there is nothing left to run.")
    stop: str | None = Field(description="Why there is nothing left to run; null where there is something.")
    label: str | None = Field(description="default or strong-default: a known pipeline.")
    learning_rate: float | None = Field(description="The rate that lr_multiplier stands for with this base model.")
    continue_from: int | None = Field(description="The fidelity whose checkpoint it goes on from; 0: a fresh start.")
    fidelity: int | None = Field(description="The fidelity to train it to.")
    expected_improvement: float | None = Field(description="At end_fidelity, over the best score seen, in score units.")
    predicted_cost_s: float | None = Field(description="Device-seconds of this step alone.")
    fits_budget: bool | None = Field(description="Whether what is left of the budget pays for this step.")
    end_fidelity: int | None = Field(description="How far the run could go within the budget.")
    score: float | None = Field(description="Expected at end_fidelity, given the observations.")
    score_low: float | None = Field(description="Of an interval that covers 80 %.")
    score_high: float | None
    incumbent: Incumbent | None = Field(description="The best that was seen; null where nothing was.")
    budget_s: float
    spent_s: float = Field(description="What the observations took.")
    base_model: BaseModelAnswer
    hardware: str
    metafeatures: dict[str, float] = Field(description="Send these instead of the records from the second request on.")
    warnings: list[str]
    selector: SelectorVersion


class NotCarriedAnswer(BaseModel):
    setting: str
    value: Value
    why: str


class ExportAnswer(BaseModel):
    request_id: str
    format: str
    files: dict[str, str] = Field(description="Text of each file by its path, the data apart.")
    data: dict[str, str] = Field(description="The data files to put beside them, each with a line as it should be.")
    install: str | None
    command: str = Field(description="The one that trains, in the folder with the files.")
    not_carried: list[NotCarriedAnswer] = Field(description="Settings that the other tool does not have.")
    notes: list[str] = Field(description="What is carried and still differs.")
    selector: SelectorVersion


class MetaDatasetAnswer(BaseModel):
    name: str
    fingerprint: str
    runs: int
    tasks: int


class SpaceAnswer(BaseModel):
    name: str
    max_fidelity: int
    hyperparameters: list[dict[str, Any]]


class SupportedBaseModel(BaseModelAnswer):
    known: bool = Field(description="Whether the meta-dataset has runs of it.")


class SupportedHardware(BaseModel):
    name: str
    description: str


class RegisteredAnswer(BaseModel):
    name: str
    version: str = Field(description="The registry's number. It is served whatever the alias names later.")
    alias: str | None = Field(description="The alias that led to it; null: it was named by its number.")


class SelectorAnswer(BaseModel):
    name: str
    version: str
    meta_dataset: MetaDatasetAnswer
    space: SpaceAnswer
    base_models: list[SupportedBaseModel]
    default_base_model: str
    hardware: list[SupportedHardware]
    default_hardware: str
    registered: RegisteredAnswer | None = Field(description="What it is called in the model registry; null: nothing.")
    switch_refused: bool = Field(description="The last attempt to switch failed, and this selector went on.")


class FieldProblem(BaseModel):
    field: str = Field(description="Where, with dots: `dataset.records.17`; `body` for the whole.")
    reason: str


class ProblemDocument(BaseModel):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What was found, what was wanted, what to do.")
    request_id: str
    errors: list[FieldProblem] = Field(default_factory=list)
