"""Starting the service: in the foreground on a Ray of its own, or on a cluster that runs already.

Both return or go on only when /readyz has answered, and both refuse an open address without tokens before anything
is started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.serving.tokens import load_token_hashes, require_tokens

_APPLICATION = "ftmeta"
_REQUEST_TIMEOUT_S = 60
_OBJECT_STORE_BYTES = 100_000_000  # Serve keeps next to nothing there


def serve_locally(
    host: str = "127.0.0.1",
    port: int = 8000,
    selector: str | None = None,
    *,
    tokens_file: Path | str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM, on a private Ray instance of this process, and leaves nothing running.

    `selector` is a folder made by `ftmeta metatrain`, one in MLflow's registry (models:/NAME@ALIAS, at
    $MLFLOW_TRACKING_URI), None the bundled one. `on_ready` is told the page's address as
    soon as it answers, after about 15 s. Raises ConfigError for a port that is taken and for an address beyond loopback
    without tokens, and what `load_selector` raises.
    """
    _check(host, selector, tokens_file)
    _check_port(host, port)
    # Said explicitly, because Ray turns it on by itself only at times, and before Ray is imported, when it reads this.
    os.environ["RAY_AUTH_MODE"] = "token"
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # of this instance alone
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _on_signals(previous, _interrupt)
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        _on_signals(previous, _interrupt)  # Ray has put its own in the place of ours
        url = _run(host, port, selector, tokens_file, wait_s=120)
        if on_ready is not None:
            on_ready(url)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        _on_signals(previous, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        if ray.is_initialized():
            with contextlib.suppress(Exception):  # what is left of Serve ends with its Ray
                serve.delete(_APPLICATION)  # lets requests under way come to their end
            ray.shutdown()
        for number, handler in previous.items():
            signal.signal(number, handler)


def deploy(
    address: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    selector: str | None = None,
    *,
    tokens_file: Path | str | None = None,
    wait_s: float = 120,
) -> str:
    """Deploys on the Ray cluster at `address` (`host:port` of its GCS; `auto`: $RAY_ADDRESS, or what runs here), or on
    the one that this process is in, and returns the page's address.

    The service goes on when this process ends. Deploying again replaces it. Raises as `serve_locally`.
    """
    _check(host, selector, tokens_file)
    import ray

    joined = not ray.is_initialized()
    if joined:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        return _run(host, port, selector, tokens_file, wait_s)
    finally:
        if joined:
            ray.shutdown()


def _run(host: str, port: int, selector: str | None, tokens_file: Path | str | None, wait_s: float) -> str:
    from ray import serve

    from ftmeta.serving.app import build
    from ftmeta.tracking.registry import is_reference

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it announces each of its steps
    options: dict[str, Any] = {"host": host, "port": port, "request_timeout_s": _REQUEST_TIMEOUT_S}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"enable_access_log": False})
    place = selector
    if selector is not None and not is_reference(selector):  # a replica has another working directory
        place = str(Path(selector).absolute())
    tokens = None if tokens_file is None else str(Path(tokens_file).absolute())
    address = os.environ.get("MLFLOW_TRACKING_URI") if is_reference(place) else None  # a replica may have none
    app = build({"selector": place, "host": host, "tokens_file": tokens, "tracking_uri": address})
    try:
        serve.run(app, name=_APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise FtmetaError(f"the service could not be deployed: {_why() or error}") from error
    url = f"http://{_reachable(host)}:{port}"
    _await_ready(f"{url}/readyz", wait_s)
    return url


def _why() -> str:
    """The last line that Serve knows of why replicas did not start."""
    from ray import serve

    application = serve.status().applications.get(_APPLICATION)
    messages = [] if application is None else [one.message for one in application.deployments.values()]
    return "; ".join(message.strip().splitlines()[-1] for message in messages if message.strip())


def _check(host: str, selector: str | None, tokens_file: Path | str | None) -> None:
    """Raises in this process, at once, what would otherwise come out of a replica much later."""
    require_tokens(host, load_token_hashes(tokens_file))

    from ftmeta.serving.metrics import Metrics
    from ftmeta.serving.service import Service
    from ftmeta.serving.sources import load

    Service(load(selector).selector, Metrics("trial"))


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port"
            ) from None


def _reachable(host: str) -> str:
    """The address under which this machine reaches what listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _await_ready(url: str, wait_s: float) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is never behind a proxy
    deadline = time.monotonic() + wait_s
    said = "no answer"
    while time.monotonic() < deadline:
        try:
            with direct.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            said = str(error)
        time.sleep(0.2)
    raise FtmetaError(
        f"{url} did not answer within {wait_s:.0f} s ({said}); if Ray Serve runs already on another port, stop it with "
        "`serve shutdown`, because its port cannot be changed while it runs"
    )


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _on_signals(numbers: Iterable[int], handler: Any) -> None:
    for number in numbers:
        signal.signal(number, handler)
