"""Quick-Tune's surrogates, and the mistakes of the published code that ours must not repeat (each test names one)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ftmeta.metadataset import MetaDataset
from ftmeta.optimizers.acquisition import expected_improvement
from ftmeta.surrogates import quicktune
from ftmeta.surrogates.deep_kernel import DeepKernel, Points, Posterior
from ftmeta.surrogates.features import Context
from ftmeta.surrogates.history import Group, groups_of
from ftmeta.surrogates.quicktune import Columns, QuickTuneSurrogates, fit_quicktune


@pytest.fixture(scope="module")
def groups(meta: MetaDataset) -> list[Group]:
    return groups_of(meta)


@pytest.fixture(scope="module")
def fitted(meta: MetaDataset, groups: list[Group]) -> QuickTuneSurrogates:
    return fit_quicktune(meta.space, meta.budget, groups[1:], seed=0)


def points(n: int, seed: int = 0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.rand(n, width, generator=generator) for width in (3, 2, 4, 1)]
    return Points(*parts, parts[0].sum(dim=1))


def test_all_levels_of_a_category_are_looked_at(meta: MetaDataset, groups: list[Group]) -> None:
    """Defect 1: the published code cuts one-hot columns to the number of categorical hyperparameters."""
    columns = Columns.fit(meta.space, groups)
    rows = []
    for choice in ("attention", "mlp", "all"):
        pipeline = meta.space.of({**meta.space.default().values, "target_modules": choice})
        numeric, one_hot = columns.transform([pipeline], groups[0].context)
        rows.append(np.concatenate([numeric, one_hot], axis=1)[0])
    assert len({tuple(row) for row in rows}) == 3


def test_costs_come_back_in_seconds(fitted: QuickTuneSurrogates, groups: list[Group]) -> None:
    """Defect 2: the published code never undoes the standardisation of costs."""
    source = groups[1]
    cost_NT = fitted.predict_cost(source.pipelines, source.context)
    whole = np.isfinite(source.cost_NT[:, -1])
    assert np.median(np.abs(cost_NT[whole, -1] / source.cost_NT[whole, -1] - 1)) < 0.15
    assert (np.diff(cost_NT, axis=1) >= 0).all()
    assert (cost_NT[:, 0] == 0).all()


def test_no_run_is_in_training_and_validation(
    meta: MetaDataset, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 3: the published code validates on points of curves whose other points it trains on. Here each run has
    a fingerprint of its own in its columns, so what is trained on and what is predicted can be told apart."""
    trained: set[bytes] = set()
    validated: set[bytes] = set()
    step, make = quicktune.train_step, quicktune.Posterior

    def watched_step(network: DeepKernel, optimizer: torch.optim.Optimizer, batch: Points) -> None:
        trained.update(row.numpy().tobytes() for row in torch.cat([batch.numeric, batch.one_hot], dim=1))
        step(network, optimizer, batch)

    def watched_posterior(network: DeepKernel, given: Points, pool: Points) -> Posterior:
        validated.update(row.numpy().tobytes() for row in torch.cat([pool.numeric, pool.one_hot], dim=1))
        return make(network, given, pool)

    monkeypatch.setattr(quicktune, "train_step", watched_step)
    monkeypatch.setattr(quicktune, "Posterior", watched_posterior)
    monkeypatch.setattr(quicktune, "_EPOCHS", 2)
    fit_quicktune(meta.space, meta.budget, groups, seed=0)
    assert len(validated) >= 0.05 * len(trained)
    assert not trained & validated


def test_meta_features_are_scaled_in_use_as_in_training(meta: MetaDataset, groups: list[Group]) -> None:
    """Defect 4. Skewed ones are seen through log1p."""
    counted = [
        replace(g, context=Context({**g.context.metafeatures, "rows": 10.0 ** (2 + k)})) for k, g in enumerate(groups)
    ]
    columns = Columns.fit(meta.space, counted)
    stacked = np.concatenate([columns.transform(g.pipelines, g.context)[0] for g in counted])
    varying = stacked.std(axis=0) > 1e-6
    np.testing.assert_allclose(stacked.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(stacked.std(axis=0)[varying], 1, atol=1e-3)
    at = len(stacked[0]) - len(columns.names) + columns.names.index("rows")
    steps = np.diff([columns.transform(g.pipelines[:1], g.context)[0][0, at] for g in counted])
    np.testing.assert_allclose(steps, steps[0], rtol=0.01)  # powers of ten are evenly apart


def test_expected_improvement_keeps_its_margin_and_bears_any_range() -> None:
    """Defect 5: the published code leaves the margin out of z and turns NaN into 0. Against quadrature."""
    rng = np.random.default_rng(0)
    mean, deviation, best = np.array([-3.0, -2.0, -1.0, 5.0]), np.array([0.5, 1.0, 2.0, 0.1]), -2.0
    draws = rng.normal(mean, deviation, size=(400_000, 4))
    np.testing.assert_allclose(
        expected_improvement(mean, deviation, best), np.maximum(draws - best, 0).mean(axis=0), atol=0.01
    )


def test_the_posterior_point_by_point_is_the_posterior_at_once() -> None:
    torch.manual_seed(0)
    network = DeepKernel(3, 2, 4)
    given, more, pool, other = points(20, 1), points(5, 2), points(7, 3), points(1, 4)
    at_once = Posterior(network, Points.joined([given, more]), Points.joined([pool[torch.arange(6)], other]))
    by_and_by = Posterior(network, given, pool, room=5)
    for i in range(5):
        by_and_by.condition(more[torch.tensor([i])])
        if i == 2:
            by_and_by.replace(6, other)
    for one, two in zip(at_once.predict(), by_and_by.predict(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    with pytest.raises(IndexError, match="room for 25 points"):
        by_and_by.condition(other)


def test_a_task_left_out_is_predicted(fitted: QuickTuneSurrogates, groups: list[Group]) -> None:
    unseen = groups[0]
    columns = fitted.columns.transform(unseen.pipelines, unseen.context)
    reached_N = np.zeros(len(unseen.pipelines), dtype=int)
    asked = fitted.points(columns, unseen.score_NT, reached_N, np.full(len(reached_N), np.nan))
    mean_N, deviation_N = Posterior(fitted.network, fitted.sample_source(512, 0), asked).predict()
    assert np.corrcoef(mean_N, unseen.score_NT[:, 0])[0, 1] > 0.5
    assert (deviation_N > 0).all()
