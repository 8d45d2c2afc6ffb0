"""mlflow/compose.yaml as Docker Compose reads it: variables put in, anchors merged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

MLFLOW = Path(__file__).parents[2] / "mlflow"
GIVEN = {
    "POSTGRES_PASSWORD": "p",
    "STORE_SECRET_KEY": "s",
    "MLFLOW_SECRET_KEY": "f",
    "MLFLOW_ADMIN_PASSWORD": "a-long-password",
    "MLFLOW_HOST": "mlflow.example.com",
    "MLFLOW_PORT": "5000",
}


def interpolated(text: str, given: dict[str, str]) -> str:
    """${A}, ${A:-default}, ${A:?message}; $$ is a dollar. Raises KeyError for one that must be given."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, default = found["name"], found["default"]
        return given[name] if default is None else given.get(name, default)

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)


def services(given: dict[str, str] | None = None) -> dict[str, Any]:
    text = (MLFLOW / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(interpolated(text, GIVEN if given is None else given))["services"]
    return found


def server_arguments() -> list[str]:
    """Those of the MLflow server, without `mlflow server`."""
    program, command, *arguments = services()["mlflow"]["command"]
    assert (program, command) == ("mlflow", "server")
    return arguments
