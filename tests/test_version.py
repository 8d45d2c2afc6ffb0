from __future__ import annotations

import pytest

import ftmeta
from ftmeta.version import VARIABLE, code_version


def test_the_code_version_is_told_where_there_is_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    here = code_version()
    assert here.startswith(ftmeta.__version__)
    monkeypatch.setenv(VARIABLE, "0.1.0+g1a2b3c4d")
    assert code_version() == "0.1.0+g1a2b3c4d"
    monkeypatch.setenv(VARIABLE, "")
    assert code_version() == here
