"""A client of the selector service (docs/client.md), for threads and for asyncio. It needs httpx and nothing else.

    from ftmeta.client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.recommend(records=rows, top_k=3)

`Tuning` keeps what was seen on a dataset, for scripts that know nothing of ftmeta (examples/tune_any_script.py).
"""

from ftmeta.client.calls import Call
from ftmeta.client.clients import AsyncClient, Client
from ftmeta.client.errors import AccessError, RefusedError, UnavailableError
from ftmeta.client.retries import Retry
from ftmeta.client.tuning import Step, Tuning

__all__ = [
    "AccessError",
    "AsyncClient",
    "Call",
    "Client",
    "RefusedError",
    "Retry",
    "Step",
    "Tuning",
    "UnavailableError",
]
