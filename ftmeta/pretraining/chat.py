"""Questions and answers made from the corpus by simple rules, so that the chat tokens and the habit of answering are
trained before any task is.

Each rule reads a place in a document and returns a pair, or None where it does not fit; QUESTIONS and EXERCISES are
the tables. Answers are spans of the text, from one word to a few sentences, and every rule has several phrasings.
Sources whose text is also a task's document (Source.in_chat is False) are left out by the caller.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from ftmeta.pretraining.corpus import Entry
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.text import sentences, word_set


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str


@dataclass(frozen=True)
class Place:
    """Where a rule looks: one sentence with its neighbours."""

    sentence: str
    before: str | None
    after: str | None
    title: str | None
    source: str


Rule = Callable[[Place, random.Random], Pair | None]

_NAME = r"(?:the )?(?:Lord |King |Mr\. |Mrs\. |Miss |Lady |Sir |Captain )?[A-Z][a-z]+(?: [A-Z][a-z]+)?"
_PRONOUNS = word_set(
    "He She It They We You I This That These Those There Who What Here All One Some Such Then When And But So Now"
)
_NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|seventy"


def _shorten(text: str) -> str:
    return text.rstrip(" .,;:!?")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _decapital(text: str) -> str:
    """The text as it stands inside a sentence: its first word small, if that is one that is only large by its place."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first in _LEADERS else text


_LEADERS = word_set(  # what opens a sentence in capitals without being a name
    "The A An This That These Those It They We You He She If When In On At By For With All Any Each No Some Such Then "
    "There Its Their His Her Our Your And But Or As To Use Set Let Do What Which"
)


def next_sentence(place: Place, rng: random.Random) -> Pair | None:
    if place.after is None or not 30 <= len(place.after) <= 300:
        return None
    ask = rng.choice(
        ["What comes next? {}", "Continue the text: {}", "{} What follows?", "Write the next sentence. {}", "Go on: {}"]
    )
    return Pair(ask.format(place.sentence), place.after)


def previous_sentence(place: Place, rng: random.Random) -> Pair | None:
    if place.before is None or not 30 <= len(place.before) <= 200:
        return None
    return Pair(
        rng.choice(["What came before this? {}", "Which sentence stands before: {}"]).format(place.sentence),
        place.before,
    )


