"""elements: numbers, names and uses of the chemical elements and their isotopes, from the mendeleev package."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import first_sentence, strip_markup

_MAX_WORDS = 25
_LATTICES = {
    "FCC": "face-centred cubic",
    "BCC": "body-centred cubic",
    "SC": "simple cubic",
    "HEX": "hexagonal",
    "DIA": "diamond cubic",
    "TET": "tetragonal",
    "ORC": "orthorhombic",
    "RHL": "rhombohedral",
    "CUB": "cubic",
    "MCL": "monoclinic",
}
_HALF_LIFE_UNITS = {  # from hours to the age of the Earth; shorter ones are many and all alike
    "hour": "hours",
    "day": "days",
    "year": "years",
    "kyear": "thousand years",
    "Myear": "million years",
    "Gyear": "billion years",
}
_ORIGIN = re.compile(r"found|obtain|produc|made|occur|extract|prepar|come", re.IGNORECASE)
_MISSPELT = {"litophile": "lithophile", "bombardng": "bombarding", "Britian": "Britain", "electodes": "electrodes"}

# column or expression, how the answer reads, questions from the element, questions from the answer to the element
_NUMBERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "atomic_number",
        "{:d}",
        ("What is the atomic number of {e}?", "How many protons are in the nucleus of {e}?"),
        ("Which element has {a} protons?",),
    ),
    (
        "atomic_weight",
        "{:.6g}",
        ("What is the atomic weight of {e}?", "How heavy is an average atom of {e}, in daltons?"),
        (),
    ),
    (
        "period",
        "Period {:d}",
        ("In which period of the periodic table is {e}?", "Which row of Mendeleev's chart holds {e}?"),
        (),
    ),
    (
        "group_id",
        "Group {:d}",
        ("To which group of the periodic table does {e} belong?", "Which column of Mendeleev's chart holds {e}?"),
        (),
    ),
    (
        "density",
        "{:.4g} grams per cubic centimetre",
        ("What is the density of {e}?", "How much does one cubic centimetre of {e} weigh?"),
        (),
    ),
    (
        "melting_point",
        "{:.5g} kelvin",
        ("What is the melting point of {e}?", "At what temperature does solid {e} turn liquid?"),
        (),
    ),
    (
        "boiling_point",
        "{:.5g} kelvin",
        ("What is the boiling point of {e}?", "At what temperature does liquid {e} become a gas?"),
        (),
    ),
    (
        "en_pauling",
        "{:.3g}",
        (
            "What is the electronegativity of {e} on Pauling's scale?",
            "How strongly does {e} attract electrons, by Pauling?",
        ),
        (),
    ),
    (
        "thermal_conductivity",
        "{:.4g} watts per metre and kelvin",
        ("What is the thermal conductivity of {e}?", "How well does {e} carry heat?"),
        (),
    ),
    (
        "covalent_radius_pyykko",
        "{:.4g} picometres",
        ("What is the covalent radius of {e}?", "How large is an atom of {e} in a single bond?"),
        (),
    ),
    (
        "abundance_crust",
        "{:.4g} milligrams per kilogram",
        ("How abundant is {e} in the Earth's crust?", "How much {e} does a kilogram of rock hold on average?"),
        (),
    ),
    (
        "discovery_year",
        "{:d}",
        ("In which year was {e} discovered?", "When did people first find or make {e}?"),
        (),
    ),
)
_WORDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "symbol",
        ("What is the chemical symbol of {e}?", "How do chemists abbreviate {e}?"),
        ("Which element is written {a}?",),
    ),
    ("block", ("To which block of the periodic table does {e} belong?", "Which orbitals of {e} are filled last?"), ()),
    ("series", ("To which family of elements does {e} belong?", "As what kind of element is {e} classified?"), ()),
    (
        "electronic_configuration",
        ("What is the electron configuration of {e}?", "How are the electrons of {e} spread over its shells?"),
        (),
    ),
    (
        "lattice",
        ("What is the crystal structure of {e}?", "In which lattice do atoms of solid {e} arrange themselves?"),
        (),
    ),
    ("goldschmidt_class", ("What is the Goldschmidt class of {e}?", "How do geochemists classify {e}?"), ()),
    ("cas", ("What is the CAS number of {e}?", "Under which registry number do chemists file {e}?"), ()),
    ("discoverers", ("Who discovered {e}?", "To whom do we owe the discovery of element {n}, {e}?"), ()),
    (
        "discovery_location",
        ("In which country was {e} discovered?", "Where did the first scientists who isolated {e} work?"),
        (),
    ),
    ("name_origin", ("Where does the name of {e} come from?", "What is the word {e} derived from?"), ()),
    ("sources", ("How is {e} obtained?", "What are the sources of {e}?"), ()),
    ("uses", ("What is {e} used for?", "Which applications does {e} find in industry and daily life?"), ()),
    ("description", ("Describe the element {e}.", "What sort of substance is {e}?"), ()),
    (
        "top_3_producers",
        ("Which countries produce the most {e}?", "Who are the top three miners or makers of {e}?"),
        (),
    ),
)


def facts(folder: Path) -> Iterator[Fact]:
    path = folder / "mendeleev" / "elements.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield from _element_facts(database)
        yield from _isotope_facts(database)


def _element_facts(database: sqlite3.Connection) -> Iterator[Fact]:
    rows = database.execute(
        "select e.*, s.name as series, p.melting_point, p.boiling_point from elements e"
        " left join series s on s.id = e.series_id"
        " left join (select atomic_number, min(id) as first from phasetransitions group by atomic_number) f"
        "   on f.atomic_number = e.atomic_number"
        " left join phasetransitions p on p.id = f.first order by e.atomic_number"
    ).fetchall()
    for row in rows:
        element, number = row["name"].lower(), str(row["atomic_number"])
        for column, form, questions, reverse in _NUMBERS:
            answer = None if row[column] is None else form.format(row[column])
            if answer is not None and "e-" not in answer:  # traces below a ten-thousandth
                yield _fact(element, number, column, answer, questions, reverse)
        for column, questions, reverse in _WORDS:
            text = _word(row, column)
            if text is not None:
                yield _fact(element, number, column, text, questions, reverse)


def _fact(
    element: str, number: str, column: str, answer: str, questions: tuple[str, ...], reverse: tuple[str, ...]
) -> Fact:
    asked = [(question.format(e=element, n=number), answer) for question in questions]
    asked += [(question.format(a=answer), element.capitalize()) for question in reverse]
    return Fact(f"{element}/{column}", tuple(asked))


def _word(row: sqlite3.Row, column: str) -> str | None:
    """The text of a column as an answer; None where there is none that is short and whole."""
    if column == "lattice":
        return _LATTICES.get(row["lattice_structure"])
    text = row[column]
    if text is None or not (text := strip_markup(text)):
        return None
    for wrong, right in _MISSPELT.items():
        text = text.replace(wrong, right)
    if column == "block":
        return f"the {text} block"
    if column == "discoverers":
        text = re.sub(r"\.(?=[A-Z])", ". ", text).rstrip(".")
    elif column == "discovery_location":
        text = text.replace("/", " and ")
    elif column == "name_origin":
        text = re.sub(r"^([A-Z][a-z-]+): ", r"From \1 ", text)
        if ": " in text:  # a second language
            return None
    elif column == "top_3_producers":
        text = ", ".join(part.strip() for part in re.split(r"\d\)", text) if part.strip())
    elif column in {"sources", "uses", "description"}:
        sentence = first_sentence(text)
        if sentence is None or len(sentence.split()) < 3:
            return None
        if column == "sources" and not _ORIGIN.search(sentence):
            return None
        text = sentence
    return text if len(text.split()) <= _MAX_WORDS else None


def _isotope_facts(database: sqlite3.Connection) -> Iterator[Fact]:
    rows = database.execute(
        "select i.*, lower(e.name) as element from isotopes i join elements e on e.atomic_number = i.atomic_number"
        " order by i.atomic_number, i.mass_number"
    ).fetchall()
    for row in rows:
        isotope = f"{row['element']}-{row['mass_number']}"
        if row["abundance"] is not None:
            answer = f"{row['abundance']:.4g} percent"
            yield Fact(
                f"{isotope}/abundance",
                (
                    (f"What is the natural abundance of {isotope}?", answer),
                    (f"What share of all {row['element']} atoms on Earth are {isotope}?", answer),
                ),
            )
        unit = _HALF_LIFE_UNITS.get(row["half_life_unit"])
        if unit is not None and row["half_life"] is not None:
            answer = f"{row['half_life']:.4g} {unit}"
            yield Fact(
                f"{isotope}/half-life",
                (
                    (f"What is the half-life of {isotope}?", answer),
                    (f"After what time has half of a sample of {isotope} decayed?", answer),
                ),
            )


SOURCE = Source(
    name="elements",
    domain="chemistry",
    packages=(Package("pip", "mendeleev", "1.3.0"),),
    licence="MIT",
    attribution="mendeleev, a Python package for properties of chemical elements, by Lukasz Mentel and contributors",
    description="Properties of chemical elements and isotopes. Most answers are one number with its unit or one name.",
    sizes=Sizes(train=400, seen_share=0.6),
    facts=facts,
)
