"""A small real selector and a small real base model, made in seconds without torch.

The base model is a folder as `save_pretrained` writes it: a trained tokenizer, a configuration, weights of zeros. The
selector is meta-trained on a sweep whose curves come from a formula (ours, standing for nothing measured): the score
is best at three times the reference learning rate, attention alone learns less, and costs are analytic work.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from ftmeta import metadataset
from ftmeta.costs import TokenStatistics, analytic_work
from ftmeta.hardware import load_hardware
from ftmeta.metafeatures import metafeatures
from ftmeta.models import describe, fast_tokenizer
from ftmeta.schema import BaseModelInfo, CurvePoint, Pipeline, RunResult, RunRow, RunSpec, Task
from ftmeta.space import load_space
from ftmeta.surrogates import metatrain
from ftmeta.tasks import load_records

NAME = "test/tiny"
SPACE = load_space()
HARDWARE = load_hardware("cpu-core")
SUBJECTS = {"rivers": "river", "towns": "town", "birds": "bird"}


def make_base_model(folder: Path) -> BaseModelInfo:
    """Two layers of width 32 and a byte-level vocabulary."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["what comes after and before it which is the name of"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 256,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weight": np.zeros((400, 100), dtype=np.float32)}, folder / "model.safetensors")
    return describe(folder, NAME)


def make_selector(folder: Path, info: BaseModelInfo, *, seed: int = 0) -> Path:
    """Meta-trains on three tasks of 24 pipelines each and saves the surrogates."""
    tasks = [_task(name, subject, 200 * (index + 1)) for index, (name, subject) in enumerate(SUBJECTS.items())]
    tokenizer = fast_tokenizer(info)
    features = {task.name: metafeatures(task, tokenizer) for task in tasks}
    rng = np.random.default_rng(seed)
    results = [
        _run(task, pipeline, features[task.name], info, rng) for task in tasks for pipeline in SPACE.sample(24, seed)
    ]
    store = folder.with_name(folder.name + "-metadata")
    metadataset.write(
        store,
        results,
        space=SPACE,
        metafeatures={(name, info.name): found for name, found in features.items()},
        base_models={info.name: info},
        hardware={"cpu": HARDWARE},
        budget=SPACE.budget(),
        name=f"tiny-{seed}",
    )
    metatrain(metadataset.read(store), seed=seed).save(folder)
    return folder


def _task(name: str, subject: str, rows: int) -> Task:
    records = [
        {"question": f"Which {subject} is number {row}?", "answer": f"The {subject} called {row * 7919 % 1000}."}
        for row in range(rows)
    ]
    return load_records(records, name)


def _run(
    task: Task, pipeline: Pipeline, features: dict[str, float], info: BaseModelInfo, rng: np.random.Generator
) -> RunResult:
    budget = SPACE.budget()
    tokens = TokenStatistics.of(features)
    assert tokens is not None
    cost_T = analytic_work(info.shape, pipeline, tokens, budget, HARDWARE.weight_bytes).seconds(HARDWARE)
    distance = math.log10(float(pipeline["lr_multiplier"])) - math.log10(3)
    top = (0.6 if pipeline["target_modules"] == "attention" else 0.8) * math.exp(-(distance**2)) + rng.normal(0, 0.01)
    spec = RunSpec(task.name, task.fingerprint, info.name, info.fingerprint, pipeline, 0, budget)
    curve = []
    for t in range(budget.max_fidelity + 1):
        score = float(np.clip(top * (1 - math.exp(-0.4 * t)), 0, 1))
        cost = float(cost_T[t])
        curve.append(
            CurvePoint(
                t, t, t, t, score, 3 - score, 0.5, score, 3 - score, None if t == 0 else 1.0, cost, 0, cost, cost
            )
        )
    run = RunRow(
        run_id=spec.run_id,
        task=task.name,
        base_model=info.name,
        seed=0,
        status="ok",
        error=None,
        max_fidelity=budget.max_fidelity,
        fidelity=budget.max_fidelity,
        cost_s=curve[-1].cost_s,
        wall_s=curve[-1].cost_s,
        peak_memory_gb=0.1,
        device="cpu",
        code_version="test",
        task_fingerprint=task.fingerprint,
        base_model_fingerprint=info.fingerprint,
        space=SPACE.name,
        started_at="2026-01-01T00:00:00+00:00",
        pipeline=pipeline,
    )
    return RunResult(run, tuple(curve))
