"""A synthetic meta-dataset with a known truth: what the surrogates' tests recover.

The response surface is made up, but shaped like finetuning (the constants are ours and stand for nothing measured):

  score(pipeline, task, t) = top * fit * (1 - exp(-3 t / T)) / (1 - exp(-3))
  fit = exp(-(x - x0)^2 / (2 width^2)) * method * targets * rank      x = log10 of the learning rate multiple
  x0 = 0.3 - 0.35 * log10(n_train / 1000) + 0.06 * log2(batch / 16)           the optimum falls with more data

plus noise of standard deviation 0.01 a run and 0.005 a point. Above a multiple of 10^(x0 + 0.45) a run diverges at a
fidelity between 1 and 4 in four cases of five. Cost is analytic work on the hardware profile, times a factor a PEFT
method that the analytic count does not know, times log-normal noise of 3 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ftmeta.costs import TokenStatistics, analytic_work
from ftmeta.hardware import load_hardware
from ftmeta.metadataset import write
from ftmeta.schema import BaseModelInfo, CurvePoint, ModelShape, Pipeline, RunResult, RunRow, RunSpec, Value
from ftmeta.space import Space, load_space

SHAPE = ModelShape(
    parameters=1_500_000, hidden_size=128, intermediate_size=344, layers=4, vocab_size=4096, context_length=512
)
BASE_MODEL = BaseModelInfo("micro", "unused", SHAPE, 4.3e-3, "f00d" * 4)
HARDWARE = load_hardware("cpu-core")
METHOD_COST = {"lora": 1.3, "rslora": 1.3, "dora": 2.0, "ia3": 1.1}
METHOD_FIT = {"lora": 1.0, "rslora": 1.0, "dora": 1.02, "ia3": 0.75}
TARGETS_FIT = {"attention": 0.85, "mlp": 0.93, "all": 1.0}


def task_metafeatures(n_tasks: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Task name -> meta-features: the three that costs need, and two that say something about the score."""
    rng = np.random.default_rng(seed)
    tasks = {}
    for k in range(n_tasks):
        train = float(rng.uniform(2.6, 3.6))
        tasks[f"task{k}"] = {
            "log10_train_examples": train,
            "prompt_tokens_mean": float(rng.uniform(10, 40)),
            "answer_tokens_mean": float(rng.uniform(5, 20)),
            "zero_shot_nll": float(rng.uniform(2, 5)),
            "noise": float(rng.normal()),
        }
    return tasks


def truth(values: dict[str, Value], mf: dict[str, float], max_fidelity: int) -> tuple[np.ndarray, bool]:
    """Noiseless scores at fidelities 1..max_fidelity, and whether the pipeline is beyond the stable learning rates."""
    x = np.log10(float(values["lr_multiplier"]))
    optimum = 0.3 - 0.35 * (mf["log10_train_examples"] - 3) + 0.06 * np.log2(float(values["batch_size"]) / 16)
    width = 0.45 if x > optimum else 0.8
    fit = np.exp(-((x - optimum) ** 2) / (2 * width**2))
    fit *= METHOD_FIT[str(values["peft_method"])] * TARGETS_FIT[str(values["target_modules"])]
    fit *= 1 - 0.1 * (4 - np.log2(float(values.get("lora_rank", 16)))) / 4 * (values["peft_method"] != "ia3")
    top = 0.25 + 0.08 * mf["zero_shot_nll"]
    t = np.arange(1, max_fidelity + 1) / max_fidelity
    return top * fit * (1 - np.exp(-3 * t)) / (1 - np.exp(-3)), bool(x > optimum + 0.45)


def run_result(
    pipeline: Pipeline,
    task: str,
    mf: dict[str, float],
    space: Space,
    *,
    seed: int = 0,
    rng: np.random.Generator | None = None,
) -> RunResult:
    rng = rng or np.random.default_rng(0)
    budget = space.budget()
    T = budget.max_fidelity
    scores, unstable = truth(dict(pipeline.values), mf, T)
    scores = np.clip(scores + rng.normal(0, 0.01) + rng.normal(0, 0.005, T), 0, 1)
    last = int(rng.integers(1, 5)) if unstable and rng.random() < 0.8 else T
    statistics = TokenStatistics.of(mf)
    assert statistics is not None
    work = analytic_work(SHAPE, pipeline, statistics, budget, HARDWARE.weight_bytes)
    factor = METHOD_COST[str(pipeline["peft_method"])] * np.exp(rng.normal(0, 0.03))
    cost = np.maximum.accumulate(work.seconds(HARDWARE) * factor)
    spec = RunSpec(task, f"fingerprint of {task}", BASE_MODEL.name, BASE_MODEL.fingerprint, pipeline, seed, budget)
    curve = [_point(0, 0.0, work, cost)] + [_point(t, float(scores[t - 1]), work, cost) for t in range(1, last + 1)]
    run = RunRow(
        run_id=spec.run_id,
        task=task,
        base_model=BASE_MODEL.name,
        seed=seed,
        status="ok" if last == T else "diverged",
        error=None if last == T else "loss rose",
        max_fidelity=T,
        fidelity=last,
        cost_s=float(cost[last]),
        wall_s=float(cost[last]),
        peak_memory_gb=0.5,
        device="cpu",
        code_version="synthetic",
        task_fingerprint=spec.task_fingerprint,
        base_model_fingerprint=spec.base_model_fingerprint,
        space=space.name,
        started_at="2026-01-01T00:00:00+00:00",
        pipeline=pipeline,
        libraries={"numpy": np.__version__},
        generation={"exact_match": 0.5, "f1": 0.6, "rouge_l": 0.6} if last == T else None,
    )
    return RunResult(run, tuple(curve))


def _point(t: int, score: float, work: object, cost: np.ndarray) -> CurvePoint:
    nll = 3.0 * (1 - score)
    return CurvePoint(
        fidelity=t,
        step=int(work.steps[t]),  # type: ignore[attr-defined]
        examples=0,
        tokens=int(work.tokens[t]),  # type: ignore[attr-defined]
        score=score,
        val_nll=nll,
        val_token_accuracy=0.5,
        test_score=max(0.0, score - 0.01),
        test_nll=nll,
        train_loss=None if t == 0 else nll,
        cost_train_s=float(cost[t] * 0.9),
        cost_eval_s=float(cost[t] * 0.1),
        cost_s=float(cost[t]),
        wall_s=float(cost[t]),
    )


def sweep(n_tasks: int, n_pipelines: int, *, seed: int = 0, space: Space | None = None) -> list[RunResult]:
    """Every pipeline of one Sobol sample on every task."""
    space = space or load_space()
    rng = np.random.default_rng(seed)
    tasks = task_metafeatures(n_tasks, seed)
    pipelines = space.sample(n_pipelines, seed=seed)
    return [run_result(pipeline, task, mf, space, rng=rng) for task, mf in tasks.items() for pipeline in pipelines]


def write_sweep(folder: Path, n_tasks: int, n_pipelines: int, *, seed: int = 0, **changes: Any) -> None:
    """A sweep and everything that is known of it, as a meta-dataset."""
    space = load_space()
    tasks = task_metafeatures(n_tasks, seed)
    facts: dict[str, Any] = {
        "space": space,
        "metafeatures": {(task, BASE_MODEL.name): mf for task, mf in tasks.items()},
        "base_models": {BASE_MODEL.name: BASE_MODEL},
        "hardware": {"cpu": HARDWARE},
        "budget": space.budget(),
        "name": "synthetic",
    }
    write(folder, changes.pop("results", None) or sweep(n_tasks, n_pipelines, seed=seed), **{**facts, **changes})
