"""What the service answers, without HTTP: a selector, the base models it may be asked about, and a canary.

A request is served by one selector from beginning to end, also while another one takes over. No name that comes from
outside is ever opened: base models and hardware are looked up in tables that were made when the selector was loaded.
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
from ftmeta.models import fast_tokenizer, models_here
from ftmeta.recommend import recommendation_document
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.models import RecommendationRequest
from ftmeta.serving.zero_shot import ZeroShot
from ftmeta.tasks import load_records

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger("ftmeta.serving")
EXAMPLE = Path(__file__).parent / "page" / "example.jsonl"
_TOLERANCE = 1e-6  # of a score, between two answers to the same question


class FieldError(UserError):
    """A value of a request that cannot be used; `field` says where it stands."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Canary:
    """A request with its answer: asked when a selector is loaded, by the health check, and shown in /docs."""

    records: list[dict[str, Any]]
    options: dict[str, Any]  # the fields of the request beside the dataset
    answer: dict[str, Any]

    @property
    def metafeatures(self) -> dict[str, float]:
        return self.answer["metafeatures"]


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
        self._zero_shot = ZeroShot(selector)
        known = (FEATURES, ZERO_SHOT_FEATURES, *(source.metafeatures for source in selector.surrogates.sources))
        self._metafeatures = {name for names in known for name in names}
        records = [json.loads(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
        options = {"base_model": self.default_base_model, "hardware": self.default_hardware, "top_k": 2}
        self.canary = Canary(records, options, self._ask({**options, "dataset": {"records": records}}))

    def recommend(self, request: RecommendationRequest) -> dict[str, Any]:
        """The answer without its request id. Raises FieldError."""
        info, tokenizer = self._base_model(request.base_model)
        hardware = self.default_hardware if request.hardware is None else request.hardware
        if hardware not in self.hardware:
            raise FieldError("hardware", f"no such hardware here; choose one of {', '.join(self.hardware)}")
        task = None
        notes: list[str] = []
        if request.dataset.records is not None:
            try:
                task = load_records(request.dataset.records, "dataset")
            except DataError as error:
                raise FieldError("dataset.records", str(error)) from None
            measured, notes = self._zero_shot.features(task, info)
            features: Mapping[str, float] = metafeatures(task, tokenizer) | measured
        else:
            features = self._known(request.dataset.metafeatures or {})
        try:
            return recommendation_document(
                self.selector,
                features,
                info,
                task=task,
                budget_s=request.budget_s,
                budget_usd=request.budget_usd,
                top_k=request.top_k,
                hardware=hardware,
                notes=notes,
            )
        except DataError as error:
            raise FieldError("dataset.metafeatures", str(error)) from None
        except UserError as error:
            raise FieldError("budget_s" if request.budget_usd is None else "budget_usd", str(error)) from None

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
        return given


class Service:
    """Answers with the selector in use, which can be switched at any time."""

    def __init__(
        self, selector: Selector, metrics: Metrics, base_models: Sequence[BaseModelInfo] | None = None
    ) -> None:
        """`base_models` None: those that lie on this machine."""
        self._metrics = metrics
        self._base_models = models_here() if base_models is None else base_models
        self._refused = False
        self._answering = Answering(selector, self._base_models)
        metrics.show_selector(self.name, self.version)

    @property
    def name(self) -> str:
        return self._answering.selector.name

    @property
    def version(self) -> str:
        return self._answering.selector.version

    @property
    def canary(self) -> Canary:
        return self._answering.canary

    def recommend(self, request: RecommendationRequest) -> dict[str, Any]:
        answer = self._answering.recommend(request)
        self._metrics.scores.observe(answer["recommendations"][0]["score"])
        if answer["warnings"]:
            self._metrics.warnings.inc()
        return answer

    def describe(self) -> dict[str, Any]:
        """What GET /v1/selector answers; `switch_refused`: the last attempt to switch kept the old selector."""
        return {**self._answering.describe(), "switch_refused": self._refused}

    def switch(self, selector: Selector) -> None:
        """Takes over `selector` once it has answered its canary; raises FtmetaError and keeps the old one otherwise."""
        self._answering = Answering(selector, self._base_models)
        self._refused = False
        self._metrics.show_selector(self.name, self.version)
        log.info(json.dumps({"event": "selector", "name": self.name, "version": self.version}))

    def refuse(self, reason: str) -> None:
        """Records that another selector could not take over; the one in use goes on."""
        self._refused = True
        self._metrics.refused.inc()
        log.error(json.dumps({"event": "selector refused", "reason": reason, "in_use": self.version}))

    def check(self) -> None:
        self._answering.check()


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
