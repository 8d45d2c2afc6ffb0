"""Every form of DATA gives the same task, and every mistake one message with the file and the row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ftmeta.errors import DataError
from ftmeta.schema import Example
from ftmeta.tasks import load_records, load_task
from ftmeta.tasks.read import MAX_ROW_BYTES

ROWS: list[dict[str, Any]] = [
    {"question": f"What is {i}, doubled?", "answer": f"It is {2 * i}, »twice {i}«."} for i in range(40)
]


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)


FORMS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: write_jsonl(path, ROWS),
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "indented.json": lambda path: path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8"),
    "lines.json": lambda path: write_jsonl(path, ROWS),
    "bom.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS), encoding="utf-8-sig"),
    "blank-lines.jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, ROWS))),
    "a.csv": write_csv,
    "a.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "folder": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
    "train-only": lambda path: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(path),
    "prompt.jsonl": lambda path: write_jsonl(
        path, [{"prompt": r["question"], "completion": r["answer"]} for r in ROWS]
    ),
    "instruction.jsonl": lambda path: write_jsonl(
        path, [{"instruction": r["question"], "input": "", "output": r["answer"]} for r in ROWS]
    ),
    "messages.jsonl": lambda path: write_jsonl(path, [{"messages": conversation(r)} for r in ROWS]),
}


def conversation(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_task(tmp_path: Path, name: str) -> None:
    FORMS[name](tmp_path / name)
    task = load_task(tmp_path / name)
    assert task.fingerprint == load_records(ROWS, "records").fingerprint
    assert task.name == Path(name).stem
    assert {split: len(examples) for split, examples in task.splits.items()} == {
        "train": 30,
        "validation": 5,
        "test": 5,
    }


def test_instruction_with_input_and_several_turns(tmp_path: Path) -> None:
    rows = [{"instruction": f"Translate {i}", "input": f"word {i}", "output": f"mot {i}"} for i in range(20)]
    example = load_records(rows, "t").train[0]
    assert re.fullmatch(r"Translate (\d+)\n\nword \1", example.prompt)
    turns = [{"role": "system", "content": "Be brief."}, *conversation(ROWS[0]), *conversation(ROWS[1])]
    long = load_records([{"messages": [*turns[:1], *conversation(row), *turns[1:3]]} for row in ROWS], "t").train[0]
    assert [message.role for message in long.context] == ["system", "user", "assistant", "user"]
    assert long.completion == ROWS[0]["answer"]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    parts = {"train": ROWS[:20], "dev": ROWS[20:30], "test": ROWS[30:]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(
        tmp_path / "d"
    )
    rows = [{**row, "split": name} for name, part in parts.items() for row in part]
    for task in (
        load_task(tmp_path / "d"),
        load_task(write_jsonl(tmp_path / "d.jsonl", rows)),
        load_records(rows, "d"),
    ):
        assert {one.prompt for one in task.validation} == {row["question"] for row in parts["dev"]}
        assert {one.prompt for one in task.test} == {row["question"] for row in parts["test"]}


def test_a_missing_validation_split_is_taken_from_train() -> None:
    rows = [{**row, "split": "train" if i < 30 else "test"} for i, row in enumerate(ROWS)]
    task = load_records(rows, "d")
    assert [len(examples) for examples in task.splits.values()] == [25, 5, 10]
    assert {one.prompt for one in task.test} == {row["question"] for row in ROWS[30:]}


def test_facts_stay_in_one_split() -> None:
    rows = [{**row, "fact": str(i // 4), "seen_fact": None} for i, row in enumerate(ROWS)]
    splits = load_records(rows, "d").splits.values()
    facts = [{one.fact for one in examples} for examples in splits]
    assert not facts[0] & facts[1] | facts[0] & facts[2] | facts[1] & facts[2]


def test_a_bundled_task_by_name() -> None:
    task = load_task("elements")
    assert (task.name, len(task.validation), len(task.test)) == ("elements", 200, 400)
    assert task.card.licence == "MIT"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(texts, texts), min_size=20, max_size=60), st.randoms(use_true_random=False), st.integers(0, 3)
)
def test_splits_lose_nothing_leak_nothing_and_ignore_the_order(
    pairs: list[tuple[str, str]], random: Any, seed: int
) -> None:
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    try:
        task = load_records(rows, "d", seed=seed)
    except DataError:  # too many equal ones
        assume(False)
    shuffled = random.sample(rows, len(rows))
    assert load_records(shuffled, "d", seed=seed) == task
    kept = sorted((one.prompt, one.completion) for examples in task.splits.values() for one in examples)
    assert kept == sorted((prompt.strip(), completion.strip()) for prompt, completion in pairs)
    prompts = [{" ".join(one.prompt.casefold().split()) for one in examples} for examples in task.splits.values()]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
columns = st.sampled_from(["question", "answer", "messages", "split", "fact", "seen_fact", "other"])


@settings(max_examples=40, deadline=None)
@given(st.lists(json_values | st.dictionaries(columns, json_values, max_size=4), max_size=4))
def test_nested_garbage_is_refused_with_a_message(garbage: list[Any]) -> None:
    """Whatever a client sends: a task, or a DataError that names the source."""
    said = ""
    try:
        load_records([*garbage, *ROWS], "request")
    except DataError as error:
        said = str(error)
    assert not said or "request" in said


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_any_bytes_are_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"data{suffix}"
    path.write_bytes(data)
    with pytest.raises(DataError, match="data"):
        load_task(path)


GOOD = b'{"question": "a?", "answer": "b"}\n'
BAD_FILES = {
    "empty": ("e.jsonl", b"", "'.*e.jsonl' is empty"),
    "only blank lines": ("e.jsonl", b"\n\n", "has no rows"),
    "empty array": ("e.json", b"[]", "has no rows"),
    "header only": ("e.csv", b"question,answer\n", "has no rows"),
    "missing column": (
        "m.jsonl",
        b'{"Question": "a", "text": "b"}\n',
        "found: Question, text; wanted question/answer, or prompt",
    ),
    "missing column later": ("m.jsonl", GOOD + b'{"question": "x"}\n', "row 2: no column 'answer' .found: question."),
    "latin-1": ("l.jsonl", GOOD + b'{"question": "caf\xe9"}\n', "row 2: byte 0xe9 at offset 51 is not UTF-8"),
    "latin-1 array": ("l.json", b'[{"question": "caf\xe9"}]', "byte 0xe9 at offset 18 is not UTF-8"),
    "utf-16": ("u.jsonl", GOOD.decode().encode("utf-16"), "UTF-16 text"),
    "utf-16 without mark": (
        "u.csv",
        "question,answer\nx,y\n".encode("utf-16-le"),
        "UTF-16 text; save the file as UTF-8",
    ),
    "nul byte": ("n.jsonl", GOOD + b'{"question": "a\0b", "answer": "c"}\n', "row 2: a NUL byte"),
    "nul character": ("n.jsonl", GOOD + b'{"question": "a\\u0000b", "answer": "c"}\n', "row 2: 'question' holds a NUL"),
    "half a surrogate": (
        "s.jsonl",
        b'{"question": "a\\ud800", "answer": "c"}\n',
        "row 1: 'question' holds half of a surrogate",
    ),
    "three rows": (
        "t.jsonl",
        GOOD * 3,
        "3 examples; at least 20 are needed .10 for train, 5 for validation, 5 for test.",
    ),
    "one prompt": ("t.jsonl", GOOD * 30, "30 examples but only 1 different prompts"),
    "broken json": ("b.jsonl", GOOD + b'{"question": "a", "answer" "b"}\n', "row 2, column 28: broken JSON"),
    "cut off": ("b.json", b'[\n {"question": "a", "answer": "b"},\n {"question"', "row 2: broken JSON .*line 3"),
    "no comma": ("b.json", b'[{"question": "a", "answer": "b"} {}]', "row 1: after it comes '{', wanted ',' or ']'"),
    "after the array": ("b.json", b"[" + GOOD + b"] []", "line 2: text after the end of the array"),
    "a number": ("b.json", b"17", "starts with '1'; a .json file should be an array"),
    "row is a list": ("r.jsonl", GOOD + b"[1, 2]\n", "row 2: a list instead of an object"),
    "row is null": ("r.jsonl", b"null\n", "row 1: null instead of an object"),
    "array of numbers": ("r.json", b"[1, 2]", "row 1: starts with '1' .*wanted an object"),
    "deep nesting": ("d.jsonl", b"[" * 100_000 + b"\n", "row 1: JSON that is nested too deeply"),
    "huge integer": ("h.jsonl", b'{"question": ' + b"9" * 5000 + b', "answer": "x"}\n', "row 1: broken JSON"),
    "mixed types": (
        "x.jsonl",
        GOOD + b'{"question": "x", "answer": 42}\n',
        "row 2: 'answer' is a number .42.; wanted text",
    ),
    "nested answer": ("x.jsonl", b'{"question": "x", "answer": {"text": "y"}}\n', "row 1: 'answer' is an object"),
    "empty answers": (
        "v.jsonl",
        (GOOD + b'{"question": "x", "answer": "  "}\n') * 7,
        "'answer' is empty in 7 rows .2, 4, 6, 8, 10 and 2 more",
    ),
    "null prompt": ("v.jsonl", b'{"question": null, "answer": "y"}\n', "'question' is empty in 1 rows .1."),
    "ragged csv": ("c.csv", b"question,answer\na,b\nc,d,e\n", "row 2 .line 3.: 3 fields, but the header has 2"),
    "open quote": ("c.csv", b'question,answer\n"a,b\n', "row 1 .*broken CSV"),
    "column twice": ("c.csv", b"question,answer,answer\na,b,c\n", "the column 'answer' twice"),
    "semicolons": ("c.csv", b"question;answer\na;b\n", "found: question;answer; wanted"),
    "unknown split": (
        "p.jsonl",
        b'{"question": "a", "answer": "b", "split": "holdout"}\n',
        "row 1: the split 'holdout' is unknown",
    ),
    "no train split": ("p.csv", b"question,answer,split\na,b,dev\na,b,test\n", "but no train split"),
    "split for some": (
        "p.jsonl",
        GOOD + b'{"question": "a", "answer": "b", "split": "test"}\n',
        "1 of 2 rows have no split",
    ),
    "unknown role": (
        "o.jsonl",
        b'{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}\n',
        "row 1, message 1: the role 'human'; wanted one of system, user, assistant",
    ),
    "no answer last": (
        "o.jsonl",
        b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}\n',
        "row 1: ends with assistant and user",
    ),
    "not parquet": ("q.parquet", b"PAR1 nonsense", "not a readable Parquet file"),
    "unsupported suffix": (
        "s.xlsx",
        b"x",
        "the suffix '.xlsx' is not supported; wanted one of .jsonl, .json, .csv, .parquet",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, name: str) -> None:
    file, content, message = BAD_FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_task(tmp_path / file)
    assert caught.value.exit_code == 2
    assert file in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_huge_line_is_refused_before_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"huge{suffix}"
    start = {".jsonl": '{"question": "', ".json": '[{"question": "', ".csv": 'question,answer\n"'}[suffix]
    with path.open("w") as file:
        file.write(start + "x" * 1000)
        file.truncate(100 << 20)  # a sparse file: 100 MB on one line
    tail = path.open("r+b")
    tail.seek(len(start))
    tail.write(b"x" * (3 * MAX_ROW_BYTES))
    tail.close()
    with pytest.raises(DataError, match=r"longer than 1,048,576 bytes"):
        load_task(path)


def test_a_huge_row_of_parquet(tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "x" * (MAX_ROW_BYTES + 1), "answer": "y"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "huge.parquet")
    with pytest.raises(DataError, match=r"huge.parquet, row 41: 1,048,578 characters"):
        load_task(tmp_path / "huge.parquet")


def test_missing_files_folders_and_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file '.*none\.jsonl'"):
        load_task(tmp_path / "none.jsonl")
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(DataError, match=r"is not a dataset saved by `datasets` \(it holds note.txt\)"):
        load_task(tmp_path)
    with pytest.raises(DataError, match=r"'elments' is no file or folder, nor a bundled task \(.*elements, "):
        load_task("elments")


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # what the client reads from HF_HUB_OFFLINE at start
    with pytest.raises(DataError, match=r"'nobody/nothing' is no file.*Hub.*check the spelling and the network"):
        load_task("nobody/nothing")


def test_the_same_rows_in_another_split_are_another_task() -> None:
    first = load_records(ROWS, "d", seed=0)
    other = load_records(ROWS, "renamed", seed=1)
    assert first.fingerprint != other.fingerprint
    assert load_records(ROWS, "renamed").fingerprint == first.fingerprint
    assert isinstance(first.train[0], Example)
