"""The surrogates recover the truth of a synthetic meta-dataset (synthetic.py), and keep their promises as objects."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from ftmeta.errors import DataError, MetaDatasetError, UserError
from ftmeta.hardware import load_hardware
from ftmeta.metadataset import MetaDataset, read, write
from ftmeta.schema import CurvePoint, RunResult, RunRow
from ftmeta.space import parse_space
from ftmeta.surrogates import Context, Observation, Surrogates, metatrain, metatrain_to_folder
from ftmeta.surrogates.history import groups_of
from ftmeta.surrogates.performance import fit_performance
from tests.surrogates.synthetic import BASE_MODEL, METHOD_COST, run_result, sweep, task_metafeatures, truth, write_sweep

NEW_TASK = task_metafeatures(1, seed=77)["task0"]


def test_quality_leaving_one_task_out(surrogates: Surrogates) -> None:
    quality = surrogates.quality
    assert quality["kendall_tau"] is not None
    assert quality["kendall_tau"] > 0.7
    assert quality["coverage_80"] is not None
    assert 0.65 < quality["coverage_80"] < 0.92
    assert quality["nll"] is not None
    assert quality["nll"] < -0.4
    assert quality["cost_mdape"] is not None
    assert quality["cost_mdape"] < 0.06


def test_pipelines_never_run_on_a_task_never_seen_are_ranked(surrogates: Surrogates) -> None:
    pipelines = surrogates.space.sample(200, seed=99)
    mean_NT, deviation_NT = surrogates.predict_curve(pipelines, NEW_TASK, BASE_MODEL)
    expected = []
    for pipeline in pipelines:
        score_T, unstable = truth(dict(pipeline.values), NEW_TASK, 10)
        expected.append(score_T[-1] * (0.2 if unstable else 1.0))
    assert kendalltau(mean_NT[:, -1], expected).statistic > 0.75
    assert max(expected) - expected[int(np.argmax(mean_NT[:, -1]))] < 0.2 * max(expected)
    assert mean_NT.shape == deviation_NT.shape == (200, 10)
    assert (deviation_NT > 0).all()
    assert ((mean_NT >= 0) & (mean_NT <= 1)).all()


def test_what_is_predicted_before_anything_is_seen_is_the_same_by_both_ways(surrogates: Surrogates) -> None:
    """The short ways, without covariances between pipelines, against the belief that conditions on scores."""
    pipelines = surrogates.space.sample(60, seed=5)
    context = Context(NEW_TASK, BASE_MODEL.shape)
    belief = surrogates.performance.belief(pipelines, context)
    mean_NT, deviation_NT = surrogates.predict_curve(pipelines, NEW_TASK, BASE_MODEL)
    factor_NT = surrogates.performance.calibration(belief.z_NT)
    np.testing.assert_allclose(mean_NT, np.clip(belief.mean_NT, 0, 1), rtol=1e-9)
    np.testing.assert_allclose(deviation_NT, np.sqrt(belief.variance()) * factor_NT, rtol=1e-6)
    np.testing.assert_allclose(surrogates.expected_curve(pipelines, NEW_TASK, BASE_MODEL), mean_NT, rtol=1e-9)


def test_the_best_learning_rate_moves_with_the_size_of_the_task(tmp_path: Path) -> None:
    """Twelve tasks are enough to learn from; in the truth the best multiple falls with more training examples."""
    write_sweep(tmp_path, 12, 25, seed=3)
    meta = read(tmp_path)
    space = meta.space
    performance = fit_performance(space, meta.budget, groups_of(meta), seed=0)
    rates = np.geomspace(0.05, 8, 40)
    pipelines = [space.validate({**space.default().values, "lr_multiplier": float(rate)}) for rate in rates]

    def best_rate(log10_examples: float) -> float:
        task = Context({**NEW_TASK, "log10_train_examples": log10_examples}, BASE_MODEL.shape)
        mean_NT, _ = performance.predict(pipelines, task)
        return float(rates[int(np.argmax(mean_NT[:, -1]))])

    assert best_rate(2.7) > best_rate(3.5)


def test_scores_seen_on_the_task_sharpen_the_prediction(surrogates: Surrogates) -> None:
    pipelines = surrogates.space.sample(60, seed=5)
    rng = np.random.default_rng(0)
    runs = [run_result(pipeline, "new", NEW_TASK, surrogates.space, rng=rng) for pipeline in pipelines]
    whole = [i for i, run in enumerate(runs) if run.run.status == "ok"]
    observations = [
        Observation(pipelines[i], t, float(runs[i].curve[t].score or 0.0)) for i in whole[:8] for t in (1, 2, 3)
    ]
    before_NT, wide_NT = surrogates.predict_curve(pipelines, NEW_TASK, BASE_MODEL)
    after_NT, narrow_NT = surrogates.predict_curve(pipelines, NEW_TASK, BASE_MODEL, observations)
    final = np.array([runs[i].curve[-1].score for i in whole], dtype=float)
    rest, seen = whole[8:], whole[:8]
    assert np.abs(after_NT[whole, -1] - final).mean() < 0.8 * np.abs(before_NT[whole, -1] - final).mean()
    assert np.abs(after_NT[rest, -1] - final[8:]).mean() < np.abs(before_NT[rest, -1] - final[8:]).mean()
    assert (narrow_NT[seen] < wide_NT[seen]).all()
    assert (narrow_NT <= wide_NT + 1e-9).all()


def test_costs_are_cumulative_and_know_the_method(surrogates: Surrogates) -> None:
    space = surrogates.space
    lora = space.default()
    dora = space.validate({**lora.values, "peft_method": "dora"})
    cost_NT = surrogates.predict_cost([lora, dora], NEW_TASK, BASE_MODEL)
    assert cost_NT.shape == (2, 11)
    assert (np.diff(cost_NT, axis=1) > 0).all()
    run = run_result(lora, "new", NEW_TASK, space)
    assert cost_NT[0, -1] == pytest.approx(run.run.cost_s, rel=0.15)
    assert cost_NT[1, -1] / cost_NT[0, -1] > 0.8 * METHOD_COST["dora"] / METHOD_COST["lora"]


def test_faster_hardware_costs_less(surrogates: Surrogates) -> None:
    pipelines = surrogates.space.sample(5, seed=1)
    here = surrogates.predict_cost(pipelines, NEW_TASK, BASE_MODEL)
    there = surrogates.predict_cost(pipelines, NEW_TASK, BASE_MODEL, load_hardware("h100-80gb"))
    assert (there < here / 5).all()


def test_a_cost_that_cannot_be_counted_is_an_error(surrogates: Surrogates) -> None:
    incomplete = {name: value for name, value in NEW_TASK.items() if name != "prompt_tokens_mean"}
    with pytest.raises(DataError, match="'prompt_tokens_mean' is missing"):
        surrogates.predict_cost([surrogates.space.default()], incomplete, BASE_MODEL)


def test_saved_and_loaded_surrogates_are_the_same(surrogates: Surrogates, tmp_path: Path) -> None:
    surrogates.save(tmp_path / "s")
    loaded = Surrogates.load(tmp_path / "s")
    pipelines = surrogates.space.sample(20, seed=2)
    observations = [Observation(pipelines[0], 3, 0.2)]
    for ours, theirs in zip(
        surrogates.predict_curve(pipelines, NEW_TASK, BASE_MODEL, observations),
        loaded.predict_curve(pipelines, NEW_TASK, BASE_MODEL, observations),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        surrogates.predict_cost(pipelines, NEW_TASK, BASE_MODEL), loaded.predict_cost(pipelines, NEW_TASK, BASE_MODEL)
    )
    assert (loaded.quality, loaded.version, loaded.sources) == (
        surrogates.quality,
        surrogates.version,
        surrogates.sources,
    )
    assert loaded.pipelines == surrogates.pipelines
    surrogates.save(tmp_path / "s")  # its own folder may be replaced


def test_the_same_seed_gives_the_same_surrogates(meta: MetaDataset, surrogates: Surrogates) -> None:
    again = metatrain(meta)
    np.testing.assert_array_equal(again.performance.process.length_F, surrogates.performance.process.length_F)
    assert again.quality == surrogates.quality


def test_predicting_imports_no_torch(surrogates: Surrogates, tmp_path: Path) -> None:
    surrogates.save(tmp_path / "s")
    program = (
        "import sys; from ftmeta.surrogates import Surrogates; s = Surrogates.load(sys.argv[1]);"
        "from ftmeta.selector import Selector; Selector(s).candidates;"
        "s.predict_curve(s.pipelines[:3], {}, None);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'transformers', 'mlflow', 'pandas')))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_broken_and_foreign_folders(surrogates: Surrogates, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no surrogates"):
        Surrogates.load(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="name a new folder"):
        surrogates.save(tmp_path)
    folder = tmp_path / "s"
    surrogates.save(folder)
    arrays = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(UserError, match=r"are broken .* run `ftmeta metatrain` again"):
        Surrogates.load(folder)
    (folder / "arrays.safetensors").write_bytes(arrays)
    document = json.loads((folder / "surrogates.json").read_text())
    (folder / "surrogates.json").write_text(json.dumps({k: v for k, v in document.items() if k != "budget"}))
    with pytest.raises(UserError, match="are broken"):
        Surrogates.load(folder)
    (folder / "surrogates.json").write_text(json.dumps({**document, "format_version": 99}))
    with pytest.raises(UserError, match="version 99"):
        Surrogates.load(folder)
    (folder / "surrogates.json").write_text("[]")
    with pytest.raises(UserError, match="are broken"):
        Surrogates.load(folder)


def test_metatrain_to_folder_reports(tmp_path: Path) -> None:
    write_sweep(tmp_path / "meta", 3, 12)
    document = metatrain_to_folder(tmp_path / "meta", tmp_path / "out", exclude_tasks=("task1",), seed=4)
    assert (document["runs"], document["tasks"]) == (24, 2)
    assert set(document["quality"]) == {"kendall_tau", "nll", "coverage_80", "cost_mdape"}
    assert Surrogates.load(tmp_path / "out").tasks == ["task0", "task2"]


def test_an_occupied_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no surrogates; name a new folder"):
        metatrain_to_folder(tmp_path / "absent", tmp_path)


def test_several_meta_datasets_are_learned_from_together(tmp_path: Path) -> None:
    results = sweep(3, 12)
    write_sweep(tmp_path / "a", 3, 12, results=results[:20])
    gpu = [RunResult(replace(one.run, device="NVIDIA L4"), one.curve) for one in results[20:]]
    write_sweep(tmp_path / "b", 3, 12, results=gpu, hardware={"NVIDIA L4": load_hardware("l4")})
    document = metatrain_to_folder([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (document["runs"], document["tasks"]) == (36, 3)
    hardware = Surrogates.load(tmp_path / "out").hardware
    assert hardware is not None
    assert hardware.name == "cpu-core"  # most runs are from there, and costs are learned from those alone


def test_too_few_tasks(meta: MetaDataset) -> None:
    with pytest.raises(MetaDatasetError, match="only the task 'task3'"):
        metatrain(meta, exclude_tasks=("task0", "task1", "task2"))
    with pytest.raises(MetaDatasetError, match="task 'nope' is not in meta-dataset"):
        metatrain(meta, exclude_tasks=("nope",))


def with_status(result: RunResult, status: str, last: int) -> RunResult:
    return RunResult(replace(result.run, status=status, fidelity=last), result.curve[: last + 1])  # type: ignore[arg-type]


def test_failed_and_stopped_runs_follow_the_stated_rule(tmp_path: Path) -> None:
    results = sweep(3, 20)
    whole = [i for i, result in enumerate(results) if result.run.status == "ok"]
    results[whole[0]] = with_status(results[whole[0]], "error", 0)  # says nothing
    results[whole[1]] = with_status(results[whole[1]], "oom", 4)  # a prefix
    results[whole[2]] = with_status(results[whole[2]], "stopped", 2)
    gap = results[whole[3]]
    points = [replace(point, score=None) if point.fidelity == 5 else point for point in gap.curve]
    results[whole[3]] = RunResult(gap.run, tuple(points))
    write_sweep(tmp_path, 3, 20, results=results)
    groups = groups_of(read(tmp_path))
    score_of = {run: row for group in groups for run, row in zip(group.run_ids, group.score_NT, strict=True)}
    assert results[whole[0]].run.run_id not in score_of
    assert np.isfinite(score_of[results[whole[1]].run.run_id]).tolist() == [True] * 4 + [False] * 6
    assert np.isfinite(score_of[results[whole[2]].run.run_id]).sum() == 2
    assert score_of[results[whole[3]].run.run_id][4] == 0.0
    diverged = next(result for result in results if result.run.status == "diverged")
    assert score_of[diverged.run.run_id][diverged.run.fidelity :].tolist() == [0.0] * (10 - diverged.run.fidelity)
    assert metatrain(read(tmp_path)).runs == 59


def test_tasks_without_news_are_left_out(tmp_path: Path) -> None:
    results = sweep(3, 10)
    constant = [
        RunResult(
            replace(one.run, status="ok", fidelity=len(one.curve) - 1), tuple(replace(p, score=0.5) for p in one.curve)
        )
        if one.run.task == "task0"
        else one
        for one in results
    ]
    write_sweep(tmp_path, 3, 10, results=constant)
    assert metatrain(read(tmp_path)).tasks == ["task1", "task2"]


FOREIGN = """
name: theirs
max_fidelity: 4
hyperparameters:
  optimizer: {type: categorical, choices: [adam, sgd], default: adam}
  learning_rate: {type: float, low: 0.0001, high: 1.0, log: true, default: 0.01}
  depth: {type: int, low: 1, high: 8, default: 2}
