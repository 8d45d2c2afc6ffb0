"""Which MLflow a command is about."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ftmeta.errors import UserError

TrackingOption = Annotated[
    str | None,
    typer.Option(
        help="MLflow's address (http://..., sqlite:///...); default: $MLFLOW_TRACKING_URI, else that of `make up`."
    ),
]
ExperimentsOption = Annotated[
    list[str] | None,
    typer.Option(help="An experiment; may be repeated. Default: those of ftmeta (collect, finetune, tune, ..)."),
]


def tracking_address(given: str | None) -> str:
    """The one given, that of the environment, or the local cluster's: its server, or its database where it is down."""
    from ftmeta.orchestrate import local
    from ftmeta.orchestrate.shell import state_dir

    named = given or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    cluster = local.find()
    if cluster is not None and cluster.mlflow.process is not None:
        return cluster.mlflow.address
    database = state_dir() / "mlflow" / "mlflow.db"
    if database.is_file():
        return f"sqlite:///{database}"
    raise UserError("no MLflow is named; give --tracking-uri, set MLFLOW_TRACKING_URI, or start one with: make up")
