"""A document to passages: what one request shows to the language model, a few paragraphs that belong together.

In: a Document, paragraphs with blank lines between them. Out: passages of at most `max_words` words, in order. Whole
paragraphs are packed; a heading starts a new passage where the one before is long enough, and stays with what follows;
a paragraph that is too long is cut at sentence ends, a sentence that is too long at words.

Dropped, because questions about them would be poor: runs of FRAGMENT_RUN or more fragments, which are short lines
without sentence ends and lines of more signs than letters (tables, link lists, contents); passages of which fragments
are more than half; passages below `min_words` that fit to no neighbour; what stands in the document a second time.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ftmeta.files import fingerprint
from ftmeta.synthesis.documents import Document

FRAGMENT_RUN = 5
_HEADING_WORDS = 12
_PROSE_WORDS = 8
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]»]*\s+|[。！？।؟۔]+[」』”）]*\s*")
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\[])(?:[A-Z]|[a-z](?:\.[a-z])+|Dr|Mr|Mrs|Ms|St|Prof|Fig|Figs|Eq|No|Nos|Vol|vs|cf|ca|approx|al|Sec|Ch|bzw|Nr)"
    r"\.\s+$"
)
_ENDED = re.compile(r"[.!?:;。！？：；…।؟۔][\"'”’)\]»」』）]*$")
_ENDS_WITHIN = re.compile(r"[.!?…][\"'”’)\]»]*(?:\s|$)|[。！？।؟۔]")
# Scripts that do not put spaces between words, with how many characters make a word there, about.
_DENSE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # Chinese and Japanese
_DENSE_CHARACTERS = 2
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Burmese, Khmer
_UNSPACED_CHARACTERS = 5
_LONG_WORD = 24  # characters; what is longer (an address, a hash) counts as several words


@dataclass(frozen=True)
class Passage:
    """Part `index` (from 0) of the document of that name."""

    document: str
    index: int
    text: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the text, wherever it stands."""
        return fingerprint(self.text)


def passages(document: Document, max_words: int = 220, min_words: int = 30) -> list[Passage]:
    """The passages of a document; see above for what is in them and what is left out."""
    paragraphs = _without_fragment_runs([one for one in document.text.split("\n\n") if one.strip()])
    packed = _merge_short(_pack(_units(paragraphs, max_words), max_words, min_words), max_words, min_words)
    texts = dict.fromkeys("\n\n".join(group) for group in packed if _is_prose(group))
    return [Passage(document.name, index, text) for index, text in enumerate(texts)]


def count_words(text: str) -> int:
    """How many words a text has, about, in any script: an upper limit on words is one on what a model has to read."""
    return sum(map(_word_count, text.split()))


def _word_count(token: str) -> int:
    if token.isascii():
        return math.ceil(len(token) / _LONG_WORD)
    dense, unspaced = len(_DENSE.findall(token)), len(_UNSPACED.findall(token))
    return (
        math.ceil(dense / _DENSE_CHARACTERS)
        + math.ceil(unspaced / _UNSPACED_CHARACTERS)
        + math.ceil((len(token) - dense - unspaced) / _LONG_WORD)
    )


# --- what is prose ------------------------------------------------------------------------------------------------


def _is_fragment(paragraph: str) -> bool:
    """A line that says nothing by itself: a heading, a cell, a link; or signs and numbers more than letters."""
    letters = sum(char.isalpha() for char in paragraph)
    if letters * 2 < len(paragraph.replace(" ", "")):
        return True
    if _ENDED.search(paragraph):
        return False
    # Thai and its neighbours have no signs for the end of a sentence; items of lists often go without.
    ends = _ENDS_WITHIN.search(paragraph) or paragraph.startswith("- ") or _UNSPACED.search(paragraph)
    return count_words(paragraph) < _PROSE_WORDS or not ends


def _is_heading(paragraph: str) -> bool:
    return (
        len(paragraph) <= _HEADING_WORDS * _LONG_WORD  # told at once, for most
        and count_words(paragraph) <= _HEADING_WORDS
        and not paragraph.startswith("- ")
        and (_ENDED.search(paragraph) is None or paragraph.endswith(("?", "？")))
        and any(char.isalpha() for char in paragraph)
    )


