"""The small meta-dataset of the optimizers' tests, as a place to tune on."""

from __future__ import annotations

from tests.optimizers.conftest import experience, meta, problem, table

__all__ = ["experience", "meta", "problem", "table"]
