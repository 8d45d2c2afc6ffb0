"""The OpenAPI document: what FastAPI cannot see by itself, because bodies are read within our own limits.

The examples are real: the request is the canary's, and the answer is what the selector in use said to it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ftmeta.serving.models import ProblemDocument, RecommendationRequest
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
    for model in (RecommendationRequest, ProblemDocument):
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
    post = paths["/v1/recommendations"]["post"]
    post["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model="RecommendationRequest")},
                "examples": {
                    "records": {
                        "summary": "The dataset itself.",
                        "value": {**canary.options, "dataset": {"records": canary.records[:_EXAMPLE_ROWS]}},
                    },
                    "metafeatures": {
                        "summary": "What describes the dataset, where its rows should not leave the house.",
                        "value": {**canary.options, "dataset": {"metafeatures": canary.metafeatures}},
                    },
                },
            }
        },
    }
    answer = {"request_id": "0f3a2c7e9b0d4d5f8a1b6c2d3e4f5a6b", **canary.answer}
    post["responses"]["200"]["content"]["application/json"]["example"] = answer
    selector = paths["/v1/selector"]["get"]["responses"]["200"]["content"]["application/json"]
    selector["example"] = service.describe()
