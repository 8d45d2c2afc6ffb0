"""What is done without tuning: nothing at all, or one known pipeline."""

from __future__ import annotations

from ftmeta.errors import UserError
from ftmeta.optimizers.in_order import InOrder
from ftmeta.optimizers.protocol import Problem


def zero_shot(problem: Problem, seed: int) -> InOrder:
    """The base model as it is."""
    return InOrder(problem, [])


def published_default(problem: Problem, seed: int) -> InOrder:
    """Microsoft's Phi-3 finetuning sample (docs/pipelines.md)."""
    return _named(problem, "default")


def strong_default(problem: Problem, seed: int) -> InOrder:
    """What an experienced person would start from (docs/pipelines.md)."""
    return _named(problem, "strong-default")


def _named(problem: Problem, name: str) -> InOrder:
    if name not in problem.named:
        raise UserError(f"the pipeline '{name}' is not among the candidates, so it cannot be run")
    return InOrder(problem, [problem.named[name]])
