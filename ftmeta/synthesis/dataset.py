"""Generated pairs -> a task: filters, near-duplicates, splits by document, and the file that every command reads.

Everything is decided by the content, so the same journal gives the same task.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftmeta.errors import DataError
from ftmeta.files import write_text
from ftmeta.schema import Example, Message, Split
from ftmeta.synthesis.filters import FILTERS, Candidate, dropped_by
from ftmeta.synthesis.passages import Passage
from ftmeta.synthesis.replies import Pair
from ftmeta.tasks.near import near_duplicates
from ftmeta.tasks.rows import Placed
from ftmeta.tasks.split import MINIMUM, split_examples

DUPLICATE = "duplicate"
DROPPED = {
    **{name: text for name, (_, text) in FILTERS.items()},
    DUPLICATE: "questions that no other one nearly equals",
}


@dataclass(frozen=True)
class Made:
    """A pair with its passage."""

    pair: Pair
    passage: Passage


@dataclass(frozen=True)
class Sifted:
    """What became of the generated pairs: `dropped` by the names in DROPPED; `splits` empty where too few are kept."""

    kept: list[Made]
    dropped: dict[str, list[Made]]
    splits: dict[Split, list[Made]]
    split_by: Literal["document", "passage"] | None
    too_few: str | None

    @property
    def generated(self) -> int:
        return len(self.kept) + sum(map(len, self.dropped.values()))


def sift(made: Sequence[Made], language: str, label: str) -> Sifted:
    """No document stands in two splits; where there are too few documents for that, no passage does."""
    kept, dropped = _filter(made, language)
    for split_by in _GROUPS:
        with contextlib.suppress(DataError):
            return Sifted(kept, dropped, _split(kept, label, split_by), split_by, None)
    reason = (
        f"{len(kept)} pairs from {len({one.passage.key for one in kept})} passages were kept; at least "
        f"{sum(MINIMUM.values())} are needed, from enough passages for three splits that share none: let more "
        "passages be asked about (--passages, --token-budget), give more documents, or a model that writes better pairs"
    )
    return Sifted(kept, dropped, {}, None, reason)


def _filter(made: Sequence[Made], language: str) -> tuple[list[Made], dict[str, list[Made]]]:
    dropped: dict[str, list[Made]] = {name: [] for name in DROPPED}
    fine: list[Made] = []
    for one in made:
        name = dropped_by(Candidate(one.pair, one.passage.text, language))
        (fine if name is None else dropped[name]).append(one)
    kept: list[Made] = []
    for one, earlier in zip(fine, near_duplicates([one.pair.question for one in fine]), strict=True):
        (kept if earlier is None else dropped[DUPLICATE]).append(one)
    return kept, dropped


def _split(kept: Sequence[Made], label: str, split_by: Literal["document", "passage"]) -> dict[Split, list[Made]]:
    """As any dataset is split, which keeps a fact in one split: here the document or passage stands for the fact."""
    of_question = {one.pair.question: one for one in kept}
    placed = [
        Placed(Example((Message("user", one.pair.question),), one.pair.answer, fact=_GROUPS[split_by](one)), None)
        for one in kept
    ]
    return {
        name: [of_question[example.prompt] for example in examples]
        for name, examples in split_examples(placed, label).items()
    }


_GROUPS: dict[Literal["document", "passage"], Callable[[Made], str]] = {
    "document": lambda one: one.passage.document,
    "passage": lambda one: one.passage.key,
}


def write_task(
    splits: Mapping[Split, Iterable[Made]], path: Path, before: str | None
) -> tuple[str | None, Path | None]:
    """JSONL with the columns split, question, answer, document and passage (the number of the passage in it); no file
    without splits.

    A file that somebody mended is never written over. `before` is the fingerprint that the last call returned. A file
    that has changed since stays where the rows would be as before, and is renamed else. Returns the fingerprint of the
    rows, and where a renamed file is.
    """
    rows = [
        {
            "split": name,
            "question": one.pair.question,
            "answer": one.pair.answer,
            "document": one.passage.document,
            "passage": one.passage.index,
        }
        for name, several in splits.items()
        for one in several
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    now = _fingerprint(text.encode("utf-8")) if rows else None
    aside = None
    if before is not None and path.exists() and _fingerprint(path.read_bytes()) != before:
        if now == before:
            return now, None
        aside = next(at for i in itertools.count(1) if not (at := path.with_stem(f"{path.stem}-mended-{i}")).exists())
        path.rename(aside)
    if rows:
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)
    return now, aside


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
