"""Optimizers: what to run next on a new task, behind one ask/tell protocol (protocol.py).

`METHODS` is the table of them. To add one, write a file with a function or class that makes it and add a line here; the
contract tests and the benchmark pick it up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from ftmeta.optimizers.experience import Experience, experience_of
from ftmeta.optimizers.protocol import Book, Optimizer, Outcome, Problem, Step

Make = Callable[[Problem, Experience, int], Optimizer]


@dataclass(frozen=True)
class Method:
    """How an optimizer is made. `learns`: what of an `Experience` it looks at, so that it can be made ready before."""

    about: str
    make: Make
    learns: tuple[str, ...] = ()
    one_seed: bool = False  # every seed gives the same steps
    needs: tuple[str, ...] = ()  # packages of the extra `baselines`


def _seeded(module: str, name: str) -> Make:
    """`name(problem, seed)` of `ftmeta.optimizers.module`, which needs no experience."""

    def make(problem: Problem, experience: Experience, seed: int) -> Optimizer:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)(problem, seed)

    return make


def _experienced(module: str, name: str, *more: str) -> Make:
    """`name(problem, experience, seed, *more)` of `ftmeta.optimizers.module`."""

    def make(problem: Problem, experience: Experience, seed: int) -> Optimizer:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)(problem, experience, seed, *more)

    return make


# The oracle, which looks at the answers, is ftmeta/benchmark's.
METHODS: dict[str, Method] = {
    "zero-shot": Method("the base model as it is", _seeded("defaults", "zero_shot"), one_seed=True),
    "default": Method("the published default", _seeded("defaults", "published_default"), one_seed=True),
    "strong-default": Method("what an expert would start from", _seeded("defaults", "strong_default"), one_seed=True),
    "best-static": Method(
        "the one pipeline that is best on the source tasks", _experienced("portfolio", "best_static"), one_seed=True
    ),
    "random": Method("random search", _seeded("random_search", "random_search")),
    "asha": Method("asynchronous successive halving", _seeded("successive_halving", "Asha")),
    "hyperband": Method("Hyperband", _seeded("successive_halving", "Hyperband")),
    "dehb": Method("differential evolution with Hyperband", _seeded("dehb", "Dehb"), needs=("dehb",)),
    "tpe-hyperband": Method(
        "Optuna's tree-structured Parzen estimator with Hyperband", _seeded("tpe", "TpeHyperband"), needs=("optuna",)
    ),
    "smac": Method("SMAC's multi-fidelity facade", _seeded("smac", "Smac"), needs=("smac",)),
    "portfolio": Method(
        "a greedy portfolio of the source tasks", _experienced("portfolio", "portfolio"), one_seed=True
    ),
    "copula": Method("copula Thompson sampling", _experienced("copula", "CopulaThompson"), ("copula",)),
    "quicktune": Method(
        "Quick-Tune, refitted on the new task", _experienced("quicktune", "QuickTune", "refit"), ("quicktune",)
    ),
    "quicktune-conditioned": Method(
        "Quick-Tune, conditioned on the new task's scores",
        _experienced("quicktune", "QuickTune", "conditioned"),
        ("quicktune",),
    ),
    "quicktune-transfer": Method(
        "Quick-Tune, transfer only: the paper's method",
        _experienced("quicktune", "QuickTune", "transfer"),
        ("quicktune",),
    ),
    "ftmeta": Method("ours", _experienced("guarded", "Guarded"), ("learned",), one_seed=True),
}

__all__ = ["METHODS", "Book", "Experience", "Method", "Optimizer", "Outcome", "Problem", "Step", "experience_of"]
