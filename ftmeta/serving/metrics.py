"""Prometheus metrics of one replica. Each replica has its own, told apart by the label `replica`."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCORES = tuple(step / 10 for step in range(1, 11))
# How the selector's warnings begin that say it was asked about something unlike what it learned from.
_STRANGE = {
    "no source run finetuned": "base model",
    "the task is far from": "far task",
    "the task's meta-features are not those": "far task",
    "unknown of this task": "unknown meta-features",
}
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    def __init__(self, replica: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._replica = replica
        self._requests = Counter(
            "ftmeta_requests", "Requests answered.", ["replica", "route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ftmeta_request_seconds", "Time to answer.", ["replica", "route"], buckets=_SECONDS, registry=registry
        )
        self.waited = Histogram(
            "ftmeta_queue_seconds",
            "From a request's last byte to the moment at which work on it begins.",
            ["replica"],
            buckets=_SECONDS,
            registry=registry,
        ).labels(replica)
        in_progress = "Questions being read, waited for or computed."
        self.in_progress = Gauge(
            "ftmeta_recommendations_in_progress", in_progress, ["replica"], registry=registry
        ).labels(replica)
        self._scores = Histogram(
            "ftmeta_predicted_score", "Of the best pipeline.", ["replica"], buckets=_SCORES, registry=registry
        ).labels(replica)
        warnings = "Answers with a warning of any kind."
        self._warnings = Counter("ftmeta_answers_with_warnings", warnings, ["replica"], registry=registry).labels(
            replica
        )
        strange = "Answers about something unlike what the selector learned from."
        self._strange = Counter("ftmeta_out_of_distribution", strange, ["replica", "kind"], registry=registry)
        refused = "Selectors that could not be loaded; the one in use went on."
        self.refused = Counter("ftmeta_selector_refused", refused, ["replica"], registry=registry).labels(replica)
        self._selector = Gauge(
            "ftmeta_selector_info", "The selector in use; always 1.", ["replica", "name", "version"], registry=registry
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
        self._requests.labels(self._replica, route, known, str(status)).inc()
        self._seconds.labels(self._replica, route).observe(seconds)

    def count(self, score: float | None, warnings: Sequence[str]) -> None:
        """Of one answer: the score predicted for its first pipeline (None: there is none), and its warnings."""
        if score is not None:
            self._scores.observe(score)
        if warnings:
            self._warnings.inc()
        kinds = {kind for text in warnings for begin, kind in _STRANGE.items() if text.startswith(begin)}
        for kind in kinds:
            self._strange.labels(self._replica, kind).inc()

    def show_selector(self, name: str, version: str) -> None:
        self._selector.clear()
        self._selector.labels(self._replica, name, version).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
