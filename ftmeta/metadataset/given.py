"""Tables from outside, as text: what an import starts from, whether it comes from CSV files or from MLflow.

In: a CSV file. Out: its rows one by one, under the names that the Parquet tables use (`p_<name>` for hyperparameters),
each with its place, so that whatever is wrong with it later can be said in the reader's terms.

Files are taken as spreadsheets write them: with a byte-order mark, with semicolons or tabs for commas, and then with
decimal commas. A file that cannot be understood as a whole (another encoding, a column that is missing) is an error.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Literal

from ftmeta.errors import DataError
from ftmeta.metadataset.tables import CURVE_COLUMNS, RUN_COLUMNS
from ftmeta.space import Space

Which = Literal["runs", "curves"]

NEEDED: Mapping[Which, tuple[str, ...]] = {
    "runs": ("run_id", "task", "status"),
    "curves": ("run_id", "fidelity", "score", "cost_s"),
}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_TEXTS = {
    "run_id",
    "task",
    "base_model",
    "status",
    "error",
    "device",
    "code_version",
    "space",
    "started_at",
    "libraries",
}


@dataclass(frozen=True)
class Row:
    """One row of a table. Cells are stripped text; an absent cell and an empty one both say nothing."""

    place: int | str  # a spreadsheet's row number (the header is row 1), or an MLflow run's id
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Rejected:
    """A row that is not imported, and why."""

    table: Which
    row: int | str
    why: str

    def to_json(self) -> dict[str, int | str]:
        return {"row": self.row, "why": self.why, "table": self.table}


@dataclass(frozen=True)
class Given:
    """A table as it was given: `rows` can be gone through once."""

    rows: Iterator[Row | Rejected]
    ignored: tuple[str, ...]  # columns that nothing here has a use for


def read_csv(path: Path | str, which: Which, space: Space) -> Given:
    """Opens a CSV file with runs or with curves. Raises DataError for a file that is missing, empty, not UTF-8 or not
    CSV (the last two also while `rows` are read), or that lacks a column."""
    source = Path(path)
    try:
        file = source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}); give a CSV file") from None
    lines = _records(file, source)
    _, header = next(lines, (1, []))
    names = _columns([cell.strip() for cell in header], which, space, source)
    ignored = tuple(cell.strip() for cell, name in zip(header, names, strict=True) if name is None and cell.strip())
    return Given(_rows(lines, which, names), ignored)


def _records(file: IO[str], source: Path) -> Iterator[tuple[int, list[str]]]:
    """Row numbers as a spreadsheet shows them, and cells; decimal commas have become points where commas do not part
    the cells. Empty lines are passed over."""
    number = 1
    with file:
        try:
            first = file.readline()
            delimiter = _delimiter(first)
            for number, cells in enumerate(csv.reader(chain([first], file), delimiter=delimiter, strict=True), start=1):
                if any(cell.strip() for cell in cells):
                    yield number, cells if delimiter == "," else [_with_point(cell) for cell in cells]
        except UnicodeDecodeError:
            raise DataError(f"{source} is not UTF-8 text (after row {number}); save it as 'CSV UTF-8'") from None
        except csv.Error as error:
            raise DataError(
                f"{source} is not CSV after row {number}: {error}; look for a quote that is not closed"
            ) from None
        except IsADirectoryError:
            raise DataError(f"{source} is a folder; give a CSV file") from None


def _delimiter(header: str) -> str:
    counted = Counter(character for character in header if character in ",;\t")
    return counted.most_common(1)[0][0] if counted else ","


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell.strip()) else cell


def _columns(header: Sequence[str], which: Which, space: Space, source: Path) -> list[str | None]:
    """The name that each column has in the Parquet tables; None where it has none."""
    if not header:
        raise DataError(f"{source} is empty; it needs a header with {', '.join(NEEDED[which])}")
    twice = [name for name, times in Counter(header).items() if times > 1 and name]
    if twice:
        raise DataError(f"{source} has the column '{twice[0]}' twice; keep one of them")
    known = dict.fromkeys(RUN_COLUMNS if which == "runs" else CURVE_COLUMNS)
    names: list[str | None] = []
    hyperparameters = {f"p_{name}" for name in space.hyperparameters} if which == "runs" else set()
    for name in header:
        if name in known or name in hyperparameters or (which == "runs" and name.startswith("mf_")):
            names.append(name)
        else:
            names.append(f"p_{name}" if f"p_{name}" in hyperparameters - set(header) else None)
    missing = [name for name in NEEDED[which] if name not in names]
    if which == "runs":
        missing += [
            f"p_{name}" if name in known else name for name in space.hyperparameters if f"p_{name}" not in names
        ]
    if missing:
        hint = f"; the space '{space.name}' has {', '.join(space.hyperparameters)}" if which == "runs" else ""
        s = "" if len(missing) == 1 else "s"
        raise DataError(
            f"{source} lacks the column{s} {', '.join(missing)}; it has {', '.join(filter(None, header))}{hint}"
        )
    return names


def _rows(
    records: Iterator[tuple[int, list[str]]], which: Which, names: Sequence[str | None]
) -> Iterator[Row | Rejected]:
    for number, cells in records:
        if len(cells) != len(names):
            yield Rejected(which, number, f"has {len(cells)} cells, and the header has {len(names)}")
        else:
            pairs = zip(names, cells, strict=True)
            yield Row(number, {name: cell.strip() for name, cell in pairs if name is not None})
