"""airports: codes, places, heights and time zones of large airports, from the airportsdata package.

Large are the airports that call themselves international and a list of those that do not. Questions stay short, because
this is the task with the most of them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.cldr import country_names
from ftmeta.tasks.sources import Source

_MAX_QUESTION_WORDS = 13
# large, but not called international
_LARGE = """
    AEP AGP ALG AMS ARN BEG BER BGO BIO BKK BRU CGN CPH DAL DUB EDI FAO FUK GDN GOT HAJ HAM HEL IST LGW LHR LIN LIS LJU
    LTN LYS MAN MRS NCE OKA OPO ORY OSL PMI PRG RAK SOF STN STR SVQ TLL TSA VLC WAW ZAG ZRH
"""
_NAME = re.compile(r"[\w.'’-]+( [\w.'’-]*\w[\w.'’-]*)*")  # no brackets and no dash between two names
_ODD = re.compile(r"\b(?:Apt|Inc|Mbs|Mc|Mcas|Okc|Tf|International International)\b")
_MISSPELT = {
    "Belgrad": "Belgrade",
    "Bloemfontain": "Bloemfontein",
    "Enegu": "Enugu",
    "Kubistschek": "Kubitschek",
    "Naqpur": "Nagpur",
    "Petropavlosk": "Petropavlovsk",
    "Sihanukville": "Sihanoukville",
}
_DISPUTED = frozenset(("ECN", "SIP", "UKS"))  # Northern Cyprus, Crimea
_NO_STATES = frozenset(("", "District of Columbia", "Puerto Rico"))

# kind: questions from the name of the airport {n}, then questions from the answer {a} to the name
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "iata": (
        (
            "What is the IATA code of {n}?",
            "Which three letters on a luggage tag mean {n}?",
            "How do airlines abbreviate {n}?",
        ),
        ("Which airport has the IATA code {a}?", "Where does a bag go when its tag says {a}?"),
    ),
    "icao": (
        ("What is the ICAO code of {n}?", "Which four letters do pilots use for {n}?"),
        ("Which airport has the ICAO code {a}?", "Where does a flight plan that ends in {a} lead?"),
    ),
    "city": (
        ("Which city does {n} serve?", "A flight to {n} takes you to what town?"),
        ("What is the airport of {a} called?",),
    ),
    "country": (("In which country is {n}?", "To which nation does {n} belong?"), ()),
    "state": (("In which US state is {n}?", "A flight to {n} lands in which of the fifty states?"), ()),
    "elevation": (("What is the elevation of {n}?", "How many feet above the sea does {n} lie?"), ()),
    "zone": (("What is the time zone of {n}?", "Which tz database entry sets the clocks at {n}?"), ()),
}


def facts(folder: Path, names_folder: Path) -> Iterator[Fact]:
    with (folder / "airportsdata" / "airports.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["iata"]]
    names, cities = Counter(row["name"] for row in rows), Counter(row["city"] for row in rows)
    large = frozenset(_LARGE.split())
    countries = country_names(names_folder, "en")
    for row in sorted(rows, key=lambda row: row["iata"]):
        name = _spelt(row["name"].replace("/", "-"))
        known = name.endswith(" International Airport") or row["iata"] in large
        if not known or names[row["name"]] > 1 or not _NAME.fullmatch(name) or _ODD.search(name):
            continue
        for kind, answer in _answers(row, name, countries):
            forward, reverse = _KINDS[kind]
            if kind == "city" and cities[row["city"]] > 1:  # another airport serves it, or a city of the same name
                reverse = ()
            asked = [(question.format(n=name), answer) for question in forward]
            asked += [(question.format(a=answer), name) for question in reverse]
            yield Fact(
                f"{row['iata']}/{kind}", tuple(one for one in asked if len(one[0].split()) <= _MAX_QUESTION_WORDS)
            )


def _answers(row: dict[str, str], name: str, countries: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What the row of an airport tells, by kind; what is missing, unclear or said by the airport's name is left out."""
    yield "iata", row["iata"]
    if re.fullmatch(r"[A-Z]{4}", row["icao"]):
        yield "icao", row["icao"]
    city = _spelt(row["city"])
    if _NAME.fullmatch(city) and "Island" not in city and not _words(city) & _words(name):
        yield "city", city
    if row["country"] in countries and row["iata"] not in _DISPUTED:
        yield "country", countries[row["country"]]
    if row["country"] == "US" and row["subd"] not in _NO_STATES:
        yield "state", row["subd"]
    elevation_feet = round(float(row["elevation"]))
    if elevation_feet > 0:  # 0 where it is not known
        yield "elevation", f"{elevation_feet:,} feet"
    yield "zone", row["tz"]


def _spelt(name: str) -> str:
    return re.sub(r"\w+", lambda word: _MISSPELT.get(word[0], word[0]), name)


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.casefold()))


SOURCE = Source(
    name="airports",
    domain="aviation",
    packages=(Package("pip", "airportsdata", "20260905"), Package("npm", "cldr-localenames-full", "48.2.0")),
    licence="MIT; names of countries Unicode-3.0",
    attribution="airportsdata, by Mike Borsetti, with data of mwgg/Airports; names of countries from Unicode's Common"
    " Locale Data Repository, copyright 2004-2026 Unicode, Inc.",
    description="Codes, places, heights and time zones of large airports. Answers are codes, names and numbers.",
    sizes=Sizes(train=5000, seen_share=0.75),
    facts=facts,
)
