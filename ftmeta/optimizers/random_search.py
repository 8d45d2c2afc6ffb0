"""Random search without repetition (Bergstra & Bengio 2012), each run to the full budget."""

from __future__ import annotations

import numpy as np

from ftmeta.optimizers.in_order import InOrder
from ftmeta.optimizers.protocol import Problem


def random_search(problem: Problem, seed: int) -> InOrder:
    return InOrder(problem, np.random.default_rng(seed).permutation(len(problem.candidates)))
