from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from serving_client import Client
from tiny_selector import NAME, make_base_model, make_selector

from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector, load_selector
from ftmeta.serving.web import create_app


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache, for processes that look for their base models themselves."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def base_models(hub: Path) -> list[BaseModelInfo]:
    return [make_base_model(hub / f"models--{NAME.replace('/', '--')}" / "snapshots" / "0")]


@pytest.fixture(scope="session")
def selector_folder(tmp_path_factory: pytest.TempPathFactory, base_models: list[BaseModelInfo]) -> Path:
    return make_selector(tmp_path_factory.mktemp("selectors") / "tiny", base_models[0])


@pytest.fixture(scope="session")
def other_selector_folder(tmp_path_factory: pytest.TempPathFactory, base_models: list[BaseModelInfo]) -> Path:
    return make_selector(tmp_path_factory.mktemp("selectors") / "other", base_models[0], seed=1)


@pytest.fixture(scope="session")
def selector(selector_folder: Path) -> Selector:
    return load_selector(selector_folder)


@pytest.fixture(scope="session")
def other_selector(other_selector_folder: Path) -> Selector:
    return load_selector(other_selector_folder)


@pytest.fixture(scope="session")
def app(selector: Selector, base_models: list[BaseModelInfo]) -> FastAPI:
    return create_app(selector, base_models=base_models)


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Client:
    return Client(app)
