"""A recommended pipeline as a ready folder for another trainer: data, configuration, and a README with the command.

    exported = export(pipeline, task, base_model, "trl", Path("out"), budget=space.budget())
    exported.not_carried    # every setting that the tool does not have, with what happens instead

A format is one file with `write(recipe) -> Written` and one line in FORMATS; the contract tests pick it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import UserError
from ftmeta.export import axolotl, llama_factory, ours, trl
from ftmeta.export.readme import readme
from ftmeta.export.recipe import NotCarried, Recipe, Written, recipe
from ftmeta.files import atomic_path, require_new
from ftmeta.schema import BaseModelInfo, Budget, Pipeline, Task

FORMATS: dict[str, Callable[[Recipe], Written]] = {
    "ftmeta": ours.write,
    "trl": trl.write,
    "llama-factory": llama_factory.write,
    "axolotl": axolotl.write,
}


@dataclass(frozen=True)
class Exported:
    """A folder that was written. `command` is run in it."""

    folder: Path
    files: tuple[str, ...]  # paths in the folder
    command: str
    not_carried: tuple[NotCarried, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def export(
    pipeline: Pipeline,
    task: Task,
    base_model: BaseModelInfo,
    format: str,
    folder: Path | str,
    *,
    budget: Budget,
    seed: int = 0,
) -> Exported:
    """Writes the folder, which appears when it is complete.

    `budget` gives the epochs and the training examples. Raises UserError for an unknown format, a folder that exists,
    and a pipeline of another space than lora-v1; SpaceError or ModelError for one that does not fit its space or the
    base model.
    """
    if format not in FORMATS:
        raise UserError(f"unknown export format '{format}'; choose one of {', '.join(FORMATS)}")
    target = Path(folder)
    require_new(target)
    made = recipe(pipeline, task, base_model, budget, seed)
    written = FORMATS[format](made)
    files = {**written.files, "README.md": readme(made, written)}
    with atomic_path(target) as fresh:
        for name, text in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    return Exported(target, tuple(files), written.command, written.not_carried, written.notes)


__all__ = ["FORMATS", "Exported", "NotCarried", "export"]