"""


def test_a_foreign_space_without_metafeatures(tmp_path: Path) -> None:
    """Other hyperparameters and fidelities, unknown base model and hardware, curves of differing length."""
    space = parse_space(FOREIGN, "theirs")
    results = []
    rng = np.random.default_rng(0)
    for task in ("a", "b", "c"):
        for number, pipeline in enumerate(space.sample(24, seed=1)):
            rate, depth = float(pipeline["learning_rate"]), float(pipeline["depth"])
            quality = np.exp(-((np.log10(rate) + 2) ** 2)) * (0.5 + 0.05 * depth)
            last = 4 if number % 3 else 2
            cost = 3.0 * depth * np.exp(rng.normal(0, 0.05))
            points = [
                CurvePoint(
                    t, t, 0, 0, float(quality * (t / 4) ** 0.3), None, None, None, None, None, 0, 0, cost * t / 4, 0
                )
                for t in range(1, last + 1)
            ]
            run = RunRow(
                run_id=f"{len(results):08x}",
                task=task,
                base_model="unknown",
                seed=0,
                status="ok" if last == 4 else "stopped",
                error=None,
                max_fidelity=4,
                fidelity=last,
                cost_s=points[-1].cost_s,
                wall_s=0.0,
                peak_memory_gb=0.0,
                device="theirs",
                code_version="theirs",
                task_fingerprint=task,
                base_model_fingerprint="unknown",
                space="theirs",
                started_at="2026-01-01T00:00:00+00:00",
                pipeline=pipeline,
            )
            results.append(RunResult(run, tuple(points)))
    write(
        tmp_path / "meta",
        results,
        space=space,
        metafeatures={(task, "unknown"): {} for task in ("a", "b", "c")},
        base_models={"unknown": None},
        hardware={"theirs": None},
        budget=space.budget(),
    )
    surrogates = metatrain(read(tmp_path / "meta"))
    assert surrogates.quality["kendall_tau"] is not None
    assert surrogates.quality["kendall_tau"] > 0.8
    assert surrogates.quality["cost_mdape"] is not None
    assert surrogates.quality["cost_mdape"] < 0.2
    surrogates.save(tmp_path / "s")
    loaded = Surrogates.load(tmp_path / "s")
    pipelines = space.sample(50, seed=9)
    mean_NT, _ = loaded.predict_curve(pipelines, {}, None)
    best = float(pipelines[int(np.argmax(mean_NT[:, -1]))]["learning_rate"])
    assert 10**-2.7 < best < 10**-1.3
    assert loaded.predict_cost(pipelines, {}, None).shape == (50, 5)
