"""Lines to paragraphs and characters to clean characters: what text files and PDFs have in common."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

ROUND_BULLET = re.compile(r"[•▪‣◦●○■□\uf0b7]\s*|·\s+")  # U+F0B7 is that of Word's Symbol font
_BULLET = re.compile(r"[•▪‣◦·●○■□–*+-]\s+(?=\S)")
SENTENCE_END = re.compile(r"[.!?:。！？：…][\"'”’)\]»」』]*$")
_NUMBERED = re.compile(r"\(?(?:\d{1,3}|[a-z]|[ivx]{1,4})[.)]\s+(?=\S)")
_HYPHEN = re.compile(r"(\w+)[-‐\u00ad]$")
_FIRST_WORD = re.compile(r"[^\W_]+")
_AFTER_HANGING_HYPHEN = frozenset({"and", "or", "to", "und", "oder", "bis", "et", "ou", "y", "o", "e"})
_LIGATURES = {ord(ligature): unicodedata.normalize("NFKC", ligature) for ligature in "ﬀﬁﬂﬃﬄﬅﬆ"}
_INVISIBLE = (*range(9), *range(14, 32), *range(0x7F, 0x85), *range(0x86, 0xA0), 0xAD, 0x200B, 0x2060, 0xFEFF)
_CLEAN = dict.fromkeys(_INVISIBLE) | _LIGATURES
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")  # without Korean, which puts spaces between words
_NEVER_WRAPPED = 200  # characters; nobody wraps lines this late: each is a paragraph


def tidy(paragraph: str) -> str:
    """One line without control and invisible characters, ligatures, lone surrogates or doubled white space."""
    text = unicodedata.normalize("NFC", paragraph.translate(_CLEAN))
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def starts_item(line: str) -> bool:
    """Whether a line is the first of a list item: `- like this`, `1. this`, `(a) this`."""
    return _BULLET.match(line) is not None or _NUMBERED.match(line) is not None


def as_item(paragraph: str) -> str:
    """A list item written with `- `, whatever its bullet; other paragraphs as they are."""
    bullet = ROUND_BULLET.match(paragraph) or _BULLET.match(paragraph)
    return f"- {paragraph[bullet.end() :]}" if bullet else paragraph


def join_lines(lines: Iterable[str], words: frozenset[str] = frozenset()) -> str:
    """The lines of one paragraph as one line. A word that a hyphen divides is joined again; `words` of the same
    document (in lower case) decide whether the hyphen belongs to it. CJK lines are joined without a space."""
    joined = ""
    for line in lines:
        joined = _join(joined, line.strip(), words)
    return joined


def _join(left: str, right: str, words: frozenset[str]) -> str:
    if not left or not right:
        return left or right
    divided = _HYPHEN.search(left)
    if divided is None:
        return left + ("" if _CJK.match(left[-1]) and _CJK.match(right) else " ") + right
    rest = _FIRST_WORD.match(right)
    if rest is None or rest[0].lower() in _AFTER_HANGING_HYPHEN:
        return f"{left} {right}"
    whole, compound = f"{divided[1]}{rest[0]}".lower(), f"{divided[1]}-{rest[0]}".lower()
    if whole in words or left[-1] == "\u00ad":
        return left[:-1] + right
    keep = compound in words or not rest[0][0].islower()  # MS-WORD, COVID-19
    return left + right if keep else left[:-1] + right


def words_of(lines: Iterable[str]) -> frozenset[str]:
    """The words of a document in lower case, compounds with hyphens among them, for join_lines."""
    return frozenset(
        word for line in lines for word in re.findall(r"\w+(?:[-‐]\w+)*", line.lower().rstrip("-‐\u00ad \n"))
    )


def columns(text: str) -> int:
    """How wide a line is, where a Chinese or Japanese character takes the room of two Latin ones."""
    return len(text) if text.isascii() else len(text) + len(_CJK.findall(text))


def usual_width(lines: Iterable[str]) -> int:
    """The width at which the lines of a document were wrapped: what nine tenths of the longer lines keep within."""
    lengths = sorted(length for line in lines if (length := columns(line.rstrip())) >= 20)
    return lengths[len(lengths) * 9 // 10] if lengths else 0


def unwrap(block: Sequence[str], width: int, words: frozenset[str] = frozenset()) -> list[str]:
    """The paragraphs of a block of lines, in a document whose usual width is `width`.

    A line end is the work of wrapping where the next word would not have fitted; elsewhere somebody meant it, and the
    next line starts a paragraph (a list item, a row, a verse), unless it starts in lower case within a sentence.
    """
    longest = max(columns(line.rstrip()) for line in block)
    limit = 0.85 * max(longest, 0.8 * width)  # parts of a document may be narrower; people wrap by eye
    groups: list[list[str]] = []
    for line in block:
        if groups and longest < _NEVER_WRAPPED and _continues(groups[-1][-1], line, limit):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [as_item(join_lines(group, words)) for group in groups]


def _continues(line: str, following: str, limit: float) -> bool:
    following = following.strip()
    if starts_item(following):
        return False
    if columns(line.rstrip()) + 1 + columns(following.split(maxsplit=1)[0]) > limit:
        return True
    return following[:1].islower() and SENTENCE_END.search(line.rstrip()) is None
