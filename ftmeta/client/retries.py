"""When a request is sent again, and how long to wait before: the service's own word (Retry-After), else a pause that
doubles, of which a random part is waited so that many clients do not come back at once.

Every request of the service may be sent again: it keeps nothing, and the same request gets the same answer.
"""

from __future__ import annotations

import datetime
import email.utils
import random
from dataclasses import dataclass

# Busy or away for now: our own problem documents, and what proxies say while a replica restarts.
PASSING = frozenset({408, 429, 502, 503, 504})


def may_pass(status: int, content_type: str | None) -> bool:
    """Whether an answer is worth asking again: also for a 500 that is not the service's own, as Ray Serve's proxy says
    it where a replica died over the request."""
    own = content_type is not None and content_type.startswith("application/problem+json")
    return status in PASSING or (status == 500 and not own)


@dataclass(frozen=True)
class Retry:
    attempts: int = 5  # the first one included
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0  # a service that asks for more is given up

    def pause_s(self, attempt: int, retry_after_s: float | None, rng: random.Random) -> float | None:
        """What to wait after attempt number `attempt` (1, 2, ..) failed; None: give up."""
        if attempt >= self.attempts:
            return None
        if retry_after_s is not None and retry_after_s > self.longest_pause_s:
            return None
        doubling = min(self.first_pause_s * 2.0 ** (attempt - 1), self.longest_pause_s)
        return max(retry_after_s or 0.0, doubling * rng.random())


def retry_after_s(header: str | None, now: datetime.datetime) -> float | None:
    """The header in seconds; it is a number of them or a date (RFC 9110, section 10.2.3). None for anything else."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        then = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    aware = then if then.tzinfo is not None else then.replace(tzinfo=datetime.UTC)
    return max((aware - now).total_seconds(), 0.0)
