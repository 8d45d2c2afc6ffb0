"""A dataset as a check sees it, in bounded memory: every row counted and hashed, some of the text kept.

In: what a user names. Out: a Survey. Rows that cannot be used are counted and told, not raised. About 40 bytes are kept
of each example, and the text of a random sample: of each split that the source names at most SAMPLE_ROWS examples and
SAMPLE_CHARACTERS characters, which is all of most datasets. The same file gives the same sample.
# N examples (rows that can be used), M of them in the sample
"""

from __future__ import annotations

import hashlib
import heapq
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ftmeta.errors import DataError
from ftmeta.schema import Example, Split
from ftmeta.tasks.load import find_rows
from ftmeta.tasks.read import Rows
from ftmeta.tasks.rows import Empty, Placed, try_examples

SAMPLE_ROWS = 10_000
SAMPLE_CHARACTERS = 10_000_000
SPLITS: tuple[Split | None, ...] = (None, "train", "validation", "test")  # as Survey.split_N counts them
_SHOWN = 5

Hashes = npt.NDArray[np.uint64]


@dataclass
class Tally:
    """Rows with one fault: how many, the first of them, and what is wrong with each of these."""

    count: int = 0
    rows: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def add(self, row: int, message: str = "") -> None:
        self.count += 1
        if len(self.rows) < _SHOWN:
            self.rows.append(row)
            self.messages.append(message)


@dataclass(frozen=True)
class Survey:
    """`rows` counts all rows, those that cannot be used too. Equal hashes mean equal text, but for case, spacing and,
    in answers, the full stop."""

    rows: int
    sources: int  # where there are several, one for each split, row numbers count within each
    unread: str | None  # why reading ended before the end of the data
    broken: Tally  # rows that are no examples
    empty: dict[str, Tally]  # rows without text, by column
    row_N: npt.NDArray[np.int64]  # row numbers in the source
    split_N: npt.NDArray[np.int64]  # indices into SPLITS
    prompt_N: Hashes  # of all messages before the answer
    answer_N: Hashes
    example_N: Hashes  # of prompt and answer
    answer_length_N: npt.NDArray[np.int64]  # characters
    sample: tuple[Example, ...]
    sample_M: npt.NDArray[np.int64]  # indices into the N, ascending

    @property
    def sampled(self) -> bool:
        """Whether the sample leaves examples out."""
        return len(self.sample_M) < len(self.row_N)

    @property
    def splits(self) -> dict[str, int] | None:
        """Examples in each split that the source names; None where it names none."""
        counts = np.bincount(self.split_N, minlength=len(SPLITS))
        named: dict[str, int] = {
            split: int(count) for split, count in zip(SPLITS, counts, strict=True) if split and count
        }
        return named or None

    @property
    def placed(self) -> list[Placed]:
        return [
            Placed(example, SPLITS[self.split_N[index]])
            for example, index in zip(self.sample, self.sample_M, strict=True)
        ]


def take_survey(data: str) -> Survey:
    """Reads what a user names. Raises DataError where nothing can be read: no such file, unknown columns, no text."""
    return survey_rows(find_rows(data))


def survey_rows(sources: Sequence[Rows]) -> Survey:
    """Counts, hashes and samples. Raises DataError where not one row can be read."""
    rows, unread = 0, None
    broken, empty = Tally(), dict[str, Tally]()
    numbers, splits, lengths = array("q"), array("q"), array("q")
    prompts, answers = array("Q"), array("Q")
    kept = _Sample()
    for source in sources:
        try:
            for number, read in try_examples(source):
                rows += 1
                if isinstance(read, DataError):
                    broken.add(number, str(read))
                elif isinstance(read, Empty):
                    empty.setdefault(read.column, Tally()).add(number)
                else:
                    example = read.example
                    kept.offer(read, len(numbers))
                    numbers.append(number)
                    splits.append(SPLITS.index(read.split))
                    lengths.append(len(example.completion))
                    prompts.append(_hash("\0".join(message.content for message in example.context)))
                    answers.append(_hash(example.completion.rstrip(" .!?。")))
        except DataError as error:
            if rows == 0:
                raise
            unread = str(error)
            break
    chosen = kept.chosen()
    prompt_N, answer_N = np.array(prompts, dtype=np.uint64), np.array(answers, dtype=np.uint64)
    return Survey(
        rows=rows,
        sources=len(sources),
        unread=unread,
        broken=broken,
        empty=empty,
        row_N=np.array(numbers, dtype=np.int64),
        split_N=np.array(splits, dtype=np.int64),
        prompt_N=prompt_N,
        answer_N=answer_N,
        example_N=prompt_N * np.uint64(0x9E3779B97F4A7C15) ^ answer_N,  # odd: no two prompts become one
        answer_length_N=np.array(lengths, dtype=np.int64),
        sample=tuple(example for _, example in chosen),
        sample_M=np.array([index for index, _ in chosen], dtype=np.int64),
    )


class _Sample:
    """For each split the examples with the smallest of the random numbers that all examples draw."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._heaps: dict[Split | None, list[tuple[float, int, Example]]] = {split: [] for split in SPLITS}
        self._characters = dict.fromkeys(SPLITS, 0)
        self._limits = dict.fromkeys(SPLITS, 1.0)

    def offer(self, placed: Placed, index: int) -> None:
        drawn = self._random.random()
        split = placed.split
        if drawn >= self._limits[split]:
            return
        heap = self._heaps[split]
        heapq.heappush(heap, (-drawn, index, placed.example))
        self._characters[split] += _size(placed.example)
        while len(heap) > SAMPLE_ROWS or self._characters[split] > SAMPLE_CHARACTERS:
            dropped, _, example = heapq.heappop(heap)
            self._limits[split] = -dropped
            self._characters[split] -= _size(example)

    def chosen(self) -> list[tuple[int, Example]]:
        return sorted((index, example) for heap in self._heaps.values() for _, index, example in heap)


def _size(example: Example) -> int:
    return len(example.completion) + sum(len(message.content) for message in example.context)


def _hash(text: str) -> int:
    folded = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "little")
