"""web-platform: what the features of web browsers do and since when they work, from the web-features package."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes
from ftmeta.tasks.sources import Source
from ftmeta.tasks.text import first_sentence, strip_markup

_MAX_WORDS = 24
_BROWSERS = ("chrome", "edge", "firefox", "safari")


def facts(folder: Path) -> Iterator[Fact]:
    data = json.loads((folder / "package" / "data.json").read_text(encoding="utf-8"))
    for key, feature in sorted(data["features"].items()):
        if feature["kind"] == "feature":
            yield from _feature_facts(key, feature, data)
    for browser in _BROWSERS:
        yield from _release_facts(data["browsers"][browser])


def _feature_facts(key: str, feature: dict[str, Any], data: dict[str, Any]) -> Iterator[Fact]:
    name = " ".join(_plain(feature["name"]).split())
    purpose = first_sentence(_plain(strip_markup(feature["description_html"])))
    if purpose is not None and len(purpose.split()) <= _MAX_WORDS:
        yield Fact(
            f"{key}/purpose",
            (
                (f"What is {name} on the web platform?", purpose),
                (f"Explain {name} to a web developer.", purpose),
                (f"In a browser, what purpose does {name} serve?", purpose),
            ),
        )
    groups = [_plain(data["groups"][group]["name"]) for group in feature.get("group", ())]
    if groups and groups != [name]:
        answer = ", ".join(groups)
        yield Fact(
            f"{key}/group",
            (
                (f"To which group of web features does {name} belong?", answer),
                (f"Under which heading would you look for {name}?", answer),
            ),
        )
    editions = [data["snapshots"][snapshot]["name"] for snapshot in feature.get("snapshot", ())]
    if editions:
        yield Fact(
            f"{key}/edition",
            (
                (f"Which edition of the JavaScript standard introduced {name}?", editions[0]),
                (f"With which ECMAScript release did {name} arrive?", editions[0]),
            ),
        )
    status = feature["status"]
    if since := _month(status.get("baseline_low_date")):
        yield Fact(
            f"{key}/baseline",
            (
                (f"When did {name} become Baseline newly available?", since),
                (f"Since what month do all major browsers support {name}?", since),
            ),
        )
    supporting = [browser for browser in _BROWSERS if re.fullmatch(r"[\d.]+", status["support"].get(browser, ""))]
    if supporting:  # one browser a feature, or versions would be half of all facts
        browser = supporting[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(supporting)]
        title = data["browsers"][browser]["name"]
        answer = f"{title} {status['support'][browser]}"
        yield Fact(
            f"{key}/support",
            (
                (f"Which version of {title} first supports {name}?", answer),
                (f"From which {title} release on can {name} be used?", answer),
            ),
        )


def _release_facts(browser: dict[str, Any]) -> Iterator[Fact]:
    title = browser["name"]
    for release in browser["releases"]:
        version, day = release["version"], _day(release["date"])
        yield Fact(
            f"{title.lower()}-{version}/release",
            (
                (f"When was {title} {version} released?", day),
                (f"On what day did version {version} of {title} come out?", day),
                (f"Which version of {title} came out on {day}?", f"{title} {version}"),
            ),
        )


def _plain(text: str) -> str:
    """HTML elements without their brackets: `The <b> element` is `The b element`, and `<b>` alone `the b element`."""
    alone = re.fullmatch(r"<([a-z][\w-]*)>", text)
    return f"the {alone[1]} element" if alone else re.sub(r"</?([a-z][^<>]*?)\s*/?>", r"\1", text)


def _month(iso: str | None) -> str | None:
    return date.fromisoformat(iso).strftime("%B %Y") if iso and re.fullmatch(r"[\d-]{10}", iso) else None


def _day(iso: str) -> str:
    day = date.fromisoformat(iso)
    return f"{day.day} {day.strftime('%B %Y')}"


SOURCE = Source(
    name="web-platform",
    domain="web development",
    packages=(Package("npm", "web-features", "3.40.0"),),
    licence="Apache-2.0",
    attribution="web-features, by the W3C WebDX Community Group and contributors",
    description="Browser features: what they do and since when they work. Answers are sentences, dates and versions.",
    sizes=Sizes(train=500, seen_share=0.7),
    facts=facts,
)
