from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.metadataset import MetaDataset, read
from ftmeta.surrogates import Surrogates, metatrain
from tests.surrogates.synthetic import write_sweep


@pytest.fixture(scope="session")
def meta(tmp_path_factory: pytest.TempPathFactory) -> MetaDataset:
    folder: Path = tmp_path_factory.mktemp("meta")
    write_sweep(folder, 4, 50)
    return read(folder)


@pytest.fixture(scope="session")
def surrogates(meta: MetaDataset) -> Surrogates:
    return metatrain(meta)
