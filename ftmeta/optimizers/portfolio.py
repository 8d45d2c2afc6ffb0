"""A greedy portfolio, and its first member: pipelines that between them do well on the source tasks.

Each next member is the candidate that most lowers the mean, over the source tasks, of the best normalised rank that a
member has there (Wistuba et al. 2015, "Sequential model-free hyperparameter tuning"; as TabRepo, arXiv 2311.02971, with
ranks in place of errors). When no candidate lowers it any more, the rest follow by mean rank. `best_static` is the one
pipeline with the smallest mean normalised regret over the source tasks, run alone.

Array legend: G source tasks, N candidates.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from ftmeta.optimizers.experience import Experience
from ftmeta.optimizers.in_order import InOrder
from ftmeta.optimizers.protocol import Problem


def portfolio(problem: Problem, experience: Experience, seed: int) -> InOrder:
    return InOrder(problem, greedy_order(experience.final_scores(problem.candidates)))


def best_static(problem: Problem, experience: Experience, seed: int) -> InOrder:
    return InOrder(problem, [least_regret(experience.final_scores(problem.candidates))])


def greedy_order(score_GN: np.ndarray) -> list[int]:
    """All candidates, the portfolio's members first. What is not known on a task counts as last there."""
    known_GN = np.isfinite(score_GN)
    rank_GN = rankdata(-np.where(known_GN, score_GN, -np.inf), axis=1, method="min") / score_GN.shape[1]
    rank_GN[~known_GN] = 1.0
    mean_N = rank_GN.mean(axis=0)
    order: list[int] = []
    best_G = np.ones(len(score_GN))
    left = set(range(score_GN.shape[1]))
    while left:
        candidates = np.array(sorted(left, key=lambda n: (mean_N[n], n)))
        value = np.minimum(best_G[:, None], rank_GN[:, candidates]).mean(axis=0)
        if order and value.min() >= best_G.mean() - 1e-12:
            return order + [int(n) for n in candidates]
        chosen = int(candidates[value.argmin()])
        order.append(chosen)
        left.remove(chosen)
        best_G = np.minimum(best_G, rank_GN[:, chosen])
    return order


def least_regret(score_GN: np.ndarray) -> int:
    """Over the tasks on which a candidate is known, of those known on at least half of them."""
    known_GN = np.isfinite(score_GN)
    filled_GN = np.where(known_GN, score_GN, np.nan)
    some_G = known_GN.any(axis=1)
    high_G, low_G = np.nanmax(filled_GN[some_G], axis=1), np.nanmin(filled_GN[some_G], axis=1)
    span_G1 = np.maximum(high_G - low_G, 1e-12)[:, None]
    regret_GN = (high_G[:, None] - filled_GN[some_G]) / span_G1
    often_N = known_GN.sum(axis=0) * 2 >= known_GN.sum(axis=0).max()
    mean_N = np.array([np.nanmean(regret_GN[:, n]) if often_N[n] else np.inf for n in range(score_GN.shape[1])])
    return int(mean_N.argmin())
