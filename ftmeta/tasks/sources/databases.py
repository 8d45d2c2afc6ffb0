"""databases: settings, functions, catalogs, commands and codes of PostgreSQL and SQLite, from their documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import first_sentence, strip_markup

_WORDS = range(6, 36)  # of a sentence
_MAX_REVERSE_WORDS = 24  # of a sentence that a question repeats, to ask for what it describes
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


def _sentence(text: str) -> str | None:
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


def _purpose(text: str) -> str | None:
    """`close a cursor` to `To close a cursor.`"""
    verb = re.match(r"(?!embedded|obsolete)[a-z-]+(?<!s) ", text)
    return f"To {text.removesuffix('.')}." if verb and not _ELSEWHERE.search(text) else None


def _as_it_is(text: str) -> str | None:
    return None if "see " in text else text


def _expansion(text: str) -> str | None:
    """`Server Name Indication, RFC 6066` to its first three words."""
    words = re.split(r", | \(", text)[0]
    return words if " " in words else None


def _default(text: str) -> str | None:
    """`The default is five minutes (5min).` to `five minutes`."""
    found = re.search(
        r"(?:The default(?: value| setting)? is|A value of) (?:typically |normally )?(?!typically|normally)"
        r"([\w.-]+(?: (?!and|but|which|if)[\w/]+){0,2})(?=\.(?:\s|$)|,| \((?:the default|\d))|is (on|off) by default",
        text,
    )
    if found is None or re.match(r"(?:the|to|a|an|not|platform)\b", found[1] or ""):
        return None
    return found[1] or found[2]


def _unit(text: str) -> str | None:
    found = re.search(r"without units, it is taken as ([a-z ]+?)(?:,|\.| \()", text)
    return found[1] if found else None


def _verb_phrase(sentence: str, name: str) -> str | None:
    """What follows `Which setting` in a question: `Sets the size.`, `The x() function sets the size.`."""
    phrase = _lower_first(re.sub(_SUBJECT.format(name=re.escape(name)), "", sentence)).removesuffix(".")
    return phrase if _VERB.match(phrase) else None


def _noun_phrase(sentence: str, name: str) -> str | None:
    """What follows `Which column holds`: `Name of the table.` to `the name of the table`."""
    phrase = _lower_first(sentence).removesuffix(".")
    if not _NOUN.match(phrase) or _CLAUSE.match(phrase):
        return None
    return phrase if re.match("(?:the|a|an) ", phrase) else f"the {phrase}"


def _phrase(sentence: str, name: str) -> str | None:
    """A verb phrase, or a noun phrase with a verb: `is the name of the host`."""
    noun = _noun_phrase(sentence, name)
    return _verb_phrase(sentence, name) or (noun and f"is {noun}")


def _whole(answer: str, name: str) -> str | None:
    return answer


def _lowered(sentence: str, name: str) -> str | None:
    return _lower_first(sentence).removesuffix(".")


@dataclass(frozen=True)
class Kind:
    """Entries of one form. In questions {n} is the name, {o} its table, {a} the answer as `ending` shapes it."""

    name: str
    pages: tuple[str, ...]
    entry: str  # a pattern with the groups n, the name, and t, the text
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()  # the answer is the name
    answer: Callable[[str], str | None] = _sentence
    ending: Callable[[str, str], str | None] = _verb_phrase
    takes_first: bool = False  # of several answers about one name
    within: str | None = None  # a pattern with the groups o and t for the part of a page that holds entries


_PG = "postgresql-doc-15/html/"
_SETTINGS = (f"{_PG}runtime-config-*.html",)
_SETTING = (
    r'<dt id="GUC-[^"]*"><span class="term"><code class="varname">(?P<n>\w+)</code>(?:(?!</dt>).)*</dt>'
    r"<dd>(?P<t>.*?)</dd>"
)
_RELATION = r'<h2 class="title"[^>]*>[\d.]+\s*<code class="\w+">(?P<n>\w+)</code></h2>.*?<p>(?P<t>.*?)</p>'
_DL = r"<dt><p><b>(?P<n>\w+)\((?:(?!</dt>).)*?</b></dt><dd>(?P<t>.*?)</dd>"
_KINDS = (
    Kind(
        "setting",
        _SETTINGS,
        _SETTING,
        ("What does the PostgreSQL setting {n} do?", "Explain {n} as found in postgresql.conf."),
        ("Which PostgreSQL setting {a}?",),
        ending=_phrase,
    ),
    Kind(
        "default",
        _SETTINGS,
        _SETTING,
        (
            "What is the default of the PostgreSQL setting {n}?",
            "Which value does PostgreSQL give {n} if nobody changes it?",
        ),
        answer=_default,
        ending=_whole,
    ),
    Kind(
        "unit",
        _SETTINGS,
        _SETTING,
        (
            "In which unit does PostgreSQL read {n} when none is given?",
            "What does a number without a unit stand for in {n}?",
        ),
        answer=_unit,
        ending=_whole,
    ),
    Kind(
        "error-code",
        (f"{_PG}errcodes-appendix.html",),
        r'<tr><td><code class="literal">(?P<t>\w{5})</code></td><td><code class="symbol">(?P<n>\w+)</code>',
        (
            "What is the SQLSTATE code of the PostgreSQL error {n}?",
            "As which five characters does a server report {n}?",
        ),
        ("Which error does PostgreSQL report as {a}?",),
        answer=_as_it_is,
        ending=_whole,
    ),
    Kind(
        "error-class",
        (f"{_PG}errcodes-appendix.html",),
        r"<strong>Class (?P<t>\w\w) — (?P<n>[^<(]+)",
        ("Which class of SQLSTATE codes is named {n}?", "With which two characters do errors of the kind {n} begin?"),
        ("To which class of errors do SQLSTATE codes that start with {a} belong?",),
        answer=_as_it_is,
        ending=_whole,
    ),
    Kind(
        "function",
        (f"{_PG}functions-*.html",),
        r'<td class="func_table_entry"><p class="func_signature">\s*(?:<a [^>]*></a>\s*)*'
        r'<code class="function">(?P<n>[a-z]\w+)</code>.*?</p>\s*<p>(?P<t>.*?)</p>',
        ("What does the PostgreSQL function {n}() do?", "Describe {n}(), which queries in PostgreSQL can call."),
        ("Which PostgreSQL function {a}?",),
    ),
    Kind(
        "column",
        (f"{_PG}catalog-*.html", f"{_PG}view-*.html", f"{_PG}monitoring-stats.html"),
        r'<code class="structfield">(?P<n>\w+)</code>.*?</p>\s*<p>(?P<t>.*?)</p>',
        ("What does the column {n} of {o} hold?", "In PostgreSQL's {o}, what is stored under {n}?"),
        ("Which column of {o} holds {a}?",),
        ending=_noun_phrase,
        within=r'<strong>Table.[\d.]+.<code class="structname">(?P<o>\w+)</code> (?:Columns|View)</strong>'
        r"(?P<t>.*?)</table>",
    ),
    Kind(
        "relation",
        (f"{_PG}catalog-*.html", f"{_PG}view-*.html"),
        _RELATION,
        ("What can be found in {n}, which every PostgreSQL database has?", "Why would one query {n}?"),
        ("Which catalog or view of PostgreSQL {a}?",),
    ),
    Kind(
        "information-schema",
        (f"{_PG}infoschema-*.html",),
        _RELATION,
        (
            "What can be found in information_schema.{n}?",
            "Explain {n} as part of the SQL standard's information schema.",
        ),
        ("Which view of the information schema {a}?",),
    ),
    Kind(
        "term",
        (f"{_PG}glossary.html",),
        r'<dt id="GLOSSARY-[^"]*"><span class="glossterm">(?P<n>.*?)</span></dt><dd class="glossdef"><p>(?P<t>.*?)</p>',
        ('What is meant by "{n}" in the world of databases?', 'Define "{n}" for a newcomer to PostgreSQL.'),
        ("What do database people call {a}?",),
        ending=_noun_phrase,
    ),
    Kind(
        "command",
        (f"{_PG}sql-*.html", f"{_PG}ecpg-sql-*.html"),
        r'<span class="refentrytitle">(?P<n>[^<]*)</span></h2><p>[^—]* — (?P<t>.*?)</p>',
        ("What is the SQL command {n} for?", "Why would a PostgreSQL user type {n}?"),
        ("Which SQL command serves {a}?",),
        answer=_purpose,
        ending=_lowered,
    ),
    Kind(
        "program",
        (f"{_PG}app-*.html", f"{_PG}pg*.html", f"{_PG}oid2name.html", f"{_PG}vacuumlo.html"),
        r'<span class="refentrytitle">(?P<n>(?:<[^>]*>)?[a-z]\w+)(?:<[^>]*>)?</span></h2><p>[^—]* — (?P<t>.*?)</p>',
        ("What is the program {n} for?", "Why would an administrator of PostgreSQL run {n}?"),
        ("Which program that comes with PostgreSQL serves {a}?",),
        answer=_purpose,
        ending=_lowered,
    ),
    Kind(
        "module",
        (f"{_PG}*.html",),
        r'<h2 class="title"[^>]*>F\.\d+\.\s*(?P<n>[\w-]+)[^<]*</h2>.*?<p>(?P<t>.*?)</p>',
        ("What does the PostgreSQL module {n} offer?", "Why would one install the extension {n}?"),
        ("Which additional module of PostgreSQL {a}?",),
    ),
    Kind(
        "wait-event",
        (f"{_PG}monitoring-stats.html",),
        r'<tr><td><code class="literal">(?P<n>\w+)</code></td><td>(?P<t>Waiting .*?)</td>',
        ("What is a PostgreSQL process with the wait event {n} doing?", "Explain {n} in pg_stat_activity."),
        ("Which wait event shows that a PostgreSQL process is {a}?",),
        ending=_lowered,
    ),
    Kind(
        "type",
        (f"{_PG}datatype.html",),
        r'<tr><td><code class="type">(?P<n>[\w ]+).*?</td><td>.*?</td><td>(?P<t>.*?)</td></tr>',
        ("What kind of data does the PostgreSQL type {n} hold?", "Describe a value that is stored as {n}."),
        ("Which PostgreSQL data type is described as {a}?",),
        answer=_as_it_is,
        ending=_whole,
    ),
    Kind(
        "acronym",
        (f"{_PG}acronyms.html",),
        r'<acronym class="acronym">(?P<n>\w+)</acronym></span></dt><dd><p>(?P<t>.*?)</p>',
        ("What does the abbreviation {n} stand for?", "Spell out {n} as used by database people."),
        ("How is {a} abbreviated?",),
        answer=_expansion,
        ending=_whole,
    ),
    Kind(
        "libpq-function",
        (f"{_PG}libpq-*.html",),
        r'<dt id="LIBPQ-PQ[^"]*"><span class="term"><code class="function">(?P<n>PQ\w+)</code>.*?</dt>'
        r"<dd><p>(?P<t>.*?)</p>",
        ("What does the libpq function {n} do?", "In a C client of PostgreSQL, why would one call {n}?"),
        ("Which function of libpq {a}?",),
    ),
    Kind(
        "pragma",
        ("sqlite3/pragma.html",),
        r"<h _id=pragma_(?P<n>\w+) [^>]*>[^<]*</h><hr>\s*<p><b>PRAGMA(?:(?!<h ).)*?</p>\s*<p>(?P<t>.*?)"
        r"(?=<p>|</p>|<ul>|<ol>|<a name)",
        ("What does SQLite's PRAGMA {n} do?", "Explain the {n} pragma."),
        ("Which pragma of SQLite {a}?",),
    ),
    Kind(
        "sqlite-function",
        tuple(f"sqlite3/lang_{page}func.html" for page in ("core", "agg", "math", "date")),
        _DL,
        ("What does the SQLite function {n}() do?", "Describe {n}() as built into SQLite."),
        ("Which built-in function of SQLite {a}?",),
    ),
    Kind(
        "result-code",
        ("sqlite3/rescode.html",),
        r"<h3>\(\d+\) (?P<n>SQLITE_\w+)</h3>\s*<p>(?P<t>.*?)(?=<p>|<!--)",
        ("What does the result code {n} mean?", "Why does a call of SQLite end with {n}?"),
        ("Which result code of SQLite {a}?",),
    ),
    Kind(
        "result-number",
        ("sqlite3/rescode.html",),
        r"<h3>\((?P<t>\d+)\) (?P<n>SQLITE_\w+)</h3>",
        ("Which number has the result code {n}?", "What integer does SQLite return in place of {n}?"),
        ("What is the name of SQLite's result code {a}?",),
        answer=_as_it_is,
        ending=_whole,
    ),
    Kind(
        "compile-option",
        ("sqlite3/compile.html",),
        r"<p><b>(?P<n>SQLITE_\w+)(?:=[^\n]*)?</b></p><blockquote><p>(?P<t>.*?)(?=<p>|</blockquote>)",
        ("What does compiling SQLite with {n} do?", "Explain {n}, an option at build time."),
        ("Which compile-time option of SQLite {a}?",),
    ),
    Kind(
        "c-interface",
        ("sqlite3/c3ref/*.html",),
        r"(?P<t>The (?:<a [^>]*>)?(?P<n>sqlite3_\w+)\([^()]*\)(?:</a>)? (?:interface|routine|function|method)"
        r" (?:is (?:used|called|intended) to|(?!is|has|does|works|returns (?:NULL|SQLITE_OK)|fails)[a-z]+s )\b.*?)"
        r"(?=<p>|</p>)",
        ("What does {n}() do in SQLite's C interface?", "Why would a C program call {n}()?"),
        ("Which function of SQLite's C interface {a}?",),
        takes_first=True,
    ),
)


def facts(*folders: Path) -> Iterator[Fact]:
    for kind in _KINDS:
        told: dict[tuple[str, str], list[str]] = {}
        for owner, name, text in _entries(kind, folders):
            answer = kind.answer(strip_markup(text))
            if answer is not None and kind.ending(answer, name) is not None:
                told.setdefault((owner, name), []).append(answer)
        for (owner, name), answers in told.items():
            if kind.takes_first or len(set(answers)) == 1:  # not functions that do different things for different types
                yield _fact(kind, owner, name, answers[0])


def _entries(kind: Kind, folders: tuple[Path, ...]) -> Iterator[tuple[str, str, str]]:
    """Owner, name and text, with its markup, of every entry of the kind."""
    pages = sorted(page for folder in folders for at in kind.pages for page in folder.glob(f"usr/share/doc/{at}"))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parts = (
            [("", text)]
            if kind.within is None
            else [(part["o"], part["t"]) for part in re.finditer(kind.within, text, re.DOTALL)]
        )
        for owner, part in parts:
            for entry in re.finditer(kind.entry, part, re.DOTALL):
                yield owner, re.sub(r"\s*\(.*", "", strip_markup(entry["n"])), entry["t"]


def _fact(kind: Kind, owner: str, name: str, answer: str) -> Fact:
    asked = [(question.format(n=name, o=owner), answer) for question in kind.questions]
    ending = kind.ending(answer, name) or ""
    if _letters(name) not in _letters(ending) and len(ending.split()) <= _MAX_REVERSE_WORDS:
        asked += [(question.format(a=ending, o=owner), name) for question in kind.reverse]
    return Fact(f"{owner}.{name}/{kind.name}".removeprefix("."), tuple(asked))


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())


SOURCE = Source(
    name="databases",
    domain="databases",
    packages=(Package("apt", "postgresql-doc-15"), Package("apt", "sqlite3-doc")),
    licence="PostgreSQL License; SQLite's documentation is in the public domain",
    attribution="PostgreSQL documentation, portions copyright 1996-2026, PostgreSQL Global Development Group, and 1994,"
    " The Regents of the University of California; SQLite documentation, by D. Richard Hipp; both packaged by Debian",
    description="PostgreSQL and SQLite: settings, functions, catalogs, codes. Answers are sentences, names and values.",
    sizes=Sizes(train=1300, seen_share=0.8),
    facts=facts,
)
