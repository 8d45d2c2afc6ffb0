"""The OpenAPI document: what FastAPI cannot see by itself, because bodies are read within our own limits.

The examples are real: the request is the canary's, and the answer is what the selector in use said to it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ftmeta.serving.models import ExportRequest, ProblemDocument, RecommendationRequest, SuggestionRequest
from ftmeta.serving.service import Service

_REF = "#/components/schemas/{model}"
_EXAMPLE_ROWS = 20  # of the records example: as few as a dataset may have


def describe_routes(app: FastAPI, service: Service) -> None:
    """Makes `app.openapi()` answer with the complete document, built anew for each selector."""
    built: dict[str, dict[str, Any]] = {}

    def openapi() -> dict[str, Any]:
        if service.version not in built:
            built.clear()
            built[service.version] = _document(app, service)
        return built[service.version]

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI, service: Service) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    for model in (RecommendationRequest, SuggestionRequest, ExportRequest, ProblemDocument):
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    problem = {
        "description": "A problem document (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="ProblemDocument")}}},
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"]["default"] = problem
            if path.startswith("/v1/") or path == "/metrics":
                operation["security"] = [{"token": []}, {}]
    document["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    _add_examples(document["paths"], service)
    return document


def _add_examples(paths: dict[str, Any], service: Service) -> None:
    canary = service.canary
    described = {"metafeatures": canary.metafeatures}
    recommend = paths["/v1/recommendations"]["post"]
    recommend["requestBody"] = _body(
        "RecommendationRequest",
        {
            "The dataset itself.": {**canary.options, "dataset": {"records": canary.records[:_EXAMPLE_ROWS]}},
            "What describes the dataset, where its rows should not leave the house.": {
                **canary.options,
                "dataset": described,
            },
        },
    )
    _show(recommend, canary.answer)

    names = {name: canary.options[name] for name in ("base_model", "hardware")}
    first, last = canary.answer["recommendations"][0], canary.answer["recommendations"][-1]
    seen = [{"pipeline": first["pipeline"], "fidelity": 1, "score": first["curve"][0], "cost_s": first["cost_s"] / 10}]
    going_on = {**names, "dataset": described, "budget_s": 5 * first["cost_s"], "observations": seen}
    suggest = paths["/v1/suggestions"]["post"]
    suggest["requestBody"] = _body(
        "SuggestionRequest",
        {"At the start.": {**going_on, "observations": []}, "After one step, of which the score is known.": going_on},
    )
    _show(suggest, service.answering.suggest(SuggestionRequest.model_validate(going_on)))

    export = {
        "pipeline": last["pipeline"],
        "format": "trl",
        "base_model": canary.options["base_model"],
        "splits": canary.answer["task"]["splits"],
    }
    paths["/v1/exports"]["post"]["requestBody"] = _body("ExportRequest", {"For trl.": export})

    selector = paths["/v1/selector"]["get"]["responses"]["200"]["content"]["application/json"]
    selector["example"] = service.describe()


def _body(model: str, examples: dict[str, Any]) -> dict[str, Any]:
    """`examples` by their summaries."""
    named = {f"example{n}": {"summary": summary, "value": value} for n, (summary, value) in enumerate(examples.items())}
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}, "examples": named}}
    return {"required": True, "content": content}


def _show(operation: dict[str, Any], answer: dict[str, Any]) -> None:
    example = {"request_id": "0f3a2c7e9b0d4d5f8a1b6c2d3e4f5a6b", **answer}
    operation["responses"]["200"]["content"]["application/json"]["example"] = example
