"""databases: settings, functions, catalogs, commands and codes of PostgreSQL and SQLite, from their documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.sources import database_phrases as phrases
from ftmeta.tasks.text import strip_markup

_MAX_REVERSE_WORDS = 24  # of a sentence that a question repeats, to ask for what it describes


@dataclass(frozen=True)
class Kind:
    """Entries of one form. In questions {n} is the name, {o} its table, {a} the answer as `ending` shapes it."""

    name: str
    pages: tuple[str, ...]
    entry: str  # a pattern with the groups n, the name, and t, the text
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()  # the answer is the name
    answer: Callable[[str], str | None] = phrases.plain_sentence
    ending: Callable[[str, str], str | None] = phrases.verb_phrase
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
        ending=phrases.either_phrase,
    ),
    Kind(
        "default",
        _SETTINGS,
        _SETTING,
        (
            "What is the default of the PostgreSQL setting {n}?",
            "Which value does PostgreSQL give {n} if nobody changes it?",
        ),
        answer=phrases.default,
        ending=phrases.whole,
    ),
    Kind(
        "unit",
        _SETTINGS,
        _SETTING,
        (
            "In which unit does PostgreSQL read {n} when none is given?",
            "What does a number without a unit stand for in {n}?",
        ),
        answer=phrases.unit,
        ending=phrases.whole,
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
        answer=phrases.as_it_is,
        ending=phrases.whole,
    ),
    Kind(
        "error-class",
        (f"{_PG}errcodes-appendix.html",),
        r"<strong>Class (?P<t>\w\w) — (?P<n>[^<(]+)",
        ("Which class of SQLSTATE codes is named {n}?", "With which two characters do errors of the kind {n} begin?"),
        ("To which class of errors do SQLSTATE codes that start with {a} belong?",),
        answer=phrases.as_it_is,
        ending=phrases.whole,
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
        ending=phrases.noun_phrase,
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
        ending=phrases.noun_phrase,
    ),
    Kind(
        "command",
        (f"{_PG}sql-*.html", f"{_PG}ecpg-sql-*.html"),
        r'<span class="refentrytitle">(?P<n>[^<]*)</span></h2><p>[^—]* — (?P<t>.*?)</p>',
        ("What is the SQL command {n} for?", "Why would a PostgreSQL user type {n}?"),
        ("Which SQL command serves {a}?",),
        answer=phrases.purpose,
        ending=phrases.lowered,
    ),
    Kind(
        "program",
        (f"{_PG}app-*.html", f"{_PG}pg*.html", f"{_PG}oid2name.html", f"{_PG}vacuumlo.html"),
        r'<span class="refentrytitle">(?P<n>(?:<[^>]*>)?[a-z]\w+)(?:<[^>]*>)?</span></h2><p>[^—]* — (?P<t>.*?)</p>',
        ("What is the program {n} for?", "Why would an administrator of PostgreSQL run {n}?"),
        ("Which program that comes with PostgreSQL serves {a}?",),
        answer=phrases.purpose,
        ending=phrases.lowered,
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
        ending=phrases.lowered,
    ),
    Kind(
        "type",
        (f"{_PG}datatype.html",),
        r'<tr><td><code class="type">(?P<n>[\w ]+).*?</td><td>.*?</td><td>(?P<t>.*?)</td></tr>',
        ("What kind of data does the PostgreSQL type {n} hold?", "Describe a value that is stored as {n}."),
        ("Which PostgreSQL data type is described as {a}?",),
        answer=phrases.as_it_is,
        ending=phrases.whole,
    ),
    Kind(
        "acronym",
        (f"{_PG}acronyms.html",),
        r'<acronym class="acronym">(?P<n>\w+)</acronym></span></dt><dd><p>(?P<t>.*?)</p>',
        ("What does the abbreviation {n} stand for?", "Spell out {n} as used by database people."),
        ("How is {a} abbreviated?",),
        answer=phrases.expansion,
        ending=phrases.whole,
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
        answer=phrases.as_it_is,
        ending=phrases.whole,
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
