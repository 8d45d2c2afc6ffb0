"""The base model's own meta-features: the numbers of fidelity 0, the same in a meta-dataset and in use, and used."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftmeta import metadataset
from ftmeta.errors import ModelError
from ftmeta.finetune import finetune, tokenize_task
from ftmeta.finetune.adapters import METHODS
from ftmeta.finetune.data import fixed_subset
from ftmeta.finetune.zero_shot import measured, zero_shot_features
from ftmeta.metadataset import Ledger
from ftmeta.metafeatures import FEATURES, ZERO_SHOT_FEATURES
from ftmeta.models import LoadedModel
from ftmeta.orchestrate.collect import _compact
from ftmeta.orchestrate.sweep import BudgetChanges, Pipelines, Plan, Sweep, make_plan
from ftmeta.orchestrate.workers import FinetuneWorker
from ftmeta.recommend import choose_pipeline, describe_task, recommend_for_task, recommendation_document
from ftmeta.schema import BaseModelInfo, Budget, Pipeline, Task
from ftmeta.selector import Selector, load_selector
from ftmeta.surrogates import metatrain
from ftmeta.tracking import Tracker
from tests.surrogates.synthetic import task_metafeatures, write_sweep


@pytest.mark.parametrize("method", METHODS)
def test_they_are_what_a_run_records_at_fidelity_0(method: str, base: LoadedModel, task: Task, budget: Budget) -> None:
    assert len(task.validation) > budget.eval_examples  # so that which examples are taken matters
    with finetune(Pipeline("lora-v1", {"peft_method": method, "batch_size": 8}), task, base, 0, budget=budget) as run:
        point = next(run)
    found = measured(task, base, examples=budget.eval_examples)
    assert found == {
        "zero_shot_nll": round(point.val_nll or 0, 9),
        "zero_shot_token_accuracy": round(point.val_token_accuracy or 0, 9),
    }


def test_values_by_the_formula(base: LoadedModel, task: Task) -> None:
    """One example at a time, through the whole model: -sum ln p / answer tokens."""
    nll, hits, tokens = 0.0, 0, 0
    for row in tokenize_task(task, base).splits["validation"]:
        ids = torch.from_numpy(row.ids)
        with torch.inference_mode():
            log_p = base.model(ids[None]).logits[0].log_softmax(-1)
        predicted, answer = log_p[row.start - 1 : -1], ids[row.start :]
        nll -= float(predicted.gather(1, answer[:, None]).sum())
        hits += int((predicted.argmax(-1) == answer).sum())
        tokens += len(answer)
    found = measured(task, base)
    assert found["zero_shot_nll"] == pytest.approx(nll / tokens, rel=1e-5)
    assert found["zero_shot_token_accuracy"] == pytest.approx(hits / tokens)


def test_from_disk_it_is_the_same_and_nothing_is_changed(base: LoadedModel, task: Task) -> None:
    assert zero_shot_features(task, base.info, device="cpu", threads=2) == pytest.approx(measured(task, base), rel=1e-5)
    assert torch.get_num_threads() == 1
    assert measured(replace(task, train=(), test=()), base) == measured(task, base)
    subset = tuple(task.validation[index] for index in fixed_subset(len(task.validation), 5))
    assert measured(replace(task, validation=subset), base) == measured(task, base, examples=5)


@pytest.fixture(scope="module")
def too_large(base: LoadedModel) -> BaseModelInfo:
    return replace(base.info, shape=replace(base.info.shape, parameters=3_821_079_552))


def test_a_model_that_is_too_large_for_a_cpu_is_not_loaded(task: Task, too_large: BaseModelInfo) -> None:
    with pytest.raises(ModelError, match=r"has 3,821 M parameters; without a CUDA device .* up to 200 M"):
        zero_shot_features(task, replace(too_large, path="nowhere"), device="cpu")


def test_what_is_not_finite_is_an_error_and_never_a_feature(base: LoadedModel, task: Task) -> None:
    broken = copy.deepcopy(base.model)
    broken.get_output_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"NLL of nan on the validation split of 'colours'.* unusable"):
        measured(task, replace(base, model=broken))


# --- the same code for a meta-dataset and for a user's task -----------------------------------------------------------


def write_rows(path: Path, task: Task) -> str:
    lines = [
        {"question": one.prompt, "answer": one.completion, "split": split}
        for split, examples in task.splits.items()
        for one in examples
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, task: Task) -> str:
    return write_rows(tmp_path_factory.mktemp("rows") / "mine.jsonl", task)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, rows: str, model_folder: Path) -> tuple[Plan, Path]:
    """A sweep of one task by the real worker, written as `ftmeta collect` does; 10 of 20 validation examples count."""
    budget = BudgetChanges(epochs=0.2, max_fidelity=1, eval_examples=10)
    pipelines = Pipelines(include=["default", "strong-default"], sample=1, seed=2)
    plan = make_plan(Sweep(name="x", tasks=[rows], base_model=str(model_folder), pipelines=pipelines, budget=budget))
    out = tmp_path_factory.mktemp("swept")
    worker, ledger = FinetuneWorker(plan.tasks, str(model_folder), "cpu", 1), Ledger(out / "ledger")
    for spec in plan.runs:
        run = worker.begin(spec)
        for _ in range(spec.budget.max_fidelity + 1):
            next(run)  # type: ignore[call-overload]
        ledger.put(run.finish())
    _compact(plan, ledger, out, Tracker(None, "").sweep("x", "f", {}, definition=""))
    return plan, out


@pytest.fixture(scope="module")
def selector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned from eight synthetic tasks, whose scores rise with `zero_shot_nll`."""
    folder = tmp_path_factory.mktemp("selector")
    write_sweep(folder / "meta", 8, 24)
    metatrain(metadataset.read(folder / "meta")).save(folder / "selector")
    return folder / "selector"


