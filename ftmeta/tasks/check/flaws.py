"""What can be wrong with one text: where it is garbled, speaks of what is absent, breaks off or says nothing.

In: a text. Out: the position of the flaw or None, or whether there is one. Each errs towards silence: a check that
cries wolf is not read.
"""

from __future__ import annotations

import re

PLACEHOLDERS = {
    *("nan", "NaN", "<NA>", "n/a", "N/A", "#N/A", "null", "NULL", "undefined", "#REF!"),
    *("todo", "TODO", "tbd", "TBD", "...", "…", "[deleted]", "[removed]"),
}

_THING = r"(?:text|passage|paragraph|article|excerpt|document|table|figure|image|picture|diagram|graph|chart|snippet)s?"
_ABSENT = re.compile(
    rf"\b{_THING} (?:above|below)\b|\b(?:above|preceding|previous|attached) {_THING}\b"
    r"|\b(?:in|from|to|based on) (?:the|this) (?:passage|excerpt|picture|image|photo|screenshot|attachment)\b(?! of\b)"
    r"|\b(?:mentioned|described|shown|given|stated|listed) (?:above|below|earlier|previously)\b"
    r"|\baforementioned\b|\baccording to (?:the|this) (?:text|passage|excerpt|article|author|document)\b",
    re.IGNORECASE,
)
_NEVER_LAST = re.compile(r"\w\W+(?:the|an|of|and|or|with|from|than|because|which|whose)$|\w[,;–-]$")


def garbled_at(text: str) -> int | None:
    """Where UTF-8 was read as Windows-1252 or Latin-1 ("Ã©" for "é"), or where characters were lost."""
    if text.isascii():
        return None
    for run in re.finditer(r"[^\x00-\x7f]{2,}|\ufffd", text):
        if run[0] == "\ufffd":
            return run.start()
        if run[0][0] not in "ÂÃ" and len(run[0]) == 2:
            continue  # "É»" is the end of a quotation
        for encoding in ("cp1252", "latin-1"):
            try:
                run[0].encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            return run.start()
    return None


def absent_at(prompt: str) -> int | None:
    """Where an English prompt speaks of a text or picture that it does not hold. Silent on prompts of several lines,
    with a colon, a quotation or more than 400 characters, in which it may stand."""
    if len(prompt) > 400 or re.search(r"[\n:\"“«`]", prompt):
        return None
    found = _ABSENT.search(prompt)
    return found.start() if found else None


def breaks_off(text: str) -> bool:
    """Whether a text of several words ends in an ellipsis, a comma, an English word that is never the last, or inside
    of a bracket."""
    words = len(text.split())
    if (words > 1 and text.endswith(("...", "…"))) or (words >= 4 and _NEVER_LAST.search(text)):
        return True
    opened, closed = ([at for at, one in enumerate(text) if one in kind] for kind in ("([{", ")]}"))  # [0, 1) is whole
    return len(opened) > len(closed) and opened[-1] > max(closed, default=-1) and not re.search(r"[:;]-?\($", text)


def is_sentence(text: str) -> bool:
    """At least ten words after a capital, the last line being none of a list or of code."""
    last = text.rpartition("\n")[2]
    return len(text.split()) >= 10 and text[0].isupper() and not re.match(r"\s|[-*•#|>]|\d+[.)]", last)


def ends_bare(text: str) -> bool:
    """Whether the last word is written small and nothing follows it."""
    return re.search(r"\b[^\W\d_A-Z]+$", text) is not None


def is_spelled(text: str, tokens: int) -> bool:
    """Whether a text is mostly in letters beyond ASCII and takes a token for each: its tokenizer, and so its model, was
    made for other scripts."""
    if text.isascii():
        return False
    beyond = sum(character.isalpha() and not character.isascii() for character in text)
    return tokens >= beyond > 0.5 * len(text)
