"""`ftmeta tasks check`: what each check finds and what it stays silent about, and that any rows give a report."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmeta.cli import main
from ftmeta.errors import DataError
from ftmeta.models import fast_tokenizer, resolve
from ftmeta.tasks import bundled_tasks, load_records
from ftmeta.tasks.check import Finding, Report, check_task, survey_rows, take_survey
from ftmeta.tasks.check import survey as survey_module
from ftmeta.tasks.check.checks import CHECKS
from ftmeta.tasks.check.flaws import absent_at, breaks_off, garbled_at
from ftmeta.tasks.read import Rows

MODEL = resolve("phi3-micro")
TOKENIZER = fast_tokenizer(MODEL)
CITIES = [
    f"{first}{last}" for first in ("Ar", "Bel", "Cor", "Dun", "El", "Far") for last in ("burg", "ford", "mont", "ton")
]
RIVERS = [
    f"{first}{last}" for first in ("Al", "Bra", "Cre", "Dro", "Es", "Fla") for last in ("na", "ker", "vis", "dor")
]


def good_rows(count: int = 24) -> list[dict[str, Any]]:
    """Questions about towns that exist nowhere, each with an answer of its own: nothing to find."""
    return [
        {
            "question": f"On which river does the town of {city} lie?",
            "answer": f"The town of {city} lies on the river {river}, not far from where it meets the sea.",
        }
        for city, river in zip(CITIES[:count], RIVERS[:count], strict=True)
    ]


def check(rows: Sequence[object]) -> Report:
    return check_task(survey_rows([Rows("d", None, iter(enumerate(rows, start=1)))]), MODEL, TOKENIZER)


def changed(changes: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The good rows with some (counted from 1) changed."""
    return [{**row, **changes.get(number, {})} for number, row in enumerate(good_rows(), start=1)]


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def test_good_rows_have_no_findings() -> None:
    report = check(good_rows())
    assert report.findings == ()
    assert report.ok
    assert (report.rows, report.examples, report.sampled, report.splits) == (24, 24, 24, None)
    assert report.lengths is not None
    assert report.lengths["context_tokens"] == 512
    assert report.lengths["truncated"] == 0


SPLIT = ["train"] * 14 + ["validation"] * 5 + ["test"] * 5
SPLIT_ROWS = [{**row, "split": split} for row, split in zip(good_rows(), SPLIT, strict=True)]
TEXT = good_rows()[2]["answer"]

