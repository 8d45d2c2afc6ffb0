"""MLflow's own page of an experiment, set up where its API lets one: what it says above the runs, and a view to open.

Out: tags for a new experiment. MLflow's page opens a view by its key
(`#/experiments/ID/runs?viewStateShareKey=ftmeta&compareRunsMode=CHART`): learning curves, costs over fidelities, score
against cost, and which hyperparameters lead where. It is read from an experiment's tag as JSON, which is what
"Share view" of the page writes too; a version of MLflow that does not know it shows its usual page.
"""

from __future__ import annotations

import json
from typing import Any

from ftmeta.tracking.scheme import COST, EXPERIMENTS, RUN

VIEW = "ftmeta"
_SECTION = "ftmeta-section"
_PARAMETERS = ("peft_method", "lr_multiplier", "lora_rank", "batch_size", "target_modules")
_COLUMNS = (
    "attributes.`Created`",
    "attributes.`Dataset`",
    "attributes.`Duration`",
    *(f"tags.`{name}`" for name in ("status", "base_model")),
    *(f"metrics.`{name}`" for name in ("score", "test_score", COST, "cost.usd")),
    *(f"params.`{name}`" for name in _PARAMETERS),
)


def tags_of_experiment(name: str) -> dict[str, str]:
    """That it lists runs and not traces, which metric is the one, and of ftmeta's own the note and the view."""
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.experiment.primaryMetric.name": "score"}
    if name in EXPERIMENTS:
        tags |= {"mlflow.note.content": EXPERIMENTS[name], f"mlflow.sharedViewState.{VIEW}": json.dumps(view())}
    return tags


def link_to(experiment_id: str) -> str:
    """Behind the server's address."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART"


def view() -> dict[str, Any]:
    charts = [
        _chart(
            "LINE", "Learning curves (validation)", metricKey="score", selectedMetricKeys=["score"], xAxisKey="step"
        ),
        _chart("LINE", "Device-seconds by fidelity", metricKey=COST, selectedMetricKeys=[COST], xAxisKey="step"),
        _chart(
            "SCATTER",
            "Score against device-seconds",
            xaxis={"key": COST, "type": "METRIC"},
            yaxis={"key": "score", "type": "METRIC"},
            runsCountToCompare=100,
        ),
        _chart(
            "PARALLEL",
            "Which pipelines score",
            selectedParams=list(_PARAMETERS),
            selectedMetrics=["score"],
            showAllRuns=False,
            runsCountToCompare=100,
        ),
        _chart("BAR", "Peak memory (GB)", metricKey="peak_memory_gb"),
    ]
    return {
        "searchFilter": f"tags.kind = '{RUN}'",
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
        "selectedColumns": list(_COLUMNS),
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": _SECTION, "name": "ftmeta", "display": True, "isReordered": True, "deleted": False, "columns": 2}
        ],
        "isAccordionReordered": True,
    }


def _chart(sort: str, title: str, **options: Any) -> dict[str, Any]:
    return {
        "uuid": f"ftmeta-{title.split()[0].lower()}-{sort.lower()}",
        "type": sort,
        "displayName": title,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 20,
        **options,
    }
