"""Prometheus metrics of one replica. Each replica has its own, told apart by the label `replica`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCORES = tuple(step / 10 for step in range(1, 11))
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        common = {"registry": self.registry, "namespace": "ftmeta"}
        self._requests = Counter("requests", "Requests answered.", ["replica", "route", "method", "status"], **common)
        self._seconds = Histogram(
            "request_seconds", "Time to answer.", ["replica", "route"], buckets=_SECONDS, **common
        )
        self.in_progress = Gauge(
            "recommendations_in_progress", "Recommendations being read, waited for or computed.", ["replica"], **common
        ).labels(replica)
        self.scores = Histogram(
            "predicted_score", "Predicted score of the best pipeline.", ["replica"], buckets=_SCORES, **common
        ).labels(replica)
        self.warnings = Counter(
            "answers_with_warnings",
            "Answers that carried a warning, as for a task unlike any seen.",
            ["replica"],
            **common,
        ).labels(replica)
        self.refused = Counter(
            "selector_refused",
            "Selector versions that could not be loaded; the old one went on.",
            ["replica"],
            **common,
        ).labels(replica)
        self._selector = Gauge(
            "selector_info", "The selector that answers; always 1.", ["replica", "name", "version"], **common
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