# What is wrong, the check that says so, its level, the rows it names, a piece of its message or excerpts.
FAULTS: dict[str, tuple[Callable[[], Sequence[object]], str, str, tuple[int, ...], str]] = {
    "a number": (lambda: changed({3: {"answer": 42}}), "malformed rows", "error", (3,), "row 3: 'answer' is a number"),
    "no object": (lambda: [*good_rows(), "x"], "malformed rows", "error", (25,), "text instead of an object"),
    "unknown split": (
        lambda: changed({2: {"split": "?"}}),
        "malformed rows",
        "error",
        (2,),
        "the split '?' is unknown",
    ),
    "empty answer": (lambda: changed({2: {"answer": " "}}), "empty", "error", (2,), "'answer'"),
    "no prompt": (lambda: changed({1: {"question": None}}), "empty", "error", (1,), "'question'"),
    "too few": (lambda: good_rows(8), "splits", "error", (), "8 examples; at least 20 are needed"),
    "no train split": (
        lambda: [{**row, "split": split} for row, split in zip(good_rows(), ["dev", "test"] * 12, strict=True)],
        "splits",
        "error",
        (),
        "no train split",
    ),
    "split for some": (lambda: [*SPLIT_ROWS[:-1], good_rows()[-1]], "splits", "error", (24,), "rows without a split"),
    "one answer": (
        lambda: [{**row, "answer": "Yes."} for row in good_rows()],
        "one answer",
        "error",
        (1, 2, 3, 4, 5),
        "",
    ),
    "test in training": (
        lambda: [*SPLIT_ROWS[:-1], {**SPLIT_ROWS[0], "split": "test"}],
        "overlap",
        "error",
        (24,),
        "test prompts that stand in the training split",
    ),
    "nearly in training": (
        lambda: [
            *SPLIT_ROWS[:-1],
            {**SPLIT_ROWS[0], "split": "test", "question": "On which river does town of Arburg lie?"},
        ],
        "near overlap",
        "warning",
        (24,),
        "row 1: On which river does the town of Arburg lie?",
    ),
    "contradiction": (
        lambda: [*good_rows(), {**good_rows()[4], "answer": "It lies on no river at all."}],
        "contradictions",
        "warning",
        (5, 25),
        "It lies on no river",
    ),
    "repeated": (
        lambda: [*good_rows(), {**good_rows()[4], "question": "on  which river does the town of BELBURG lie? "}],
        "duplicates",
        "warning",
        (25,),
        "",
    ),
    "nearly repeated": (
        lambda: [*good_rows(), {**good_rows()[4], "question": "On which river does town of Belburg lie?"}],
        "near duplicates",
        "note",
        (25,),
        "row 5: On which river",
    ),
    "missing value": (lambda: changed({9: {"answer": "nan"}}), "placeholders", "warning", (9,), "nan"),
    "dots": (lambda: changed({9: {"answer": "It lies on the..."}}), "broken off", "warning", (9,), "on the..."),
    "bracket": (lambda: changed({9: {"answer": "It lies (as all do"}}), "broken off", "warning", (9,), "all do"),
    "mid-sentence": (lambda: changed({3: {"answer": TEXT[:66]}}), "broken off", "warning", (3,), "far from where it"),
    "garbled": (lambda: changed({9: {"answer": "At the cafÃ© by the sea."}}), "garbled", "warning", (9,), "cafÃ©"),
    "absent text": (
        lambda: changed({9: {"question": "Which river does the passage above name?"}}),
        "absent",
        "warning",
        (9,),
        "passage above",
    ),
    "e-mail": (
        lambda: changed({9: {"answer": "Ask jane.doe@web.de which one."}}),
        "personal data",
        "warning",
        (9,),
        "Ask j***.***@***.** which one.",
    ),
    "long prompt": (
        lambda: changed({9: {"question": "Why? " * 600}}),
        "length",
        "warning",
        (9,),
        "of the prompt is cut",
    ),
    "long answer": (
        lambda: changed({9: {"answer": "It is so. " * 300}}),
        "length",
        "warning",
        (9,),
        "of 1 answers the end",
    ),
    "another script": (
        lambda: [
            {**row, "answer": f"这座城市位于大海附近的一条河流上{index}"} for index, row in enumerate(good_rows())
        ],
        "unfamiliar",
        "warning",
        (1, 2, 3, 4, 5),
        "phi3-micro",
    ),
    "classes": (
        lambda: [{**row, "answer": "yes" if index % 3 else "no"} for index, row in enumerate(good_rows())],
        "classes",
        "note",
        (2, 3, 5, 6, 8),
        "the most frequent of 2",
    ),
    "skewed": (
        lambda: [{**row, "answer": "yes" if index else "no"} for index, row in enumerate(good_rows())],
        "classes",
        "warning",
        (2, 3, 4, 5, 6),
        "skewed",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_nothing_else(name: str) -> None:
    rows, expected, level, numbers, said = FAULTS[name]
    finding = only(check(rows()))
    assert (finding.check, finding.level, finding.rows) == (expected, level, numbers)
    assert said in " ".join((finding.message, *finding.excerpts))
    assert finding.share is None or 0 < finding.share <= 1
    assert finding.advice


def test_every_check_has_a_test() -> None:
    tested = {expected for _, expected, *_ in FAULTS.values()}
    assert set(CHECKS) - tested == {"unread", "cut at a limit"}  # below


def test_every_check_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    _, _, section = page.partition("| check | looks for | level |")
    assert re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE) == list(CHECKS)


def test_answers_cut_by_an_export() -> None:
    rng = random.Random(0)
    whole = [" ".join(rng.choices([*CITIES, *RIVERS], k=rng.randrange(5, 40))) for _ in range(60)]
    rows = [{"question": f"What did witness {index} say?", "answer": text[:120]} for index, text in enumerate(whole)]
    (finding,) = [one for one in check(rows).findings if one.check == "cut at a limit"]
    assert "exactly 120 characters" in finding.message
    assert finding.rows == tuple(index + 1 for index, text in enumerate(whole) if len(text) >= 120)[:5]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [json.dumps(row) for row in changed({3: {"answer": ""}, 5: {"answer": "TODO"}})]
    path.write_bytes("\n".join([*lines[:9], "{broken", *lines[9:], ""]).encode() + b'{"question": "\xfc"}\n')
    report = check_task(take_survey(str(path)), MODEL, TOKENIZER)
    assert [finding.check for finding in report.findings] == ["unread", "malformed rows", "empty", "placeholders"]
    assert "0xfc" in report.findings[0].message
    assert (report.rows, report.examples, report.ok) == (25, 23, False)


def test_rows_of_a_folder_are_named_with_their_split(tmp_path: Path) -> None:
    parts = {"train": good_rows()[:16], "test": [*good_rows()[16:], good_rows()[0]]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(
        tmp_path / "d"
    )
    report = check_task(take_survey(str(tmp_path / "d")), MODEL, TOKENIZER)
    assert report.splits == {"train": 16, "test": 9}
    assert only(report).excerpts == ("test row 9: On which river does the town of Arburg lie?",)


def test_a_large_file_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_ROWS", 50)
    rows = [{"question": f"Who is number {index}?", "answer": f"nan or {index}"} for index in range(400)]
    rows += [{"question": f"Where is number {index}?", "answer": "nan"} for index in range(400)]
    report = check(rows)
    assert (report.examples, report.sampled) == (800, 50)
    (finding,) = [one for one in report.findings if one.check == "placeholders"]
    assert finding.message.endswith("of 50 rows drawn at random")
    assert finding.share == pytest.approx(0.5, abs=0.25)
    assert check(rows) == report


@pytest.mark.parametrize(
    ("text", "flawed"),
    [
        ("It was near the", True),
        ("He went to Rome, and the rest went with", True),
        ("Items: [1, 2", True),
        ("It ends here…", True),
        ("red, green, and blue", False),
        ("See (above) :(", False),
        ("f(x) = [a, b)", False),
        ("What it is", False),
        ("...", False),
    ],
)
def test_texts_that_break_off(text: str, flawed: bool) -> None:
    assert breaks_off(text) == flawed


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("cafÃ© au lait", 3),
        ("donâ€™t", 3),
        ("lost \ufffd", 5),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", 0),
        ("café, naïve, ÄÖÜ, «LIBERTÉ», 日本語, привет, NÃO, 5 °C – “x”…", None),
    ],
)
def test_garbled_text(text: str, position: int | None) -> None:
    assert garbled_at(text) == position


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("What does the text above say?", True),
        ("Who is shown in this picture?", True),
        ("According to the author, why?", True),
        ("Summarise the text below: It rained.", False),
        ("What is the passage of time?", False),
        ("Who painted 'The Table'?", False),
        ("How do I set the text colour in the document?", False),
    ],
)
def test_prompts_that_speak_of_what_is_absent(prompt: str, found: bool) -> None:
    assert (absent_at(prompt) is not None) == found


