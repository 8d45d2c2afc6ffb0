"""A Gaussian process over runs that tells what tasks share from what is each task's own. NumPy and SciPy only.

For run i with features x_i on task g_i, its whole learning curve is the output, T numbers that covary by Sigma:

  cov(curve_i, curve_j) = [ (shared + own * 1[g_i = g_j]) * matern52(x_i, x_j) + noise_i * 1[i = j] ] * Sigma

`shared` is what carries over to a new task, `own` what does not: on a new task `own` stays as uncertainty, which is how
the model knows what it cannot know. The Matern kernel (nu = 5/2) has one length scale a feature, so that features
that do not matter fade out. Hyperparameters maximise the marginal likelihood of the curves' first principal component
with log-normal priors (MAP; Rasmussen & Williams 2006, chapter 5), by L-BFGS with analytic gradients, on at most
`SUBSET` runs; Sigma is then the maximum-likelihood estimate given them.

Array legend: N training runs, M runs asked about, F features, T fidelities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

SUBSET = 400  # runs that hyperparameters are learned from; all runs are used to predict
_ITERATIONS, _ITERATIONS_NEARBY = 60, 10  # of the search from the priors, and from where a similar one ended
_SQRT5 = 5**0.5
# Means and deviations of the priors on the logarithms, for outputs of variance 1. The length scale's grows with the
# square root of the number of features, as distances do (Hvarfner et al. 2024, arXiv 2402.02229).
_PRIOR_SHARED, _PRIOR_OWN, _PRIOR_NOISE = (np.log(1.0), 1.0), (np.log(0.1), 1.0), (np.log(0.03), 1.0)
_PRIOR_LENGTH_DEVIATION = 1.0


@dataclass(frozen=True)
class TransferGP:
    X_NF: np.ndarray
    Z_NT: np.ndarray  # outputs
    group_N: np.ndarray  # the task each run belongs to, as a whole number
    weight_N: np.ndarray  # factor on a run's noise variance; 1 for a whole curve
    length_F: np.ndarray
    shared: float
    own: float
    noise: float

    @cached_property
    def mean_T(self) -> np.ndarray:
        return np.average(self.Z_NT, axis=0, weights=1 / self.weight_N)

    @cached_property
    def _cholesky_NN(self) -> np.ndarray:
        K_NN = self._kernel(self.X_NF, self.X_NF, self.group_N[:, None] == self.group_N[None])
        K_NN[np.diag_indices_from(K_NN)] += self.noise * self.weight_N + 1e-8
        return cholesky(K_NN, lower=True, overwrite_a=True)

    @cached_property
    def _alpha_NT(self) -> np.ndarray:
        return cho_solve((self._cholesky_NN, True), self.Z_NT - self.mean_T)

    @cached_property
    def covariance_TT(self) -> np.ndarray:
        """Sigma: how the fidelities of a curve covary."""
        residual_NT = self.Z_NT - self.mean_T
        return residual_NT.T @ self._alpha_NT / len(residual_NT)

    def predict(self, X_MF: np.ndarray) -> np.ndarray:
        """Expected curves on a new task: mean_MT."""
        return self.mean_T + self._kernel(X_MF, self.X_NF) @ self._alpha_NT

    def covariance(self, X_MF: np.ndarray) -> np.ndarray:
        """covariance_MM of the factor before Sigma, between runs on one new task, their own noise left out."""
        white_NM = self._whitened(X_MF)
        return self._kernel(X_MF, X_MF, True) - white_NM.T @ white_NM

    def variance(self, X_MF: np.ndarray) -> np.ndarray:
        """The diagonal of `covariance`, which takes less."""
        own = (self.shared + self.own) * float(_matern52(np.sqrt(np.array(1e-14))))
        variance_M: np.ndarray = own - (self._whitened(X_MF) ** 2).sum(axis=0)
        return variance_M

    def _whitened(self, X_MF: np.ndarray) -> np.ndarray:
        return solve_triangular(self._cholesky_NN, self._kernel(X_MF, self.X_NF).T, lower=True)

    def _kernel(self, A_MF: np.ndarray, B_KF: np.ndarray, same_task: np.ndarray | bool = False) -> np.ndarray:
        r_MK = np.sqrt(_squared_distances(A_MF / self.length_F, B_KF / self.length_F))
        return (self.shared + self.own * np.asarray(same_task)) * _matern52(r_MK)


def fit(
    X_NF: np.ndarray,
    Z_NT: np.ndarray,
    group_N: np.ndarray,
    weight_N: np.ndarray,
    *,
    seed: int,
    subset: int = SUBSET,
    start: TransferGP | None = None,
) -> TransferGP:
    """The process with its most probable hyperparameters. The same input and seed give the same process.

    `start`: a process of nearly the same runs, from whose hyperparameters the search sets out, which spares most of it.
    """
    X_NF, Z_NT = X_NF.astype(np.float64), Z_NT.astype(np.float64)
    centred_NT = Z_NT - np.average(Z_NT, axis=0, weights=1 / weight_N)
    direction_T = np.linalg.svd(centred_NT, full_matrices=False)[2][0]
    y_N = centred_NT @ direction_T
    y_N = y_N / max(float(y_N.std()), 1e-12)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(X_NF))[:subset])
    at = None if start is None or len(start.length_F) != X_NF.shape[1] else start
    parameters = _most_probable(X_NF[chosen], y_N[chosen], group_N[chosen], weight_N[chosen], at)
    length_F, (shared, own, noise) = np.exp(parameters[:-3]), np.exp(parameters[-3:])
    return TransferGP(X_NF, Z_NT, group_N, weight_N, length_F, float(shared), float(own), float(noise))


def _most_probable(
    X_NF: np.ndarray, y_N: np.ndarray, group_N: np.ndarray, weight_N: np.ndarray, start: TransferGP | None
) -> np.ndarray:
    """log of (length scales, shared, own, noise)."""
    F = X_NF.shape[1]
    at, _ = _priors(F)
    if start is not None:
        at = np.log([*start.length_F, start.shared, start.own, start.noise])
    found = minimize(
        negative_log_posterior,
        at,
        args=(X_NF, y_N, (group_N[:, None] == group_N[None]).astype(np.float64), weight_N),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-3.0, 8.0)] * F + [(-7.0, 3.0)] * 3,
        options={"maxiter": _ITERATIONS if start is None else _ITERATIONS_NEARBY},
    )
    return found.x


def _priors(F: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of the logarithms of (length scales, shared, own, noise)."""
    length = np.log(max(F, 1)) / 2 + 0.5, _PRIOR_LENGTH_DEVIATION
    priors = np.array([length] * F + [_PRIOR_SHARED, _PRIOR_OWN, _PRIOR_NOISE])
    return priors[:, 0], priors[:, 1]


