"""The real service with the tiny selector, under uvicorn in a thread of this process."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))  # where the tiny selector is made

TOKEN = "a-token-of-the-client-tests"


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    from tiny_selector import make_base_model, make_selector

    from ftmeta.selector import load_selector
    from ftmeta.serving.web import create_app

    info = make_base_model(tmp_path_factory.mktemp("models") / "tiny")
    selector = load_selector(make_selector(tmp_path_factory.mktemp("selectors") / "tiny", info))
    return create_app(selector, base_models=[info], tokens=[hashlib.sha256(TOKEN.encode()).hexdigest()])


@pytest.fixture(scope="session")
def url(app: FastAPI) -> Iterator[str]:
    from in_a_thread import served

    with served(app) as address:
        yield address


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """In the environment, and no proxy between this machine and itself."""
    monkeypatch.setenv("FTMETA_API_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return TOKEN
