from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from ftmeta.surrogates import gp

N, F, T, TASKS = 120, 4, 3, 4


def data(own: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs whose curves are a function of two features, plus `own` times one that differs from task to task."""
    rng = np.random.default_rng(seed)
    X_NF = rng.normal(size=(N, F))
    group_N = np.arange(N) % TASKS
    angle_G = rng.uniform(0, 2 * np.pi, TASKS)
    common_N = np.sin(X_NF[:, 0]) + 0.5 * X_NF[:, 1]
    own_N = np.sin(2 * X_NF[:, 0] + angle_G[group_N])
    y_N = common_N + own * own_N + 0.05 * rng.normal(size=N)
    return X_NF, y_N[:, None] * np.array([0.3, 0.7, 1.0]), group_N


def test_the_gradient_is_that_of_the_value() -> None:
    X_NF, Z_NT, group_N = data(0.5)
    X_NF, y_N, group_N = X_NF[:30], Z_NT[:30, -1], group_N[:30]
    same_NN = (group_N[:, None] == group_N[None]).astype(float)
    weight_N = np.linspace(1, 2, 30)
    at = np.array([0.3, 0.6, 1.0, 1.3, 0.1, -1.0, -2.0])
    _, gradient = gp.negative_log_posterior(at, X_NF, y_N, same_NN, weight_N)
    numeric = approx_fprime(at, lambda p: gp.negative_log_posterior(p, X_NF, y_N, same_NN, weight_N)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-3)


def test_what_tasks_share_is_told_from_what_is_their_own() -> None:
    alike, apart = (gp.fit(*data(own), np.ones(N), seed=0) for own in (0.0, 1.5))
    assert alike.own < 0.1 * alike.shared
    assert apart.own > 0.3 * apart.shared
    far_MF = np.zeros((1, F))
    assert apart.covariance(far_MF) + apart.noise > 3 * (alike.covariance(far_MF) + alike.noise)


def test_features_that_do_not_matter_fade_out() -> None:
    process = gp.fit(*data(0.0), np.ones(N), seed=0)
    assert min(process.length_F[2:]) > 2 * max(process.length_F[:2])


def test_a_new_task_is_predicted_from_what_is_shared() -> None:
    process = gp.fit(*data(0.0), np.ones(N), seed=0)
    X_MF = np.random.default_rng(9).normal(size=(50, F))
    truth_M = np.sin(X_MF[:, 0]) + 0.5 * X_MF[:, 1]
    mean_MT = process.predict(X_MF)
    assert np.abs(mean_MT[:, -1] - truth_M).mean() < 0.15
    np.testing.assert_allclose(mean_MT[:, 0] / mean_MT[:, -1], 0.3, atol=0.02)
    sigma_TT = process.covariance_TT
    assert np.diag(sigma_TT)[0] / np.diag(sigma_TT)[-1] == pytest.approx(0.09, rel=0.1)


def test_covariance_of_a_new_task_is_the_prior_less_what_the_runs_tell() -> None:
    """Rasmussen & Williams 2006, eq. 2.24, by hand."""
    process = gp.fit(*data(0.5), np.ones(N), seed=0)
    X_MF = np.random.default_rng(3).normal(size=(6, F))

    def matern(A_MF: np.ndarray, B_KF: np.ndarray) -> np.ndarray:
        r = 5**0.5 * np.sqrt((((A_MF[:, None] - B_KF[None]) / process.length_F) ** 2).sum(axis=2))
        return (1 + r + r**2 / 3) * np.exp(-r)

    same_NN = process.group_N[:, None] == process.group_N[None]
    K_NN = (process.shared + process.own * same_NN) * matern(process.X_NF, process.X_NF) + process.noise * np.eye(N)
    cross_MN = process.shared * matern(X_MF, process.X_NF)
    wanted = (process.shared + process.own) * matern(X_MF, X_MF) - cross_MN @ np.linalg.solve(K_NN, cross_MN.T)
    covariance_MM = process.covariance(X_MF)
    np.testing.assert_allclose(covariance_MM, wanted, atol=1e-4)
    assert np.linalg.eigvalsh(covariance_MM).min() > -1e-8
