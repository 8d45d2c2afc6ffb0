"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`part` is what needs it; a part other than `core` is an extra that ftmeta runs without."""

    name: str
    part: str
    ok: bool
    found: str
    wanted: str
    fix: str
