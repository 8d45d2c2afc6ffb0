"""Text of documents to clean text of questions and answers, and when two questions are nearly the same."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Iterator, Sequence

MAX_ANSWER_WORDS = 60
_TAG = re.compile(r"<[^>]+>")
_BREAK = re.compile(r"<(?:br|/p|/li|/div)\b[^>]*>")
_SPACE_BEFORE = re.compile(r"\s+([,;:.?!)])(?=\s|$)")
_WORD = re.compile(r"[\w.+#-]*\w[+#]*")
_SENTENCE_END = re.compile(r"(?:(?<=\w\w)|(?<=[a-z0-9)\]\"'”’]))[.!?](?=\s+[A-Z\"“(]|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Dr|St|Mt|Mr|No|approx|ca|inc)$")
_STOPWORD = re.compile(
    r"a|an|and|are|as|at|be|been|by|can|did|do|does|for|from|give|had|has|have|how|in|"
    r"into|is|it|its|me|name|of|on|or|s|such|tell|that|the|their|them|there|these|this|"
    r"those|to|was|were|what|when|where|which|who|whose|why|will|with"
)
_WITH_ARTICLE = re.compile(
    r"(?:United |Netherlands|Philippines|Maldives|Comoros|Seychelles|Bahamas|Gambia|Isle of|Holy See|Gaza Strip"
    r"|West Bank|.*\b(?:Republic|Islands|Territories|Lands|Indies)\b)"
)


def strip_markup(text: str) -> str:
    """HTML to plain text on one line: tags dropped, character references resolved, white space collapsed."""
    plain = html.unescape(_TAG.sub("", _BREAK.sub(" ", text)))
    plain = " ".join(plain.replace("\u00ad", "").replace("\u200b", "").split())
    return _SPACE_BEFORE.sub(r"\1", plain)


def sentences(text: str) -> Iterator[str]:
    """The whole sentences of plain text, in order; what follows the last full stop is left out."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[start : end.start()]):
            yield text[start : end.end()].strip()
            start = end.end()


def first_sentence(text: str) -> str | None:
    """The first whole sentence of plain text, None if no sentence ends."""
    return next(sentences(text), None)


def with_article(place: str) -> str:
    """The name of a country as it stands inside a sentence: `the Netherlands`, `Italy`."""
    return f"the {place}" if _WITH_ARTICLE.match(place) else place


def some_forms(forms: Sequence[str], number: int, about: str) -> tuple[str, ...]:
    """`number` of the forms of a question, by hash of what it is about: always the same ones, but not for all alike."""
    first = zlib.crc32(about.encode())
    return tuple(forms[(first + i) % len(forms)] for i in range(number))


def is_clean(answer: str) -> bool:
    """Whether a text can be an answer: short enough, no markup, no label before it, brackets and quotes closed."""
    return (
        0 < len(answer.split()) <= MAX_ANSWER_WORDS
        and not re.search(
            r"<[a-z/]|&[a-z]+;|\[\[|\{|\bnote ?[:-]|[`¶]|\.\.\.|…|^\W*$|^[a-z ]{2,30}: ", answer, re.IGNORECASE
        )
        and all(answer.count(left) == answer.count(right) for left, right in ("()", "[]", "“”"))
        and answer.count('"') % 2 == 0
        and answer[-1] not in ",;:-("
    )


def content_words(question: str) -> frozenset[str]:
    """What a question asks about: its words without case, order, punctuation, plural s and the words of every question.

    Two questions with equal content words are nearly identical; `overlap` measures how near others are.
    """
    words = (word.rstrip(".") for word in _WORD.findall(question.casefold().replace("'s", "").replace("’s", "")))
    return frozenset(
        word[:-1] if len(word) > 4 and word.endswith("s") else word for word in words if not _STOPWORD.fullmatch(word)
    )


def overlap(left: frozenset[str], right: frozenset[str]) -> float:
    """The Jaccard index of two sets of words, in [0, 1]; 1 means equal."""
    return len(left & right) / max(1, len(left | right))
