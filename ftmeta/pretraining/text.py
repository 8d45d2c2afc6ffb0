"""Text as the corpus wants it: one spelling of quotes and spaces, sentences, and no line that is not prose."""

from __future__ import annotations

import re
import unicodedata

# A small vocabulary should not pay twice for the two shapes of one quotation mark.
_SPELLING = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "−": "-", "¶": "", "§": ""})
_CODE = frozenset("{}<>=|\\/#@[]_$&*~^`+%")
_ABBREVIATIONS = ("Mr.", "Mrs.", "Dr.", "St.", "e.g.", "i.e.", "vs.", "No.", "Messrs.", "Esq.", "U.S.", "Gen.", "cf.")
_SENTENCE_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]?[A-Z])""")
_LONGEST_PARAGRAPH = 1_200  # characters; a context of 512 tokens holds about 1,500


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_SPELLING).replace("--", " - ").split())


def is_prose(line: str) -> bool:
    """Whether a normalised line is running text: some words, mostly letters, hardly any signs of code, ASCII."""
    if len(line) < 20 or line.count(" ") < 3:
        return False
    if line[-1] not in ".!?:;,)\"'" and len(line) < 60:
        return False  # a heading, a menu entry, a signature
    letters = sum(character.isalpha() or character == " " for character in line)
    codes = sum(character in _CODE for character in line)
    foreign = sum(character > "\x7f" for character in line)
    return letters >= 0.8 * len(line) and codes <= 0.02 * len(line) and foreign <= 0.02 * len(line)


def sentences(paragraph: str) -> list[str]:
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        sentence = paragraph[start : end.end()].strip()
        if sentence.endswith(_ABBREVIATIONS) or re.search(r"\b[A-Z]\.$", sentence):
            continue
        found.append(sentence)
        start = end.end()
    return [*found, paragraph[start:].strip()] if start < len(paragraph) else found


def split_long(paragraph: str) -> list[str]:
    """The paragraph, cut between sentences into pieces of about a thousand characters if it is much longer."""
    if len(paragraph) <= _LONGEST_PARAGRAPH:
        return [paragraph]
    pieces: list[str] = []
    for sentence in sentences(paragraph):
        if pieces and len(pieces[-1]) + len(sentence) < _LONGEST_PARAGRAPH:
            pieces[-1] = f"{pieces[-1]} {sentence}"
        else:
            pieces.append(sentence)
    return pieces
