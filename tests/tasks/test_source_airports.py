"""What of an airport's row becomes a question, and which names of CLDR become an answer, on a few tricky rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftmeta.tasks.cldr import country_names, language_names
from ftmeta.tasks.sources.airports import facts
from ftmeta.tasks.text import with_article

_TABLE = """icao,iata,name,city,subd,country,elevation,tz
SEQM,UIO,Mariscal Sucre International Airport,Quito,Pichincha,EC,7841.4,America/Guayaquil
KATL,ATL,Hartsfield/Jackson Atlanta International Airport,Atlanta,Georgia,US,1026,America/New_York
K0S9,TWD,Jefferson County International Airport,Townsend,Washington,US,0,America/Los_Angeles
LPPT,LIS,Lisbon Portela Airport,Lisbon,,PT,355,Europe/Lisbon
TXKF,BDA,L.F. Wade International International Airport,Hamilton,,BM,12,Atlantic/Bermuda
LIRN,NAP,Napoli / Capodichino International Airport,Naples,,IT,294,Europe/Rome
SVMI,CCS,Simon Bolivar International Airport,Caracas,,VE,235,America/Caracas
SKSM,SMR,Simon Bolivar International Airport,Santa Marta,,CO,22,America/Bogota
EDTL,LHA,Lahr Airport,Lahr,,DE,511,Europe/Berlin
"""


@pytest.fixture
def names_folder(tmp_path: Path) -> Path:
    territories = {"EC": "Ecuador", "US": "United States", "PT": "Portugal", "TT": "Trinidad & Tobago"}
    odd = {"MM": "Myanmar (Burma)", "CD": "Congo - Kinshasa", "LC": "St. Lucia", "GL": "Greenland", "150": "Europe"}
    for kind, names in (
        ("territories", {**territories, **odd, "US-alt-short": "US"}),
        ("languages", {"de": "German", "de-AT": "Austrian German", "az-alt-short": "Azeri"}),
    ):
        path = tmp_path / "package" / "main" / "en" / f"{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"main": {"en": {"localeDisplayNames": {kind: names}}}}), encoding="utf-8")
    return tmp_path


def test_facts_of_airports(tmp_path: Path, names_folder: Path) -> None:
    table = tmp_path / "airportsdata" / "airports.csv"
    table.parent.mkdir()
    table.write_text(_TABLE, encoding="utf-8")
    made = {fact.key: dict(fact.questions) for fact in facts(tmp_path, names_folder)}
    assert sorted(made) == [
        *(f"ATL/{kind}" for kind in ("country", "elevation", "iata", "icao", "state", "zone")),
        *(f"LIS/{kind}" for kind in ("country", "elevation", "iata", "icao", "zone")),
        *(f"TWD/{kind}" for kind in ("city", "country", "iata", "state", "zone")),
        *(f"UIO/{kind}" for kind in ("city", "country", "elevation", "iata", "icao", "zone")),
    ]
    assert made["UIO/city"]["What is the airport of Quito called?"] == "Mariscal Sucre International Airport"
    assert "7,841 feet" in made["UIO/elevation"].values()
    assert made["ATL/iata"]["How do airlines abbreviate Hartsfield-Jackson Atlanta International Airport?"] == "ATL"


def test_names_of_countries_and_languages(names_folder: Path) -> None:
    kept = {"EC": "Ecuador", "PT": "Portugal", "TT": "Trinidad and Tobago", "US": "United States"}
    assert country_names(names_folder, "en") == kept
    assert language_names(names_folder, "en") == {"de": "German"}
    assert [with_article(name) for name in ("United States", "Gambia", "Dominican Republic", "Dominica")] == [
        "the United States",
        "the Gambia",
        "the Dominican Republic",
        "Dominica",
    ]
