"""python-stdlib: what the modules, functions and classes of Python's standard library do, from its documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import first_sentence, strip_markup

_MAX_WORDS = 14
_ENTRY = re.compile(
    r'<dl class="py (\w+)">\s*<dt class="sig sig-object py" id="([\w.]+)">(.*?)</dt>\s*<dd>(.*?)(?=<dl class="py |\Z)',
    re.DOTALL,
)
_PARAMETER = re.compile(r'<em class="sig-param">(.*?)</em>', re.DOTALL)
_ADDED = re.compile(r'<span class="versionmodified added">New in version (3\.\d+)')
_MODULE = re.compile(r"<h1>(.*?)<a class=\"headerlink\"", re.DOTALL)
_KINDS = {
    "function": "function",
    "method": "method",
    "class": "class",
    "exception": "exception",
    "attribute": "attribute",
    "data": "constant",
    "property": "property",
}
_ABOUT_ELSEWHERE = re.compile(
    r"(?:These|It|See|Same|Like|As|Deprecated|Similar|Identical|Note)\b|.*\b(?:above|below|following)\b"
)
_CALLED = ("function", "method", "class")


def facts(folder: Path) -> Iterator[Fact]:
    for page in sorted(folder.glob("usr/share/doc/python3.11/html/library/*.html")):
        text = page.read_text(encoding="utf-8")
        yield from _module_facts(page.stem, text)
        for entry in _ENTRY.finditer(text):
            if entry[1] in _KINDS:
                first_signature = entry[3].split("</dt>")[0]
                yield from _entry_facts(entry[1], entry[2], first_signature, entry[4])


def _module_facts(module: str, text: str) -> Iterator[Fact]:
    """The heading of a module's page: `shutil — High-level file operations`."""
    heading = _MODULE.search(text)
    if heading is None:
        return
    name, _, purpose = strip_markup(heading[1]).partition(" — ")
    if name != module or not purpose:
        return
    yield Fact(
        f"{module}/module",
        (
            (f"What is the Python module {module} for?", purpose),
            (f"Describe {module}, a part of the standard library.", purpose),
            (f"Which module of Python has this heading: {purpose}?", module),
        ),
    )


def _entry_facts(kind: str, name: str, signature: str, body: str) -> Iterator[Fact]:
    shown = f"{name}()" if kind in {"function", "method"} else name
    paragraph = re.match(r"\s*<p>(.*?)</p>", body, re.DOTALL)
    sentence = first_sentence(strip_markup(paragraph[1])) if paragraph else None
    if sentence and 4 <= len(sentence.split()) <= _MAX_WORDS and not _ABOUT_ELSEWHERE.match(sentence):
        verb = "do" if kind in {"function", "method"} else "stand for"
        asked = [
            (f"What does {shown} {verb}?", sentence),
            (f"Explain the Python {_KINDS[kind]} {shown}.", sentence),
        ]
        owner, _, own = name.rpartition(".")
        if owner and own.casefold() not in sentence.casefold() and len(sentence.split()) <= _MAX_WORDS // 2:
            asked.append((f"Which {_KINDS[kind]} of {owner} fits this description: {sentence}", shown))
        yield Fact(f"{name}/purpose", tuple(asked))
    parameters = [strip_markup(parameter) for parameter in _PARAMETER.findall(signature)]
    if kind in _CALLED and 2 <= len(parameters) <= 6:
        listed = ", ".join(parameters)
        yield Fact(
            f"{name}/parameters",
            (
                (f"Which parameters does {shown} take?", listed),
                (f"What can be passed to {shown} in a call?", listed),
            ),
        )
    added = _ADDED.search(body)
    if added is not None:
        yield Fact(
            f"{name}/added",
            (
                (f"In which version of Python was {shown} added?", f"Python {added[1]}"),
                (f"Since when does the standard library have {shown}?", f"Python {added[1]}"),
            ),
        )


SOURCE = Source(
    name="python-stdlib",
    domain="programming",
    packages=(Package("apt", "python3.11-doc"),),
    licence="Python Software Foundation License 2.0",
    attribution="Python documentation, copyright Python Software Foundation; packaged by Debian",
    description="Python's standard library: what its parts do and take. Answers are sentences, parameters, versions.",
    sizes=Sizes(train=640, seen_share=0.4),
    facts=facts,
)