def rest_of_sentence(place: Place, rng: random.Random) -> Pair | None:
    words = place.sentence.split()
    if not 8 <= len(words) <= 40:
        return None
    cut = rng.randint(len(words) // 3, len(words) - 3)
    ask = rng.choice(["Complete the sentence: {}", "Finish this: {} ...", "How does this sentence end? {}", "{} ..."])
    return Pair(ask.format(" ".join(words[:cut])), " ".join(words[cut:]))


def missing_word(place: Place, rng: random.Random) -> Pair | None:
    words = place.sentence.split()
    open_words = [i for i, word in enumerate(words) if len(_shorten(word)) >= 4 and word.strip(".,;:!?").isalpha()]
    if not 6 <= len(words) <= 30 or not open_words:
        return None
    chosen = rng.choice(open_words)
    gap = " ".join("___" if i == chosen else word for i, word in enumerate(words))
    ask = rng.choice(["Which word is missing? {}", "Fill in the blank: {}", "{} What is the missing word?"])
    return Pair(ask.format(gap), words[chosen].strip(".,;:!?"))


def definition(place: Place, rng: random.Random) -> Pair | None:
    """`A widget is a representation of ...` -> What is a widget? -> a representation of ..."""
    found = re.match(
        r"((?:An?|The) [\w. -]{2,40}?|[A-Z][\w.]+) (is|are) ((?:an?|the|one) [^;]{15,250})$", place.sentence
    )
    if found is None or found.group(1).split()[0] in _PRONOUNS:
        return None
    subject, verb, what = _decapital(found.group(1)), found.group(2), _shorten(found.group(3))
    ask, answer = rng.choice(
        [
            (f"What {verb} {subject}?", _capital(what) + "."),
            (f"What {verb} {subject}?", place.sentence),
            (f"Define {subject}.", _capital(what)),
            (f"Tell me what {subject} {verb}.", place.sentence),
            (f"What do you know about {subject}?", place.sentence),
            (f"What is meant by {subject}?", what),
        ]
    )
    return Pair(ask, answer)


def described(place: Place, rng: random.Random) -> Pair | None:
    """`The handler returns the ...` -> What does the handler return? -> the ..."""
    found = re.match(
        r"(The [\w. -]{2,35}?) (returns|contains|provides|specifies|sets|defines|allows|controls|takes|holds) "
        r"([^;]{8,200})$",
        place.sentence,
    )
    if found is None or re.search(r" (is|are|that|which|of the \w+ \w+ \w+) ", found.group(1)):
        return None
    subject, verb, what = _decapital(found.group(1)), found.group(2), _shorten(found.group(3))
    return Pair(
        rng.choice([f"What does {subject} {verb[:-1]}?", f"Say what {subject} {verb}."]),
        rng.choice([_capital(what), what, place.sentence]),
    )


def consequence(place: Place, rng: random.Random) -> Pair | None:
    """`If x, then y.` -> What happens if x? -> y"""
    found = re.match(r"(If|When|After|Before) ([^,]{8,100}), (?:then )?([^;]{12,200}[.!])$", place.sentence)
    if found is None:
        return None
    when, clause, main = found.group(1).lower(), found.group(2), _capital(found.group(3))
    return Pair(
        rng.choice(
            [f"What happens {when} {clause}?", f"{when.title()} {clause}, what then?", f"Tell me: {when} {clause}?"]
        ),
        main,
    )


def reason(place: Place, rng: random.Random) -> Pair | None:
    found = re.match(r"([^;:]{15,150}?),? (because|so that|in order to) ([^;]{8,150})[.!]$", place.sentence)
    if found is None:
        return None
    fact, link, why = _decapital(found.group(1)), found.group(2), found.group(3)
    asked = rng.choice([f"Why? {_capital(fact)}.", f"Give the reason: {fact}.", f"Why is it that {fact}?"])
    return Pair(asked, rng.choice([f"{_capital(link)} {why}.", f"{link} {why}"]))


def speaker(place: Place, rng: random.Random) -> Pair | None:
    found = re.match(rf'({_NAME}) (?:said|answered|replied|cried)[^"]{{0,30}}, "([^"]{{10,160}})"?$', place.sentence)
    if found is None:
        found_after = re.match(rf'"([^"]{{10,160}})[,!?]" (?:said|replied|cried|answered) ({_NAME})\b', place.sentence)
        if found_after is None:
            return None
        words, who = found_after.group(1), found_after.group(2)
    else:
        who, words = found.group(1), found.group(2)
    if who.split()[0] in _PRONOUNS:
        return None
    if rng.random() < 0.3:
        return Pair(f"What did {who} say?", _capital(words))
    return Pair(
        rng.choice(['Who said "{}"?', 'Whose words are these? "{}"', 'Who spoke: "{}"']).format(_shorten(words)), who
    )


def number(place: Place, rng: random.Random) -> Pair | None:
    found = re.search(rf"(?<= )(\d{{1,6}}|{_NUMBERS}) ([a-z]{{4,12}}s)\b", place.sentence)
    if found is None or len(place.sentence) > 250:
        return None
    ask = rng.choice(["{} How many {}?", "How many {1} are named here? {0}", "Read this: {} Number of {}:"])
    return Pair(
        ask.format(place.sentence, found.group(2)), rng.choice([found.group(1), f"{found.group(1)} {found.group(2)}"])
    )


def named(place: Place, rng: random.Random) -> Pair | None:
    """The one name in a sentence, but for its first word."""
    names = set(re.findall(rf"(?<=[a-z,] ){_NAME}\b", place.sentence)) - _PRONOUNS
    if len(names) != 1 or len(place.sentence) > 250:
        return None
    ask = rng.choice(["Which name occurs here? {}", "{} Who or what is named?", "Find the name: {}"])
    return Pair(ask.format(place.sentence), names.pop())


def topic(place: Place, rng: random.Random) -> Pair | None:
    if place.title is None or not 3 <= len(place.title) <= 60 or len(place.sentence) > 250:
        return None
    ask = rng.choice(
        ["What is the topic? {}", "Which chapter or page is this from? {}", "Give a title: {}", "{} Title:"]
    )
    return Pair(ask.format(place.sentence), place.title)


def about(place: Place, rng: random.Random) -> Pair | None:
    if place.title is None or not 3 <= len(place.title) <= 60 or not 30 <= len(place.sentence) <= 300:
        return None
    ask = rng.choice(["Write a sentence about {}.", "Tell me about {}.", "Say something on {}.", "Quote from {}."])
    long = place.after is not None and len(place.after) <= 300 and rng.random() < 0.4
    return Pair(ask.format(place.title), f"{place.sentence} {place.after}" if long else place.sentence)


def origin(place: Place, rng: random.Random) -> Pair | None:
    if len(place.sentence) > 300:
        return None
    ask = rng.choice(["Where is this from? {}", "Which book or manual says: {}", "{} What is the source of this?"])
    return Pair(ask.format(place.sentence), _capital(SOURCES[place.source].label))


def repeat(place: Place, rng: random.Random) -> Pair | None:
    words = place.sentence.split()
    if len(words) < 6 or len(words) > 30:
        return None
    ask, answer = rng.choice(
        [
            ("Repeat: {}", place.sentence),
            ("What is the last word? {}", words[-1].strip('.,;:!?"')),
            ("What are the first two words? {}", " ".join(words[:2])),
        ]
    )
    return Pair(ask.format(place.sentence), answer)


# Rules that fit few sentences: they are asked wherever they fit.
QUESTIONS: tuple[Rule, ...] = (definition, described, consequence, reason, speaker, number)
# Rules that fit nearly everywhere, with the share of each among the rest.
EXERCISES: dict[Rule, float] = {
    next_sentence: 1.0,
    previous_sentence: 0.2,
    rest_of_sentence: 1.0,
    missing_word: 0.7,
    named: 0.7,
    topic: 0.7,
    about: 1.0,
    origin: 0.15,
    repeat: 0.25,
}


def chat_pairs(entries: list[Entry], exercise_share: float, seed: int) -> list[Pair]:
    """Every question that the entries offer, and exercises from a share (0 to 1) of the other sentences.

    No question comes twice; the order is shuffled by `seed`.
    """
    rng = random.Random(seed)
    pairs: dict[str, Pair] = {}
    for entry in entries:
        lines = [sentence for line in entry.text.split("\n") for sentence in sentences(line)]
        for i, sentence in enumerate(lines):
            if not 25 <= len(sentence) <= 400 or sentence[0].islower():
                continue
            before = lines[i - 1] if i else None
            after = lines[i + 1] if i + 1 < len(lines) else None
            place = Place(sentence, before, after, entry.title, entry.source)
            rules = rng.sample(QUESTIONS, len(QUESTIONS))
            if rng.random() < exercise_share:
                rules += sorted(EXERCISES, key=lambda rule: rng.expovariate(EXERCISES[rule]))
            pair = next((found for rule in rules if (found := rule(place, rng)) is not None), None)
            if pair is not None:
                pairs.setdefault(pair.question, pair)
    shuffled = list(pairs.values())
    rng.shuffle(shuffled)
    return shuffled
