"""A bundled model and task, and a recipe of any pipeline in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ftmeta.export.recipe import Recipe, recipe
from ftmeta.models import resolve
from ftmeta.schema import BaseModelInfo, Pipeline, Task
from ftmeta.space import Space, load_space
from ftmeta.tasks import load_task


@pytest.fixture(scope="session")
def space() -> Space:
    return load_space()


@pytest.fixture(scope="session")
def micro() -> BaseModelInfo:
    return resolve("phi3-micro")


@pytest.fixture(scope="session")
def elements() -> Task:
    task = load_task("elements")
    return replace(task, train=task.train[:48], validation=task.validation[:8], test=task.test[:8])


@pytest.fixture(scope="session")
def pipeline_of(space: Space) -> Callable[..., Pipeline]:
    """The default with some values changed."""

    def make(**values: Any) -> Pipeline:
        return space.of({**{name: domain.default for name, domain in space.domains.items()}, **values})

    return make


@pytest.fixture(scope="session")
def recipe_of(pipeline_of: Callable[..., Pipeline], micro: BaseModelInfo, space: Space) -> Callable[..., Recipe]:
    """Of the whole task: its 75 steps tell all shares of warmup apart."""
    whole = load_task("elements")

    made: dict[str, Recipe] = {}

    def make(**values: Any) -> Recipe:
        key = repr(values)
        if key not in made:
            made[key] = recipe(pipeline_of(**values), whole, micro, space.budget(), seed=0)
        return made[key]

    return make
