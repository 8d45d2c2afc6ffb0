from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_hardware_of_ones_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has measured with `ftmeta calibrate` stays out of the tests."""
    monkeypatch.setenv("FTMETA_HARDWARE", str(Path(tmp_path_factory.getbasetemp()) / "no-own-hardware"))
