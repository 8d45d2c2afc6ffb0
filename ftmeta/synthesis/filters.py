"""Which generated pairs a model should learn from: one function a filter, in the order of the table FILTERS.

A filter sees one pair with the passage it was made of and says whether to keep it. Each pair that is dropped counts for
the first filter that drops it. Near-duplicates are found at the end, among what all filters keep (see dataset.py).

To add a filter, write one function and one line in FILTERS; the report and the contract tests pick it up.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from ftmeta.errors import ConfigError, MissingDependencyError
from ftmeta.files import DATA
from ftmeta.synthesis.replies import Pair
from ftmeta.tasks.text import MAX_ANSWER_WORDS, content_words

MAX_QUESTION_WORDS = 60
MIN_SUPPORT = 0.6
_SHORTEST = 4  # letters of a word that needs support: shorter ones are units and abbreviations
_STEM = 5  # letters of a word that have to agree: "generates" supports "generation"
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+")
_NO_SPACES = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)  # Thai, Japanese, Chinese; and Korean
_SURE = 0.9
_LANGUAGE_CHARACTERS = 40  # fewer tell too little


@dataclass(frozen=True)
class Candidate:
    """A pair with the passage that it was made of; `language` is what all pairs should be in."""

    pair: Pair
    passage: str
    language: str

    @property
    def text(self) -> str:
        return f"{self.pair.question} {self.pair.answer}"


def fits(candidate: Candidate) -> bool:
    question, answer = words(candidate.pair.question), words(candidate.pair.answer)
    return 3 <= len(question) <= MAX_QUESTION_WORDS and 1 <= len(answer) <= MAX_ANSWER_WORDS


def stands_alone(candidate: Candidate) -> bool:
    """Whether whoever does not see the passage can tell what is asked."""
    return bool(content_words(candidate.pair.question)) and not any(
        pattern.search(part) for pattern in _references() for part in (candidate.pair.question, candidate.pair.answer)
    )


def is_supported(candidate: Candidate) -> bool:
    """Whether the passage says it: every number of the answer stands there, and so do, by their first five letters, at
    least 60 % of its words of four letters or more that carry meaning (pairs of characters, in scripts that do not
    separate words). An answer of short words only, as `yes`, needs one of them in the passage."""
    answer, passage = candidate.pair.answer, candidate.passage
    if not set(_NUMBER.findall(answer)) <= set(_NUMBER.findall(passage)):
        return False
    said = _stems(answer)
    if not said:
        return not set(words(answer)).isdisjoint(words(passage))
    return len(said & _stems(passage)) / len(said) >= MIN_SUPPORT


def gives_nothing_away(candidate: Candidate) -> bool:
    """Whether the answer says more than its question does."""
    return bool(set(words(candidate.pair.answer)) - set(words(candidate.pair.question)))


def has_the_language(candidate: Candidate) -> bool:
    """False only where another language is sure: a name or a number has none."""
    if len(candidate.text) < _LANGUAGE_CHARACTERS:
        return True
    found, sure = language_of(candidate.text)
    return found == candidate.language or sure < _SURE


FILTERS: dict[str, tuple[Callable[[Candidate], bool], str]] = {
    "length": (fits, f"questions of 3 to {MAX_QUESTION_WORDS} words with answers of 1 to {MAX_ANSWER_WORDS}"),
    "standalone": (stands_alone, "questions that make sense without the passage"),
    "unsupported": (is_supported, "answers that the passage supports"),
    "given away": (gives_nothing_away, "answers that say more than their question"),
    "language": (has_the_language, "pairs in the language of the documents"),
}


def dropped_by(candidate: Candidate) -> str | None:
    """The first filter that drops it; None: it is kept."""
    return next((name for name, (keeps, _) in FILTERS.items() if not keeps(candidate)), None)


def language_of(text: str) -> tuple[str, float]:
    """ISO 639-1 code and probability in [0, 1] (py3langid; Lui and Baldwin 2012)."""
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def require_language(code: str) -> None:
    """Raises ConfigError for a code that no text will be found to be in."""
    if code not in _identifier().labels:
        raise ConfigError(
            f"the language '{code}' is none that can be told from others; wanted is an ISO 639-1 code, such as en, de, "
            "el (not gr), ja (not jp) or zh (not cn)"
        )


def words(text: str) -> list[str]:
    """Words, case folded; in scripts that do not separate them, characters."""
    return [
        part for word in _WORD.findall(text.casefold()) for part in (list(word) if _NO_SPACES.search(word) else [word])
    ]


def _stems(text: str) -> set[str]:
    stems: set[str] = set()
    for word in content_words(text):
        if _NO_SPACES.search(word):
            stems.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) >= _SHORTEST and not word[0].isdigit():
            stems.add(word[:_STEM])
    return stems


@functools.cache
def _references() -> list[re.Pattern[str]]:
    document: dict[str, list[str]] = yaml.safe_load((DATA / "prompts" / "references.yaml").read_text(encoding="utf-8"))
    return [re.compile(pattern, re.IGNORECASE) for patterns in document.values() for pattern in patterns]


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingDependencyError(
            "telling languages needs the package py3langid: pip install 'ftmeta[synthesis]'"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
