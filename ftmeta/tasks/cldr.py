"""Names of countries and languages from Unicode's CLDR, for the sources that need them.

In: the unpacked npm package cldr-localenames-full and a locale, `de`. Out: the names in that language by ISO code.
Names with brackets, dashes and abbreviations ("Congo - Kinshasa", "St. Lucia") are left out: no answer should look so.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Regions, dependencies and disputed places; the rest are members of the United Nations and Vatican City.
_NO_COUNTRIES = """
    AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH EU EZ FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE KY MF MO
    MP MQ MS NC NF NU PF PM PN PR PS QO RE SH SJ SX TA TC TF TK TW UM UN VG VI WF XA XB XK YT ZZ
"""
_UNCLEAR = re.compile(r"[.:(（/;,\u200e\u200f]| [-–] |о-ва?\b")


def country_names(folder: Path, locale: str) -> dict[str, str]:
    """Countries by their two-letter code: `{"DE": "Germany", ..}`; "and" instead of "&" in English."""
    others = _NO_COUNTRIES.split()
    names = _names(folder, locale, "territories")
    found = {code: name for code, name in names.items() if re.fullmatch("[A-Z]{2}", code) and code not in others}
    return {code: name.replace(" & ", " and ") for code, name in found.items()} if locale == "en" else found


def language_names(folder: Path, locale: str) -> dict[str, str]:
    """Languages by their code: `{"de": "German", "fil": "Filipino", ..}`, without dialects and variants."""
    return {code: name for code, name in _names(folder, locale, "languages").items() if re.fullmatch("[a-z]+", code)}


def _names(folder: Path, locale: str, kind: str) -> dict[str, str]:
    path = folder / "package" / "main" / locale / f"{kind}.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, str] = data["main"][locale]["localeDisplayNames"][kind]
    return {code: name for code, name in sorted(names.items()) if not _UNCLEAR.search(name)}
