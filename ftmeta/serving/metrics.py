"""Prometheus metrics of one replica. Each replica has its own, told apart by the label `replica`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCORES = tuple(step / 10 for step in range(1, 11))
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
        in_progress = "Recommendations being read, waited for or computed."
        self.in_progress = Gauge(
            "ftmeta_recommendations_in_progress", in_progress, ["replica"], registry=registry
        ).labels(replica)
        self.scores = Histogram(
            "ftmeta_predicted_score", "Of the best pipeline.", ["replica"], buckets=_SCORES, registry=registry
        ).labels(replica)
        warnings = "Answers with a warning, as for a task unlike any seen."
        self.warnings = Counter("ftmeta_answers_with_warnings", warnings, ["replica"], registry=registry).labels(
            replica
        )
        refused = "Selectors that could not be loaded; the one in use went on."
        self.refused = Counter("ftmeta_selector_refused", refused, ["replica"], registry=registry).labels(replica)
        self._selector = Gauge(
            "ftmeta_selector_info", "The selector in use; always 1.", ["replica", "name", "version"], registry=registry
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
        self._requests.labels(self._replica, route, known, str(status)).inc()
        self._seconds.labels(self._replica, route).observe(seconds)

    def show_selector(self, name: str, version: str) -> None:
        self._selector.clear()
        self._selector.labels(self._replica, name, version).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
