"""Files to rows: JSONL, JSON, CSV, Parquet, folders saved by `datasets` and hub ids.

In: a path or hub id. Out: for each split that the source names (None where it names none) an iterator of
(row number, row). Rows count from 1: lines of a JSONL file, elements of a JSON array, records below the header of a
CSV file. A row that is broken while those behind it can be read is a DataError in its place. Text is read in bounded
pieces, so that a file with one endless line is refused, not loaded. Nothing here looks at what the columns mean; see
rows.py.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ftmeta.errors import DataError

if TYPE_CHECKING:
    import pyarrow

MAX_ROW_BYTES = 1 << 20  # no base model here reads a megabyte; longer rows are a file without line ends
SYNTHESIZED = "task.jsonl"  # the file of a task in the folder that it is made in
_CHUNK = 1 << 18
_JSON_SPACE = " \t\r\n"
_BOMS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Row = tuple[int, object]


@dataclass(frozen=True)
class Rows:
    """The rows of one source and split: `label` names the source in messages."""

    label: str
    split: str | None
    rows: Iterator[Row]


def read_path(path: Path) -> list[Rows]:
    """The rows of a file or folder. Raises DataError at once, or while the rows are read."""
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise DataError(f"there is no file '{path}'; check the path")
    if not path.is_file():
        raise DataError(f"'{path}' is neither a file nor a folder")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"'{path}': the suffix '{path.suffix}' is not supported; wanted one of {', '.join(READERS)}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}); check its permissions") from error
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty; it should hold one example a row")
    return [Rows(path.name, None, reader(path))]


# --- JSONL and JSON ---------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            try:
                yield number, _parse_json(line, f"{path.name}, row {number}")
            except DataError as error:
                yield number, error


def _parse_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, column {error.colno}: broken JSON ({error.msg}); one JSON object a line") from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON that is nested too deeply; wanted an object of text columns") from error
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise DataError(f"{where}: broken JSON ({error})") from error


def _read_json(path: Path) -> Iterator[Row]:
    """One array of objects, read element by element; a file that starts with `{` is read as JSONL."""
    with path.open("rb") as file:
        text = _Buffer(file, path)
        first = text.peek()
        if first == "[":
            yield from _elements(text, path.name)
            return
    if first != "{":
        raise DataError(
            f"'{path.name}' starts with {first!r}; a .json file should be an array of objects, [{{..}}, ..]"
        )
    yield from _read_jsonl(path)


def _elements(text: _Buffer, label: str) -> Iterator[Row]:
    text.take(1)
    number = 0
    separator = "]" if text.peek() == "]" else ","
    while separator == ",":
        number += 1
        where = f"{label}, row {number}"
        yield number, _next_element(text, where)
        separator = text.peek()
        if separator not in {",", "]"}:
            found = repr(separator) if separator else "the end of the file"
            raise DataError(f"{where}: after it comes {found}, wanted ',' or ']' (line {text.line}); is it cut off?")
        if separator == ",":
            text.take(1)
    text.take(1)
    if text.peek():
        raise DataError(f"'{label}', line {text.line}: text after the end of the array")


def _next_element(text: _Buffer, where: str) -> object:
    decoder = json.JSONDecoder()
    found = text.peek()
    if found != "{":
        said = repr(found) if found else "the end of the file"
        raise DataError(f"{where}: starts with {said} (line {text.line}); wanted an object, {{..}}")
    while True:
        try:
            value, end = decoder.raw_decode(text.text)
        except json.JSONDecodeError as error:
            if text.more(MAX_ROW_BYTES):
                continue
            line = text.line + text.text.count("\n", 0, error.pos)
            at = f"line {line}, column {error.colno}" if line > text.line else f"line {line}"
            too_long = f", or the row is longer than {MAX_ROW_BYTES:,} bytes" if not text.ended else ""
            raise DataError(f"{where}: broken JSON ({error.msg}, {at}){too_long}") from error
        except (RecursionError, ValueError) as error:
            raise DataError(f"{where}: JSON that cannot be read ({error})") from error
        text.take(end)
        return value


class _Buffer:
    """UTF-8 text of a file that is read in pieces: `text` is what was read and not yet taken."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path, self.text, self.line, self.ended = path, "", 1, False
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = _skip_bom(file, path)

    def more(self, limit: int) -> bool:
        """Reads one more piece; False at the end of the file or with `limit` characters waiting."""
        if self.ended or len(self.text) >= limit:
            return False
        block = self._file.read(_CHUNK)
        if b"\0" in block:
            raise _nul_error(self.path.name, block)
        held = len(self._decoder.getstate()[0])
        try:
            self.text += self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            row = f"near line {self.line + self.text.count(chr(10))}"
            raise _encoding_error(self.path.name, row, self._offset - held + error.start, error) from error
        self._offset += len(block)
        self.ended = not block
        return True

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            stripped = self.text.lstrip(_JSON_SPACE)
            self.line += self.text.count("\n", 0, len(self.text) - len(stripped))
            self.text = stripped
            if stripped or not self.more(MAX_ROW_BYTES):
                return stripped[:1]

    def take(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]


