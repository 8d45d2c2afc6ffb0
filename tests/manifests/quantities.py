"""Kubernetes' quantities as numbers: `500m` is 0.5, `2Gi` is 2 * 2**30."""

from __future__ import annotations

_FACTORS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def amount(quantity: str | int | float) -> float:
    """Raises ValueError for what is no quantity."""
    text = str(quantity)
    for suffix, factor in _FACTORS.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
