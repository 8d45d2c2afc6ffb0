"""A small meta-dataset of the real kind, and a task of it that optimizers have not seen."""

from __future__ import annotations

import numpy as np
import pytest

from ftmeta.benchmark.replay import problem_of
from ftmeta.benchmark.table import Table, tables_of
from ftmeta.metadataset import MetaDataset, load
from ftmeta.optimizers import Experience, Problem, experience_of


@pytest.fixture(scope="package")
def meta() -> MetaDataset:
    return load("spine")


@pytest.fixture(scope="package")
def table(meta: MetaDataset) -> Table:
    """World-facts, with a run that breaks off at once and one that breaks off after three fidelities."""
    (table,) = (table for table in tables_of(meta)[0] if table.task == "world-facts")
    table.validation_NT[5] = np.nan
    table.validation_NT[9, 3:] = np.nan
    return table


@pytest.fixture(scope="package")
def experience(meta: MetaDataset) -> Experience:
    return experience_of(meta, ("world-facts",))


@pytest.fixture(scope="package")
def problem(meta: MetaDataset, table: Table) -> Problem:
    return problem_of(table, meta.space, table.total_cost_s)
