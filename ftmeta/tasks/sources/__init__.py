"""The documents that tasks are made of: one file a source, and one line here.

A source names its package, its licence and its sizes, and turns the unpacked package into facts. To add one, write a
file beside this with a SOURCE and add it to the table; build.py, the cards and the contract tests pick it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Kind
from ftmeta.tasks.assemble import Fact, Sizes


@dataclass(frozen=True)
class Source:
    name: str  # of the task
    domain: str
    kind: Kind
    package: str
    version: str | None  # None for Debian packages, whose archive keeps one version only; the card tells which
    licence: str
    attribution: str
    description: str
    sizes: Sizes
    facts: Callable[[Path], Iterable[Fact]]  # from the folder with the unpacked package


def sources() -> dict[str, Source]:
    """Every source by the name of its task."""
    from ftmeta.tasks.sources import elements, python_stdlib, web_platform, world_facts

    table = (elements.SOURCE, python_stdlib.SOURCE, web_platform.SOURCE, world_facts.SOURCE)
    return {source.name: source for source in table}
