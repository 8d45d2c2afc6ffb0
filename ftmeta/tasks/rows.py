"""Rows to examples: which columns are read, and what is refused.

In: the rows of read.py or of an HTTP request. Out: an Example for each. A row is an object with text in one of four
sets of columns (LAYOUTS), and optionally `split`, `fact` and `seen_fact`. Text is kept as it is, but for white space
around it. Every refusal is a DataError that names the source and the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ftmeta.errors import DataError
from ftmeta.schema import Example, Message, Split
from ftmeta.tasks.read import MAX_ROW_BYTES, Rows

LAYOUTS = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"), ("messages",))
_ROLES = ("system", "user", "assistant")
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SHOWN = 5  # rows listed in a message before "and N more"
_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "text",
    bytes: "bytes",
}


@dataclass(frozen=True)
class Placed:
    """An example and the split that its source gives it; None where the source gives none."""

    example: Example
    split: Split | None


@dataclass(frozen=True)
class Empty:
    """A row without text in the column of its prompt or its answer."""

    column: str


def read_examples(source: Rows) -> Iterator[Placed]:
    """The examples of one source. Raises DataError for the first row that is malformed, and, after the last row, for
    all rows whose prompt or answer is empty."""
    empty: dict[str, list[int]] = {}
    for number, read in try_examples(source):
        if isinstance(read, DataError):
            raise read
        if isinstance(read, Empty):
            empty.setdefault(read.column, []).append(number)
        else:
            yield read
    for column, numbers in empty.items():
        shown = ", ".join(map(str, numbers[:_SHOWN])) + (
            f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        )
        raise DataError(
            f"{source.label}: '{column}' is empty in {len(numbers)} rows ({shown}); fill them or drop the rows"
        )


def try_examples(source: Rows) -> Iterator[tuple[int, Placed | Empty | DataError]]:
    """The number of each row with its example, or with what is wrong with the row. Raises DataError only where no more
    rows can be read: the columns are unknown, or the file is broken from there on."""
    layout: tuple[str, ...] | None = None
    given = None if source.split is None else _split_name(source.split, f"the split '{source.split}' of {source.label}")
    for number, row in source.rows:
        where = f"{source.label}, row {number}"
        if isinstance(row, DataError):
            yield number, row
        elif not isinstance(row, Mapping):
            yield number, DataError(f"{where}: {_kind(row)} instead of an object with columns; wanted {_wanted()}")
        else:
            layout = layout or _find_layout(row, source.label)
            try:
                yield number, _place(row, layout, given, where)
            except DataError as error:
                yield number, error


def _place(row: Mapping[str, object], layout: tuple[str, ...], given: Split | None, where: str) -> Placed | Empty:
    example = _example(row, layout, where)
    if isinstance(example, Empty):
        return example
    if given is None and "split" in row:
        given = _split_name(row["split"], f"{where}: the split {row['split']!r}")
    return Placed(example, given)


def _find_layout(row: Mapping[str, object], label: str) -> tuple[str, ...]:
    for layout in LAYOUTS:
        if all(column in row for column in layout):
            return layout
    found = ", ".join(str(key)[:40] for key in list(row)[:20]) or "none"
    raise DataError(f"{label}: columns found: {found}; wanted {_wanted()}; rename the columns")


def _wanted() -> str:
    return ", or ".join(
        "/".join(layout) if layout[0] != "instruction" else "instruction(+input)/output" for layout in LAYOUTS
    )


def _example(row: Mapping[str, object], layout: tuple[str, ...], where: str) -> Example | Empty:
    missing = [column for column in layout if column not in row]
    if missing:
        found = ", ".join(str(key)[:40] for key in list(row)[:20]) or "none"
        raise DataError(f"{where}: no column '{missing[0]}' (found: {found}), which the first row has")
    used = [*layout, *(column for column in ("input", "fact") if column in row)]
    size = sum(len(value) for column in used if isinstance(value := row[column], str))
    if size > MAX_ROW_BYTES:
        raise DataError(f"{where}: {size:,} characters; the most for one row is {MAX_ROW_BYTES:,}; shorten or drop it")
    if layout == ("messages",):
        context, completion = _conversation(row["messages"], where)
    else:
        prompt, completion = (_text(row[column], f"{where}: '{column}'") for column in layout)
        if layout[0] == "instruction":
            extra = _text(row.get("input"), f"{where}: 'input'")
            prompt = f"{prompt}\n\n{extra}" if prompt and extra else prompt
        context = (Message("user", prompt),)
    if not context[-1].content:
        return Empty(layout[0])
    if not completion:
        return Empty(layout[-1])
    fact = _text(row.get("fact"), f"{where}: 'fact'") or None
    seen = row.get("seen_fact")
    if not (seen is None or isinstance(seen, bool)):
        raise DataError(f"{where}: 'seen_fact' is {_kind(seen)}; wanted true, false or null")
    return Example(context, completion, fact, seen)


def _conversation(messages: object, where: str) -> tuple[tuple[Message, ...], str]:
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError(
            f"{where}: 'messages' is {_kind(messages)}; wanted a list of at least a user and an assistant message"
        )
    turns = []
    for position, message in enumerate(messages, start=1):
        at = f"{where}, message {position}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(f"{at}: {_kind(message)}; wanted an object with 'role' and 'content'")
        role = message["role"]
        if role not in _ROLES:
            raise DataError(f"{at}: the role {str(role)[:40]!r}; wanted one of {', '.join(_ROLES)}")
        turns.append(Message(role, _text(message["content"], f"{at}: 'content'")))
    if (turns[-2].role, turns[-1].role) != ("user", "assistant"):
        raise DataError(
            f"{where}: ends with {turns[-2].role} and {turns[-1].role}; wanted a user message and its answer last"
        )
    return tuple(turns[:-1]), turns[-1].content


def _text(value: object, where: str) -> str:
    """Text without white space around it; empty for None."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where} is {_kind(value)} ({str(value)[:40]}); wanted text, so write it in quotes")
    if "\0" in value:
        raise DataError(f"{where} holds a NUL character; remove it")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where} holds half of a surrogate pair (as \\ud800), which is no text; remove it")
    return value.strip()


def _split_name(name: object, said: str) -> Split:
    split = _SPLIT_NAMES.get(name.strip().lower()) if isinstance(name, str) else None
    if split is None:
        raise DataError(f"{said} is unknown; wanted train, validation (or val, dev) or test")
    return split


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return _KINDS.get(type(value), f"a {type(value).__name__}")
