"""What the documentation of PostgreSQL and SQLite says of an entry -> an answer, and the end of a question.

Two families of functions, from which databases.py chooses for each kind of entry. From the text of an entry to the
answer about it; and from that answer and the name of the entry to the words with which a question asks for the name.
Both give None where the text does not allow it.
"""

from __future__ import annotations

import re

from ftmeta.tasks.text import first_sentence

_WORDS = range(6, 36)  # of a sentence
_MISSPELT = {
    "the the ": "the ",
    "reported and error": "reported an error",
    "attempted do delete": "attempted to delete",
}
_ASIDE = re.compile(r"\s*\((?:but )?(?:see|refer|described|discussed|as shown)\b[^()]*\)|;? \(?see .*", re.IGNORECASE)
_ELSEWHERE = re.compile(  # or nothing but the name again: `Sets the x flag.`
    r"\b(?:this|these|those|above|below|following|previous(?:ly)?|preceding|next|section|chapter|tables? \d|here|such"
    r"|described|listed|discussed|shown|noted|mentioned|respectively|same|similar|like|just|also|counterparts?"
    r"|equivalent|unused|deprecated|obsolete|historical|documentation)\b"
    r"|the (?:value of the )?[\w-]+ (?:flag|setting)\.$|https?:|[=*\\?]|\bi\.e\b|(?<!e\.g)(?<!etc)\. ",
    re.IGNORECASE,
)
_PLAIN_SUBJECT = re.compile(r"(?:This|The) (?:optional )?(?:parameter|variable|option|setting|pragma) (?=[a-z]{3,}s )")
_IMPERATIVE = re.compile(r"(?:Query|Set|Return|Request|Abort|Terminate|Evaluate|Adjust|Execute)(?: or [a-z]+)? (?!to )")
_SUBJECT = r"^(?:The )?(?:catalog |view |table |module )?{name}(?:\([^()]*\))?(?: [\w-]+){{0,4}}? (?=[a-z]+s )"
_VERB = re.compile(r"(?!process|access|statistics|columns|kerberos|values|names|always)(?:[a-z]+[^s\W]s|is|lets) ")
_NOUN = re.compile(
    r"(?:the|a|an) |(?!each|all|any|both|one|zero|null|list|controls|whether|used|true)(?:[a-z]{3,}|OID|ID)s?"
    r" (?:of|that|at|in|used|for|to) "
)
_CLAUSE = re.compile(  # `the server is`, but not `the server that is`
    r"(?:(?!that|which|whose|where|used)\S+ ){1,8}(?:is|are|was|will|has|have|cannot|can|may|must|causes) "
)


def _lower_first(text: str) -> str:
    """`Name of` to `name of`, but `OID of` and `SQL` as they are."""
    return text[0].lower() + text[1:] if re.match(r"[A-Z](?:[a-z-]| )", text) else text


def _third_person(found: re.Match[str]) -> str:
    """`Query or set ` to `Queries or sets `."""
    return re.sub(
        r"\b(\w+)(?<!or)(?=,? )", lambda verb: verb[1][:-1] + "ies" if verb[1][-1] == "y" else f"{verb[1]}s", found[0]
    )


def plain_sentence(text: str) -> str | None:
    """The first sentence, whole and about nothing but its subject; a description without a full stop gets one."""
    for wrong, right in _MISSPELT.items():
        text = text.replace(wrong, right)
    text = re.split(r"(?<=\b[A-Z0-9])\. (?=[A-Z])", _ASIDE.sub("", text))[0]  # "of X. If"
    sentence = first_sentence(text) or f"{text.rstrip('.')}."
    subject = _PLAIN_SUBJECT.match(sentence)
    if subject is not None:  # "This parameter sets the size": "Sets the size"
        sentence = sentence[subject.end()].upper() + sentence[subject.end() + 1 :]
    sentence = _IMPERATIVE.sub(_third_person, sentence)
    if len(sentence.split()) not in _WORDS or _ELSEWHERE.search(sentence) or sentence[-1] != ".":
        return None
    return sentence


def purpose(text: str) -> str | None:
    """`close a cursor` to `To close a cursor.`"""
    verb = re.match(r"(?!embedded|obsolete)[a-z-]+(?<!s) ", text)
    return f"To {text.removesuffix('.')}." if verb and not _ELSEWHERE.search(text) else None


def as_it_is(text: str) -> str | None:
    return None if "see " in text else text


def expansion(text: str) -> str | None:
    """`Server Name Indication, RFC 6066` to its first three words."""
    words = re.split(r", | \(", text)[0]
    return words if " " in words else None


def default(text: str) -> str | None:
    """`The default is five minutes (5min).` to `five minutes`."""
    found = re.search(
        r"(?:The default(?: value| setting)? is|A value of) (?:typically |normally )?(?!typically|normally)"
        r"([\w.-]+(?: (?!and|but|which|if)[\w/]+){0,2})(?=\.(?:\s|$)|,| \((?:the default|\d))|is (on|off) by default",
        text,
    )
    if found is None or re.match(r"(?:the|to|a|an|not|platform)\b", found[1] or ""):
        return None
    return found[1] or found[2]


def unit(text: str) -> str | None:
    found = re.search(r"without units, it is taken as ([a-z ]+?)(?:,|\.| \()", text)
    return found[1] if found else None


def verb_phrase(sentence: str, name: str) -> str | None:
    """What follows `Which setting` in a question: `Sets the size.`, `The x() function sets the size.`."""
    phrase = _lower_first(re.sub(_SUBJECT.format(name=re.escape(name)), "", sentence)).removesuffix(".")
    return phrase if _VERB.match(phrase) else None


def noun_phrase(sentence: str, name: str) -> str | None:
    """What follows `Which column holds`: `Name of the table.` to `the name of the table`."""
    phrase = _lower_first(sentence).removesuffix(".")
    if not _NOUN.match(phrase) or _CLAUSE.match(phrase):
        return None
    return phrase if re.match("(?:the|a|an) ", phrase) else f"the {phrase}"


def either_phrase(sentence: str, name: str) -> str | None:
    """A verb phrase, or a noun phrase with a verb: `is the name of the host`."""
    noun = noun_phrase(sentence, name)
    return verb_phrase(sentence, name) or (noun and f"is {noun}")


def whole(answer: str, name: str) -> str | None:
    return answer


def lowered(sentence: str, name: str) -> str | None:
    return _lower_first(sentence).removesuffix(".")
