"""N-gram models: proper probabilities, and the code length of sources whose entropy is known."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from ftmeta.pretraining.ngrams import KneserNey, as_stream, baselines
from ftmeta.pretraining.tokens import read_tokens

V, END = 12, 0


def _stream(seed: int, length: int) -> np.ndarray:
    """Ids of a skewed distribution, in which some ids and most pairs never occur."""
    return np.random.default_rng(seed).geometric(0.4, length).clip(0, V - 3).astype(np.uint16)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 5, 4_000])
def test_probabilities_sum_to_one_after_every_context(order: int, length: int) -> None:
    model = KneserNey(_stream(0, length), order, V, END)
    contexts = np.array(list(product(range(V), repeat=order - 1)))
    assert len(contexts) == V ** (order - 1)  # the ones that never occurred are there too
    total = np.zeros(len(contexts))
    for last in range(V):
        grams = np.column_stack([contexts, np.full(len(contexts), last)]).astype(np.uint16)
        probability = model.probability(grams)
        assert (probability > 0).all()
        total += probability
    np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_the_unigram_model_reaches_the_entropy_of_independent_ids() -> None:
    share = np.array([0.5, 0.25, 0.125, 0.125])
    ids = (np.random.default_rng(1).choice(4, 40_000, p=share) + 1).astype(np.uint16)
    bits = KneserNey(ids[:20_000], 1, V, END).bits_per_byte(ids[20_000:], 20_000)
    assert bits == pytest.approx(1.75, abs=0.02)


def test_a_trigram_model_reaches_the_entropy_of_a_markov_chain() -> None:
    """Each id is the sum of the two before it, or with probability 1/4 the one after that."""
    rng = np.random.default_rng(2)
    ids = [1, 2]
    for slip in rng.random(40_000) < 0.25:
        ids.append((ids[-1] + ids[-2] + int(slip)) % 5 + 1)
    stream = np.array(ids, np.uint16)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    bits = {order: KneserNey(stream[:20_000], order, V, END).bits_per_byte(stream[20_000:], 20_002) for order in (1, 3)}
    assert bits[3] == pytest.approx(entropy, abs=0.02)
    assert bits[1] > 2 * bits[3]


def test_discounts_are_those_of_chen_and_goodman() -> None:
    """Twelve ids once, five twice, two three times, one four times: Y = 12 / 22; the unigram of a single id by hand."""
    counts = [1] * 12 + [2] * 5 + [3] * 2 + [4]
    stream = np.repeat(np.arange(1, len(counts) + 1), counts).astype(np.uint16)
    share = 12 / (12 + 2 * 5)
    discounts = [1 - 2 * share * 5 / 12, 2 - 3 * share * 2 / 5, 3 - 4 * share * 1 / 2]
    left = (12 * discounts[0] + 5 * discounts[1] + 3 * discounts[2]) / len(stream)
    model = KneserNey(stream, 1, 100, END)
    found = model.probability(np.array([[1], [13], [20], [99]], np.uint16))
    wanted = [(1 - discounts[0]), (2 - discounts[1]), (4 - discounts[2]), 0.0]
    np.testing.assert_allclose(found, np.array(wanted) / len(stream) + left / 100)


def test_the_end_of_a_text_is_context_only() -> None:
    stream = np.array([END, 1, 2, END, 1, 3], np.uint16)
    model = KneserNey(stream, 2, V, END)
    scored = np.array([[END, 1], [1, 2], [END, 1], [1, 3]], np.uint16)
    assert model.bits_per_byte(stream, 4) == pytest.approx(-np.log2(model.probability(scored)).sum() / 4)


def test_rows_become_a_stream_without_padding() -> None:
    rows = np.array([[1, 2, END, 3, END], [4, END, END, END, END]], np.uint16)
    assert as_stream(rows, END).tolist() == [END, 1, 2, END, 3, END, 4, END]
    assert as_stream(rows[0], END).tolist() == rows[0].tolist()


def test_too_long_grams_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        KneserNey(_stream(0, 10), 6, 2_048, END)


def test_baselines_score_both_held_out_parts(tokens_folder) -> None:
    arrays, card = read_tokens(tokens_folder)
    found = baselines(arrays, card, end_of_text=0)
    for part in ("heldout", "heldout_chat"):
        assert 0 < found["trigram"][part] < found["unigram"][part] < 8
