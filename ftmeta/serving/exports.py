"""A pipeline as the configuration of another trainer (ftmeta/export), without the rows: those stay where they are.

The tools want to know how many rows there are, so rows that say nothing stand in for them; of each data file the answer
shows one line. torch and peft, which say what an adapter is, are imported when the first export is asked for, which
takes seconds and some hundred megabytes; who never asks never pays.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ftmeta.errors import ModelError, UserError
from ftmeta.schema import BaseModelInfo, Budget, Example, Message, Pipeline, Task
from ftmeta.serving.problems import FieldError

log = logging.getLogger("ftmeta.serving")
_ROW = Example((Message("user", "<the question>"),), "<the answer>")


def export_document(
    pipeline: Pipeline, base_model: BaseModelInfo, format: str, *, name: str, splits: Mapping[str, int], budget: Budget
) -> dict[str, Any]:
    """What the service answers: texts of files by their paths, and how to run them. `splits` are numbers of rows.

    Raises FieldError for an unknown format, a base model that cannot be exported, and a pipeline of another space than
    lora-v1.
    """
    from ftmeta.export import FORMATS
    from ftmeta.export.readme import readme
    from ftmeta.export.recipe import recipe

    if format not in FORMATS:
        raise FieldError("format", f"unknown export format; choose one of {', '.join(FORMATS)}")
    train, validation, test = ((_ROW,) * splits[split] for split in ("train", "validation", "test"))
    task = Task("".join(c if c.isprintable() else " " for c in name), train, validation, test, fingerprint="")
    try:
        made = recipe(pipeline, task, base_model, budget, seed=0)
    except ModelError as error:  # it names folders of this machine
        log.warning(json.dumps({"event": "no export", "base_model": base_model.name, "reason": str(error)}))
        raise FieldError("base_model", "this base model cannot be exported from here; choose another") from None
    except UserError as error:
        raise FieldError("pipeline", str(error)) from None
    elsewhere = f"/path/to/{base_model.name}"
    made = replace(made, base_model=replace(base_model, path=elsewhere))
    written = FORMATS[format](made)
    notes = list(written.notes)
    if any(elsewhere in text for text in written.files.values()):
        notes.append(f"Write the folder of the base model in the place of {elsewhere}; `ftmeta models list` shows it.")
    files = {path: text for path, text in written.files.items() if not path.endswith(".jsonl")}
    data = {path: text.partition("\n")[0] for path, text in written.files.items() if path.endswith(".jsonl")}
    return {
        "format": format,
        "files": {**files, "README.md": readme(made, written)},
        "data": data,
        "install": written.install,
        "command": written.command,
        "not_carried": [asdict(one) for one in written.not_carried],
        "notes": notes,
    }
