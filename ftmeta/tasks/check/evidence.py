"""What the checks look at, and what they hand back.

# N examples (rows that can be used), M of them in the sample, H that a finding is about
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ftmeta.schema import BaseModelInfo, Example, Split
from ftmeta.tasks.check.personal import mask
from ftmeta.tasks.check.survey import SPLITS, Survey
from ftmeta.tasks.lengths import encode
from ftmeta.tasks.near import near_duplicates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
Quote = tuple[str, int]  # a text, and the position in it that matters
_ROWS = 5  # row numbers in a finding
_EXCERPTS = 2
_WINDOW = 60  # characters of an excerpt
_CHUNK = 1000  # texts tokenised at once


@dataclass(frozen=True)
class Finding:
    """`message` says what `count` counts; `share` is its part of the rows that were looked at, in [0, 1], None where
    there is nothing to take a part of."""

    level: Level
    message: str
    advice: str
    count: int
    share: float | None
    rows: tuple[int, ...] = ()  # the first of them
    excerpts: tuple[str, ...] = ()  # pieces of their text, personal data masked
    check: str = ""  # the name in CHECKS, which puts it in


@dataclass(frozen=True)
class Evidence:
    """A survey and the base model, with what several checks need."""

    survey: Survey
    base_model: BaseModelInfo
    tokenizer: Tokenizer

    @functools.cached_property
    def prompt_tokens(self) -> list[int]:
        """Of each example of the sample, without chat tokens."""
        return self._count(["\n".join(message.content for message in one.context) for one in self.survey.sample])

    @functools.cached_property
    def answer_tokens(self) -> list[int]:
        return self._count([one.completion for one in self.survey.sample])

    def _count(self, texts: list[str]) -> list[int]:
        chunks = (texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK))
        return [len(ids) for chunk in chunks for ids in encode(chunk, self.tokenizer)]

    @functools.cached_property
    def near(self) -> dict[int, int]:
        """Examples of the sample with nearly the prompt of another and nearly its answer: for each, the first such
        other, training examples coming first. Both are indices into the N. Of examples with equal prompts, which other
        checks tell, only the first is looked at."""
        survey = self.survey
        order_M = np.lexsort((survey.sample_M, survey.split_N[survey.sample_M]))
        _, first = np.unique(survey.prompt_N[survey.sample_M[order_M]], return_index=True)
        chosen = [int(at) for at in order_M[np.sort(first)]]
        examples = [survey.sample[at] for at in chosen]
        earlier = near_duplicates(["\n".join(message.content for message in one.context) for one in examples])
        return {
            int(survey.sample_M[chosen[at]]): int(survey.sample_M[chosen[other]])
            for at, other in enumerate(earlier)
            if other is not None and _agree(examples[at].completion, examples[other].completion)
        }

    def in_split(self, split: Split | None) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = self.survey.split_N == SPLITS.index(split)
        return inside

    def hits(self, is_hit: Callable[[Example], bool]) -> npt.NDArray[np.int64]:
        """The examples of the sample for which something holds, as indices into the N."""
        return self.survey.sample_M[[is_hit(example) for example in self.survey.sample]]

    def found(
        self,
        level: Level,
        message: str,
        advice: str,
        index_H: npt.NDArray[np.int64],
        *,
        of: int | None = None,
        quote: Callable[[Example], Quote] | None = None,
    ) -> Finding:
        """A finding about examples, given as indices into the N. They were looked for among `of` examples; None: among
        those of the sample, which the message then says."""
        survey = self.survey
        if of is None:
            of = len(survey.sample)
            message += f", of {of:,} rows drawn at random" if survey.sampled else ""
        return Finding(
            level=level,
            message=message,
            advice=advice,
            count=len(index_H),
            share=round(len(index_H) / of, 6),
            rows=tuple(int(row) for row in survey.row_N[index_H[:_ROWS]]),
            excerpts=self.excerpts(index_H, quote) if quote is not None else (),
        )

    def excerpts(self, index_H: npt.NDArray[np.int64], quote: Callable[[Example], Quote]) -> tuple[str, ...]:
        """Pieces of the first of them whose text was kept, each with its row."""
        survey = self.survey
        kept = index_H[np.isin(index_H, survey.sample_M)][:_EXCERPTS]
        examples = [survey.sample[at] for at in np.searchsorted(survey.sample_M, kept)]
        return tuple(
            f"{self._row(int(index))}: {excerpt(*quote(example))}"
            for index, example in zip(kept, examples, strict=True)
        )

    def _row(self, index: int) -> str:
        survey = self.survey
        split = SPLITS[survey.split_N[index]] if survey.sources > 1 else None
        return f"{split} row {survey.row_N[index]}" if split else f"row {survey.row_N[index]}"

    def twins(self, index_H: npt.NDArray[np.int64]) -> tuple[str, ...]:
        """Pieces of the first of them and of what it is nearly the same as."""
        pair = np.array([index_H[0], self.near[int(index_H[0])]])
        return self.excerpts(pair[:1], prompt) + self.excerpts(pair[1:], prompt)


def excerpt(text: str, position: int = 0) -> str:
    """A piece of a text around a position, on one line, with personal data masked."""
    start = max(0, min(position - _WINDOW // 2, len(text) - _WINDOW))
    piece = mask(text)[start : start + _WINDOW]  # masked as a whole: half a number would not be found
    return ("…" if start else "") + " ".join(piece.split()) + ("…" if start + _WINDOW < len(text) else "")


def prompt(example: Example) -> Quote:
    return example.prompt, 0


def answer(example: Example) -> Quote:
    return example.completion, 0


def end_of_answer(example: Example) -> Quote:
    return example.completion, len(example.completion)


def _agree(one: str, other: str) -> bool:
    left, right = ({*text.casefold().split()} for text in (one, other))
    return len(left & right) >= 0.5 * len(left | right)
