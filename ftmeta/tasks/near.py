"""Near-duplicate texts: in a list of texts, those that say nearly the same as an earlier one.

In: texts. Out: for each the index of an earlier text that it nearly equals, or None.

Two texts nearly equal each other if sum(w of shared shingles) / sum(w of all their shingles) >= threshold. Shingles
are the words and the pairs of adjacent words, without case and punctuation; the second "the" of a text is a shingle of
its own. A word weighs 2 log2((N + 100) / df) and a pair log2((N + 100) / df) / 2, rounded, where df of the N different
texts hold it. So in a small list this is nearly the Jaccard index of words; in a large one the template of many
questions counts little and what makes them different counts: "What is the capital of France?" and "What is the capital
of Spain?" are no duplicates there. Two words that change places make little difference. Of a text of more than 1,000
words the first and the last 500 count.

MinHash with 128 permutations and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3) names the candidates: each shingle enters the hashed set as often as it weighs, which makes the Jaccard index
of the sets the similarity above. Every candidate is verified with the exact formula, so there are no false positives of
hashing; a pair at the threshold is missed with a probability of about 1 %.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Of the 24,300 questions of the bundled tasks, all of templates, 2 % count as equal (country-names 9 %, others < 3 %).
THRESHOLD = 0.75
_WORD_WEIGHT, _PAIR_WEIGHT = 2.0, 0.5
_PERMUTATIONS = 128
_LONG = 1000  # words
_MISSED = 0.011  # the share of pairs at the threshold that hashing may miss
_PRIOR_TEXTS = 100  # as if so many other texts had been seen: without them, two texts would make each other common
_CROWDED = 50  # candidates: from here on no more texts enter this part of the index, which keeps time linear
_ESTIMATE_ERROR = 0.15  # more than three standard deviations of the similarity that two sketches estimate
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, Chinese: a character is a word
# Symbols are words too, so that "3 + 4" is not "3 - 4"; marks of a sentence are not.
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|[^\w\s.,;:!?'\"‘’“”()…¿¡。、，！？]")
_ASCII_WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"()]")


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int | None]:
    """For each text the index of the first earlier text that it nearly equals; None for a text that says something new.

    Texts with the same words in the same order are equal, whatever their weights. `threshold` is in (0, 1]. Time and
    memory are linear in the length of all texts: 1,000 questions take about 0.3 s.
    """
    from datasketch import MinHash, MinHashLSH

    found: list[int | None] = [None] * len(texts)
    first: dict[str, int] = {}
    shingles: list[npt.NDArray[np.uint32]] = []
    for position, text in enumerate(texts):
        words = _words(text)
        earlier = first.setdefault(" ".join(words) or text.strip(), position)
        if earlier == position:
            shingles.append(_shingles(words if len(words) <= _LONG else words[: _LONG // 2] + words[-_LONG // 2 :]))
        else:
            found[position] = earlier
    different = list(first.values())
    weighted = _weigh(shingles)

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
    empty = MinHash(_PERMUTATIONS, hashfunc=int)  # its permutations are copied, which is faster than drawing them
    sketches: dict[int, MinHash] = {}  # of what is in the index
    for at, (hash_S, weight_S) in enumerate(weighted):
        if not len(hash_S):
            continue
        sketch = empty.copy()
        sketch.update_batch(_repeated(hash_S, weight_S))
        candidates: list[int] = sorted(index.query(sketch))  # type: ignore[type-var]
        likely = (one for one in candidates if sketch.jaccard(sketches[one]) > threshold - _ESTIMATE_ERROR)
        match = next((one for one in likely if _similarity(weighted[one], weighted[at]) >= threshold), None)
        if match is not None:
            found[different[at]] = different[match]
        if len(candidates) < _CROWDED:
            index.insert(at, sketch, check_duplication=False)
            sketches[at] = sketch
    return [one if one is None or found[one] is None else found[one] for one in found]  # the first of equal texts


def _bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the most rows, so the fewest candidates, that miss few at the threshold."""
    shapes = [(_PERMUTATIONS // rows, rows) for rows in range(1, _PERMUTATIONS // 2 + 1)]
    return [(bands, rows) for bands, rows in shapes if (1 - threshold**rows) ** bands <= _MISSED or rows == 1][-1]


_STEP = np.uint32(0x9E3779B1)  # from one copy of a hash to the next, modulo 2^32
_Weighted = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # S shingles: sorted hashes, and their weights


def _words(text: str) -> list[str]:
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.casefold())


def _shingles(words: list[str]) -> npt.NDArray[np.uint32]:
    """The hashes of the words (even) and adjacent pairs (odd), each occurrence counted, sorted."""
    word_W = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint32)
    pair_P = word_W[:-1] * np.uint32(0x85EBCA6B) + word_W[1:] * np.uint32(0xC2B2AE35)
    hash_S = np.sort(np.concatenate([word_W & ~np.uint32(1), pair_P | np.uint32(1)]))
    position_S = np.arange(len(hash_S), dtype=np.uint32)
    first_S = np.searchsorted(hash_S, hash_S).astype(np.uint32)
    return np.unique(hash_S + 2 * (position_S - first_S) * _STEP)


def _weigh(shingles: list[npt.NDArray[np.uint32]]) -> list[_Weighted]:
    """Puts a weight beside each shingle and drops those without weight."""
    if not shingles:
        return []
    ends = np.cumsum([len(one) for one in shingles])
    hash_A = np.concatenate(shingles)  # A: all shingles of all texts
    hash_D, inverse_A, count_D = np.unique(hash_A, return_inverse=True, return_counts=True)
    rarity_D = np.log2((len(shingles) + _PRIOR_TEXTS) / count_D)  # D: the different ones
    weight_D = np.round(rarity_D * np.where(hash_D % 2 == 0, _WORD_WEIGHT, _PAIR_WEIGHT)).astype(np.int64)
    weights = np.split(weight_D[inverse_A], ends[:-1])
    return [(hash_S[weight_S > 0], weight_S[weight_S > 0]) for hash_S, weight_S in zip(shingles, weights, strict=True)]


def _repeated(hash_S: npt.NDArray[np.uint32], weight_S: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Each hash as many different hashes as its weight says."""
    ends_S = np.cumsum(weight_S)
    copy_R = np.arange(ends_S[-1]) - np.repeat(ends_S - weight_S, weight_S)  # R repeated shingles: 0, 1, .. of each
    return np.repeat(hash_S, weight_S) + copy_R.astype(np.uint32) * _STEP


def _similarity(left: _Weighted, right: _Weighted) -> float:
    _, in_left, _ = np.intersect1d(left[0], right[0], assume_unique=True, return_indices=True)
    shared = int(left[1][in_left].sum())
    return shared / (int(left[1].sum()) + int(right[1].sum()) - shared)
