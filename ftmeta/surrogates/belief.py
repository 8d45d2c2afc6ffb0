"""What the performance surrogate believes of a pool of pipelines on one new task, before and after scores are seen
there.

  score(n, t) = location + scale * z(n, t),   z(n, .) = expected curve + deviations of the task, of the pipeline on it,
                                                        of the run, and of the point

All of it is jointly Gaussian, so scores seen on the new task condition it in closed form (Rasmussen & Williams 2006,
eq. 2.23) and nothing is fitted again. What does not depend on the scores is computed once for the pool.

Array legend: N pipelines of the pool, T fidelities, K scores seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

POINT_NOISE = 0.05  # of a run's noise variance: what differs from point to point of one curve


@dataclass(frozen=True)
class Belief:
    """Before anything is seen: mean_NT in score units, and where its errors come from."""

    mean_NT: np.ndarray
    z_NT: np.ndarray  # (mean - location) / scale
    scale: float
    of_location: float  # variance of the error of the task's location
    of_scale: float  # and of its scale, where z is 1
    factor_NN: np.ndarray  # covariance of pipelines on this task, that of runs left out; times covariance_TT: of curves
    noise: float  # variance of a run's own factor
    covariance_TT: np.ndarray

    def variance(self) -> np.ndarray:
        """variance_NT of a single run's scores, before anything is seen."""
        own_NT = (np.diag(self.factor_NN) + self.noise)[:, None] * np.maximum(np.diag(self.covariance_TT), 0.0)
        variance_NT: np.ndarray = self.of_location + self.of_scale * self.z_NT**2 + self.scale**2 * own_NT
        return variance_NT

    def given(
        self, rows_K: np.ndarray, t_K: np.ndarray, score_K: np.ndarray, at_T: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """mean and variance of the scores of all pipelines at the fidelity indices `at_T` (None: all), given that
        pipeline `rows_K[k]` scored `score_K[k]` at fidelity index `t_K[k]` (0: the first). One run a pipeline."""
        at = np.arange(self.mean_NT.shape[1]) if at_T is None else at_T
        if not len(rows_K):
            return self.mean_NT[:, at].copy(), self.variance()[:, at]
        sigma_TT, scale2 = self.covariance_TT, self.scale**2
        z_K = self.z_NT[rows_K, t_K]
        factor_NK = self.factor_NN[:, rows_K] + self.noise * (np.arange(len(self.factor_NN))[:, None] == rows_K)
        prior_KK = (
            self.of_location
            + self.of_scale * np.outer(z_K, z_K)
            + scale2 * sigma_TT[np.ix_(t_K, t_K)] * factor_NK[rows_K]
        )
        point_K = POINT_NOISE * self.noise * scale2 * np.diag(sigma_TT)[t_K]
        prior_KK[np.diag_indices_from(prior_KK)] += point_K + 1e-8
        solved = cho_factor(prior_KK, lower=True, overwrite_a=True, check_finite=False)
        error_K = cho_solve(solved, score_K - self.mean_NT[rows_K, t_K], check_finite=False)
        mean = np.empty((len(self.mean_NT), len(at)))
        variance = self.variance()[:, at]
        for i, t in enumerate(at):
            cross_NK = (
                self.of_location
                + self.of_scale * np.outer(self.z_NT[:, t], z_K)
                + scale2 * factor_NK * sigma_TT[t, t_K]
            )
            mean[:, i] = self.mean_NT[:, t] + cross_NK @ error_K
            variance[:, i] -= np.einsum("nk,kn->n", cross_NK, cho_solve(solved, cross_NK.T, check_finite=False))
        return mean, np.maximum(variance, 1e-8)
