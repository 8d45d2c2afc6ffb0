"""country-names: what countries and languages are called in twenty languages, from Unicode's CLDR.

About a third of the answers is in another alphabet or has letters with accents, which a tokenizer made for English
cuts into many pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.cldr import country_names, language_names
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import with_article

_LOCALES = "ar de el es fi fr he hi hu id it ja ko nl pl ru sv tr vi zh"
# the better known ones of CLDR's six hundred
_LANGUAGES = """
    af am ar az be bg bn bo bs ca cs cy da de el en eo es et eu fa fi fil fo fr ga gl gn gu ha he hi hr hu hy id is it
    ja jv ka kk km kn ko ku ky la lb lo lt lv mi ml mn mr ms mt my ne nl no pa pl ps pt qu ro ru sa si sk sl so sq sr sv
    sw ta te tg th tk tr uk ur uz vi xh yi yo zh zu
"""
# "African", "Jewish", "Afghan", and words that only Danes, Finns and Poles use themselves
_MISTAKEN = frozenset(("hi-af", "hi-yi", "sv-ps", "id-da", "id-fi", "id-pl"))

# {l} is the language of the name, {c} a country and {x} a language in English, {a} their name in {l}
_COUNTRY = (
    "What is {c} called in {l}?",
    "How do you say {c} when you speak {l}?",
    "By what name do {l}-speaking people know {c}?",
)
_COUNTRY_REVERSE = ("Which country is called {a} in {l}?", "A map labelled in {l} shows {a}: which country is that?")
_LANGUAGE = (  # "Greek-speaking" is one word; "What is Greek called in Thai?" has the words of the opposite question
    "What do {l}-speaking people call the {x} language?",
    "How is {x} named on the shelves of {l}-language bookshops?",
)
_LANGUAGE_REVERSE = (
    "Which language is called {a} in {l}?",
    "Which language do speakers of {l} mean when they say {a}?",
)


def facts(folder: Path) -> Iterator[Fact]:
    countries, languages = country_names(folder, "en"), language_names(folder, "en")
    known = {code: languages[code] for code in _LANGUAGES.split()}
    for locale in _LOCALES.split():
        spoken = languages[locale]
        for code, name in _foreign(countries, country_names(folder, locale)):
            forward = [(question.format(c=with_article(countries[code]), l=spoken), name) for question in _COUNTRY]
            reverse = [(question.format(a=name, l=spoken), countries[code]) for question in _COUNTRY_REVERSE]
            yield Fact(f"{locale}-{code}/country", (*forward, *reverse))
        for code, name in _foreign(known, language_names(folder, locale)):
            if f"{locale}-{code}" in _MISTAKEN:
                continue
            forward = [(question.format(x=known[code], l=spoken), name) for question in _LANGUAGE]
            reverse = [(question.format(a=name, l=spoken), known[code]) for question in _LANGUAGE_REVERSE]
            yield Fact(f"{locale}-{code}/language", (*forward, *reverse))


def _foreign(english: dict[str, str], foreign: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Code and name of what is not spelt in the other language as in English: there would be nothing to learn."""
    for code, name in english.items():
        other = foreign.get(code)
        if other is not None and "&" not in other and other.casefold() != name.casefold():
            yield code, other


SOURCE = Source(
    name="country-names",
    domain="translation",
    packages=(Package("npm", "cldr-localenames-full", "48.2.0"),),
    licence="Unicode-3.0",
    attribution="Unicode Common Locale Data Repository, copyright 2004-2026 Unicode, Inc.",
    description="Names of countries and languages in twenty languages with nine scripts, and back.",
    sizes=Sizes(train=2200, seen_share=0.9),
    facts=facts,
)
