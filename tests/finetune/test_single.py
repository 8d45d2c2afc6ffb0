"""One run to a folder, and what may lie there before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftmeta.errors import UserError
from ftmeta.finetune.single import finetune_to_folder
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, Pipeline, Task


def test_a_folder_is_replaced_only_when_that_is_said(
    pipeline: Callable[..., Pipeline], task: Task, base: LoadedModel, budget: Budget, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = finetune_to_folder(pipeline(), task, base.info, 0, budget=budget, until=1, out=out, device="cpu")
    assert first["status"] == "stopped"
    with pytest.raises(UserError, match="exists already"):
        finetune_to_folder(pipeline(), task, base.info, 0, budget=budget, until=1, out=out, device="cpu")
    again = finetune_to_folder(pipeline(), task, base.info, 0, budget=budget, out=out, replace=True, device="cpu")
    assert again["run_id"] == first["run_id"]
    assert json.loads((out / "run.json").read_text())["status"] == again["status"] == "ok"
