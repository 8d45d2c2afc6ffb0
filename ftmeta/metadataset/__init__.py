"""The meta-dataset: many finetuning runs over many tasks, as a ledger while they are made and as Parquet afterwards.

`Ledger` is what a sweep writes to, one file a finished run. `write` makes the Parquet tables of it, `read` gives them
back as a `MetaDataset`, `merge` joins several, `describe` says what is in one.
"""

from ftmeta.metadataset.ledger import Ledger, Problem
from ftmeta.metadataset.store import MetaDataset, describe, merge, read, write

__all__ = ["Ledger", "MetaDataset", "Problem", "describe", "merge", "read", "write"]