# --- CSV --------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[Row]:
    """Comma-separated with a header; quotes as in RFC 4180. The header is not counted as a row."""
    with _csv_field_limit(MAX_ROW_BYTES):
        reader = csv.reader((line for _, line in _lines(path)), strict=True)
        header: list[str] | None = None
        number = 0
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{path.name}, row {number + 1} (line {reader.line_num}): broken CSV ({error})"
                ) from error
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise DataError(f"'{path.name}': the header has the column {twice[0]!r} twice; rename one")
                continue
            number += 1
            if len(fields) == len(header):
                yield number, dict(zip(header, fields, strict=True))
            else:
                yield (
                    number,
                    DataError(
                        f"{path.name}, row {number} (line {reader.line_num}): {len(fields)} fields, but the header has "
                        f"{len(header)} columns; text with a comma, quote or line end needs quotes around it"
                    ),
                )


@contextlib.contextmanager
def _csv_field_limit(limit: int) -> Iterator[None]:
    before = csv.field_size_limit(limit)  # one setting for the whole process
    try:
        yield
    finally:
        csv.field_size_limit(before)


# --- Parquet, `datasets` folders, the hub -------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"'{path.name}', after row {number}: not a readable Parquet file ({_first_line(error)})"
        ) from error


def _read_folder(path: Path) -> list[Rows]:
    """A folder written by `ftmeta tasks synthesize`, `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    if (path / SYNTHESIZED).is_file():
        return read_path(path / SYNTHESIZED)
    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        inside = sorted(entry.name for entry in path.iterdir())[:5]
        raise DataError(
            f"the folder '{path}' is not a dataset saved by `datasets` (it holds {', '.join(inside) or 'nothing'}); "
            f"give such a folder, or one file: {', '.join(READERS)}; documents first become a dataset by "
            "`ftmeta tasks synthesize`"
        )
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry is a warning; one message is enough
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises whatever its readers do: OSError, KeyError, ArrowInvalid, ..
        raise DataError(f"the folder '{path}' cannot be read by `datasets` ({_first_line(error)})") from error
    return _dataset_rows(loaded, path.name)


def read_hub(name: str) -> list[Rows]:
    """The rows of a dataset of the Hugging Face hub. Raises DataError without a network, for unknown ids too."""
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry is a warning; one message is enough
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # no network, offline mode, unknown id, gated, several configurations: many types
        raise DataError(
            f"'{name}' is no file, folder or bundled task here, and could not be loaded from the Hugging Face hub "
            f"({_first_line(error)}); check the spelling and the network, or give a file"
        ) from error
    return _dataset_rows(loaded, name)


def is_hub_id(name: str) -> bool:
    """Whether `name` can be a hub id: `owner/name`, without the suffix of a file."""
    return _HUB_ID.fullmatch(name) is not None and Path(name).suffix.lower() not in READERS


def _dataset_rows(loaded: Any, label: str) -> list[Rows]:
    tables: dict[str | None, Any] = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    return [
        Rows(label if split is None else f"{label} ({split})", split, _table_rows(data.with_format("arrow")[:]))
        for split, data in tables.items()
        if len(data) > 0
    ]


def _table_rows(table: pyarrow.Table) -> Iterator[Row]:
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


# --- bytes to text ------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        offset = _skip_bom(file, path)
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            where = f"row {number}" if path.suffix.lower() != ".csv" else f"line {number}"
            if len(line) > MAX_ROW_BYTES:
                raise DataError(
                    f"{path.name}, {where}: longer than {MAX_ROW_BYTES:,} bytes, the most for one row; "
                    "are the line ends missing? Shorten or drop the row"
                )
            if b"\0" in line:
                raise _nul_error(f"{path.name}, {where}", line)
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _encoding_error(path.name, where, offset + error.start, error) from error
            offset += len(line)


def _skip_bom(file: BinaryIO, path: Path) -> int:
    start = file.read(4)
    for bom, encoding in _BOMS:
        if start.startswith(bom):
            raise DataError(f"'{path.name}' is {encoding} text (by its first bytes); save it as UTF-8")
    offset = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
    file.seek(offset)
    return offset


def _nul_error(where: str, block: bytes) -> DataError:
    if block.count(b"\0") * 3 > len(block):
        return DataError(f"{where}: every other byte is zero, as in UTF-16 text; save the file as UTF-8")
    return DataError(f"{where}: a NUL byte; the file is damaged or not text")


def _encoding_error(label: str, where: str, offset: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(
        f"{label}, {where}: byte 0x{byte:02x} at offset {offset} is not UTF-8; convert the file, "
        "for example from Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
