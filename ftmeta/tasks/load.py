"""`load_task`: from what a user names to a Task.

`data` is a JSONL, JSON, CSV or Parquet file, a folder saved by `datasets`, a hub id `owner/name`, or the name of a
bundled task. See rows.py for the columns and split.py for the splits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftmeta.errors import DataError
from ftmeta.files import fingerprint
from ftmeta.schema import Example, Split, Task, TaskCard
from ftmeta.tasks.bundled import bundled_card, bundled_examples, bundled_tasks
from ftmeta.tasks.read import READERS, Rows, is_hub_id, read_hub, read_path
from ftmeta.tasks.rows import read_examples
from ftmeta.tasks.split import split_examples


def load_task(data: str | os.PathLike[str], *, name: str | None = None, seed: int = 0) -> Task:
    """Reads a dataset into a Task. `name` defaults to the file's stem, the folder's name, or the id.

    `seed` moves the splits that have to be made; given splits stay. A bundled task wins over a file or folder of the
    same name, which `./NAME` still reaches. Raises DataError, which names the file and row and says what to do.
    """
    text = os.fspath(data)
    sources = find_rows(text)
    if text in bundled_tasks():
        return _task(sources, name or text, text, seed, bundled_card(text))
    path = Path(text).expanduser()
    if path.exists():
        return _task(sources, name or (path.name if path.is_dir() else path.stem), str(path), seed)
    return _task(sources, name or text.split("/")[-1], text, seed)


def find_rows(data: str) -> list[Rows]:
    """The rows of what a user names: of each split that it names, unread. Raises DataError for what is not there."""
    if data in bundled_tasks():
        return read_path(bundled_examples(data))
    path = Path(data).expanduser()
    if path.exists() or path.suffix.lower() in READERS:
        return read_path(path)
    if is_hub_id(data):
        return read_hub(data)
    raise DataError(
        f"'{data}' is no file or folder, nor a bundled task ({', '.join(bundled_tasks())}), "
        "nor a hub id of the form owner/name; check the spelling"
    )


def load_records(records: Sequence[Mapping[str, object]], name: str, *, seed: int = 0) -> Task:
    """A Task of rows that are already in memory, as those of an HTTP request: the same columns, splits and errors."""
    return _task([Rows(name, None, iter(enumerate(records, start=1)))], name, name, seed)


def _task(sources: list[Rows], name: str, label: str, seed: int, card: TaskCard | None = None) -> Task:
    placed = [one for source in sources for one in read_examples(source)]
    if not placed:
        raise DataError(f"'{label}' has no rows; it should hold one example a row")
    splits = split_examples(placed, label, seed)
    return Task(
        name, splits["train"], splits["validation"], splits["test"], task_fingerprint(splits), card or TaskCard()
    )


def task_fingerprint(splits: Mapping[Split, Sequence[Example]]) -> str:
    """The fingerprint of the examples and the splits they are in; facts, the name and the card do not count."""
    return fingerprint(
        {
            split: [[*((message.role, message.content) for message in one.context), one.completion] for one in examples]
            for split, examples in splits.items()
        }
    )
