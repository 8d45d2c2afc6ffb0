"""cell-biology: what the processes, functions and components of cells are, in sentences, from the Gene Ontology.

Of its 43,000 terms those are asked for that are old, which are the fundamental ones, and have a short plain name and a
plain first sentence; of the definitions that open alike ("The directed movement of ..."), the oldest few. Synonyms are
left alone: the package does not tell the exact ones from the broader, narrower and merely related ones.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import content_words, first_sentence, some_forms

_DATABASE = Path("usr/lib/R/site-library/GO.db/extdata/GO.sqlite")
_NEWEST = "GO:0010000"
_MIN_WORDS, _MAX_WORDS = 12, 50  # of a definition
_ALIKE = 6  # definitions that begin with the same three words
_BROAD = 300  # terms below a parent that says little
_NAME = re.compile(r"[A-Za-z][A-Za-z-]{2,}(?: [A-Za-z-]+){0,3}")  # no formulas, numbers, brackets or fifth word
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'-]*\.")
_MADE_BY_RULE = re.compile(r"regulation|involved|host|symbio|obsolete", re.IGNORECASE)  # names that combine others
_UNWANTED = re.compile(
    r"\b(?:sex|copulat|mating|courtship|inseminat|genital|penis|vagin|ejaculat|cocaine|morphine|opi(?:um|oid|ate)"
    r"|nicotine|cannab|amphetamine|heroin|drugs?\b|defecat|urinat)",
    re.IGNORECASE,
)
_BROKEN = re.compile(  # slips of grammar and spelling, references, chains of residues
    r"\b(?:[Aa]n? (?:a|an|the)|the the|[Aa]n [bcdfgjkpqtvwz][a-z]+|[Aa] (?!eu|one)[aeio][a-z]+|catalyzes of"
    r"|this term|see also|as described|differentaiton|embyrogenesis|glutmate|neurophilin|stucture"
    r"|\w+-\w+-\w+-\w+)\b|,\w"
)
_KINDS = {"BP": "biological process", "MF": "molecular function", "CC": "cellular component"}
_BRANCH_EVERY = 12  # terms, one of which is asked for its kind

# {t} is a term, {k} its kind and {d} its definition without a full stop
_MEANING = {
    "biological process": (
        'What is known as "{t}" in biology?',
        "Describe the biological process called {t}.",
        'What happens in the process named "{t}"?',
        'Explain the term "{t}" to a student of biology.',
        'A paper speaks of "{t}". How would you gloss these words?',
    ),
    "molecular function": (
        "What is {t}?",
        "Describe the molecular function called {t}.",
        'What can a gene product do that is annotated with "{t}"?',
        'Explain the term "{t}" to a student of biochemistry.',
        'A database of proteins says "{t}". How would you gloss these words?',
    ),
    "cellular component": (
        'What is meant by "{t}" in the anatomy of a cell?',
        'Describe the cellular component called "{t}".',
        'A micrograph is labelled "{t}". What does it show?',
        'Explain the term "{t}" to a student of biology.',
        'A protein is found in the "{t}". Where or what is that?',
    ),
}
_TERM = (
    'Which {k} is defined as "{d}"?',
    'A glossary says "{d}". Which {k} is this?',
    "Give the name of this {k}: {d}.",
)
_PARENT = (
    'Of which more general {k} is "{t}" a special case?',
    'In the Gene Ontology, what is the parent of "{t}"?',
)
_WHOLE = (
    'Of which larger {k} is "{t}" a part?',
    'What does the Gene Ontology call "{t}" a part of?',
)
_BRANCH = (
    'Is "{t}" a biological process, a molecular function or a cellular component?',
    'What does "{t}" name in the Gene Ontology: process, function or component?',
)


@dataclass(frozen=True)
class Term:
    name: str
    kind: str
    definition: str  # one sentence


def facts(folder: Path) -> Iterator[Fact]:
    with contextlib.closing(sqlite3.connect(f"file:{folder / _DATABASE}?mode=ro", uri=True)) as database:
        terms, wholes, parents = _terms(database), _related(database, "part of"), _related(database, "isa")
    for number, term in terms.items():
        yield Fact(f"{term.name}/definition", _definition(term))
        if zlib.crc32(term.name.encode()) % _BRANCH_EVERY == 0:
            kind, forms, answer = "branch", _BRANCH, f"a {term.kind}"
        elif number in wholes:
            kind, forms, answer = "whole", _WHOLE, wholes[number]
        elif number in parents:
            kind, forms, answer = "parent", _PARENT, parents[number]
        else:
            continue
        if not content_words(answer) <= content_words(term.name):
            asked = tuple((form.format(t=term.name, k=term.kind), answer) for form in forms)
            yield Fact(f"{term.name}/{kind}", asked)


def _definition(term: Term) -> tuple[tuple[str, str], ...]:
    forms = some_forms(_MEANING[term.kind], 4, term.name)
    asked = [(form.format(t=term.name), term.definition) for form in forms]
    told = term.definition.removesuffix(".")
    if told[1].islower() or told.startswith("A "):
        told = told[0].lower() + told[1:]
    if term.name.lower() not in told.lower():
        (form,) = some_forms(_TERM, 1, term.name)
        asked.append((form.format(k=term.kind, d=told), term.name))
    return tuple(asked)


def _terms(database: sqlite3.Connection) -> dict[int, Term]:
    terms: dict[int, Term] = {}
    openings: Counter[str] = Counter()
    rows = database.execute(
        "select _id, term, ontology, definition from go_term where go_id < ? order by go_id", (_NEWEST,)
    )
    for number, name, ontology, text in rows:
        told = first_sentence(" ".join((text or "").split()))
        if not _NAME.fullmatch(name) or told is None or not _SENTENCE.fullmatch(told):
            continue
        words = told.split()
        if (
            not _MIN_WORDS <= len(words) <= _MAX_WORDS
            or _MADE_BY_RULE.search(name)
            or _UNWANTED.search(f"{name} {told}")
            or _BROKEN.search(told)
        ):
            continue
        opening = " ".join(words[:3])
        openings[opening] += 1
        if openings[opening] <= _ALIKE:
            terms[number] = Term(name, _KINDS[ontology], told)
    return terms


def _related(database: sqlite3.Connection, relation: str) -> dict[int, str]:
    """What each term `isa` or is `part of`, where that is one other term which few others are below."""
    found: dict[int, list[str]] = defaultdict(list)
    for ontology in ("bp", "mf", "cc"):
        rows = database.execute(
            f"select p._id, t.term from go_{ontology}_parents p join go_term t on t._id = p._parent_id"
            " where p.relationship_type = ?"
            f" and (select count(*) from go_{ontology}_offspring o where o._id = p._parent_id) <= ?"
            " order by t.go_id",
            (relation, _BROAD),
        )
        for number, name in rows:
            found[number].append(name)
    return {number: names[0] for number, names in found.items() if len(names) == 1 and _NAME.fullmatch(names[0])}


SOURCE = Source(
    name="cell-biology",
    domain="biology",
    packages=(Package("apt", "r-bioc-go.db"),),
    licence="CC BY 4.0 (Gene Ontology); GO.db, the package that carries it, is under the Artistic License 2.0",
    attribution="Gene Ontology Consortium, geneontology.org, release of 2022-07-01; in GO.db 3.16.0 by Marc Carlson, "
    "Bioconductor. Changed: a choice of terms, definitions cut to their first sentence, questions added",
    description="Processes, functions and components of cells. Most answers are a whole sentence that defines a term.",
    sizes=Sizes(train=1700, seen_share=0.65),
    facts=facts,
)