def _without_fragment_runs(paragraphs: list[str]) -> list[str]:
    """Long runs of fragments dropped, but for a heading at their end that what follows needs."""
    kept: list[str] = []
    run: list[str] = []
    for paragraph in paragraphs:
        if _is_fragment(paragraph):
            run.append(paragraph)
            continue
        if len(run) >= FRAGMENT_RUN:
            run = run[-1:] if _is_heading(run[-1]) else []
        kept += [*run, paragraph]
        run = []
    return kept + (run if len(run) < FRAGMENT_RUN else [])


def _is_prose(group: list[str]) -> bool:
    fragments = sum(count_words(paragraph) for paragraph in group if _is_fragment(paragraph))
    return 2 * fragments <= sum(map(count_words, group))


# --- packing ------------------------------------------------------------------------------------------------------


def _units(paragraphs: list[str], max_words: int) -> Iterator[list[str]]:
    """What must not be divided: a paragraph, or a part of a long one, with the headings before it."""
    headings: list[str] = []
    for paragraph in paragraphs:
        if _is_heading(paragraph) and _size([*headings, paragraph]) <= max_words // 2:
            headings.append(paragraph)
            continue
        first, *others = _pieces(paragraph, max_words - _size(headings))
        yield [*headings, first]
        yield from ([other] for other in others)
        headings = []
    if headings:
        yield headings


def _pack(units: Iterable[list[str]], max_words: int, min_words: int) -> list[list[str]]:
    groups: list[list[str]] = []
    size = 0
    for unit in units:
        words = _size(unit)
        starts_section = _is_heading(unit[0]) and size >= max(min_words, max_words // 3)
        if groups and not starts_section and size + words <= max_words:
            groups[-1] += unit
            size += words
        else:
            groups.append(list(unit))
            size = words
    return groups


def _merge_short(groups: list[list[str]], max_words: int, min_words: int) -> list[list[str]]:
    """Groups below `min_words` joined to the one before or behind where there is room, dropped elsewhere."""
    merged: list[list[str]] = []
    carried: list[str] = []
    for group in groups:
        group = carried + group if _size(carried) + _size(group) <= max_words else group
        carried = []
        if _size(group) >= min_words:
            merged.append(group)
        elif merged and _size(merged[-1]) + _size(group) <= max_words:
            merged[-1] += group
        else:
            carried = group
    return merged


def _size(group: list[str]) -> int:
    return sum(map(count_words, group))


# --- cutting ------------------------------------------------------------------------------------------------------


def _pieces(paragraph: str, max_words: int) -> list[str]:
    """The paragraph, or if it is too long parts of it, of about the same length."""
    words = count_words(paragraph)
    if words <= max_words:
        return [paragraph]
    sentences = [(sentence, count_words(sentence)) for sentence in _sentences(paragraph, max_words)]
    count = math.ceil(words / max_words)
    while max(map(count_words, parts := _divided(sentences, words / count))) > max_words:
        count += max(1, count // 10)  # sentences are too uneven for the fewest parts
    return parts


def _divided(sentences: list[tuple[str, int]], words: float) -> list[str]:
    """Parts of about `words` words: a sentence is in the part that its middle falls into."""
    ends = itertools.accumulate(length for _, length in sentences)
    middles = [end - length / 2 for end, (_, length) in zip(ends, sentences, strict=True)]
    parts: dict[int, str] = {}
    for middle, (sentence, _) in zip(middles, sentences, strict=True):
        parts[int(middle / words)] = parts.get(int(middle / words), "") + sentence
    return [part.strip() for part in parts.values()]


def _sentences(paragraph: str, max_words: int) -> Iterator[str]:
    """Sentences, none above `max_words`, with the white space behind them: joined, they are the paragraph."""
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        goes_on = paragraph[end.end() : end.end() + 1].islower() or _ABBREVIATED.search(paragraph, start, end.end())
        if not goes_on:
            yield from _fitting(paragraph[start : end.end()], max_words)
            start = end.end()
    yield from _fitting(paragraph[start:], max_words)


def _fitting(sentence: str, max_words: int) -> Iterator[str]:
    if count_words(sentence) <= max_words:
        yield sentence
        return
    part, size = "", 0
    for token in _tokens(sentence, max_words):
        length = count_words(token)
        if part and size + length > max_words:
            yield part
            part, size = "", 0
        part += token
        size += length
    yield part


def _tokens(sentence: str, max_words: int) -> Iterator[str]:
    """Words with the white space behind them; one that alone exceeds the limit (a script without spaces) in parts."""
    for token in re.findall(r"\S+\s*|\s+", sentence):
        if count_words(token) <= max_words:
            yield token
        else:
            yield from (token[i : i + max_words] for i in range(0, len(token), max_words))
