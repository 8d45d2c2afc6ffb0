"""All runs that a folder holds: those of its ledger, which is the truth of a sweep, else those of its tables."""

from __future__ import annotations

from pathlib import Path

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset.ledger import Ledger, Problem
from ftmeta.metadataset.store import read
from ftmeta.metadataset.tables import results_of
from ftmeta.schema import RunResult


def runs_in(folder: Path | str) -> tuple[list[RunResult], list[Problem]]:
    """The runs, and files of the ledger that are none. Raises MetaDatasetError for a folder without runs or torn."""
    import pyarrow.parquet as pq

    place = Path(folder)
    if (place / "ledger").is_dir():
        results, problems = Ledger(place / "ledger").scan()
        if not results:
            raise MetaDatasetError(f"the ledger {place / 'ledger'} holds no finished run yet; collect some first")
        return results, problems
    meta = read(place)  # says what is wrong with a folder that is torn
    tables = [pq.read_table(place / f"{table}.parquet") for table in ("runs", "curves")]
    return results_of(tables[0], tables[1], meta.space), []
