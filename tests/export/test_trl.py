"""The exported train.py against our own worker: the same tokens, the same loss at each step, the same adapter.

Equal are the initial adapter and the order of the examples, which the script takes by --adapter and --in-order; dropout
and NEFTune are 0, because each side draws its own masks and noise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from ftmeta.export import export
from ftmeta.finetune import Finetuning, finetune
from ftmeta.finetune.data import tokenize_task
from ftmeta.models import LoadedModel, load
from ftmeta.schema import BaseModelInfo, Budget, CurvePoint, Example, Message, Pipeline, Task

LOSS_REL = 1e-4  # the promise: relative, at each step
WEIGHTS_REL = 1e-3  # norm of the difference of the final adapters / norm of what training moved
BUDGET = Budget(epochs=2, max_fidelity=1, eval_examples=8)
VALUES: dict[str, Any] = {
    "batch_size": 8,
    "lora_rank": 8,
    "lora_dropout": 0.0,
    "warmup_ratio": 0.2,
    "weight_decay": 0.1,
    "adam_beta2": 0.98,
    "max_grad_norm": 0.3,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # peft 0.21 asks transformers 5
    pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated"),  # the requirements stay below trl 2
]


@dataclass(frozen=True)
class Ours:
    losses: list[float]
    curve: list[CurvePoint]
    folder: Path  # holds the adapters `initial` and `final`
    script: Path  # of the export, whose data stands in the order of training


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(micro: BaseModelInfo) -> LoadedModel:
    return load(micro)


@pytest.fixture
def trained(
    base: LoadedModel, elements: Task, pipeline_of: Callable[..., Pipeline], tmp_path: Path
) -> Callable[..., Ours]:
    """Our run, and the export of the same pipeline with the examples in the order that we took them in."""

    def train(**values: Any) -> Ours:
        pipeline = pipeline_of(**{**VALUES, **values})
        losses: list[float] = []

        def keep_loss(run: Finetuning) -> bool:
            losses.append(run.step_loss)
            return False

        with finetune(pipeline, elements, base, seed=0, budget=BUDGET, after_step=keep_loss) as run:
            run.save_adapter(tmp_path / "initial")
            list(run)
            assert run.status == "ok", run.error
            run.save_adapter(tmp_path / "final")
            order = [index for batch in run.batches for index in batch]
        in_order = replace(elements, train=tuple(elements.train[index] for index in order))
        exported = export(
            pipeline, in_order, base.info, "trl", tmp_path / "trl", budget=replace(BUDGET, epochs=1), seed=0
        )
        return Ours(losses, run.curve, tmp_path, exported.folder / "train.py")

    return train


def arguments(ours: Ours) -> list[str]:
    return ["--adapter", str(ours.folder / "initial"), "--in-order"]


def assert_equal(ours: Ours, theirs: dict[str, Any]) -> None:
    assert theirs["steps"] == len(ours.losses) == 12
    assert theirs["losses"] == pytest.approx(ours.losses, rel=LOSS_REL)
    before, after = ours.curve
    assert theirs["zero_shot_nll"]["validation"] == pytest.approx(before.val_nll, rel=LOSS_REL)
    assert theirs["nll"] == pytest.approx({"validation": after.val_nll, "test": after.test_nll}, rel=LOSS_REL)
    assert theirs["score"]["validation"] == pytest.approx(after.score, rel=1e-3)
    assert after.val_nll is not None
    assert before.val_nll is not None
    assert after.val_nll < 0.95 * before.val_nll  # an adapter that does nothing would be equal too
    initial, final, made = (
        safetensors.torch.load_file(folder / "adapter_model.safetensors")
        for folder in (ours.folder / "initial", ours.folder / "final", ours.script.parent / "output" / "adapter")
    )
    assert initial.keys() == final.keys() == made.keys()
    assert distance(final, made) < WEIGHTS_REL * distance(final, initial)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name] - b[name]).square().sum() for name in a).sqrt())


def script_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_runs_without_ftmeta_and_gives_our_curve(trained: Callable[..., Ours]) -> None:
    ours = trained(peft_method="lora", lora_plus_ratio=4, lr_multiplier=0.5)
    # A None among the modules is one that cannot be imported.
    program = "import runpy, sys; sys.modules['ftmeta'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; del sys.argv[0]; {program}", str(ours.script), *arguments(ours)],
        cwd=ours.script.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((ours.script.parent / "output" / "result.json").read_text(encoding="utf-8"))
    assert_equal(ours, result)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["nll"] == result["nll"]


@pytest.mark.parametrize(
    "values",
    [
        {"peft_method": "dora", "lora_plus_ratio": 4, "lr_multiplier": 0.5, "adapted_layers": "upper_half"},
        {"peft_method": "ia3", "lr_multiplier": 10.0, "target_modules": "mlp", "adapted_layers": "lower_half"},
        {"peft_method": "rslora", "loss_on": "full", "label_smoothing": 0.1, "lr_schedule": "constant"},
    ],
    ids=["dora", "ia3", "rslora"],
)
def test_other_methods_give_our_curve_too(values: dict[str, Any], trained: Callable[..., Ours]) -> None:
    ours = trained(**values)
    assert_equal(ours, script_of(ours.script).main([*arguments(ours), "--micro-batch", "4"]))


def test_a_fresh_adapter_of_the_script_is_made_as_ours(trained: Callable[..., Ours]) -> None:
    """Only its random numbers differ: the same weights, of the same sizes. And it goes on from a checkpoint."""
    ours = trained(peft_method="ia3", lr_multiplier=10.0)
    script, options = script_of(ours.script), ["--output", str(ours.folder / "fresh"), "--checkpoint-steps", "2"]
    result = script.main([*options, "--max-steps", "2", "--seed", "1"])
    assert result["steps"] == len(result["losses"]) == 2
    result = script.main([*options, "--max-steps", "3", "--seed", "1", "--resume"])
    assert (result["steps"], len(result["losses"])) == (3, 1)
    fresh, first = (
        safetensors.torch.load_file(folder / "adapter_model.safetensors")
        for folder in (ours.folder / "fresh" / "adapter", ours.folder / "initial")
    )
    assert {name: weight.shape for name, weight in fresh.items()} == {
        name: weight.shape for name, weight in first.items()
    }


def test_the_script_reads_the_tokens_and_the_mask_that_we_do(
    base: LoadedModel, elements: Task, pipeline_of: Callable[..., Pipeline], tmp_path: Path
) -> None:
    odd = 'He said: "it\'s 5\\n"\n\tand {{ this }} <|end|> \u2028 é 東京 🦎'
    talk = (Message("system", odd), Message("user", "?"), Message("assistant", "no"), Message("user", odd))
    long = "very " * 600
    examples = (
        Example(talk, odd),
        Example((Message("user", long),), "a short answer"),
        Example((Message("user", "a short question"),), long),
        Example((Message("user", long),), long),
        *elements.train,
    )
    task = replace(elements, train=examples)
    exported = export(pipeline_of(), task, base.info, "trl", tmp_path / "trl", budget=BUDGET)
    script = script_of(exported.folder / "train.py")
    ours = tokenize_task(task, base)
    assert ours.cut["train"] == 3
    for split, rows in ours.splits.items():
        theirs = script.read(exported.folder / "data" / f"{split}.jsonl", base.tokenizer)
        assert [row["input_ids"] for row in theirs] == [row.ids.tolist() for row in rows]
        assert [row["completion_mask"] for row in theirs] == [
            [0] * row.start + [1] * (len(row) - row.start) for row in rows
        ]
