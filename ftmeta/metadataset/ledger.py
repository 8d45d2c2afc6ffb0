"""The ledger of a sweep: a folder with one JSON file a finished run, the source of truth for resuming.

A run's file is `<first two digits of run_id>/<run_id>.json`. It appears by one atomic rename, so whatever is killed
and whenever, a run is in the ledger whole or not at all. The id is the hash of what defines the run, so two drivers
that finish the same run write the same file, and the work per run does not grow with the number of runs.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import MetaDatasetError
from ftmeta.files import write_text
from ftmeta.schema import CurvePoint, Pipeline, RunResult, RunRow, Status

_FORMAT = 1
_RUN_ID = re.compile(r"[0-9a-f]{4,64}")
_RUN_FILE = re.compile(r"[0-9a-f]{4,64}\.json")


@dataclass(frozen=True)
class Problem:
    """A file in the ledger that is no whole run: torn by a failing disk, or put there by someone else."""

    path: str
    why: str


@dataclass(frozen=True)
class Brief:
    """What an overview needs of a run; reading it costs half of reading the run."""

    run_id: str
    task: str
    status: Status
    cost_s: float
    device: str


class Ledger:
    """One finished run a file. Any number of processes may use the same folder at once."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def has(self, run_id: str) -> bool:
        return self._path(run_id).exists()

    def put(self, result: RunResult, *, replace: bool = False) -> bool:
        """Keeps `result`; True if it was written, False if a run of this id was there and stays.

        `replace` is for a run that is made again on purpose (`--retry-failed`, or one that was stopped and went on).
        """
        path = self._path(result.run.run_id)
        if path.exists() and not replace:
            return False
        write_text(path, json.dumps(_to_json(result), ensure_ascii=False, allow_nan=False) + "\n")
        return True

    def get(self, run_id: str) -> RunResult:
        """Raises MetaDatasetError if the run is not there or its file is torn."""
        path = self._path(run_id)
        if not path.exists():
            raise MetaDatasetError(f"run {run_id} is not in the ledger {self.directory}")
        result = _read(path)
        if isinstance(result, Problem):
            raise MetaDatasetError(_advice([result]))
        return result

    def run_ids(self) -> set[str]:
        """The ids of all finished runs, from the file names alone: fast enough to resume a sweep of 100,000."""
        return {name.removesuffix(".json") for name, _ in self._run_files()}

    def briefs(self) -> Iterator[Brief | Problem]:
        """Each run in brief, in no order; a file that is no whole run is a Problem. Memory does not grow with runs."""
        for _, path in self._run_files():
            try:
                document = json.loads(Path(path).read_text(encoding="utf-8"))
                run = document["run"] if document["format"] == _FORMAT else {}
                yield Brief(run["run_id"], run["task"], run["status"], float(run["cost_s"]), run["device"])
            except FileNotFoundError:
                continue  # taken away since the folder was read
            except (OSError, ValueError, KeyError, TypeError) as error:
                yield Problem(path, f"is torn or of another version ({type(error).__name__}: {error})")

    def results(self) -> Iterator[RunResult]:
        """All runs in the order of their ids. Raises MetaDatasetError at the first file that is no whole run."""
        for path in self._files():
            result = _read(path)
            if isinstance(result, Problem):
                raise MetaDatasetError(_advice([result]))
            yield result

    def scan(self) -> tuple[list[RunResult], list[Problem]]:
        """All whole runs, and all files that are none, for a caller that wants to go on and to say so."""
        read = [_read(path) for path in self._files()]
        return [r for r in read if isinstance(r, RunResult)], [r for r in read if isinstance(r, Problem)]

    def __len__(self) -> int:
        return len(self.run_ids())

    def _run_files(self) -> Iterator[tuple[str, str]]:
        """Name and path of each run's file."""
        if not self.directory.is_dir():
            return
        shards = [entry for entry in os.scandir(self.directory) if len(entry.name) == 2 and entry.is_dir()]
        for shard in shards:
            for entry in os.scandir(shard.path):
                name = entry.name
                if name.startswith(shard.name) and _RUN_FILE.fullmatch(name):
                    yield name, entry.path

    def _path(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise MetaDatasetError(f"'{run_id}' is no run id; wanted 4 to 64 lower-case hexadecimal digits")
        return self.directory / run_id[:2] / f"{run_id}.json"

    def _files(self) -> list[Path]:
        """Everything that lies in the ledger except what is being written right now (names with a leading dot)."""
        return sorted(
            path
            for path in self.directory.glob("**/*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.directory).parts)
        )


def _expected(path: Path) -> bool:
    return path.suffix == ".json" and bool(_RUN_ID.fullmatch(path.stem)) and path.parent.name == path.stem[:2]


def _to_json(result: RunResult) -> dict[str, Any]:
    run = {**asdict(result.run), "pipeline": result.run.pipeline.to_json()}
    return {"format": _FORMAT, "run": _finite(run), "curve": [_finite(asdict(point)) for point in result.curve]}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: what is not finite is unknown (None)."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _read(path: Path) -> RunResult | Problem:
    if not _expected(path):
        return Problem(str(path), "is no run file (<first two digits>/<run_id>.json)")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            return Problem(str(path), f"has format {document['format']!r}, and this version reads {_FORMAT}")
        run, pipeline = document["run"], document["run"]["pipeline"]
        result = RunResult(
            RunRow(**{**run, "pipeline": Pipeline(pipeline["space"], pipeline["values"])}),
            tuple(CurvePoint(**point) for point in document["curve"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        return Problem(str(path), f"is torn ({type(error).__name__}: {error})")
    if result.run.run_id != path.stem:
        return Problem(str(path), f"holds run {result.run.run_id}")
    return result


def _advice(problems: list[Problem]) -> str:
    first = problems[0]
    return f"{first.path} {first.why}; move it away and submit the sweep again, which makes the run anew"
