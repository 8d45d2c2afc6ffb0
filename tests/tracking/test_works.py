"""Meta-training, benchmarks and single runs in MLflow: one run each, however often they are sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftmeta.recommend import describe_task
from ftmeta.schema import RunResult
from ftmeta.selector import BUNDLED, load_selector
from ftmeta.tracking import registry, works
from ftmeta.tracking.rows import read_experiments
from tests.test_tracking import a_result, database

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]


def runs_of(uri: str, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_a_meta_training_is_one_run_and_the_registry_finds_it(tmp_path: Path) -> None:
    uri, surrogates = database(tmp_path), load_selector().surrogates
    document = {
        "runs": surrogates.runs,
        "tasks": len(surrogates.tasks),
        "seconds": 12.5,
        "quality": {**surrogates.quality, "coverage_80": None},
        "meta_dataset": dict(surrogates.meta_dataset),
        "version": surrogates.version,
        "out": str(BUNDLED),
    }
    for _ in range(2):
        assert works.log_metatraining(document, uri) == 0
    (run,) = runs_of(uri, "metatrain")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["quality.kendall_tau"] == pytest.approx(surrogates.quality["kendall_tau"])
    assert run.data.metrics["wall_s"] == 12.5
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == tuple(surrogates.meta_dataset.values())
    assert list((tmp_path / "artifacts").rglob("surrogates/arrays.safetensors"))
    assert registry.register(uri, BUNDLED)["is_new"]
    (again,) = runs_of(uri, "metatrain")
    assert again.info.run_id == run.info.run_id


def test_a_benchmark_is_one_run_with_its_report(tmp_path: Path) -> None:
    uri, out = database(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("# Benchmark")
    (out / "benchmark.json").write_text("{}")
    (out / "regret.svg").write_text("<svg/>")
    row = {"average_rank": 1.5, "regret": {"10": 0.2, "100": 0.1}, "test_score": 0.6}
    document = {
        "meta_dataset": {"name": "m", "fingerprint": "f" * 16, "runs": 9},
        "seeds": 2,
        "budget_fraction": 0.1,
        "methods": {"random": row, "ftmeta+guard*": {**row, "test_score": None}},
        "per_task": {"a": {}, "b": {}},
        "seconds": 3.0,
    }
    for _ in range(2):
        assert works.log_benchmark(document, out, uri) == 0
    (run,) = runs_of(uri, "benchmark")
    assert run.data.metrics["random.regret_at_10_percent"] == 0.2
    assert run.data.metrics["ftmeta_guard_.average_rank"] == 1.5
    assert run.data.params["tasks"] == "2"
    assert {path.name for path in (tmp_path / "artifacts").rglob("*.*")} == {
        "report.md",
        "benchmark.json",
        "regret.svg",
    }


def test_a_single_run_keeps_its_adapter_and_what_was_expected_of_it(tmp_path: Path) -> None:
    from ftmeta.models import resolve
    from ftmeta.tasks import load_task

    uri, task, info = database(tmp_path), load_task("elements"), resolve("phi3-micro")
    selector = load_selector()
    features, _ = describe_task(selector, task, info)
    (best,), _ = selector.recommend(features, info, top_k=1, hardware="cpu-core")
    expected = works.expectation(best.pipeline, task, info, "cpu")
    assert expected is not None
    assert expected.cost_s == pytest.approx(best.cost_s)
    assert expected.cost_usd == pytest.approx(best.cost_usd)
    assert expected.selector == selector.version
    assert works.expectation(best.pipeline, task, info, "NVIDIA of tomorrow") is None

    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    made = a_result()
    result = RunResult(replace(made.run, cost_s=2 * expected.cost_s), made.curve)
    for _ in range(2):
        assert works.log_finetuning(result, folder, predicted=expected, uri=uri) == 0
    (run,) = runs_of(uri, "finetune")
    assert run.data.metrics["predicted.cost_device_seconds"] == pytest.approx(expected.cost_s)
    assert run.data.tags["selector"] == selector.version
    assert run.inputs.dataset_inputs[0].dataset.name == "elements"
    assert [path.name for path in (tmp_path / "artifacts").rglob("*.safetensors")] == ["adapter_model.safetensors"]
    (found,) = read_experiments(uri, ["finetune"])
    assert found.runs[0].predicted_cost_s == pytest.approx(expected.cost_s)


def test_off_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert works.log_finetuning(a_result(), None) == 0
    assert works.log_finetuning(a_result(), None, uri="http://127.0.0.1:9") == 1
