"""What one selector answers, without HTTP: the base models it may be asked about, and a canary.

No name that comes from outside is ever opened: base models and hardware are looked up in tables that were made when the
selector was loaded.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ConfigError, DataError, FtmetaError, ModelError, UserError
from ftmeta.hardware import CPU, detect, list_hardware, load_hardware
from ftmeta.metafeatures import FEATURES, ZERO_SHOT_FEATURES, metafeatures
from ftmeta.models import fast_tokenizer, note_on
from ftmeta.recommend import recommendation_document
from ftmeta.schema import BaseModelInfo, Task
from ftmeta.selector import Selector
from ftmeta.serving.exports import export_document
from ftmeta.serving.front import front
from ftmeta.serving.given import candidates_of, pipeline_of, seen_of, under_way_of
from ftmeta.serving.models import ExportRequest, Question, RecommendationRequest, SuggestionRequest
from ftmeta.serving.problems import FieldError
from ftmeta.serving.remembered import Remembered
from ftmeta.serving.zero_shot import ZeroShot
from ftmeta.suggest import suggestion_document
from ftmeta.tasks import load_records

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger("ftmeta.serving")
EXAMPLE = Path(__file__).parent / "page" / "example.jsonl"
# What work is counted from; beyond these no dataset lies, and powers of ten overflow.
_RANGES = {"log10_train_examples": (0, 12), "prompt_tokens_mean": (0, 1e8), "answer_tokens_mean": (0, 1e8)}
_TOLERANCE = 1e-6  # of a score, between two answers to the same question


@dataclass(frozen=True)
class Canary:
    """A request with its answer: asked when a selector is loaded, by the health check, and shown in /docs."""

    records: list[dict[str, Any]]
    options: dict[str, Any]  # the fields of the request beside the dataset
    answer: dict[str, Any]

    @property
    def metafeatures(self) -> dict[str, float]:
        return self.answer["metafeatures"]


@dataclass(frozen=True)
class Understood:
    """A question with its names looked up and its rows described."""

    base_model: BaseModelInfo
    hardware: str
    task: Task | None  # None: only its meta-features were given
    metafeatures: Mapping[str, float]
    notes: list[str]


class Answering:
    """One selector with all that it needs to answer. Made once, then only read, by several threads."""

    def __init__(self, selector: Selector, base_models: Sequence[BaseModelInfo]) -> None:
        self.selector = selector
        self._models = _with_tokenizers(base_models)
        if not self._models:
            raise ConfigError("no base model lies on this machine; fetch one with: ftmeta models fetch smollm2-135m")
        of_selector = [name for name in self._models if name in selector.surrogates.base_models]
        self.default_base_model = (of_selector or list(self._models))[0]
        self.hardware = list_hardware()
        self.default_hardware = _hardware_here()
        self.remembered = Remembered()
        self._zero_shot = ZeroShot(selector)
        known = (FEATURES, ZERO_SHOT_FEATURES, *(source.metafeatures for source in selector.surrogates.sources))
        self._metafeatures = {name for names in known for name in names}
        records = [json.loads(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
        options = {"base_model": self.default_base_model, "hardware": self.default_hardware, "top_k": 2}
        self.canary = Canary(records, options, self._ask({**options, "dataset": {"records": records}}))

    def recommend(self, request: RecommendationRequest) -> dict[str, Any]:
        """The answer without its request id. Raises FieldError."""
        asked = self._understand(request)
        try:
            document = recommendation_document(
                self.selector,
                asked.metafeatures,
                asked.base_model,
                task=asked.task,
                budget_s=request.budget_s,
                budget_usd=request.budget_usd,
                top_k=request.top_k,
                hardware=asked.hardware,
                notes=asked.notes,
            )
        except DataError as error:
            raise FieldError("dataset.metafeatures", str(error)) from None
        except UserError as error:
            raise FieldError("budget_s" if request.budget_usd is None else "budget_usd", str(error)) from None
        if request.front:
            document["front"] = front(self.selector, asked.metafeatures, asked.base_model, asked.hardware)
        return document

    def suggest(self, request: SuggestionRequest) -> dict[str, Any]:
        """The answer without its request id. Raises FieldError."""
        space, max_fidelity = self.selector.space, self.selector.surrogates.budget.max_fidelity
        seen = seen_of(request.observations, space, max_fidelity)
        under_way = under_way_of(request.under_way, seen, space, max_fidelity)
        candidates = candidates_of(request.only, self.selector)
        asked = self._understand(request)
        try:
            return suggestion_document(
                self.selector,
                asked.metafeatures,
                asked.base_model,
                budget_s=request.budget_s,
                seen=seen,
                under_way=under_way,
                candidates=candidates,
                hardware=asked.hardware,
                notes=asked.notes,
            )
        except DataError as error:
            raise FieldError("dataset.metafeatures", str(error)) from None

    def export(self, request: ExportRequest) -> dict[str, Any]:
        """The answer without its request id. Raises FieldError."""
        pipeline = pipeline_of(request.pipeline, self.selector.space, "pipeline")
        info, _ = self._base_model(request.base_model)
        document = export_document(
            pipeline,
            info,
            request.format,
            name=request.name,
            splits=request.splits.model_dump(),
            budget=self.selector.surrogates.budget,
        )
        return {**document, "selector": self.selector.describe()}

    def describe(self) -> dict[str, Any]:
        surrogates, space = self.selector.surrogates, self.selector.space
        return {
            "name": self.selector.name,
            "version": self.selector.version,
            "meta_dataset": {
                **surrogates.meta_dataset,
                "runs": surrogates.runs,
                "tasks": len(surrogates.tasks),
            },
            "space": {"name": space.name, "max_fidelity": space.max_fidelity, "hyperparameters": space.describe()},
            "base_models": [
                {
                    "name": info.name,
                    "parameters": info.shape.parameters,
                    "reference_lr": info.reference_lr,
                    "known": info.name in surrogates.base_models,
                }
                for info, _ in self._models.values()
            ],
            "default_base_model": self.default_base_model,
            "hardware": [{"name": name, "description": load_hardware(name).description} for name in self.hardware],
            "default_hardware": self.default_hardware,
        }

    def check(self) -> None:
        """Raises FtmetaError when the canary's answer is no longer what it was."""
        now = self._ask({**self.canary.options, "dataset": {"metafeatures": self.canary.metafeatures}})
        pairs = zip(now["recommendations"], self.canary.answer["recommendations"], strict=True)
        for found, wanted in pairs:
            same = math.isclose(found["score"], wanted["score"], abs_tol=_TOLERANCE)
            if found["pipeline"] != wanted["pipeline"] or not same:
                raise FtmetaError("the selector no longer gives the canary the answer it gave when it was loaded")

    def _understand(self, question: Question) -> Understood:
        """Raises FieldError."""
        info, tokenizer = self._base_model(question.base_model)
        hardware = self.default_hardware if question.hardware is None else question.hardware
        if hardware not in self.hardware:
            raise FieldError("hardware", f"no such hardware here; choose one of {', '.join(self.hardware)}")
        if question.dataset.records is None:
            return Understood(info, hardware, None, self._known(question.dataset.metafeatures or {}), [])
        try:
            task = load_records(question.dataset.records, "dataset")
        except DataError as error:
            raise FieldError("dataset.records", str(error)) from None
        measured, notes = self._zero_shot.features(task, info) if info.is_here else ({}, note_on(info))
        return Understood(info, hardware, task, metafeatures(task, tokenizer) | measured, notes)

    def _ask(self, document: dict[str, Any]) -> dict[str, Any]:
        return self.recommend(RecommendationRequest.model_validate(document))

    def _base_model(self, name: str | None) -> tuple[BaseModelInfo, Tokenizer]:
        found = self._models.get(self.default_base_model if name is None else name)
        if found is None:
            raise FieldError("base_model", f"no such base model here; choose one of {', '.join(self._models)}")
        return found

    def _known(self, given: Mapping[str, float]) -> Mapping[str, float]:
        strange = [name for name in given if name not in self._metafeatures]
        if strange:
            what = f"unknown meta-feature '{strange[0]}'; known are {', '.join(sorted(self._metafeatures))}"
            raise FieldError("dataset.metafeatures", what)
        for name, (low, high) in _RANGES.items():
            if not low <= given.get(name, low) <= high:
                why = f"is {given[name]:g}; that of a dataset lies between {low:g} and {high:g}"
                raise FieldError(f"dataset.metafeatures.{name}", why)
        return given


def _with_tokenizers(base_models: Sequence[BaseModelInfo]) -> dict[str, tuple[BaseModelInfo, Tokenizer]]:
    """By name. A model whose tokenizer cannot be read is left out, with a line in the log; the others are served."""
    usable = {}
    for info in base_models:
        try:
            usable[info.name] = (info, fast_tokenizer(info))
        except ModelError as error:
            log.warning(json.dumps({"event": "base model left out", "base_model": info.name, "reason": str(error)}))
    return usable


def _hardware_here() -> str:
    try:
        return detect()
    except ConfigError:  # an accelerator that has no profile: the client names the one that comes nearest
        return CPU
