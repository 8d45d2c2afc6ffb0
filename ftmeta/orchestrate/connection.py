"""A connection to Ray, and what the first signal does in a process that has one."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def connected(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """A connection to the cluster at `address` or `$RAY_ADDRESS`, which a job has; or else Ray for this process alone,
    with `num_cpus` cores (None: all) and a token that no file holds. Ray must not be imported before: it reads its
    environment then."""
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    mine = not ray.is_initialized()
    if mine and address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    elif mine:
        ray.init(
            address="local",  # and not whatever cluster of this machine was started last
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextlib.contextmanager
def on_signals(request: Callable[[], None]) -> Iterator[None]:
    """Calls `request` for each SIGINT and SIGTERM; in other threads than the main one, which gets no signals, for none.
    Inside `connected`, because Ray sets handlers of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        request()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
