"""A prior over pipelines from ranks on other tasks, after Salinas et al. 2020 (ICML, "A quantile-based approach for
hyperparameter transfer learning", section 3): within each source task final scores become normal quantiles,
z = Phi^-1(truncated empirical CDF), and a network learns mean and deviation of z from the pipeline alone.

Array legend: N pipelines, F features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm, rankdata

from ftmeta.errors import MetaDatasetError
from ftmeta.schema import Pipeline
from ftmeta.space import Space
from ftmeta.surrogates.history import Group

_HIDDEN, _LAYERS = 50, 3  # as in the paper
_STEPS, _BATCH, _RATE = 1500, 64, 1e-2


@dataclass(frozen=True)
class CopulaPrior:
    space: Space
    network: torch.nn.Module

    def predict(self, pipelines: Sequence[Pipeline]) -> tuple[np.ndarray, np.ndarray]:
        """mean_N and deviation_N of z: larger is better."""
        X_NF, _ = self.space.encode(pipelines)
        with torch.no_grad():
            out_N2 = self.network(torch.from_numpy(X_NF)).double()
        return out_N2[:, 0].numpy(), (torch.nn.functional.softplus(out_N2[:, 1]) + 1e-3).numpy()


def normal_quantiles(value_N: np.ndarray) -> np.ndarray:
    """z_N: the truncated empirical CDF through the normal quantile function (Salinas et al. 2020, eq. 3)."""
    N = len(value_N)
    margin = 1 / (4 * N**0.25 * np.sqrt(np.pi * np.log(max(N, 2))))
    z_N: np.ndarray = norm.ppf(np.clip(rankdata(value_N) / N, margin, 1 - margin))
    return z_N


def fit_copula(space: Space, groups: Sequence[Group], *, seed: int) -> CopulaPrior:
    """Learned from the final scores of `groups`. Raises MetaDatasetError where no task has two of them."""
    parts = []
    for group in groups:
        known = np.flatnonzero(np.isfinite(group.score_NT[:, -1]))
        if len(known) > 1:
            parts.append((space.encode([group.pipelines[i] for i in known])[0], group.score_NT[known, -1]))
    if not parts:
        raise MetaDatasetError("no source task has two runs with a final score, so there are no ranks to learn from")
    X_NF = torch.from_numpy(np.concatenate([X for X, _ in parts]))
    z_N = torch.from_numpy(np.concatenate([normal_quantiles(score) for _, score in parts])).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(X_NF.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(z_N), (_BATCH,), generator=generator)
        mean, raw = network(X_NF[batch]).unbind(dim=1)
        deviation = torch.nn.functional.softplus(raw) + 1e-3
        loss = (deviation.log() + 0.5 * ((z_N[batch] - mean) / deviation) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return CopulaPrior(space, network.eval())


def _network(features: int) -> torch.nn.Module:
    sizes = [features] + [_HIDDEN] * _LAYERS
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(_HIDDEN, 2))
