"""The meta-dataset: many finetuning runs over many tasks, as a ledger while they are made and as Parquet afterwards.

`Ledger` is what a sweep writes to, one file a finished run. `write` makes the Parquet tables of it, `read` gives them
back as a `MetaDataset`, `join` puts several together, `describe` says what is in one.
"""

from ftmeta.metadataset.ledger import Ledger, Problem
from ftmeta.metadataset.store import MetaDataset, describe, join, read, write

__all__ = ["Ledger", "MetaDataset", "Problem", "describe", "join", "read", "write"]
