"""From entries of the calendars and from a speech to facts, on real and adapted lines."""

from __future__ import annotations

from ftmeta.tasks.sources.history import event_facts, life_facts, passage_facts


def test_lives() -> None:
    facts = life_facts(
        [
            ("20 January", "Jazz great Charlie Mingus dies at 57 in Cuernavaca, Mexico, 1979"),
            ("29 July", "Martin Luther King, Jr. born, 1929"),
            ("26 March", "Jonathan (Jon) Postel (Dr.), editor, born near Altadena, 1943, who kept the numbers"),
            ("7 January", "Nikola Tesla died in the Hotel New Yorker room 3327, 1943"),
            ("1 March", "Laplace born, 1749"),
            ("2 March", "Laplace born, 1749"),  # one of the two errs
            ("19 June", "FreeBSD project born, 1993"),
            ("11 January", "Alexander Hamilton born in Nevis, 1757?"),
        ]
    )
    assert {fact.key: fact.questions[0][1] for fact in facts} == {
        "Charlie Mingus/death": "20 January 1979",
        "Charlie Mingus/deathplace": "Cuernavaca, Mexico",
        "Martin Luther King, Jr./birth": "29 July 1929",
        "Jonathan Postel/birth": "26 March 1943",
        "Jonathan Postel/birthplace": "Near Altadena",
        "Nikola Tesla/death": "7 January 1943",
    }


def test_events() -> None:
    facts = event_facts(
        [
            ("15 March", "Julius Caesar is stabbed to death by several senators, 44BC"),
            ("6 September", "First Star Trek episode aired 1966"),
            ("8 September", "The first Star Trek episode is shown, 1966"),  # the same once more
            ("4 January", "Quadrantid meteor shower (look north)"),
            ("17 March", "Vanguard I launched, 1958.  Earth proved pear-shaped"),
            ("5 January", "-50 degrees F, Strawberry UT, 1913"),
        ]
    )
    assert {fact.key: fact.questions[1] for fact in facts} == {
        "15 March 44 BC/event": (
            "What happened on 15 March 44 BC?",
            "Julius Caesar is stabbed to death by several senators.",
        ),
        "6 September 1966/event": ("What happened on 6 September 1966?", "First Star Trek episode."),
    }


def test_passages() -> None:
    first, second = (
        "The Colossus of Maine was launched at the harbor of Portland in 1850.",
        "Her sister ship will be ready for sea before the end of May 1852.",
    )
    text = (
        f"Fellow citizens, we meet again. {first} {second} They were built under the orders of Gen. Adams had the plan."
    )
    speech = {"year": 1851, "name": "Harry S Truman", "text": text}
    (fact,) = passage_facts(speech)
    assert fact.key == "1851 Harry S. Truman 1/passage"
    assert fact.questions[0] == (f"How did the president go on after saying this in 1851? {first}", second)