def negative_log_posterior(
    parameters: np.ndarray, X_NF: np.ndarray, y_N: np.ndarray, same_NN: np.ndarray, weight_N: np.ndarray
) -> tuple[float, np.ndarray]:
    """Of the logarithms of (length scales, shared, own, noise), up to a constant, and its gradient.

    `same_NN` is 1 where two runs are of one task and 0 elsewhere.
    """
    N, F = X_NF.shape
    means, deviations = _priors(F)
    scaled_NF = X_NF / np.exp(parameters[:F])
    shared, own, noise = np.exp(parameters[F:])
    squared_NN = _squared_distances(scaled_NF, scaled_NF)
    r_NN = np.sqrt(squared_NN)
    decay_NN = np.exp(-_SQRT5 * r_NN)
    M_NN = (1 + _SQRT5 * r_NN + 5 / 3 * squared_NN) * decay_NN
    amplitude_NN = shared + own * same_NN
    K_NN = amplitude_NN * M_NN
    K_NN[np.diag_indices(N)] += noise * weight_N + 1e-8
    L_NN = cholesky(K_NN, lower=True)
    lower_NN, _ = dpotri(L_NN, lower=1)
    inverse_NN = np.tril(lower_NN) + np.tril(lower_NN, -1).T
    alpha_N = inverse_NN @ y_N
    z = (parameters - means) / deviations
    value = 0.5 * y_N @ alpha_N + np.log(np.diag(L_NN)).sum() + 0.5 * z @ z
    # d value / d theta = tr(Q dK / d theta); for the length scales the trace over pairs becomes two products.
    Q_NN = 0.5 * (inverse_NN - np.outer(alpha_N, alpha_N))
    A_NN = Q_NN * amplitude_NN * (-5 / 6) * (1 + _SQRT5 * r_NN) * decay_NN
    pairs_F = 2 * (A_NN.sum(axis=1) @ scaled_NF**2) - 2 * (scaled_NF * (A_NN @ scaled_NF)).sum(axis=0)
    of_shared, of_own = (Q_NN * M_NN).sum(), (Q_NN * M_NN * same_NN).sum()
    amplitudes = shared * of_shared, own * of_own, noise * (np.diag(Q_NN) * weight_N).sum()
    return float(value), np.array([*(-2 * pairs_F), *amplitudes]) + z / deviations


def _squared_distances(A_MF: np.ndarray, B_KF: np.ndarray) -> np.ndarray:
    squared_MK = (A_MF**2).sum(axis=1)[:, None] + (B_KF**2).sum(axis=1)[None] - 2 * A_MF @ B_KF.T
    return np.maximum(squared_MK, 1e-14)


def _matern52(r_MK: np.ndarray) -> np.ndarray:
    return (1 + _SQRT5 * r_MK + 5 / 3 * r_MK**2) * np.exp(-_SQRT5 * r_MK)