# --- any data --------------------------------------------------------------------------------------------------------

_TEXT = st.text(max_size=12) | st.sampled_from(
    ["yes", "no", "Mail a@b.de", "text above", "Ã©", "nan", "...", "(", "日本"]
)
_ROW = st.fixed_dictionaries(
    {"question": _TEXT | st.none(), "answer": _TEXT | st.integers()},
    optional={"split": st.sampled_from(["train", "test", "dev", "?", None]), "fact": _TEXT},
)


@given(st.lists(_ROW | st.none(), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_rows_give_a_report_that_agrees_with_the_loader(rows: list[Any]) -> None:
    report = check(rows)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.rows == len(rows)
    assert all(finding.count >= 0 and finding.check in CHECKS for finding in report.findings)
    refusing = {"unread", "malformed rows", "empty", "splits"}
    try:
        load_records(rows, "d")
    except DataError:
        assert refusing & {finding.check for finding in report.findings}
    else:
        assert not refusing & {finding.check for finding in report.findings}


@pytest.mark.parametrize("name", bundled_tasks())
def test_bundled_tasks_pass(name: str) -> None:
    report = check_task(take_survey(name), MODEL, TOKENIZER)
    warnings = {finding.check for finding in report.findings if finding.level != "note"}
    # Names of countries in the script of each language are the subject of country-names.
    assert warnings == ({"unfamiliar"} if name == "country-names" else set())


# --- the command -----------------------------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ftmeta", "tasks", "check", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(good_rows()))
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 0
    assert "Nothing was found" in out

    path.write_text(json.dumps(changed({3: {"answer": ""}, 5: {"answer": "Ask jane.doe@web.de."}})))
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 2
    assert "Fill these rows or drop them." in out
    assert "jane" not in out

    code, out, _ = run(monkeypatch, capsys, path, "--json")
    document = json.loads(out)
    assert code == 2
    assert {"data", "rows", "splits", "examples", "lengths", "findings", "ok"} <= set(document)
    assert (document["rows"], document["examples"], document["ok"]) == (24, 23, False)
    assert {"check", "level", "count", "share", "message", "rows"} <= set(document["findings"][0])
    assert "jane" not in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file"),
        ("empty.jsonl", b"", "is empty"),
        ("binary.jsonl", bytes(range(256)) * 9, "NUL byte"),
        ("binary.parquet", bytes(range(256)) * 9, "not a readable Parquet file"),
        ("utf16.csv", "question,answer\na,b\n".encode("utf-16"), "UTF-16"),
        ("latin1.csv", "question,answer\nä,b\n".encode("latin-1"), "not UTF-8"),
        ("columns.csv", b"frage,antwort\na,b\n", "columns found: frage, antwort"),
    ],
)
def test_what_cannot_be_read_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = run(monkeypatch, capsys, tmp_path / name, "--json")
    assert (code, out) == (2, "")
    assert message in err
