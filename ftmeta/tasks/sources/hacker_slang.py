"""hacker-slang: what the words of hackers mean, in whole sentences, from the Jargon File."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import is_clean, sentences

_MIN_WORDS = 12  # shorter definitions are lengthened by the next sentence, or dropped
_MAX_WORDS = 45  # longer ones are dropped
_MAX_SENTENCES = 3
_LEXICON_END = re.compile(r"^Appendix\sA", re.MULTILINE)
_ENTRY = re.compile(r"^   :(.+?):(?: +(.*))?$", re.MULTILINE)
_TERM = re.compile(r"\w[\w' .+/-]{1,38}\w")
_LINK = re.compile(r"\{([^{}]*)\}")
_LABEL = re.compile(  # what stands before the definition: number, origin, other spellings, part of speech
    r"(?:1\.|\[[^\]]*\]|\((?:also|alt\.|pl\.|or|var\.|often|usually)\b[^)]*\)"
    r"|(?:n|v|vt|vi|adj|adv|interj|obs|excl|imp|pl|pref|suff)\.(?:,\s*(?:n|v|vt|vi|adj)\.)*(?=\s*(?:[A-Z\[]|obs\.))"
    r"|techspeak\.?)\s*"
)
_OTHER_SENSE = re.compile(r"\s[1-9]\.\s")
_ASIDE = re.compile(r" ?\((?:see|cf\.?|compare|also|sense|q\.\s?v|pronounced|poss\.|qv)\b[^()]*\)", re.IGNORECASE)
_REFERENCE = re.compile(  # to other entries, to the Jargon File itself or its editors, to examples that are not there
    r"\b(?:see|compare|contrast|cf|oppose|q\.v|syn|synonyms?|antonym|var(?:iant|iation)?|alternate|alternative|derived"
    r"|(?:this|the) (?:entry|lexicon|(?-i:File))|Jargon File|File's|appendix|senses?|above|below|following|former"
    r"|latter|ESR|mentioned|GLS|for example|editor's|earlier|same as|like the previous|another (?:name|term|word|form)"
    r"|short for|abbreviation|abbrev|(?-i:we|our|us|I))\b|—|http|www|/\S+/|\w:\s|[a-z]\.[a-z]{3,}\.$"
    r"|\b(?-i:Esp|n|v|vt|vi)\.|corresp|\b(\w+) \1\b",
    re.IGNORECASE,
)
_NO_DEFINITION = re.compile(  # how remarks, anecdotes and examples begin
    r"(?![A-Z0-9“‘$])|(?:As|At|Before|By|Extended|For|Found|Hackish speech|If|In|Larry|Many|May|Most|On|Once|Reported"
    r"|Some|There|This|Used by|Used when|Variants|When)\b|An optical laser|The form used"
)
_DANGLING = re.compile(r"(?:It|They|He|She|These|Those|However|But|And|Thus|Hence|Such|Also|So|Then)\b")
_UNFIT = re.compile(  # subjects that do not belong in examples for everybody, and some personal or garbled entries
    r"\b(?:sex|porn|nude|naked|penis|genital|breast|orgasm|progasm|erotic|masturbat|rasterbat|prostitut|virgin|condom"
    r"|crotch|dick|rape|rapist|gang bang|gays?\b|lesbian|homosexual|fuck|f\*|shit|bullshit|crap|piss|pee\b|fart"
    r"|flatulen|bytesex|puberty|turd|bitch|bastard|whor|slut|damn|dammit|ass\b|arse|asshole|dumbass|suck|sux|HP-SUX"
    r"|screw|brothel|wank|tits?\b|bloody|bugger|obscen|digitus|excrement|feces|urin|vomit|barf|puke|toilet|drug"
    r"|cocaine|heroin|marijuana|dope\b|LSD|viagra|junkie|hallucin|stoned|drunk|alcohol|beer|cigar|nigger|negro|ghetto"
    r"|oriental|retard|tardegy|moron|idiot|cretin|cripple|lame|spastic|brain[ -]damage|fag|jew|nazi|gestapo|hitler"
    r"|holocaust|fascis|extermin|muslim|islam|christian|church|jesus|gods?\b|pope|religio|satan|terroris|republican"
    r"|democrat|liberal|conservativ|congress|president|clinton|bush\b|reagan|guns?\b|weapon|rubber hose|kill|murder"
    r"|suicid|dead\b|death|die\b|dies\b|corpse|blood|torture|slave|women|woman|female|girl|wife|suzie|ethnic|racist"
    r"|polack|indian|chinese|japanese|scientolog|abortion|politic|Depew|Cargill|microLenat|RTM\b|sait\b)",
    re.IGNORECASE,
)
_WRITTEN_OUT = {"esp.": "especially", "usu.": "usually", "orig.": "originally", "accidently": "accidentally"}
_QUESTIONS = (  # {t} is the term
    'What do hackers mean by "{t}"?',
    'Explain the jargon term "{t}" to a newcomer.',
    'How would an old-time programmer define "{t}"?',
)
_REVERSE = (  # {d} is the definition
    "Which word of hacker slang has this definition? {d}",
    "Name the term that old-time programmers define like this. {d}",
)


def facts(folder: Path) -> Iterator[Fact]:
    path = folder / "usr" / "share" / "doc" / "jargon-text" / "jargon.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lexicon = _LEXICON_END.split(file.read().replace("\u00a0", " "))[0]
    parts = _ENTRY.split(lexicon)[1:]  # term, heading, text; term, heading, text; ...
    for position, (term, text) in enumerate(zip(parts[::3], parts[2::3], strict=True)):
        meaning = definition(text)
        if meaning is None or not _TERM.fullmatch(term) or _UNFIT.search(f"{term} {meaning}"):
            continue
        asked = [(form.format(t=term), meaning) for form in _QUESTIONS]
        if term.casefold() not in meaning.casefold():
            asked.append((_REVERSE[position % 2].format(d=meaning), term))
        yield Fact(f"{term}/meaning", tuple(asked))


def definition(text: str) -> str | None:
    """The text of an entry to the definition of its first sense: one to three sentences without links or labels, None
    if the entry does not begin with a definition that can stand alone."""
    plain = " ".join(_LINK.sub(r"\1", text).split())
    while label := _LABEL.match(plain):
        plain = plain[label.end() :]
    plain = _ASIDE.sub("", _OTHER_SENSE.split(plain)[0])
    for short, long in _WRITTEN_OUT.items():
        plain = re.sub(rf"\b{re.escape(short)}(?=\W)", long, plain)
    taken: list[str] = []
    for sentence in sentences(plain):
        if _REFERENCE.search(sentence) or not is_clean(sentence) or (taken and _DANGLING.match(sentence)):
            break
        if len(" ".join([*taken, sentence]).split()) > _MAX_WORDS:
            break
        taken.append(sentence)
        if len(taken) == _MAX_SENTENCES or len(" ".join(taken).split()) >= _MIN_WORDS:
            break
    meaning = " ".join(taken)
    whole = len(meaning.split()) >= _MIN_WORDS and meaning.endswith(".") and not _NO_DEFINITION.match(meaning)
    return meaning if whole else None


SOURCE = Source(
    name="hacker-slang",
    domain="computing culture",
    packages=(Package("apt", "jargon-text"),),
    licence="Public domain",
    attribution="The Jargon File, version 4.4.7, edited by Eric S. Raymond; packaged by Paul Martin for Debian",
    description="Words of hackers and what they mean. Answers are definitions of one to three sentences.",
    sizes=Sizes(train=240, seen_share=0.35),
    facts=facts,
)
