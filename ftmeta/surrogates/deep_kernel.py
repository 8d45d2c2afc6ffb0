"""The deep-kernel Gaussian process of Quick-Tune (quicktune.py): its network, and its posterior over a pool.

Array legend: N points asked about, K points conditioned on, D features of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular
from torch import nn
from torch.nn.functional import normalize, softplus

_HIDDEN, _ENCODED, _CURVE, _OUT = 128, 32, 16, 32
_LEAST_NOISE = 1e-5


@dataclass(frozen=True)
class Points:
    """Pairs of a curve so far and the score that came next, a row a point."""

    numeric: torch.Tensor
    one_hot: torch.Tensor
    curve: torch.Tensor  # T columns, zeros from the fidelity asked about on
    share: torch.Tensor  # the fidelity asked about over T, one column
    target: torch.Tensor  # NaN where it is what is asked

    def __getitem__(self, rows: torch.Tensor) -> Points:
        return Points(*(part[rows] for part in self._parts))

    def __len__(self) -> int:
        return len(self.share)

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.numeric, self.one_hot, self.curve, self.share, self.target

    @staticmethod
    def joined(several: list[Points]) -> Points:
        return Points(*(torch.cat(parts) for parts in zip(*(one._parts for one in several), strict=True)))


class DeepKernel(nn.Module):
    """Points -> features of length 1, and the process's mean, RBF kernel and noise."""

    def __init__(self, numeric: int, one_hot: int, fidelities: int) -> None:
        super().__init__()
        self.of_numeric = mlp(numeric + 1, _ENCODED, _HIDDEN)
        self.of_one_hot = mlp(max(one_hot, 1), _ENCODED, _HIDDEN)
        self.of_curve = mlp(fidelities, _CURVE, _HIDDEN)
        self.joined = mlp(2 * _ENCODED + _CURVE, _OUT, _HIDDEN)
        self.mean = nn.Parameter(torch.zeros(()))
        self._scale = nn.Parameter(torch.zeros(()))
        self._length = nn.Parameter(torch.zeros(()))
        self._noise = nn.Parameter(torch.tensor(-2.0))

    def forward(self, points: Points) -> torch.Tensor:
        one_hot = points.one_hot if points.one_hot.shape[1] else torch.zeros(len(points), 1)
        parts = [
            self.of_numeric(torch.cat([points.numeric, points.share], dim=1)),
            self.of_one_hot(one_hot),
            self.of_curve(points.curve),
        ]
        return normalize(self.joined(torch.cat(parts, dim=1)))

    @property
    def noise(self) -> torch.Tensor:
        return softplus(self._noise) + _LEAST_NOISE

    @property
    def scale(self) -> torch.Tensor:
        return softplus(self._scale)

    @property
    def length(self) -> torch.Tensor:
        return softplus(self._length) + 1e-3

    def kernel(self, a_KD: torch.Tensor, b_ND: torch.Tensor) -> torch.Tensor:
        """Of features, which have length 1: |a - b|^2 = 2 - 2 a.b"""
        return self.scale * torch.exp((a_KD @ b_ND.T - 1) / self.length**2)


class Posterior:
    """The process given K points, as it predicts a pool of N; both may change point by point.

    Keeps L, the Cholesky factor of the K points' covariance, and V = L^-1 k(K, N): a change of one point of the pool
    costs K^2 operations, one more point to condition on K^2 + K N.
    """

    def __init__(self, network: DeepKernel, given: Points, pool: Points, room: int = 0) -> None:
        self._network = network
        with torch.no_grad():
            self._scale, self._noise = float(network.scale), float(network.noise)
            self._mean, self._length = float(network.mean), float(network.length)
        K, N = len(given), len(pool)
        self._phi = np.zeros((K + room, _OUT))
        self._phi[:K] = self._features(given)
        self._pool_ND = self._features(pool)
        self._L = np.zeros((K + room, K + room))
        covariance = self._kernel(self._phi[:K], self._phi[:K])
        covariance[np.diag_indices(K)] += self._noise
        self._L[:K, :K] = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._white = np.zeros(K + room)
        self._white[:K] = self._solve(given.target.double().numpy() - self._mean, K)
        self._V = np.zeros((K + room, N))
        self._V[:K] = self._solve(self._kernel(self._phi[:K], self._pool_ND), K)
        self._K = K

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        """mean_N and deviation_N of the scores asked about, noise included."""
        V = self._V[: self._K]
        variance_N = self._scale + self._noise - np.einsum("kn,kn->n", V, V)
        return self._mean + self._white[: self._K] @ V, np.sqrt(np.maximum(variance_N, self._noise))

    def replace(self, row: int, point: Points) -> None:
        """What is asked about the pool's `row` is now `point`."""
        self._pool_ND[row] = self._features(point)[0]
        k = self._kernel(self._phi[: self._K], self._pool_ND[row][None])
        self._V[: self._K, row] = self._solve(k, self._K)[:, 0]

    def condition(self, point: Points) -> None:
        """One more point with its target is known. Raises IndexError where there is no more room."""
        K = self._K
        if len(self._phi) == K:
            raise IndexError(f"the posterior was made with room for {K} points")
        phi = self._features(point)
        row = self._solve(self._kernel(self._phi[:K], phi), K)[:, 0]
        diagonal = np.sqrt(max(self._scale + self._noise - row @ row, 0.1 * self._noise))
        self._phi[K], self._L[K, :K], self._L[K, K] = phi[0], row, diagonal
        self._white[K] = (float(point.target[0]) - self._mean - row @ self._white[:K]) / diagonal
        self._V[K] = (self._kernel(phi, self._pool_ND)[0] - row @ self._V[:K]) / diagonal
        self._K += 1

    def _features(self, points: Points) -> np.ndarray:
        with torch.no_grad():
            features: np.ndarray = self._network(points).double().numpy()
        return features

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._scale * np.exp((a @ b.T - 1) / self._length**2)

    def _solve(self, right: np.ndarray, K: int) -> np.ndarray:
        return solve_triangular(self._L[:K, :K], right, lower=True, check_finite=False)


def train_step(network: DeepKernel, optimizer: torch.optim.Optimizer, points: Points) -> None:
    """One step down minus the log marginal likelihood per point (Rasmussen & Williams 2006, eq. 2.30)."""
    phi = network(points)
    K = network.kernel(phi, phi) + network.noise * torch.eye(len(phi))
    L = torch.linalg.cholesky(K)
    white = torch.linalg.solve_triangular(L, (points.target - network.mean)[:, None], upper=False)
    loss = (0.5 * (white**2).sum() + L.diagonal().log().sum()) / len(phi)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def mlp(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
