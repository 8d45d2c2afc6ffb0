"""Three datasets from documents that no bundled task uses, each asked about in several ways.

In: Python's own table of Unicode characters, the IANA time zone database (package tzdata), and the names that people
gave to colours in the XKCD survey (in matplotlib). Out: JSONL files of questions and answers, the same every time.
"""

from __future__ import annotations

import importlib.resources
import json
import unicodedata
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from ftmeta.errors import DataError

Pair = tuple[str, str]

_CATEGORIES = {
    "Lu": "an uppercase letter",
    "Ll": "a lowercase letter",
    "Sm": "a mathematical symbol",
    "Sc": "a currency symbol",
    "So": "a symbol of another kind",
    "Sk": "a modifier symbol",
    "No": "a number",
    "Nl": "a letter number",
    "Po": "punctuation",
    "Ps": "opening punctuation",
    "Pe": "closing punctuation",
    "Pd": "a dash",
}
_BLOCKS = ((0x00A1, 0x00FF), (0x0370, 0x03FF), (0x2010, 0x205E), (0x20A0, 0x20BF), (0x2150, 0x218B), (0x2190, 0x22FF))


def characters() -> Iterator[Pair]:
    """Unicode characters by code point: name, kind, and back. Unicode License v3."""
    for first, last in _BLOCKS:
        for code in range(first, last + 1):
            name = unicodedata.name(chr(code), "").lower()
            kind = _CATEGORIES.get(unicodedata.category(chr(code)))
            if not name or kind is None:
                continue
            yield f"What is the name of the Unicode character U+{code:04X}?", name
            yield f"Which Unicode character is called '{name}'?", f"U+{code:04X}"
            yield f"What kind of character is '{name}'?", kind


def time_zones() -> Iterator[Pair]:
    """Time zones: country, offsets of 2025, place. Public domain."""
    folder = importlib.resources.files("tzdata") / "zoneinfo"
    countries: dict[str, str] = {}
    for line in _lines((folder / "iso3166.tab").read_text("utf-8")):
        code, name = line.split("\t")
        countries[code] = name
    for line in _lines((folder / "zone1970.tab").read_text("utf-8")):
        codes, _, zone, *_ = line.split("\t")
        country = countries[codes.split(",")[0]]
        place = zone.rpartition("/")[2].replace("_", " ")
        yield f"Which country is the time zone {zone} in?", country
        yield f"What is the time zone of {place} in {country} called?", zone
        for month, season in ((1, "January"), (7, "July")):
            offset = ZoneInfo(zone).utcoffset(datetime(2025, month, 15, 12))
            assert offset is not None
            minutes = round(offset.total_seconds() / 60)
            sign, hours, rest = "+-"[minutes < 0], abs(minutes) // 60, abs(minutes) % 60
            yield f"What is the offset of {place} from UTC in {season}?", f"{sign}{hours:02d}:{rest:02d}"


def colours() -> Iterator[Pair]:
    """Names of colours and what they look like on a screen. CC0."""
    from matplotlib.colors import XKCD_COLORS, to_rgb

    for name, value in sorted(XKCD_COLORS.items()):
        short = name.removeprefix("xkcd:")
        red, green, blue = to_rgb(value)
        brightest, strongest = max((red, "red"), (green, "green"), (blue, "blue"))
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        yield f"How light is the colour '{short}'?", "dark" if light < 0.3 else "light" if light > 0.65 else "medium"
        if brightest - min(red, green, blue) > 0.05:
            yield f"Of red, green and blue, what does '{short}' have most of?", strongest


DATASETS: dict[str, Callable[[], Iterator[Pair]]] = {
    "characters": characters,
    "time-zones": time_zones,
    "colours": colours,
}


def write(name: str, folder: Path) -> Path:
    """The dataset as a file in `folder`. Raises DataError where the package that it is made of is missing."""
    path = folder / f"{name}.jsonl"
    try:
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in DATASETS[name]()]
    except ModuleNotFoundError as error:
        raise DataError(f"the dataset '{name}' needs the package {error.name}; run `make install`") from None
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    return path


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line and not line.startswith("#"))
