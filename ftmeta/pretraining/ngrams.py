"""N-gram models of token ids: what phi3-micro has to beat, on the same tokens and in the same unit.

Interpolated, modified Kneser-Ney (Chen and Goodman 1999, "An empirical study of smoothing techniques for language
modeling", Computer Speech and Language 13, section 3) down to the uniform distribution, so that every id has a
probability after every context. Grams are numbers in base V, sorted, and are looked up by bisection: a trigram model of
20 million ids takes seconds and some hundred megabytes.

Dimensions: N grams that are asked for, K ids of a gram (the last is predicted), V ids of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftmeta.pretraining.tokens import Ids

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]

_FALLBACK_DISCOUNT = 0.75  # where the counts are too few, or too regular, to estimate one
# What each held-out part is scored by: n-gram models of all the training text of its own kind.
TRAINED_ON = {"heldout": "prose", "heldout_chat": "chat"}
ORDERS = {"unigram": 1, "trigram": 3}


@dataclass(frozen=True)
class _Level:
    """The grams of one length. The probability of a gram is `kept` + `left` of its context x the shorter gram's."""

    grams: Keys  # sorted
    kept: Floats  # for each gram: (count - discount) / count of its context
    contexts: Keys  # sorted
    left: Floats  # for each context: the share that the discounts took, 0 to 1

    def interpolate(self, grams_N: Keys, contexts_N: Keys, shorter_N: Floats) -> Floats:
        place_N, known_N = _find(self.grams, grams_N)
        kept_N = np.where(known_N, self.kept[place_N], 0.0)
        place_N, known_N = _find(self.contexts, contexts_N)
        return kept_N + np.where(known_N, self.left[place_N], 1.0) * shorter_N


class KneserNey:
    """An n-gram model of a stream of ids below `vocab_size`; `end_of_text` stands before the first."""

    def __init__(self, stream: Ids, order: int, vocab_size: int, end_of_text: int) -> None:
        if vocab_size**order > np.iinfo(np.int64).max:
            raise ValueError(f"{order}-grams of {vocab_size} ids do not fit 64 bits")
        self.order, self._vocab_size, self._end_of_text = order, vocab_size, end_of_text
        grams, counts = np.unique(self._keys(self.grams(stream)), return_counts=True)
        self._levels = [_level(grams, counts, vocab_size)]
        for size in range(order - 1, 0, -1):
            # A shorter gram counts once for each id that stands before it, not for each time.
            grams, counts = np.unique(grams % vocab_size**size, return_counts=True)
            self._levels.append(_level(grams, counts, vocab_size))

    def grams(self, stream: Ids) -> Ids:
        """Every id of the stream with the order - 1 ids before it: shape (N, K)."""
        padding = np.full(self.order - 1, self._end_of_text, stream.dtype)
        return np.lib.stride_tricks.sliding_window_view(np.concatenate([padding, stream]), self.order)

    def probability(self, grams_NK: Ids) -> Floats:
        """The probability of each gram's last id after the ids before it; over all last ids it sums to 1."""
        probability_N = np.full(len(grams_NK), 1.0 / self._vocab_size)
        for size, level in enumerate(reversed(self._levels), 1):
            keys_N = self._keys(grams_NK[:, self.order - size :])
            probability_N = level.interpolate(keys_N, keys_N // self._vocab_size, probability_N)
        return probability_N

    def bits_per_byte(self, stream: Ids, n_bytes: int) -> float:
        """The code length of the stream in bits per byte of its text, as evaluate.bits_per_byte counts it:
        `<|endoftext|>` is context only."""
        grams_NK = self.grams(stream)
        scored_NK = grams_NK[grams_NK[:, -1] != self._end_of_text]
        return float(-np.log2(self.probability(scored_NK)).sum()) / n_bytes

    def _keys(self, grams_NK: Ids) -> Keys:
        keys_N = grams_NK[:, 0].astype(np.int64)
        for column in range(1, grams_NK.shape[1]):
            keys_N *= self._vocab_size
            keys_N += grams_NK[:, column]
        return keys_N


def as_stream(ids: Ids, end_of_text: int) -> Ids:
    """Rows of chat as one stream, `<|endoftext|>` once before each dialogue; a stream stays as it is."""
    if ids.ndim == 1:
        return ids
    stream = np.pad(ids, ((0, 0), (1, 0)), constant_values=end_of_text).ravel()
    repeated = (stream[1:] == end_of_text) & (stream[:-1] == end_of_text)
    return stream[np.concatenate([[True], ~repeated])]


def baselines(arrays: dict[str, Ids], card: dict[str, Any], end_of_text: int) -> dict[str, dict[str, float]]:
    """Held-out bits per byte by model and part: {"unigram": {"heldout": ..., "heldout_chat": ...}, "trigram": ...}.

    `arrays` and `card` are those of tokens.read_tokens.
    """
    streams = {name: as_stream(ids, end_of_text) for name, ids in arrays.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in ORDERS}
    for part, training in TRAINED_ON.items():
        for name, order in ORDERS.items():
            model = KneserNey(streams[training], order, card["vocab_size"], end_of_text)
            found[name][part] = model.bits_per_byte(streams[part], card["parts"][part]["bytes"])
    return found


def _level(grams: Keys, counts: NDArray[np.int64], vocab_size: int) -> _Level:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    contexts, starts, sizes = np.unique(grams // vocab_size, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, starts)
    return _Level(
        grams=grams,
        kept=(counts - discount) / np.repeat(totals, sizes),
        contexts=contexts,
        left=np.add.reduceat(discount, starts) / totals,
    )


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What is taken from a count of 1, 2, and 3 or more (index 0 is unused); Chen and Goodman's equation 26."""
    once, twice, thrice, four_times = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    found = [0.0, math.nan, math.nan, math.nan]
    if once and twice and thrice:
        share = once / (once + 2 * twice)
        found = [0.0, 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four_times / thrice]
    usable = all(0.0 < discount < times for times, discount in enumerate(found[1:], 1))
    return np.array(found if usable else [0.0] + [_FALLBACK_DISCOUNT] * 3)


def _find(sorted_keys: Keys, keys_N: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each key stands, and whether it is there at all (where not, the place is any)."""
    place_N = np.minimum(np.searchsorted(sorted_keys, keys_N), len(sorted_keys) - 1)
    return place_N, sorted_keys[place_N] == keys_N
