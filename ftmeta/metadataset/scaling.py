"""Scores of any range onto [0, 1], and back.

In: the scores of imported runs, with their tasks. Out: a `Scale` a task, and the scores on it.

Scores that all lie in [0, 1] stay as they are. Others get one scale **a task**, its lowest score at 0 and its highest
at 1, because nothing that reads a meta-dataset compares raw scores between tasks: the performance surrogate puts each
task on a scale of its own first (surrogates/performance.py), and the benchmark's regret is a share of the task's own
best minus worst. Both are the same under any increasing linear map a task. One scale for the whole meta-dataset would
not be harmless where tasks differ in metric or level: accuracies beside rewards in the hundreds would be squeezed
together below the smallest spread that the surrogate tells from noise. `one_scale` asks for it nevertheless: where a
score means the same on all tasks (per cent correct), the level of a task is worth keeping, and predictions for a new
task can be read in the given unit.

One absurd score (a negated loss after divergence) must not squeeze all others together either. So a scale ends ten
spreads beyond the 10 % and the 90 % quantile of the final scores, a spread being the distance between them; what lies
outside counts as 0 or 1, and how many that are is kept beside the scale.

Array legend: N curve points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SPREADS = 10.0  # beyond the quantiles; the middle 80 % of a task's final scores then take a 21st of [0, 1] at least


@dataclass(frozen=True)
class Scale:
    """score in [0, 1] = (given - low) / (high - low)."""

    low: float
    high: float
    clipped: int = 0  # scores outside, which cannot be had back

    def undo(self, score: float) -> float:
        """The score in the unit that was given."""
        return self.low * (1 - score) + self.high * score


def scales_of(
    task_N: np.ndarray, given_N: np.ndarray, test_N: np.ndarray, is_last_N: np.ndarray, *, one_scale: bool = False
) -> dict[str, Scale] | None:
    """Task -> scale; None where all scores lie in [0, 1] already. NaN is an unknown score.

    `is_last_N` marks each run's last point. Test scores are on the scale of the others, so that both stay comparable.
    """
    everything = np.concatenate([given_N, test_N])
    known = everything[np.isfinite(everything)]
    if not len(known) or (known.min() >= 0 and known.max() <= 1):
        return None
    tasks, code_N = np.unique(task_N, return_inverse=True)
    if one_scale:
        return dict.fromkeys(map(str, tasks), _scale(given_N, test_N, is_last_N))
    of_task = {str(task): code_N == code for code, task in enumerate(tasks)}
    return {task: _scale(given_N[at], test_N[at], is_last_N[at]) for task, at in of_task.items()}


def scaled(task_N: np.ndarray, given_N: np.ndarray, scales: Mapping[str, Scale] | None) -> np.ndarray:
    """The scores in [0, 1]; NaN stays NaN."""
    if scales is None:
        return given_N
    tasks, code_N = np.unique(task_N, return_inverse=True)
    low_N, high_N = (np.array([getattr(scales[str(task)], end) for task in tasks])[code_N] for end in ("low", "high"))
    return np.clip((given_N - low_N) / (high_N - low_N), 0.0, 1.0)


def _scale(given_N: np.ndarray, test_N: np.ndarray, is_last_N: np.ndarray) -> Scale:
    everything = np.concatenate([given_N, test_N])
    known = everything[np.isfinite(everything)]
    if not len(known):
        return Scale(0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    final = given_N[is_last_N & np.isfinite(given_N)]
    if len(final):
        bottom, top = (float(value) for value in np.quantile(final, [0.1, 0.9]))
        if top > bottom:
            reach = _SPREADS * (top - bottom)
            low, high = max(low, bottom - reach), min(high, top + reach)
    if low == high:
        high = low + max(1.0, abs(low))  # all alike: 0, and nothing to learn
    return Scale(low, high, int(((known < low) | (known > high)).sum()))
