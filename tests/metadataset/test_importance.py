"""Importance on a constructed table, where the share of each hyperparameter is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftmeta.metadataset import read
from ftmeta.metadataset.importance import (
    MIN_PIPELINES,
    _exchanged,
    forest_importance,
    importance_of,
    mean_importance,
)
from ftmeta.schema import Pipeline
from ftmeta.space import parse_space
from tests.surrogates.synthetic import write_sweep

SPACE = parse_space(
    """
name: made-up
max_fidelity: 4
hyperparameters:
  rate: {type: float, low: 0.0, high: 1.0, default: 0.5}
  size: {type: ordinal, values: [0, 1, 2, 3], default: 1}
  method: {type: categorical, choices: [plain, fancy], default: plain}
  knob: {type: float, low: 0.0, high: 1.0, default: 0.5, when: {method: [fancy]}}
  idle: {type: float, low: 0.0, high: 1.0, default: 0.5}
""",
    "made-up",
)
PIPELINES = SPACE.sample(256, seed=3)


def _scores(**weight: float) -> np.ndarray:
    def score(pipeline: Pipeline) -> float:
        values = pipeline.values
        return (
            weight.get("rate", 0.0) * float(values["rate"])
            + weight.get("size", 0.0) * float(values["size"])
            + weight.get("method", 0.0) * (values["method"] == "fancy")
            + weight.get("knob", 0.0) * float(values.get("knob", 0.0))
        )

    return np.array([score(pipeline) for pipeline in PIPELINES])


def test_shares_of_an_additive_score_are_its_variances() -> None:
    r2, share = forest_importance(PIPELINES, _scores(rate=2.0, size=0.4, method=0.6), SPACE)
    variance = {"rate": 4 / 12, "size": 0.16 * 1.25, "method": 0.36 / 4}
    assert r2 > 0.9
    for name, part in variance.items():
        assert share[name] == pytest.approx(part / sum(variance.values()), abs=0.07), name
    assert abs(share["idle"]) < 0.02
    assert abs(share["knob"]) < 0.02
    assert list(share) == list(SPACE.hyperparameters)


def test_a_conditional_hyperparameter_counts_where_it_is_active() -> None:
    r2, share = forest_importance(PIPELINES, _scores(knob=1.0), SPACE)
    # score = m * k, m in {0, 1} and k uniform: variance 1/6 - 1/16, of which E[Var[score | all but k]] = 1/24 is k's,
    # and exchanging m takes k away or brings one in: (E[k^2] + E[k^2]) / 8
    variance = 1 / 6 - 1 / 16
    assert r2 > 0.9
    assert share["knob"] == pytest.approx(1 / 24 / variance, abs=0.08)
    assert share["method"] == pytest.approx((1 / 3 + 1 / 3) / 8 / variance, abs=0.1)
    assert abs(share["rate"]) < 0.02


def test_noise_has_no_importance_and_the_forest_says_so() -> None:
    r2, share = forest_importance(PIPELINES, np.random.default_rng(0).normal(size=len(PIPELINES)), SPACE)
    assert r2 < 0.1
    assert all(abs(one) < 0.1 for one in share.values())


def test_exchanged_pipelines_stay_in_the_space() -> None:
    encoded_DRNF = _exchanged(PIPELINES[:20], SPACE, np.random.default_rng(0))
    X_NF, columns = SPACE.encode(PIPELINES[:20])
    assert encoded_DRNF.shape[0] == len(SPACE.hyperparameters)
    active, fancy, knob = (columns.index(name) for name in ("knob:active", "method=fancy", "knob"))
    np.testing.assert_array_equal(encoded_DRNF[..., active], encoded_DRNF[..., fancy])
    inactive = encoded_DRNF[..., active] == 0
    assert np.all(encoded_DRNF[..., knob][inactive] == 0.5)
    of_idle = encoded_DRNF[list(SPACE.hyperparameters).index("idle")]
    np.testing.assert_array_equal(np.delete(of_idle, columns.index("idle"), axis=-1)[0], np.delete(X_NF, -1, axis=-1))


def test_the_same_seed_gives_the_same_shares() -> None:
    scores = _scores(rate=1.0, knob=1.0)[:40]
    once, again = (forest_importance(PIPELINES[:40], scores, SPACE, seed=5) for _ in range(2))
    assert once == again


def test_importance_a_task_and_in_the_mean(tmp_path: Path) -> None:
    write_sweep(tmp_path, 2, 60)
    meta = read(tmp_path)
    found = importance_of(meta)
    assert [(one.task, one.base_model, one.pipelines) for one in found] == [
        ("task0", "micro", 60),
        ("task1", "micro", 60),
    ]
    mean = mean_importance(found)
    assert mean is not None
    assert max(mean.share, key=mean.share.__getitem__) == "lr_multiplier"  # the synthetic truth turns on it
    assert mean.share["lr_multiplier"] == pytest.approx(np.mean([one.share["lr_multiplier"] for one in found]))
    better = importance_of(meta, best=0.5)
    assert [one.pipelines for one in better] == [30, 30]


def test_too_few_pipelines_say_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path, 2, MIN_PIPELINES - 1)
    assert importance_of(read(tmp_path)) == []
    assert mean_importance([]) is None
