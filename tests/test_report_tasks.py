"""The report on the bundled tasks: what is run, found and said, worked out by hand for three pipelines on two tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import DataError, MetaDatasetError, UserError
from ftmeta.metadataset import MetaDataset, read, write
from ftmeta.metadataset.static import Scores, final_scores
from ftmeta.models import fast_tokenizer, resolve
from ftmeta.orchestrate.sweep import load_sweep, make_plan
from ftmeta.schema import Budget, Pipeline, RunResult, RunSpec
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import bundled_tasks, load_task
from jobs.report_tasks import _check, _seeds, measure, measure_all, plan
from jobs.task_report.findings import findings, in_words
from jobs.task_report.page import markdown
from jobs.task_report.plots import draw
from tests.surrogates.synthetic import HARDWARE, run_result, task_metafeatures

SPACE = load_space()
INFO = resolve("phi3-micro")
STRONG = load_pipeline("strong-default", SPACE)
FAST = SPACE.validate({**STRONG.values, "lr_multiplier": 2.0, "batch_size": 4})
SLOW = SPACE.validate({**STRONG.values, "lr_multiplier": 0.25, "lora_dropout": 0.2})
TASKS = {name: load_task(name) for name in ("elements", "world-facts")}  # 400 and 800 training examples
# Validation score at the end; the test score is 0.01 less (tests/surrogates/synthetic.py).
SWEEP = {
    ("elements", FAST.id): 0.61,
    ("elements", STRONG.id): 0.51,
    ("elements", SLOW.id): 0.11,
    ("world-facts", FAST.id): 0.31,
    ("world-facts", STRONG.id): 0.41,
    ("world-facts", SLOW.id): 0.21,
}


@pytest.fixture
def meta(tmp_path: Path) -> MetaDataset:
    mf = task_metafeatures(1)["task0"]
    results = [_result(name, pipeline, mf) for name in TASKS for pipeline in (STRONG, FAST, SLOW)]
    write(
        tmp_path / "by-hand",
        results,
        space=SPACE,
        metafeatures={(name, INFO.name): {} for name in TASKS},
        base_models={INFO.name: INFO},
        hardware={"cpu": HARDWARE},
        budget=SPACE.budget(),
    )
    return read(tmp_path / "by-hand")


def _result(task: str, pipeline: Pipeline, mf: Mapping[str, float]) -> RunResult:
    made, score = run_result(pipeline, task, dict(mf), SPACE), SWEEP[task, pipeline.id]
    end = replace(made.curve[-1], fidelity=SPACE.max_fidelity, score=score, test_score=round(score - 0.01, 2))
    run = replace(
        made.run,
        run_id=RunSpec(task, TASKS[task].fingerprint, INFO.name, INFO.fingerprint, pipeline, 0).run_id,
        status="ok",
        fidelity=SPACE.max_fidelity,
        base_model=INFO.name,
        base_model_fingerprint=INFO.fingerprint,
        task_fingerprint=TASKS[task].fingerprint,
    )
    return RunResult(run, (*made.curve[:-1], end))


def _again(task: str, pipeline: Pipeline, seed: int, left: float, unseen: float) -> dict[str, Any]:
    """A document of `measure`: `left` of the zero-shot NLL of 4 is left, and `unseen` of that of unseen facts."""
    return {
        "task": task,
        "pipeline": pipeline.id,
        "seed": seed,
        "zero_shot": {"all": 4.0, "seen": 4.0, "unseen": 4.0},
        "finetuned": {"all": 4 * left, "seen": 4 * left, "unseen": 4 * unseen},
        "run_id": "0" * 16,
        "status": "ok",
        "error": None,
        "cost_s": 10.0 + seed,
        "wall_s": 12.0,
        "device": "cpu",
        "code_version": "by hand",
        "libraries": dict.fromkeys(("python", "torch", "transformers", "peft"), "1"),
    }


def _found(meta: MetaDataset, diverged: bool = False) -> dict[str, Any]:
    runs = [
        _again("elements", STRONG, 1, 0.50, 0.60),
        _again("elements", STRONG, 2, 0.52, 0.60),
        _again("elements", FAST, 1, 0.40, 0.60),
        _again("elements", FAST, 2, 0.40, 0.60),
        _again("world-facts", STRONG, 1, 1.10, 0.90),
        _again("world-facts", STRONG, 2, 0.85, 0.90),
        _again("world-facts", FAST, 1, 0.90, 0.90),
        _again("world-facts", FAST, 2, 0.90, 0.90),
    ]
    if diverged:
        runs[0] |= {"finetuned": None, "status": "diverged"}
    tokenizer = fast_tokenizer(INFO)
    return findings(meta, final_scores(meta), TASKS, runs, tokenizer, ["collect it", "report it"])


def test_what_is_run_again(meta: MetaDataset) -> None:
    specs = plan(meta, final_scores(meta), TASKS, INFO, [1, 2])
    assert [spec.task for spec in specs] == ["world-facts"] * 4 + ["elements"] * 4  # the longest first
    # elements: the strong default, which is the best static one and what world-facts chooses, too, and its own best
    assert {spec.pipeline.id for spec in specs if spec.task == "elements"} == {STRONG.id, FAST.id}
    assert {spec.seed for spec in specs} == {1, 2}
    assert {spec.budget for spec in specs} == {SPACE.budget()}


def test_findings(meta: MetaDataset) -> None:
    found = _found(meta)
    large, small = found["tasks"]  # by size
    assert (large["task"], large["train"], small["task"], small["train"]) == ("world-facts", 800, "elements", 400)
    # validation regrets: elements 0, 0.2, 1 and world-facts 0.5, 0, 1 of FAST, STRONG, SLOW
    assert found["static"] == STRONG.id
    assert (small["best"], large["best"]) == (FAST.id, STRONG.id)
    assert (small["static_of_others"], large["static_of_others"]) == (STRONG.id, FAST.id)
    assert small["regret"] == {"static": 0.2, "static_of_others": 0.2, "strong_default": 0.2}
    assert large["regret"] == {"static": 0.0, "static_of_others": 0.5, "strong_default": 0.0}
    # again: 0.60 against a mean of 0.49, over a range of 0.5; -0.10 counts as 0, so 0.075 against 0.10, over 0.2
    assert small["regret_again"]["static"] == pytest.approx(0.22)
    assert large["regret_again"]["static_of_others"] == pytest.approx(-0.125)
    assert small["strong_default"]["score"] == {"all": 0.49, "seen": 0.49, "unseen": 0.4}
    assert small["strong_default"]["nats_gained"]["all"] == pytest.approx(1.96)
    assert small["strong_default"]["cost_s"] == 11.5
    assert small["best_steps"] == 300
    assert found["rank_correlation"]["lowest_pair"] == ["elements", "world-facts"]
    assert found["rank_correlation"]["median"] == 0.5
    assert found["pipelines"][0]["id"] == STRONG.id
    json.dumps(found, allow_nan=False)


def test_noise_is_pooled_over_all_that_was_repeated(meta: MetaDataset) -> None:
    found = _found(meta)
    small = (0.02**2 / 2 / 2) ** 0.5 / 0.5  # two pipelines with two seeds each, one pair alike; over the range
    large = (0.15**2 / 2 / 2) ** 0.5 / 0.2
    assert found["tasks"][1]["deviation_between_seeds"] == pytest.approx(small, abs=1e-4)
    assert found["noise"] == pytest.approx(2 * 2**0.5 * ((small**2 + large**2) / 2) ** 0.5, abs=1e-4)


def test_the_verdict_names_tasks(meta: MetaDataset) -> None:
    verdict = _found(meta)["verdict"]
    assert verdict["improved"] == ["world-facts", "elements"]
    assert verdict["improved_with_every_seed"] == ["elements"]
    assert verdict["seen_more_than_unseen"] == ["elements"]
    assert verdict["regret"]["static"] == {"0.02": ["elements"], "0.05": ["elements"], "noise": []}


def test_a_run_that_diverged_has_gained_nothing(meta: MetaDataset) -> None:
    taught = _found(meta, diverged=True)["tasks"][1]["strong_default"]
    assert taught["diverged"] == 1
    assert taught["scores"]["all"] == [0.0, 0.48]
    assert taught["nll"]["all"] == pytest.approx((4.0 + 2.08) / 2)


def test_the_page_says_what_was_found(meta: MetaDataset, tmp_path: Path) -> None:
    found, out = _found(meta), tmp_path / "tasks.md"
    draw(found, out)
    page = markdown(found, out)
    assert "improves the test NLL over zero-shot on **2 of 2** tasks (1 with every seed).\n" in page
    assert "improve more than the others on **1 of 2** (1 with every seed); not on world-facts.\n" in page
    assert (
        "The best static pipeline (1 x rate, batch 16, lora 16 (strong-default)) loses more than 0.02 on 1 tasks"
        in page
    )
    assert "| elements | 400 | 2 x rate, batch 4, lora 16 | 300 |" in page
    assert "```sh\ncollect it\nreport it\n```" in page
    for name in ("seen", "regret"):
        assert f"](tasks-{name}.svg)" in page
        assert (tmp_path / f"tasks-{name}.svg").stat().st_size < 100_000
    for table in page.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_pipelines_in_words() -> None:
    assert in_words(SLOW, SPACE) == "0.25 x rate, batch 16, lora 16, lora_dropout 0.2"
    ia3 = {k: v for k, v in STRONG.values.items() if SPACE.is_active(k, {**STRONG.values, "peft_method": "ia3"})}
    assert in_words(SPACE.validate({**ia3, "peft_method": "ia3"}), SPACE) == "1 x rate, batch 16, ia3"


@pytest.mark.parametrize("seeds", ["1", "0,1", "1,x", ""])
def test_seeds_are_fresh_and_two(meta: MetaDataset, seeds: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        _seeds(seeds, meta)
    assert _seeds("2,1,2", meta) == [1, 2]


def test_a_sweep_of_other_tasks_or_without_the_strong_default_is_refused(meta: MetaDataset) -> None:
    _check(meta, TASKS, INFO)
    with pytest.raises(MetaDatasetError, match="'elements' has changed since the sweep"):
        _check(meta, {**TASKS, "elements": replace(TASKS["elements"], fingerprint="other")}, INFO)
    untold = tuple(replace(example, seen_fact=None) for example in TASKS["elements"].test)
    with pytest.raises(DataError, match="'elements' does not say"):
        _check(meta, {**TASKS, "elements": replace(TASKS["elements"], test=untold)}, INFO)
    scores = final_scores(meta)
    others = [p for p in range(3) if scores.pipelines[p] != STRONG]
    rest = Scores(
        scores.tasks,
        tuple(scores.pipelines[p] for p in others),
        scores.validation_TP[:, others],
        scores.test_TP[:, others],
    )
    with pytest.raises(MetaDatasetError, match="no strong default"):
        plan(meta, rest, TASKS, INFO, [1, 2])


def test_a_run_is_measured_on_all_test_questions_and_kept(tmp_path: Path) -> None:
    budget = Budget(epochs=1, max_fidelity=1, max_train_examples=64, eval_examples=8)
    spec = RunSpec("elements", TASKS["elements"].fingerprint, INFO.name, INFO.fingerprint, FAST, 1, budget)
    document = measure(spec)
    for moment in ("zero_shot", "finetuned"):
        nll = document[moment]
        assert min(nll["seen"], nll["unseen"]) < nll["all"] < max(nll["seen"], nll["unseen"])
    assert document["finetuned"]["all"] < document["zero_shot"]["all"]
    (tmp_path / f"elements-{spec.run_id}.json").write_text(json.dumps(document))
    assert measure_all([spec], tmp_path, processes=1) == [document]


def test_the_sweep_covers_the_bundled_tasks() -> None:
    sweep = load_sweep(Path(__file__).parents[1] / "jobs" / "configs" / "collect-tasks.yaml")
    assert sorted(sweep.tasks) == bundled_tasks()
    assert len(make_plan(sweep).runs) == 16 * len(sweep.tasks)
