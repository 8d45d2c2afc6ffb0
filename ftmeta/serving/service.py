"""What the service answers, without HTTP: the selector in use, which can be switched at any time, and its metrics.

A request is served by one selector from beginning to end, also while another one takes over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ftmeta.models import models_here
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.answering import Answering, Canary
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.models import ExportRequest, RecommendationRequest, SuggestionRequest

log = logging.getLogger("ftmeta.serving")


class Service:
    """Answers with the selector in use."""

    def __init__(
        self, selector: Selector, metrics: Metrics, base_models: Sequence[BaseModelInfo] | None = None
    ) -> None:
        """`base_models` None: those that lie on this machine."""
        self._metrics = metrics
        self._base_models = models_here() if base_models is None else base_models
        self._refused = False
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

    def recommend(self, request: RecommendationRequest) -> dict[str, Any]:
        answer = self.answering.recommend(request)
        self._metrics.count(answer["recommendations"][0]["score"], answer["warnings"])
        return answer

    def suggest(self, request: SuggestionRequest) -> dict[str, Any]:
        answer = self.answering.suggest(request)
        self._metrics.count(answer["score"], answer["warnings"])
        return answer

    def export(self, request: ExportRequest) -> dict[str, Any]:
        return self.answering.export(request)

    def describe(self) -> dict[str, Any]:
        """What GET /v1/selector answers; `switch_refused`: the last attempt to switch kept the old selector."""
        return {**self.answering.describe(), "switch_refused": self._refused}

    def switch(self, selector: Selector) -> None:
        """Takes over `selector` once it has answered its canary; raises FtmetaError and keeps the old one otherwise."""
        self.answering = Answering(selector, self._base_models)
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
