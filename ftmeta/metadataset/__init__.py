"""The meta-dataset: many finetuning runs over many tasks, as a ledger while they are made and as Parquet afterwards.

`Ledger` is what a sweep writes to, one file a finished run. `write` makes the Parquet tables of it, `read` gives them
back as a `MetaDataset`, `load` does so by the name of a bundled one, too, `join` puts several together, `describe` says
what is in one; `to_pandas` and `to_dataset` make one table of it.
"""

from ftmeta.metadataset.ledger import Ledger, Problem
from ftmeta.metadataset.loaders import bundled_metadatasets, find, load, to_dataset, to_pandas
from ftmeta.metadataset.store import MetaDataset, describe, join, read, write

__all__ = [
    "Ledger",
    "MetaDataset",
    "Problem",
    "bundled_metadatasets",
    "describe",
    "find",
    "join",
    "load",
    "read",
    "to_dataset",
    "to_pandas",
    "write",
]
