"""What the service answers, without HTTP: the selector in use, which can be switched at any time, and its metrics.

A request is served by one selector from beginning to end, also while another one takes over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ftmeta.models import models_known
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.answering import Answering, Canary
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.models import ExportRequest, RecommendationRequest, SuggestionRequest
from ftmeta.serving.remembered import Answer
from ftmeta.serving.sources import Registered

log = logging.getLogger("ftmeta.serving")
Asked = RecommendationRequest | SuggestionRequest | ExportRequest
_ANSWERS: dict[type[Asked], Callable[[Answering, Any], dict[str, Any]]] = {
    RecommendationRequest: Answering.recommend,
    SuggestionRequest: Answering.suggest,
    ExportRequest: Answering.export,
}


class Service:
    """Answers with the selector in use."""

    def __init__(
        self,
        selector: Selector,
        metrics: Metrics,
        base_models: Sequence[BaseModelInfo] | None = None,
        registered: Registered | None = None,
    ) -> None:
        """`base_models` None: those on this machine, and those whose sizes are published. `registered`: the selector's
        name in a registry."""
        self._metrics = metrics
        self._base_models = models_known() if base_models is None else base_models
        self._refused = False
        self._registered = registered
        self.answering = Answering(selector, self._base_models)
        metrics.show_selector(self.name, self.version)

    @property
    def name(self) -> str:
        return self.answering.selector.name

    @property
    def version(self) -> str:
        return self.answering.selector.version

    @property
    def canary(self) -> Canary:
        return self.answering.canary

    def recall(self, route: str, body: bytes) -> bytes | None:
        """What was answered to these very bytes before, by the selector in use; see `answer`."""
        found = self.answering.remembered.get(route, body)
        if found is None:
            return None
        self._metrics.count(found.score, found.warnings)
        return found.json

    def answer(self, route: str, body: bytes, request: Asked) -> bytes:
        """JSON without the request's id; `request` is what `body` says. Raises FieldError."""
        answering = self.answering  # of this request from beginning to end
        document = _ANSWERS[type(request)](answering, request)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if isinstance(request, ExportRequest):
            return text
        best = document["recommendations"][0] if isinstance(request, RecommendationRequest) else document
        found = Answer(text, best["score"], tuple(document["warnings"]))
        if request.dataset.records is None:
            answering.remembered.put(route, body, found)
        self._metrics.count(found.score, found.warnings)
        return text

    def describe(self) -> dict[str, Any]:
        """What GET /v1/selector answers; `switch_refused`: the last attempt to switch kept the old selector."""
        registered = None if self._registered is None else self._registered.to_json()
        return {**self.answering.describe(), "registered": registered, "switch_refused": self._refused}

    def switch(self, selector: Selector, registered: Registered | None = None) -> None:
        """Takes over `selector` once it has answered its canary; raises FtmetaError and keeps the old one otherwise."""
        self.answering = Answering(selector, self._base_models)
        self._registered = registered
        self._refused = False
        self._metrics.show_selector(self.name, self.version)
        log.info(json.dumps({"event": "selector", "name": self.name, "version": self.version}))

    def refuse(self, reason: str) -> None:
        """Records that another selector could not take over; the one in use goes on."""
        self._refused = True
        self._metrics.refused.inc()
        log.error(json.dumps({"event": "selector refused", "reason": reason, "in_use": self.version}))

    def check(self) -> None:
        self.answering.check()
