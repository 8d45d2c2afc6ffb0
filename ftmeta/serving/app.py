"""The Ray Serve deployment: a thin shell around web.create_app.

Run it with `ftmeta serve`, `serve deploy cluster/serve.yaml`, or
`serve run ftmeta.serving.app:build host=127.0.0.1 selector=FOLDER`.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.serving import sources
from ftmeta.serving.problems import RETRY_AFTER_S
from ftmeta.serving.service import Service
from ftmeta.serving.tokens import load_token_hashes, require_tokens
from ftmeta.serving.web import create_app

log = logging.getLogger("ftmeta.serving")


class BuildArguments(BaseModel):
    """The `args` of an application in a Serve YAML file."""

    model_config = ConfigDict(extra="forbid")

    # A folder of `ftmeta metatrain`, models:/NAME@ALIAS or models:/NAME/VERSION of a registry; None: the bundled one.
    selector: str | None = None
    tracking_uri: str | None = None  # of the registry; None: $MLFLOW_TRACKING_URI
    host: str = "127.0.0.1"  # the address that the HTTP proxies listen on: http_options.host of the same file
    tokens_file: str | None = None  # SHA-256 hashes of bearer tokens, one a line
    replicas: int = 1


class UserConfig(BaseModel):
    """What can be changed while the service runs: `user_config` in a Serve YAML file."""

    model_config = ConfigDict(extra="forbid")

    selector: str | None = None  # None: the one that `args` names
    look_again: str | int | None = None  # another value than before: what an alias names now


# No CPU is reserved: an answer takes milliseconds, and a sweep on the same cluster shall not lose a core to it.
# The application refuses by itself when it is busy, with a problem document; Serve's own queue lies behind it.
@serve.deployment(
    name="Selector",
    max_ongoing_requests=64,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
    health_check_period_s=10,
    health_check_timeout_s=30,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class SelectorDeployment:
    """One replica. It starts with the selector of `args`, so that a replica that starts while `user_config` names a
    broken one serves the old one too."""

    def __init__(
        self,
        selector: str | None,
        tokens: tuple[str, ...],
        tracking_uri: str | None = None,
        alias: str | None = None,
    ) -> None:
        _log_as_lines()
        self._pinned = UserConfig(selector=selector)
        self._alias, self._tracking_uri = alias, tracking_uri  # of the pinned one, and of the registry
        self._wanted = self._pinned
        replica = serve.get_replica_context().replica_id.unique_id
        loaded = sources.load(selector, tracking_uri, alias)
        self._web = create_app(
            loaded.selector, tokens=tokens, replica=replica, sends_request_id=False, registered=loaded.registered
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._web

    @property
    def _service(self) -> Service:
        return self._web.state.service

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Switches to the selector that `user_config` names; if that cannot be done, the one in use goes on."""
        try:
            wanted = UserConfig.model_validate(user_config)
            if wanted.selector is None:
                wanted = self._pinned
            if wanted != self._wanted:
                alias = self._alias if wanted == self._pinned else None
                loaded = sources.load(wanted.selector, self._tracking_uri, alias)
                self._service.switch(loaded.selector, loaded.registered)
                self._wanted = wanted
        except (FtmetaError, ValidationError) as error:
            self._service.refuse(str(error))

    def check_health(self) -> None:
        """Raises when the selector in use no longer gives its canary the answer that it gave when it was loaded."""
        self._service.check()


def build(args: dict[str, Any]) -> Application:
    """The application, for Serve. Raises ConfigError for unknown arguments and for an open door without tokens."""
    try:
        arguments = BuildArguments.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(BuildArguments.model_fields)
        raise ConfigError(f"argument '{where}' of the service: {first['msg']}; known are {known}") from None
    tokens = load_token_hashes(arguments.tokens_file)
    require_tokens(arguments.host, tokens)
    selector, alias = sources.pinned(arguments.selector, arguments.tracking_uri)
    deployment: serve.Deployment = SelectorDeployment  # type: ignore[assignment]  # what the decorators make of it
    return deployment.options(num_replicas=arguments.replicas).bind(selector, tokens, arguments.tracking_uri, alias)


def _log_as_lines() -> None:
    """One JSON line a request on standard error, which Ray keeps in the replica's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