def test_a_sweep_and_a_user_get_the_same_numbers(swept: tuple[Plan, Path], selector_folder: Path) -> None:
    plan, out = swept
    meta = metadataset.read(out)
    (recorded,) = meta.metafeatures().values()
    selector = Selector(replace(load_selector(selector_folder).surrogates, budget=meta.budget))
    (task,) = plan.tasks.values()
    described, notes = describe_task(selector, task, plan.base_model, device="cpu")
    assert notes == []
    assert list(described) == [*FEATURES, *ZERO_SHOT_FEATURES]
    assert described == recorded


def test_a_selector_that_has_no_use_for_them_runs_no_model(task: Task, too_large: BaseModelInfo) -> None:
    bundled = load_selector()
    assert not bundled.uses_zero_shot
    described, notes = describe_task(bundled, task, too_large, device="cpu")
    assert (list(described), notes) == (list(FEATURES), [])


def test_recommendations_depend_on_them(rows: str, task: Task, base: LoadedModel, selector_folder: Path) -> None:
    selector = load_selector(selector_folder)
    assert selector.uses_zero_shot
    document = recommend_for_task(rows, base_model=base.info.path, selector=str(selector_folder), hardware="cpu-core")
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    features = document["metafeatures"]
    assert {name: features[name] for name in ZERO_SHOT_FEATURES} == pytest.approx(measured(task, base), rel=1e-5)
    assert any("unknown of this task: noise; the mean over the source tasks" in text for text in document["warnings"])

    def best(**more: float) -> float:
        return selector.recommend({**features, **more}, base.info, hardware="cpu-core")[0][0].score

    assert best() == document["recommendations"][0]["score"]
    nlls = [mf["zero_shot_nll"] for mf in task_metafeatures(8).values()]
    assert best(zero_shot_nll=max(nlls)) > best(zero_shot_nll=min(nlls)) + 0.1  # as in the synthetic truth


def test_for_a_model_that_cannot_be_measured_the_mean_stands_in_and_that_is_said(
    task: Task, too_large: BaseModelInfo, selector_folder: Path
) -> None:
    selector = load_selector(selector_folder)
    described, notes = describe_task(selector, task, too_large, device="cpu")
    document = recommendation_document(selector, described, too_large, hardware="cpu-core", notes=notes)
    assert not set(ZERO_SHOT_FEATURES) & set(document["metafeatures"])
    assert "without a CUDA device its zero-shot loss is measured up to" in document["warnings"][0]
    assert any("unknown of this task: noise, zero_shot_nll;" in text for text in document["warnings"])
    mean = sum(mf["zero_shot_nll"] for mf in task_metafeatures(8).values()) / 8
    expected, _ = selector.recommend({**described, "zero_shot_nll": mean}, too_large, hardware="cpu-core", top_k=1)
    assert document["recommendations"][0]["score"] == pytest.approx(expected[0].score, abs=1e-6)


def test_the_best_pipeline_is_chosen_with_them(task: Task, base: LoadedModel, selector_folder: Path) -> None:
    selector = load_selector(selector_folder)
    described, _ = describe_task(selector, task, base.info, device="cpu", threads=1)
    found, _ = selector.recommend(described, base.info, top_k=1, hardware="cpu-core")
    chosen, budget = choose_pipeline(
        "best", task, base.info, selector.space, selector=str(selector_folder), device="cpu", threads=1
    )
    assert chosen == found[0].pipeline
    assert budget == selector.surrogates.budget, "that of the runs that the predictions are made of"
