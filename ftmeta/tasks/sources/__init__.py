"""The documents that tasks are made of: one file a source, and one line here.

A source names its packages, its licence and its sizes, and turns the unpacked packages into facts. To add one, write a
file beside this with a SOURCE and add it to the table; build.py, the cards and the contract tests pick it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from ftmeta.packages import Package
from ftmeta.tasks.assemble import Fact, Sizes

_MODULES = (
    "airports",
    "cell_biology",
    "country_names",
    "databases",
    "elements",
    "fantasy_rules",
    "hacker_slang",
    "history",
    "python_stdlib",
    "vocabulary",
    "web_platform",
    "world_facts",
)


@dataclass(frozen=True)
class Source:
    name: str  # of the task
    domain: str
    packages: tuple[Package, ...]  # Debian ones without a version: their archive keeps one only; the card tells which
    licence: str
    attribution: str
    description: str
    sizes: Sizes
    facts: Callable[..., Iterable[Fact]]  # from the folders with the unpacked packages, in their order


def sources() -> dict[str, Source]:
    """Every source by the name of its task."""
    modules = (import_module(f"{__name__}.{module}") for module in _MODULES)
    return {module.SOURCE.name: module.SOURCE for module in modules}
