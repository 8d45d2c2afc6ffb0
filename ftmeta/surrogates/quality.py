"""How good the surrogates are on a task they have not seen: leave one task out, and widen the intervals to match.

Each task (with every base model it was run with) is left out in turn; everything, scalers included, is learned from the
others; what is predicted is compared with what was measured. The errors found this way also calibrate the intervals:
in three bands of the predicted score, the deviation is multiplied so that its central 80 % covers 80 % of the errors
(split conformal prediction within bands; Vovk et al. 2005, section 4.5). The coverage that is reported is nested: the
factors for a task come from the other left-out tasks.

Array legend: N runs of all tasks, T fidelities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import kendalltau, norm

from ftmeta.hardware import HardwareProfile
from ftmeta.schema import Budget
from ftmeta.space import Space
from ftmeta.surrogates.cost import CostSurrogate, fit_cost
from ftmeta.surrogates.history import Group
from ftmeta.surrogates.performance import PerformanceSurrogate, fit_performance

Z_80 = float(norm.ppf(0.9))  # the central 80 % of a normal distribution is within +- this many deviations
_FACTOR_RANGE = 0.25, 5.0
_MIN_ERRORS = 30  # in a band; with fewer the factor is that of all bands together


@dataclass(frozen=True)
class LeftOut:
    """Predictions for one task from surrogates that have not seen it."""

    task: str
    score_NT: np.ndarray  # NaN where it is not known
    mean_NT: np.ndarray
    deviation_NT: np.ndarray  # before calibration
    band_value_NT: np.ndarray  # what the bands are cut by: the predicted z
    cost_N: np.ndarray
    predicted_cost_N: np.ndarray


def leave_one_task_out(
    space: Space,
    budget: Budget,
    groups: Sequence[Group],
    hardware: HardwareProfile | None,
    whole: tuple[PerformanceSurrogate, CostSurrogate] | tuple[None, None] = (None, None),
    *,
    seed: int,
) -> list[LeftOut]:
    """One entry a group. Needs at least two tasks. `whole`: the surrogates of all groups, near which the search for
    hyperparameters sets out; what is found is the most probable without the task."""
    found = []
    for task in sorted({group.task for group in groups}):
        others = [group for group in groups if group.task != task]
        performance = fit_performance(space, budget, others, seed=seed, start=whole[0])
        cost = fit_cost(space, budget, others, hardware, seed=seed, start=whole[1])
        for group in (group for group in groups if group.task == task):
            mean_NT, deviation_NT = performance.predict(group.pipelines, group.context)
            cost_NT = cost.predict(group.pipelines, group.context, hardware)
            found.append(
                LeftOut(
                    task,
                    group.score_NT,
                    mean_NT,
                    deviation_NT,
                    performance.predicted_z(group.pipelines, group.context),
                    group.cost_N,
                    cost_NT[np.arange(len(cost_NT)), group.reached_N],
                )
            )
    return found


def calibrated(performance: PerformanceSurrogate, left_out: Sequence[LeftOut]) -> PerformanceSurrogate:
    edges_2, factor_3 = _bands(left_out)
    return replace(performance, calibration_edges_2=edges_2, calibration_factor_3=factor_3)


def quality(left_out: Sequence[LeftOut]) -> dict[str, float | None]:
    """kendall_tau of final scores and cost_mdape as means over tasks; nll (nats) and coverage_80 over all scores.

    None where it is not defined: ranks of scores that are all alike, intervals that no other task calibrates.
    """
    taus, nlls, covered, cost_errors = [], [], [], []
    for one in left_out:
        final_N = one.score_NT[:, -1]
        known_N = np.isfinite(final_N)
        if known_N.sum() > 2 and np.ptp(final_N[known_N]) > 0 and np.ptp(one.mean_NT[known_N, -1]) > 0:
            taus.append(float(kendalltau(one.mean_NT[known_N, -1], final_N[known_N]).statistic))
        others = [other for other in left_out if other.task != one.task]
        edges_2, factor_3 = _bands(others)
        deviation_NT = one.deviation_NT * factor_3[np.searchsorted(edges_2, one.band_value_NT)]
        known_NT = np.isfinite(one.score_NT)
        standard = ((one.score_NT - one.mean_NT) / deviation_NT)[known_NT]
        nlls.append(0.5 * standard**2 + np.log(deviation_NT[known_NT]) + 0.5 * np.log(2 * np.pi))
        covered.append(np.abs(standard) <= Z_80)
        paid_N = np.isfinite(one.cost_N) & (one.cost_N > 0)
        if paid_N.any():
            cost_errors.append(float(np.median(np.abs(one.predicted_cost_N[paid_N] / one.cost_N[paid_N] - 1))))
    return {
        "kendall_tau": _mean(taus),
        "nll": _mean(np.concatenate(nlls)),
        "coverage_80": _mean(np.concatenate(covered)),
        "cost_mdape": _mean(cost_errors),
    }


def _bands(left_out: Sequence[LeftOut]) -> tuple[np.ndarray, np.ndarray]:
    """Two edges of predicted z, and the factor on the deviation in each of the three bands between them."""
    known = [np.isfinite(one.score_NT) for one in left_out]
    z = np.concatenate([one.band_value_NT[k] for one, k in zip(left_out, known, strict=True)])
    error = np.concatenate(
        [(np.abs(one.score_NT - one.mean_NT) / one.deviation_NT)[k] for one, k in zip(left_out, known, strict=True)]
    )
    edges_2 = np.quantile(z, [1 / 3, 2 / 3])
    band = np.searchsorted(edges_2, z)
    everything = np.quantile(error, 0.8)
    in_band = [error[band == b] for b in range(3)]
    factor = [np.quantile(errors, 0.8) if len(errors) >= _MIN_ERRORS else everything for errors in in_band]
    return edges_2, np.clip(np.array(factor) / Z_80, *_FACTOR_RANGE)


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
