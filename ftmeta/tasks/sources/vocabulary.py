"""vocabulary: what common English words mean, their synonyms, opposites, wholes and wider classes, from WordNet.

A word is common if annotators of running text met its first sense (cntlist.rev), as often as all others together, and
the glosses themselves use it. Only that sense is asked for, in the part of speech that was met most often.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import some_forms

_MET = 8  # times, by annotators
_USED = 10  # glosses that hold the word
_MIN_WORDS, _MAX_WORDS = 3, 20  # of a definition
_FILES = {"noun": "noun", "verb": "verb", "adjective": "adj", "adverb": "adv"}
_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_KEY_PARTS = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
_WORD = re.compile(r"[a-z]{3,}(?:-[a-z]+)?")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z ,'-]*[a-z]")
_UNFINISHED = re.compile(
    r"(?:especially|primarily|used) "
    r"|.* (?:about|as|at|be|being|by|for|from|in|into|of|on|through|to|towards?|upon|with)$"
)
_UNCLASSED = frozenset(("03", "07", "09", "10", "16", "23", "24", "26"))  # properties, ideas, relations, states
_VAGUE = re.compile(
    r"act|action|activity|artifact|baseball .*|body|event|instrumentality|material|matter|natural object|object|part"
    r"|person|possession|religious|thing|substance|unit|way|whole"
)
_OFFENSIVE_USAGE = frozenset(("disparagement", "ethnic slur", "obscenity"))
_OFFENSIVE = re.compile(
    r"\b(?:sex(?!t)|genit|penis|vagina|erotic|copulat|prostitut|brothel|whore|orgasm|rape\b|incest|breast|buttock|drug"
    r"|narcotic|opi(?:um|ate)|cocaine|heroin|marijuana|addict|hallucin|intoxica|drunk|offensive|derogat|disparag|slur"
    r"|ethnic|racial|negro|homosexual|lesbian|gay\b|slave|(?:fe)?male\b|underpants|excre|feces|urin|suicid|tortur|obscen|vulgar|nude|naked"
    r"|toilet|idiot|imbecile|moron|cripple|bastard|bitch|savage|heathen|retard|mistress)",
    re.IGNORECASE,
)

# {w} is the word and {p} its part of speech; in clues, {g} is the definition, {i} the word's initial, {n} its length
_DEFINITION = (
    'What does the {p} "{w}" mean?',
    'Define the {p} "{w}".',
    'How would a dictionary explain the {p} "{w}"?',
    'Put the sense of the {p} "{w}" in other words.',
    'Someone learning English asks about the {p} "{w}". What do you say?',
    'In plain speech, what is understood by the {p} "{w}"?',
)
_CLUE_BY_INITIAL = 'Which {p} beginning with "{i}" means "{g}"?'
_CLUE_BY_LENGTH = 'A crossword clue reads "{g}". Which {p} of {n} letters fits?'
_SYNONYM = (
    'What is a synonym of the {p} "{w}"?',
    'Which other {p} says the same as "{w}"?',
    'Replace "{w}" by another {p} of equal meaning.',
    'Give one {p} that can stand in place of "{w}".',
)
_ANTONYM = (
    'What is the opposite of the {p} "{w}"?',
    'Which {p} says the contrary of "{w}"?',
    'Name an antonym of the {p} "{w}".',
    'Turn "{w}" into its reverse with one other {p}.',
)
_CLASS = (
    'What is "{w}" a kind of?',
    'Name a wider class to which "{w}" belongs.',
    'Which more general word covers "{w}"?',
    'Under what broader heading would a thesaurus list "{w}"?',
)
_WHOLE = (
    'Of what larger thing does "{w}" name a part?',
    'To which whole does "{w}" belong as a piece?',
    'Where would one expect to find "{w}" as a component?',
)

Key = tuple[str, str]  # the part of speech, and where the synset stands in its file


@dataclass(frozen=True)
class Synset:
    """The words with one meaning. A pointer is a symbol (`!` opposite, `@` wider class, `#p` whole, `;u` usage),
    another synset, and which word points to which: two hexadecimal numbers that count from 1."""

    file: str  # of the lexicographers: 05 holds animals, 13 food
    words: tuple[str, ...]
    pointers: tuple[tuple[str, Key, str], ...]
    gloss: str


@dataclass(frozen=True)
class Lexicon:
    synsets: dict[Key, Synset]
    common: dict[str, Key]  # each common word's first sense
    sharing: dict[Key, list[str]]  # the common words of a first sense, best known first

    def targets(self, key: Key, symbol: str) -> Iterator[Synset]:
        return (self.synsets[other] for sign, other, _ in self.synsets[key].pointers if sign == symbol)


def facts(folder: Path) -> Iterator[Fact]:
    lexicon = _read(folder / "usr" / "share" / "wordnet")
    for word, key in sorted(lexicon.common.items()):
        if word.endswith("s") and word[:-1] in lexicon.common:  # eyes, an opinion, reads like more than one eye
            continue
        for kind, ask in (
            ("definition", _definition),
            ("synonym", _synonym),
            ("antonym", _antonym),
            ("class", _class),
            ("whole", _whole),
        ):
            asked = ask(lexicon, word, key)
            if asked:
                yield Fact(f"{word}/{kind}", tuple(asked))


def _definition(lexicon: Lexicon, word: str, key: Key) -> list[tuple[str, str]]:
    synset = lexicon.synsets[key]
    gloss = synset.gloss.partition('"')[0].partition(";")[0].strip()
    told = gloss.lower().split()
    if (
        word != lexicon.sharing[key][0]
        or not _PLAIN.fullmatch(gloss)
        or not _MIN_WORDS <= len(told) <= _MAX_WORDS
        or _UNFINISHED.match(gloss)
        or _alike(word, gloss.lower())
    ):
        return []
    others = [other for other in synset.words if other != word]
    clues = []  # those that no synonym fits
    if all(other[0].lower() != word[0] for other in others):
        clues.append(_CLUE_BY_INITIAL)
    if all(len(other) != len(word) for other in others) and "-" not in word:
        clues.append(_CLUE_BY_LENGTH)
    forms = [clue.replace("{g}", gloss).replace("{i}", word[0]).replace("{n}", str(len(word))) for clue in clues]
    reverse = _questions(forms, 1, word, key, word) if forms else []
    return _questions(_DEFINITION, 3, word, key, gloss) + reverse


def _synonym(lexicon: Lexicon, word: str, key: Key) -> list[tuple[str, str]]:
    """The two best known words of a synset: each is asked for the other."""
    best, *rest = lexicon.sharing[key]
    other = next((other for other in rest if not _alike(best, other)), None)
    return _both_ways(_SYNONYM, word, other, key) if word == best and other is not None else []


def _antonym(lexicon: Lexicon, word: str, key: Key) -> list[tuple[str, str]]:
    synset = lexicon.synsets[key]
    for symbol, other_key, link in synset.pointers:
        if symbol == "!" and synset.words[int(link[:2], 16) - 1] == word:
            other = lexicon.synsets[other_key].words[int(link[2:], 16) - 1]
            if word < other and lexicon.common.get(other) == other_key:
                return _both_ways(_ANTONYM, word, other, key)
    return []


def _class(lexicon: Lexicon, word: str, key: Key) -> list[tuple[str, str]]:
    if key[0] != "noun" or lexicon.synsets[key].file in _UNCLASSED:
        return []
    for wider in lexicon.targets(key, "@"):
        name = wider.words[0]
        known = all(part in lexicon.common for part in name.split())
        if known and not _VAGUE.fullmatch(name) and not _alike(word, name):
            return _questions(_CLASS, 3, word, key, name)
    return []


def _whole(lexicon: Lexicon, word: str, key: Key) -> list[tuple[str, str]]:
    wholes = [whole.words[0] for whole in lexicon.targets(key, "#p")]
    if len(wholes) != 1 or wholes[0] not in lexicon.common or _alike(word, wholes[0]):
        return []
    return _questions(_WHOLE, 3, word, key, wholes[0])


def _both_ways(forms: Sequence[str], word: str, other: str, key: Key) -> list[tuple[str, str]]:
    return _questions(forms, 2, word, key, other) + _questions(forms, 2, other, key, word)


def _questions(forms: Sequence[str], number: int, word: str, key: Key, answer: str) -> list[tuple[str, str]]:
    return [(form.format(w=word, p=key[0]), answer) for form in some_forms(forms, number, word)]


def _alike(word: str, text: str) -> bool:
    """Whether one word of `text` gives `word` away, as active and acting do for act."""
    return any(other.startswith(word[:4]) or (len(other) > 3 and word.startswith(other)) for other in text.split())


def _read(folder: Path) -> Lexicon:
    synsets = {key: synset for part in _FILES for key, synset in _synsets(folder, part)}
    used = Counter(word for synset in synsets.values() for word in set(re.findall(r"[a-z-]+", synset.gloss.lower())))
    common: dict[str, Key] = {}
    first, total = _times_met(folder)
    for part in _FILES:
        for word, offset in _first_senses(folder, part):
            if (
                first[word, part] >= max(_MET, total[word] / 2)
                and used[word] >= _USED
                and (word not in common or first[word, part] > first[word, common[word][0]])
                and _is_wanted(synsets, word, (part, offset))
            ):
                common[word] = part, offset
    sharing: dict[Key, list[str]] = defaultdict(list)
    for word, key in sorted(common.items(), key=lambda item: (-first[item[0], item[1][0]], item[0])):
        sharing[key].append(word)
    return Lexicon(synsets, common, sharing)


def _is_wanted(synsets: dict[Key, Synset], word: str, key: Key) -> bool:
    """Plain lower-case words; no names of single things, which are instances (`@i`) of a class."""
    synset = synsets[key]
    usage = {name for sign, other, _ in synset.pointers if sign == ";u" for name in synsets[other].words}
    return (
        _WORD.fullmatch(word) is not None
        and word in synset.words
        and all(sign != "@i" for sign, _, _ in synset.pointers)
        and not usage & _OFFENSIVE_USAGE
        and not _OFFENSIVE.search(" ".join((*synset.words, synset.gloss)))
    )


def _rows(path: Path) -> Iterator[str]:
    return (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  "))  # the licence


def _synsets(folder: Path, part: str) -> Iterator[tuple[Key, Synset]]:
    for line in _rows(folder / f"data.{_FILES[part]}"):
        fields, _, gloss = line.partition(" | ")
        offset, file, _, number, *columns = fields.split()
        end = 2 * int(number, 16)
        words = tuple(word.partition("(")[0].replace("_", " ") for word in columns[:end:2])
        links = columns[end + 1 : end + 1 + 4 * int(columns[end])]
        pointers = tuple(
            (symbol, (_PARTS[other], place), link)
            for symbol, place, other, link in zip(*(links[i::4] for i in range(4)), strict=True)
        )
        yield (part, offset), Synset(file, words, pointers, gloss.strip())


def _first_senses(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    for line in _rows(folder / f"index.{_FILES[part]}"):
        word, _, senses, *_ = columns = line.split()
        yield word, columns[-int(senses)]


def _times_met(folder: Path) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """How often annotators met the first sense of a word as a part of speech, and the word: `dog%1:05:00:: 1 42`."""
    first: Counter[tuple[str, str]] = Counter()
    total: Counter[str] = Counter()
    for line in _rows(folder / "cntlist.rev"):
        key, sense, count = line.split()
        word, _, place = key.partition("%")
        total[word] += int(count)
        if sense == "1":
            first[word, _KEY_PARTS[place[0]]] = int(count)
    return first, total


_NOTICE = (  # the licence wants these statements on all copies
    "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS PROVIDED "
    '"AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, '
    "BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR "
    "ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY "
    "THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. The name of Princeton University or Princeton may "
    "not be used in advertising or publicity pertaining to distribution of the software and/or database. Title to "
    "copyright in this software, database and any associated documentation shall at all times remain with Princeton "
    "University and LICENSEE agrees to preserve same."
)

SOURCE = Source(
    name="vocabulary",
    domain="language",
    packages=(Package("apt", "wordnet-base"),),
    licence="WordNet 3.0 License",
    attribution=_NOTICE,
    description="Common English words: definitions, synonyms, antonyms, wider classes. Answers are words and phrases.",
    sizes=Sizes(train=3000, seen_share=1 / 3, noise=0.2),
    facts=facts,
)
