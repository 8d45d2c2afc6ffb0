"""Training: it learns, stops at its budget, and continues to the same weights; the unit that it is measured in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftmeta.pretraining.evaluate import bits_per_byte
from ftmeta.pretraining.model import build_model
from ftmeta.pretraining.tokenizer import load_tokenizer
from ftmeta.pretraining.tokens import read_tokens
from ftmeta.pretraining.train import Rows, learning_rate, row_loss, train


def _quiet(line: str) -> None:
    pass


def test_training_lowers_the_loss_and_stops_at_its_tokens(configured, tokens_folder: Path, tmp_path: Path) -> None:
    config = configured()
    record = train(config, tokens_folder, tmp_path / "model", _quiet)
    assert record["tokens"] == config.train.max_tokens
    assert record["steps"] == 24
    assert [evaluation["share"] for evaluation in record["evaluations"]] == [0.5, 1.0]
    arrays, card = read_tokens(tokens_folder)
    fresh = build_model(config.model, load_tokenizer(tokens_folder / "tokenizer"), config.seed)
    for part in ("heldout", "heldout_chat"):
        untrained = bits_per_byte(fresh, arrays[part], card["parts"][part]["bytes"], 0, config.model.context)
        assert record["evaluations"][-1][part] < record["evaluations"][0][part] < 0.8 * untrained
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == record


def test_training_stops_at_its_seconds(configured, tokens_folder: Path, tmp_path: Path) -> None:
    record = train(configured(max_tokens=10**12, max_seconds=0.2), tokens_folder, tmp_path / "model", _quiet)
    assert record["evaluations"][-1]["share"] == 1.0
    assert 0 < record["tokens"] < 10**12


class StoppedError(Exception):
    pass


def test_an_interrupted_training_continues_to_the_same_weights(configured, tokens_folder: Path, tmp_path: Path) -> None:
    config = configured()
    whole = train(config, tokens_folder, tmp_path / "whole", _quiet)
    (config.work_dir / "checkpoint.pt").unlink()

    def interrupt(line: str) -> None:
        raise StoppedError(line)

    with pytest.raises(StoppedError, match="held-out"):
        train(config, tokens_folder, tmp_path / "parts", interrupt)  # at the first evaluation, half way
    assert not (tmp_path / "parts").exists()

    said: list[str] = []
    parts = train(config, tokens_folder, tmp_path / "parts", said.append)
    assert said[0] == "continuing at 50.0% of the budget, step 12"
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert parts["evaluations"] == whole["evaluations"]
    again = train(config, tokens_folder, tmp_path / "parts", _quiet)  # nothing is left to do
    assert (again["steps"], again["evaluations"]) == (whole["steps"], whole["evaluations"])


def test_a_checkpoint_of_another_configuration_is_not_continued(
    configured, tokens_folder: Path, tmp_path: Path
) -> None:
    train(configured(max_tokens=1_024), tokens_folder, tmp_path / "model", _quiet)
    said: list[str] = []
    record = train(configured(max_tokens=1_536), tokens_folder, tmp_path / "model", said.append)
    assert "of another configuration" in said[0]
    assert record["tokens"] == 1_536


def test_chat_is_mixed_in_at_the_end_and_padding_is_not_counted(configured, tokens_folder: Path) -> None:
    config = configured()
    arrays, _ = read_tokens(tokens_folder)
    rows = Rows(arrays["prose"], arrays["chat"], config.train, config.model.context, torch.device("cpu"), seed=0)
    user = 1
    assert not (rows.draw(with_chat=False) == user).any()
    mixed = rows.draw(with_chat=True)
    assert mixed.shape == (4, 129)
    assert (mixed == user).any(dim=1).tolist() == [False, False, True, True]
    model = build_model(config.model, load_tokenizer(tokens_folder / "tokenizer"), seed=0)
    short = torch.tensor([[5, 6, 7, 0]])
    padded = torch.tensor([[5, 6, 7, 0, 0, 0]])
    assert row_loss(model, padded, 0).item() == pytest.approx(row_loss(model, short, 0).item(), rel=1e-5)


def test_the_rate_warms_up_stays_and_falls_to_zero(configured) -> None:
    settings = configured().train
    rates = [learning_rate(share, settings) / settings.learning_rate for share in (0.0, 0.05, 0.1, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_bits_per_byte_of_a_model_that_knows_nothing(configured, tokens_folder: Path) -> None:
    """A model whose logits are all zero needs log2(V) bits for each token, however the windows lie."""
    config = configured()
    model = build_model(config.model, load_tokenizer(tokens_folder / "tokenizer"), seed=0)
    model.lm_head.weight.data.zero_()
    ids = np.random.default_rng(0).integers(1, 320, 1_001).astype(np.uint16)
    ids[[0, 500]] = 0  # the ends of texts are not scored
    for context in (16, 128, 2_000):
        found = bits_per_byte(model, ids, n_bytes=999, end_of_text=0, context=context)
        assert found == pytest.approx(math.log2(320), rel=1e-5)
